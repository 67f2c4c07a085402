//! The penalty for a fast error (gRFC A6 "Pushback").
//!
//! An endpoint that fails at once is the fastest of all: its latency would attract the traffic. So after UNAVAILABLE or
//! RESOURCE_EXHAUSTED it counts for a while as if its latency were the rest of the penalty.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The longest time an endpoint may ask to be avoided: a mistyped pushback must not take it out for a day.
pub(crate) const PUSHBACK_MAX: Duration = Duration::from_secs(60);

/// The time until which one endpoint is avoided.
#[derive(Debug)]
pub(crate) struct Penalty {
    base: Instant,
    /// The end in milliseconds since `base`; 0 without a penalty.
    until_ms: AtomicU64,
}

impl Penalty {
    pub(crate) fn new(now: Instant) -> Penalty {
        Penalty { base: now, until_ms: AtomicU64::new(0) }
    }

    /// Avoids the endpoint for `time` from `now`. A longer penalty stays.
    pub(crate) fn add(&self, time: Duration, now: Instant) {
        let until = now + time.min(PUSHBACK_MAX);
        self.until_ms.fetch_max(self.since_base_ms(until), Ordering::Relaxed);
    }

    /// Returns the rest of the penalty.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let until_ms = self.until_ms.load(Ordering::Relaxed);
        if until_ms == 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(until_ms.saturating_sub(self.since_base_ms(now)))
    }

    /// Clears the penalty.
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
    fn expires_with_time() {
        let now = Instant::now();
        let penalty = Penalty::new(now);
        assert_eq!(penalty.left(now), Duration::ZERO);
        penalty.add(5 * S, now);
        assert_eq!(penalty.left(now + 2 * S), 3 * S);
        assert_eq!(penalty.left(now + 5 * S), Duration::ZERO);
    }

    #[test]
    fn longer_penalty_wins_and_is_capped() {
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
