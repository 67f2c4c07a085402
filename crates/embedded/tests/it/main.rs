//! The promises of the embedded database, each against real files.
#![allow(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their helper functions"
)]

mod crash;
mod damage;
mod durability;
mod failing_disk;
mod group_commit;
mod read;
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
