//! The keys of a namespace that are read most, found in bounded memory: Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005) over a
//! sample of the reads.

use std::sync::{Mutex, PoisonError};

use crate::key::Key;

/// The keys that are counted. One that is not among them takes the place of the least, with its count: the true count of a key is
/// never more than what is shown.
const COUNTED: usize = 24;
/// The keys that are shown: the least of those that are counted may be there by chance.
const SHOWN: usize = 16;
/// Reads of which one is looked at.
const SAMPLED: u64 = 16;
/// The number of sampled reads after which all counts are halved, so that old reads weigh less.
const HALVED_AFTER: u64 = 4096;

/// The counts of one namespace.
#[derive(Default)]
pub(crate) struct HotKeys {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    keys: Vec<(Key, u64)>,
    sampled: u64,
}

impl HotKeys {
    /// Records a read, or by chance passes it over.
    pub(crate) fn read(&self, key: &Key) {
        if fastrand::u64(..SAMPLED) == 0 {
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(key);
        }
    }

    /// Returns the keys that are read most with estimates of their reads, hottest first.
    pub(crate) fn top(&self) -> Vec<(Key, u64)> {
        let mut keys = self.counts.lock().unwrap_or_else(PoisonError::into_inner).keys.clone();
        keys.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        keys.truncate(SHOWN);
        keys.into_iter().map(|(key, count)| (key, count * SAMPLED)).collect()
    }
}

impl Counts {
    fn add(&mut self, key: &Key) {
        self.sampled += 1;
        if self.sampled.is_multiple_of(HALVED_AFTER) {
            self.keys.iter_mut().for_each(|(_, count)| *count /= 2);
            self.keys.retain(|(_, count)| *count > 0);
        }
        if let Some((_, count)) = self.keys.iter_mut().find(|(known, _)| known == key) {
            *count += 1;
        } else if self.keys.len() < COUNTED {
            self.keys.push((key.clone(), 1));
        } else if let Some(least) = self.keys.iter_mut().min_by_key(|(_, count)| *count) {
            *least = (key.clone(), least.1 + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NamespaceName;

    fn key(name: &str) -> Key {
        Key::parse(NamespaceName::parse("n").expect("valid"), name).expect("valid")
    }

    #[test]
    fn hot_keys_rise_above_many_cold_ones() {
        let hot = HotKeys::default();
        for round in 0..60_000 {
            hot.read(&key(&format!("cold {round}")));
            hot.read(&key("warm"));
            hot.read(&key("hot"));
            hot.read(&key("hot"));
        }
        let top = hot.top();
        assert_eq!((top[0].0.name(), top[1].0.name()), ("hot", "warm"));
        assert!(top[0].1 > top[1].1 && top.len() <= SHOWN, "{top:?}");
    }
}
