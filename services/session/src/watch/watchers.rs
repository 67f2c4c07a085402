//! Limits on the watchers of one clone, in all and for the same thing: no caller takes every place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// The watchers of one user have at most 1 / `USER_SHARE` of all places.
const USER_SHARE: usize = 10;
/// Watches on everybody have at most 1 / `EVERYBODY_SHARE` of all places.
const EVERYBODY_SHARE: usize = 2;
/// The least share, whatever `watchers_max` is.
const SHARE_MIN: usize = 100;

/// The watchers of one clone.
#[derive(Debug)]
pub(crate) struct Watchers {
    max: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    /// Places taken, by what is watched: a user, or everybody.
    by_user: HashMap<Option<String>, usize>,
}

impl Watchers {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, places: Mutex::default() })
    }

    /// Takes a place for a watcher of this user, or of everybody.
    ///
    /// # Errors
    /// [`Error::WatchersFull`].
    pub(crate) fn enter(self: &Arc<Self>, user: Option<String>) -> Result<Watcher, Error> {
        let share = if user.is_some() { USER_SHARE } else { EVERYBODY_SHARE };
        let share = (self.max / share).max(SHARE_MIN);
        let mut places = self.places();
        if places.taken >= self.max {
            return Err(Error::WatchersFull { max: self.max, of: "" });
        }
        let taken = places.by_user.entry(user.clone()).or_default();
        if *taken >= share {
            let of = if user.is_some() { " of one user" } else { " of everybody" };
            return Err(Error::WatchersFull { max: share, of });
        }
        *taken += 1;
        places.taken += 1;
        drop(places);
        Ok(Watcher { watchers: self.clone(), user })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    watchers: Arc<Watchers>,
    user: Option<String>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut places = self.watchers.places();
        places.taken -= 1;
        if let Some(taken) = places.by_user.get_mut(&self.user) {
            *taken -= 1;
            if *taken == 0 {
                places.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_watcher_places() {
        let watchers = Watchers::new(2000);
        let all = |user: Option<&str>| {
            std::iter::from_fn(|| watchers.enter(user.map(str::to_owned)).ok()).collect::<Vec<_>>()
        };
        let (ada, everybody) = (all(Some("ada")), all(None));
        assert_eq!((ada.len(), everybody.len()), (200, 1000));
        let bob = all(Some("bob"));
        assert_eq!(bob.len(), 200);
        drop((ada, everybody, bob));
        assert_eq!(all(Some("ada")).len(), 200, "places are given back");
        assert!(watchers.places().by_user.is_empty());
    }
}
