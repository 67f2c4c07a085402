//! The memory that request bodies hold which are kept to be sent again: of one connection, and of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Retry;

/// The part of what is left free that one connection has at most, by the rule that holds for [calls](super::calls).
const FREE_FOR_ONE: usize = 4;

/// Counts the bytes that the calls of one connection hold, and those of all.
#[derive(Debug)]
pub(crate) struct ReplayMemory {
    own: AtomicUsize,
    own_max: usize,
    all: Arc<AtomicUsize>,
    all_max: usize,
}

impl ReplayMemory {
    pub(crate) fn new(all: Arc<AtomicUsize>, config: &Retry) -> ReplayMemory {
        let own = AtomicUsize::new(0);
        ReplayMemory { own, own_max: config.connection_bytes, all, all_max: config.total_bytes }
    }

    pub(crate) fn held(&self) -> usize {
        self.own.load(Ordering::Relaxed)
    }

    /// Returns how much the connection may hold now.
    pub(crate) fn most(&self) -> usize {
        self.own_max.min(self.all_max.saturating_sub(self.all.load(Ordering::Relaxed)) / FREE_FOR_ONE)
    }

    pub(crate) fn hold(&self, bytes: usize) {
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn let_go(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}
