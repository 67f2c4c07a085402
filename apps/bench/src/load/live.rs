//! View of a run from outside while it goes on: how far it is, what the last moments were like, and the way to end it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::measured::micros;

/// Handle on runs that are going on or about to begin. All clones are the same handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ended: AtomicBool,
    outstanding: AtomicU64,
    issued: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    not_issued: AtomicU64,
    /// Response times since they were last taken.
    recent: Mutex<Option<Histogram<u64>>>,
}

/// Counts over all runs of a handle, warm-ups included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) outstanding: u64,
    pub(crate) issued: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) not_issued: u64,
}

impl Live {
    /// Ends the run that is going on, and those that would follow: what has been measured is reported.
    pub(crate) fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            outstanding: of(&self.0.outstanding),
            issued: of(&self.0.issued),
            ok: of(&self.0.ok),
            failed: of(&self.0.failed),
            not_issued: of(&self.0.not_issued),
        }
    }

    /// Takes the response times since the last call of this function; `None`: there are none.
    pub(crate) fn take_recent(&self) -> Option<Histogram<u64>> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn due(&self) {
        self.0.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.0.outstanding.load(Ordering::Relaxed)
    }

    pub(super) fn issued(&self) {
        self.0.issued.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a call will not be made; one that was outstanding no longer is.
    pub(super) fn not_issued(&self, was_outstanding: bool) {
        self.0.not_issued.fetch_add(1, Ordering::Relaxed);
        if was_outstanding {
            self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Notes the answer of a call that was outstanding; `None`: it failed.
    pub(super) fn answered(&self, response_time: Option<Duration>) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
        let Some(time) = response_time else {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.0.ok.fetch_add(1, Ordering::Relaxed);
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.is_none() {
            *recent = Histogram::new(3).ok();
        }
        if let Some(recent) = &mut *recent {
            // Grows as it needs to, and so does not fail.
            let _ = recent.record(micros(time));
        }
    }
}
