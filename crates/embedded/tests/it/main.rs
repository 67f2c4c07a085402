//! The promises of the embedded database, each against real files.
#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their helper functions"
)]

mod backup;
mod crash;
mod damage;
mod durability;
mod failing_disk;
mod group_commit;
mod read;
mod repair;
mod transaction;

use shoal_embedded::{Keyspace, Range};

/// The pairs of an iteration as text.
fn pairs(range: Range) -> Vec<(String, String)> {
    range
        .map(|pair| {
            let (key, value) = pair.unwrap();
            (String::from_utf8(key.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap())
        })
        .collect()
}

fn text(keyspace: &Keyspace, key: &str) -> Option<String> {
    keyspace.get(key).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Numbers that a seed determines. `SHOAL_TEST_SEED` repeats one that was printed.
struct Random(u64);

impl Random {
    fn seeded(test: &str) -> Random {
        let given = std::env::var("SHOAL_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
        let seed = given.unwrap_or_else(now);
        eprintln!("{test}: SHOAL_TEST_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
