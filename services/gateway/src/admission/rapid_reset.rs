//! Finds a client that opens calls only to reset them (CVE-2023-44487, "rapid reset"): each costs it two small frames and
//! an upstream the whole call. The rule is Envoy's (`premature_reset_total_stream_count`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A call reset sooner than this was not worth making.
pub(crate) const PREMATURE: Duration = Duration::from_secs(1);

/// The number of premature resets that is no accident, if it is also more than half of the connection's calls.
const PREMATURE_MAX: u32 = 500;

/// The calls of one connection.
#[derive(Debug, Default)]
pub(crate) struct ResetDetector {
    opened: AtomicU32,
    premature: AtomicU32,
}

impl ResetDetector {
    /// A call was opened. Says whether the connection shall go on.
    pub(crate) fn opened(&self) -> bool {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let premature = self.premature.load(Ordering::Relaxed);
        premature < PREMATURE_MAX || u64::from(premature) * 2 <= u64::from(opened)
    }

    /// Returns how many calls there were.
    pub(crate) fn calls(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A call was reset too soon.
    pub(crate) fn premature(&self) {
        self.premature.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened_before_the_end(premature: impl Fn(u32) -> bool) -> Option<u32> {
        let resets = ResetDetector::default();
        (0..10_000).find(|n| {
            let goes_on = resets.opened();
            if premature(*n) {
                resets.premature();
            }
            !goes_on
        })
    }

    #[test]
    fn resetting_everything_ends_the_connection() {
        assert_eq!(opened_before_the_end(|_| true), Some(500));
    }

    #[test]
    fn resetting_less_than_half_passes() {
        assert_eq!(opened_before_the_end(|n| n % 2 == 1), None);
        assert_eq!(opened_before_the_end(|n| n < 499), None);
    }
}
