//! How the calls of an endpoint tell its keeper that its connections are crowded.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether a further connection to one endpoint is wanted, and whether one can be had.
#[derive(Debug, Default)]
pub(crate) struct ConnectionDemand {
    wanted: AtomicBool,
    growing: AtomicBool,
    notify: Notify,
}

impl ConnectionDemand {
    /// A further connection would be of use. Cheap to say with every call.
    pub(crate) fn want(&self) {
        if !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }

    /// Resolves when a further connection is wanted.
    pub(crate) async fn wanted(&self) {
        self.notify.notified().await;
    }

    /// What was wanted is there, or cannot be had; from now on it may be wanted again.
    pub(crate) fn settle(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Whether a further connection comes when one is wanted. A call that finds no room waits for it then.
    pub(crate) fn can_grow(&self) -> bool {
        self.growing.load(Ordering::Relaxed)
    }

    pub(crate) fn set_can_grow(&self, can: bool) {
        self.growing.store(can, Ordering::Relaxed);
    }
}
