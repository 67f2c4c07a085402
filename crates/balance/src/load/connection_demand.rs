//! Signals from the calls of an endpoint to its supervisor that another connection is wanted.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The demand for another connection to one endpoint, and whether one can be made.
#[derive(Debug, Default)]
pub(crate) struct ConnectionDemand {
    wanted: AtomicBool,
    growing: AtomicBool,
    notify: Notify,
}

impl ConnectionDemand {
    /// Records that another connection would help. Cheap enough for every call.
    pub(crate) fn want(&self) {
        if !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }

    /// Resolves when another connection is wanted.
    pub(crate) async fn wanted(&self) {
        self.notify.notified().await;
    }

    /// Clears the demand once the connection is there or cannot be made; from then on it may be wanted again.
    pub(crate) fn settle(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Returns whether another connection can be made on demand. A call that finds no room then waits for it.
    pub(crate) fn can_grow(&self) -> bool {
        self.growing.load(Ordering::Relaxed)
    }

    pub(crate) fn set_can_grow(&self, can: bool) {
        self.growing.store(can, Ordering::Relaxed);
    }
}
