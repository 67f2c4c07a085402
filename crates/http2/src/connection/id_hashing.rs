//! The hash by which streams are found by their ids. The peer chooses the ids, and cannot foresee the hash.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Makes the hashers of one connection.
///
/// A number is mixed with a secret, multiplied by another into 128 bits, and the halves are folded together, twice, as
/// foldhash-quality does it: after one fold, numbers at even distances would still lie at nearly even distances. Each bit of
/// the hash depends on all bits of the number and on both secrets. The secrets differ for each connection, come from
/// the system's randomness through the standard library's SipHash, and are never sent: a peer that wants numbers to meet in
/// one place of a table would have to learn them from the time its own frames take, on the one connection they hold for.
#[derive(Clone, Debug)]
pub(crate) struct IdHashing {
    mixed: u64,
    factor: u64,
}

impl IdHashing {
    pub(crate) fn new() -> IdHashing {
        let random = RandomState::new();
        // Odd, so that no number is lost by the multiplication.
        IdHashing { mixed: random.hash_one(0_u8), factor: random.hash_one(1_u8) | 1 }
    }
}

impl BuildHasher for IdHashing {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { state: self.mixed, factor: self.factor }
    }
}

/// Hashes one stream id. See [`IdHashing`].
#[derive(Debug)]
pub(crate) struct IdHasher {
    state: u64,
    factor: u64,
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        folded(self.state, self.factor)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.state = folded(self.state ^ u64::from(number), self.factor);
    }
}

fn folded(state: u64, factor: u64) -> u64 {
    let product = u128::from(state) * u128::from(factor);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The places of a table that thousands of streams fill.
    const PLACES: u64 = 1 << 14;

    fn place(hashing: &IdHashing, number: u32) -> u64 {
        hashing.hash_one(number) % PLACES
    }

    /// Counts the places that those ids take.
    fn spread(numbers: &[u32]) -> usize {
        let hashing = IdHashing::new();
        numbers.iter().map(|number| place(&hashing, *number)).collect::<HashSet<_>>().len()
    }

    /// Returns odd ids, as clients choose them, that collide in one place.
    fn meeting(place: impl Fn(u32) -> u64) -> Vec<u32> {
        let numbers: Vec<u32> =
            (0..1 << 23).map(|at| at * 2 + 1).filter(|number| place(*number) == 0).collect();
        assert!(numbers.len() > 400, "{}", numbers.len());
        numbers
    }

    #[test]
    fn ids_of_other_connection_spread() {
        let other = IdHashing::new();
        let numbers = meeting(|number| place(&other, number));
        assert!(spread(&numbers) > numbers.len() * 9 / 10, "{} places", spread(&numbers));
    }

    #[test]
    fn ids_chosen_for_known_factor_spread() {
        let known =
            |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) % PLACES;
        let numbers = meeting(known);
        assert!(spread(&numbers) > numbers.len() * 9 / 10, "{} places", spread(&numbers));
    }

    #[test]
    fn usual_ids_spread_evenly() {
        for step in [2, 4, 64, 4_096, 1 << 16] {
            let numbers: Vec<u32> = (0..10_000).map(|at| at * step + 1).collect();
            // At random 10 000 take 7 485 of the 16 384.
            for _ in 0..20 {
                let places = spread(&numbers);
                assert!(places > 6_500, "{places} places, {step} apart");
            }
        }
    }
}
