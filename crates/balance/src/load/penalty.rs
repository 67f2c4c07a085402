//! The penalty of a fast error (DESIGN "Pick"; gRFC A6 "Pushback"). Pure: it is told the time.
//!
//! An endpoint that fails at once is the fastest of all: its latency would attract the traffic. So after UNAVAILABLE or
//! RESOURCE_EXHAUSTED it counts for a while as if it took as long as it is still to be left alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The longest an endpoint may ask to be left alone: a mistyped pushback must not take it out for a day.
pub(crate) const PUSHBACK_MAX: Duration = Duration::from_secs(60);

/// Until when one endpoint is shunned.
#[derive(Debug)]
pub(crate) struct Penalty {
    base: Instant,
    /// Milliseconds since `base`; 0 when there is none.
    until_ms: AtomicU64,
}

impl Penalty {
    pub(crate) fn new(now: Instant) -> Penalty {
        Penalty { base: now, until_ms: AtomicU64::new(0) }
    }

    /// Shuns the endpoint for `time` from `now`. A longer penalty that is there already stays.
    pub(crate) fn add(&self, time: Duration, now: Instant) {
        let until = now + time.min(PUSHBACK_MAX);
        self.until_ms.fetch_max(self.since_base_ms(until), Ordering::Relaxed);
    }

    /// What is left of it.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let until_ms = self.until_ms.load(Ordering::Relaxed);
        if until_ms == 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(until_ms.saturating_sub(self.since_base_ms(now)))
    }

    /// Forgets it.
    pub(crate) fn clear(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    fn since_base_ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn it_runs_out_by_the_clock() {
        let now = Instant::now();
        let penalty = Penalty::new(now);
        assert_eq!(penalty.left(now), Duration::ZERO);
        penalty.add(5 * S, now);
        assert_eq!(penalty.left(now + 2 * S), 3 * S);
        assert_eq!(penalty.left(now + 5 * S), Duration::ZERO);
    }

    #[test]
    fn a_short_one_does_not_end_a_long_one_and_none_is_endless() {
        let now = Instant::now();
        let penalty = Penalty::new(now);
        penalty.add(5 * S, now);
        penalty.add(S, now);
        assert_eq!(penalty.left(now), 5 * S);
        penalty.add(86_400 * S, now);
        assert_eq!(penalty.left(now), PUSHBACK_MAX);
        penalty.clear();
        assert_eq!(penalty.left(now), Duration::ZERO);
    }
}
