//! The keys that sign page tokens. The store keeps all that were ever made, so a token holds at any clone and never expires; a new
//! one is made when the newest has signed for long.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::WriteTimestamp;

/// Time after which a key gives way to a new one.
const ROTATE_AFTER_SECONDS: u32 = 30 * 24 * 3600;
/// Time after which the store is asked again when it could not be asked.
const PUT_OFF: Duration = Duration::from_secs(10);
/// Time for which the newest key is taken to be the newest.
const FRESH: Duration = Duration::from_secs(600);

/// A key that signs page tokens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PageKey {
    /// The number of the key. Keys are numbered from 1.
    pub(crate) id: u32,
    /// The secret of the key, which is random.
    pub(crate) secret: Uuid,
    /// The time when the key was made.
    pub(crate) create_time: WriteTimestamp,
}

impl PageKey {
    /// Makes the key that follows `newest`, if it is time for one.
    pub(crate) fn due(newest: Option<&Self>, now: WriteTimestamp) -> Option<Self> {
        let id = match newest {
            None => 1,
            Some(newest) if newest.create_time.plus_seconds(ROTATE_AFTER_SECONDS) <= now => newest.id + 1,
            Some(_) => return None,
        };
        Some(Self { id, secret: Uuid::new_v4(), create_time: now })
    }
}

impl std::fmt::Debug for PageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys that a clone knows.
#[derive(Debug, Default)]
pub(crate) struct PageKeys {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Vec<PageKey>,
    looked_up: Option<Instant>,
    put_off_until: Option<Instant>,
}

impl PageKeys {
    /// Returns the newest key, if it was looked up lately and need not give way to a new one.
    pub(crate) fn signing(&self, now: WriteTimestamp) -> Option<PageKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.looked_up.is_some_and(|at| at.elapsed() < FRESH);
        if known.put_off_until.is_some_and(|until| Instant::now() < until) {
            return known.keys.last().cloned();
        }
        let newest = known.keys.last().filter(|_| fresh)?;
        PageKey::due(Some(newest), now).is_none().then(|| newest.clone())
    }

    /// Returns the newest key that is known, and takes it for the newest one for a moment: the store could not be asked.
    pub(crate) fn put_off(&self) -> Option<PageKey> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let newest = known.keys.last().cloned()?;
        known.put_off_until = Instant::now().checked_add(PUT_OFF);
        Some(newest)
    }

    /// Forgets that the keys were looked up.
    #[cfg(test)]
    pub(crate) fn age(&self) {
        let mut known = self.known.write().unwrap();
        (known.looked_up, known.put_off_until) = (None, None);
    }

    /// Returns the key of an id.
    pub(crate) fn get(&self, id: u32) -> Option<PageKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.keys.iter().find(|key| key.id == id).cloned()
    }

    /// Keeps the keys that the store has.
    pub(crate) fn learn(&self, mut keys: Vec<PageKey>) {
        keys.sort_by_key(|key| key.id);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known { keys, looked_up: Some(Instant::now()), put_off_until: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_way_after_a_month() {
        let now = WriteTimestamp(1_800_000_000_000_000);
        let first = PageKey::due(None, now).unwrap();
        assert_eq!(first.id, 1);
        assert_eq!(PageKey::due(Some(&first), now.plus_seconds(ROTATE_AFTER_SECONDS - 1)), None);
        let second = PageKey::due(Some(&first), now.plus_seconds(ROTATE_AFTER_SECONDS)).unwrap();
        assert_eq!(second.id, 2);
        assert_ne!(second.secret, first.secret);

        let keys = PageKeys::default();
        assert_eq!(keys.signing(now), None);
        keys.learn(vec![second.clone(), first.clone()]);
        assert_eq!(keys.signing(now.plus_seconds(ROTATE_AFTER_SECONDS)), Some(second));
        assert_eq!(keys.signing(now.plus_seconds(3 * ROTATE_AFTER_SECONDS)), None);
        assert_eq!(keys.get(1), Some(first));
        assert_eq!(keys.get(3), None);
    }
}
