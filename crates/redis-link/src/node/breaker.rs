//! Tells without waiting whether a node is worth a call.
//!
//! A breaker opens after consecutive time-outs, or when the watchdog finds the node dead. Only the watchdog closes it, so that no
//! caller pays for finding out. The breaker needs no clock: the watchdog's pace takes the place of a half-open state.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::LinkError;

#[derive(Debug)]
pub(crate) struct Breaker {
    threshold: u32,
    consecutive: AtomicU32,
    open: AtomicBool,
    // Why it is open; read only then.
    reason: Mutex<LinkError>,
}

impl Breaker {
    pub(crate) fn new(threshold: u32) -> Breaker {
        Breaker {
            threshold,
            consecutive: AtomicU32::new(0),
            open: AtomicBool::new(false),
            reason: Mutex::new(LinkError::Unavailable(String::new())),
        }
    }

    /// Returns the error with which calls must fail at once, if they must. It is never `Unknown`, because nothing is sent.
    pub(crate) fn refusal(&self) -> Option<LinkError> {
        self.open
            .load(Ordering::Acquire)
            .then(|| self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Records an answered call. An open breaker stays open, because the answer may be as old as its question.
    pub(crate) fn success(&self) {
        // The line is read by every call and written only after failures.
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
    }

    /// Records a call that timed out. Opens the breaker after enough of them in a row.
    pub(crate) fn failure(&self, reason: &str) {
        if self.consecutive.fetch_add(1, Ordering::Relaxed) + 1 >= self.threshold && !self.is_open() {
            self.open(LinkError::Unavailable(reason.to_owned()));
        }
    }

    /// Opens the breaker, when the watchdog finds the node dead.
    pub(crate) fn open(&self, reason: LinkError) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.open.store(true, Ordering::Release);
    }

    /// Closes the breaker, when the watchdog had an answer. Returns whether it was open.
    pub(crate) fn close(&self) -> bool {
        self.consecutive.store(0, Ordering::Relaxed);
        self.open.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_consecutive_failures_only() {
        let breaker = Breaker::new(3);
        for _ in 0..10 {
            breaker.failure("slow");
            breaker.failure("slow");
            breaker.success();
        }
        assert_eq!(breaker.refusal(), None);
        for _ in 0..3 {
            assert!(!breaker.is_open());
            breaker.failure("slow");
        }
        assert_eq!(breaker.refusal(), Some(LinkError::Unavailable("slow".to_owned())));
    }

    #[test]
    fn only_the_watchdog_closes_it() {
        let breaker = Breaker::new(1);
        breaker.failure("slow");
        breaker.success();
        assert!(breaker.is_open(), "a late answer is no proof");
        assert!(breaker.close());
        assert_eq!(breaker.refusal(), None);
        assert!(!breaker.close());
    }

    #[test]
    fn closing_forgets_earlier_failures() {
        let breaker = Breaker::new(2);
        breaker.failure("slow");
        breaker.close();
        breaker.failure("slow");
        assert!(!breaker.is_open());
    }

    #[test]
    fn the_watchdogs_reason_replaces_the_callers() {
        let breaker = Breaker::new(1);
        breaker.failure("slow");
        let denied = LinkError::Denied("wrong password".to_owned());
        breaker.open(denied.clone());
        assert_eq!(breaker.refusal(), Some(denied));
    }
}
