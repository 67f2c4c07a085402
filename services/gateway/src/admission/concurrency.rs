//! A limit on how many calls are in flight at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Admits up to a number of calls at once.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    in_flight: AtomicUsize,
    pub(crate) most: usize,
}

/// Counts one call in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConcurrencyPermit(Arc<ConcurrencyLimit>);

impl ConcurrencyLimit {
    pub(crate) fn new(most: usize) -> Arc<ConcurrencyLimit> {
        Arc::new(ConcurrencyLimit { in_flight: AtomicUsize::new(0), most })
    }

    /// Lets one call more in, unless the limit is reached.
    pub(crate) fn enter(self: &Arc<ConcurrencyLimit>) -> Option<ConcurrencyPermit> {
        let one_more = |in_flight: usize| (in_flight < self.most).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(ConcurrencyPermit(self.clone()))
    }

    /// Returns whether no call is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_limit_admits_after_one_leaves() {
        let concurrency = ConcurrencyLimit::new(2);
        let first = concurrency.enter().expect("room");
        let _second = concurrency.enter().expect("room");
        assert!(concurrency.enter().is_none());
        drop(first);
        assert!(concurrency.enter().is_some());
    }
}
