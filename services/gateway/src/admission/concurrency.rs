//! A limit on how many calls are in flight at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lets in up to a number of calls.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    inside: AtomicUsize,
    pub(crate) most: usize,
}

/// Counts one call in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConcurrencyPermit(Arc<ConcurrencyLimit>);

impl ConcurrencyLimit {
    pub(crate) fn new(most: usize) -> Arc<ConcurrencyLimit> {
        Arc::new(ConcurrencyLimit { inside: AtomicUsize::new(0), most })
    }

    /// Lets one call more in, unless the limit is reached.
    pub(crate) fn enter(self: &Arc<ConcurrencyLimit>) -> Option<ConcurrencyPermit> {
        let one_more = |inside: usize| (inside < self.most).then_some(inside + 1);
        self.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(ConcurrencyPermit(self.clone()))
    }

    /// Returns whether no call is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.inside.load(Ordering::Relaxed) == 0
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_limit_admits_after_one_leaves() {
        let gate = ConcurrencyLimit::new(2);
        let first = gate.enter().expect("room");
        let _second = gate.enter().expect("room");
        assert!(gate.enter().is_none());
        drop(first);
        assert!(gate.enter().is_some());
    }
}
