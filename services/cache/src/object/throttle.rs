//! Objects whose loader failed a moment ago, and that are served expired meanwhile: it is not asked for them again at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::key::Key;

/// The most objects that are remembered; past it the loader is asked again, and its breaker bounds that.
const OBJECTS_MAX: usize = 10_000;

/// The throttled objects of a clone, until when each.
#[derive(Default)]
pub(crate) struct Throttle {
    until: Mutex<HashMap<Key, Instant>>,
}

impl Throttle {
    /// Lets the loader of an object alone for a while.
    pub(crate) fn add(&self, key: &Key, time: Duration, now: Instant) {
        if time.is_zero() {
            return;
        }
        let mut until = self.lock();
        if until.len() >= OBJECTS_MAX && !until.contains_key(key) {
            until.retain(|_, until| *until > now);
            if until.len() >= OBJECTS_MAX {
                return;
            }
        }
        until.insert(key.clone(), now + time);
    }

    /// Returns whether the loader of an object is to be left alone.
    pub(crate) fn has(&self, key: &Key, now: Instant) -> bool {
        let mut until = self.lock();
        match until.get(key) {
            Some(end) if *end > now => true,
            Some(_) => {
                until.remove(key);
                false
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NamespaceName;

    #[test]
    fn throttled_objects_are_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let namespace = NamespaceName::parse("n").expect("valid");
        let key = |index: usize| Key::parse(namespace.clone(), &index.to_string()).expect("valid");
        let second = Duration::from_secs(1);
        (0..OBJECTS_MAX).for_each(|index| throttle.add(&key(index), second, now));
        throttle.add(&key(OBJECTS_MAX), second, now);
        assert!(throttle.has(&key(0), now) && !throttle.has(&key(OBJECTS_MAX), now));
        let later = now + 2 * second;
        assert!(!throttle.has(&key(0), later));
        throttle.add(&key(OBJECTS_MAX), second, later);
        assert!(throttle.has(&key(OBJECTS_MAX), later), "the old ones made room");
    }
}
