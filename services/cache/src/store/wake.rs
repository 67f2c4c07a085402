//! The waiters for the end of leases, and how they are woken.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Notify;

/// The waiters, by what they wait for. There are as many as flights.
pub(super) struct Wakes<K> {
    waiting: Mutex<HashMap<K, Waiting>>,
}

struct Waiting {
    notify: Arc<Notify>,
    waiters: usize,
}

/// A waiter's place on the list, which it leaves when dropped.
struct Listed<K: Hash + Eq> {
    wakes: Arc<Wakes<K>>,
    key: K,
    notify: Arc<Notify>,
}

impl<K: Hash + Eq + Clone + Send + 'static> Wakes<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default() })
    }

    /// Completes at the next wake of this key that comes after this call, also if it is polled later.
    pub(super) fn wait(self: &Arc<Self>, key: K) -> BoxFuture<'static, ()> {
        let mut waiting = self.lock();
        let fresh = || Waiting { notify: Arc::default(), waiters: 0 };
        let entry = waiting.entry(key.clone()).or_insert_with(fresh);
        entry.waiters += 1;
        let notify = entry.notify.clone();
        drop(waiting);
        // Listens from its making on.
        let notified = notify.clone().notified_owned();
        let listed = Listed { wakes: self.clone(), key, notify };
        async move {
            notified.await;
            drop(listed);
        }
        .boxed()
    }

    /// Wakes those who wait for this key.
    pub(super) fn wake(&self, key: &K) {
        if let Some(waiting) = self.lock().get(key) {
            waiting.notify.notify_waiters();
        }
    }

    /// Wakes all, when news may have been missed.
    pub(super) fn wake_all(&self) {
        for waiting in self.lock().values() {
            waiting.notify.notify_waiters();
        }
    }
}

impl<K: Hash + Eq> Wakes<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Listed<K> {
    fn drop(&mut self) {
        let mut waiting = self.wakes.lock();
        let Some(entry) = waiting.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(&entry.notify, &self.notify) {
            return;
        }
        entry.waiters -= 1;
        if entry.waiters == 0 {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wake_reaches_earlier_waiters_only() {
        let wakes = Wakes::new();
        let (one, two, other) = (wakes.wait("k"), wakes.wait("k"), wakes.wait("other"));
        wakes.wake(&"k");
        one.await;
        two.await;
        let mut late = wakes.wait("k");
        assert!(futures::poll!(&mut late).is_pending());
        drop(late);
        assert_eq!(wakes.lock().len(), 1);
        wakes.wake_all();
        other.await;
        assert!(wakes.lock().is_empty());
    }
}
