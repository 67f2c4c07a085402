//! Slow start: a newcomer's share grows from a tenth to the whole, so that a cold process is not met by a hot one's
//! traffic (Envoy, "Slow start mode", with its aggression of 1). Pure: it is told the time and the coin.
//!
//! Envoy scales the endpoint's weight. Power of two choices with a weight inside the cost gives an idle newcomer nothing at
//! all, so the ramp is a coin here: the newcomer is chosen as ever, and kept with the probability of its ramp *beside the
//! other one drawn*. Where all are new, or there is but one, that is 1: a fresh mesh is not slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The share a newcomer begins with.
pub(crate) const FLOOR: f64 = 0.1;

/// Since when one endpoint takes calls.
#[derive(Debug)]
pub(crate) struct SlowStart {
    window: Duration,
    base: Instant,
    /// Milliseconds since `base`, plus one; 0 when it is no newcomer.
    since_ms: AtomicU64,
}

impl SlowStart {
    /// `window` is the time until the whole share; zero: none.
    pub(crate) fn new(window: Duration, now: Instant) -> SlowStart {
        SlowStart { window, base: now, since_ms: AtomicU64::new(0) }
    }

    /// It begins to take calls.
    pub(crate) fn begin(&self, now: Instant) {
        self.since_ms.store(self.ms(now) + 1, Ordering::Relaxed);
    }

    /// Its share at `now`, from [`FLOOR`] to 1.
    pub(crate) fn ramp(&self, now: Instant) -> f64 {
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        if since_ms == 0 {
            return 1.0;
        }
        let elapsed_ms = self.ms(now).saturating_sub(since_ms - 1);
        let window_ms = self.window.as_millis() as u64;
        if elapsed_ms >= window_ms {
            // So that the next pick need not divide. A newcomer that begins in this instant loses its ramp to an old one's
            // end only if thirty seconds and nothing lie between two clock readings.
            let _ = self.since_ms.compare_exchange(since_ms, 0, Ordering::Relaxed, Ordering::Relaxed);
            return 1.0;
        }
        (elapsed_ms as f64 / window_ms as f64).max(FLOOR)
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }
}

/// Whether the `chosen` one of two is kept, or the `other` taken in its stead. `coin` is from [0, 1).
pub(crate) fn keeps(chosen: f64, other: f64, coin: impl FnOnce() -> f64) -> bool {
    chosen >= other || coin() < chosen / other
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    #[track_caller]
    fn ramp_after(elapsed_s: f64, expected: f64) {
        let now = Instant::now();
        let start = SlowStart::new(WINDOW, now);
        start.begin(now);
        let ramp = start.ramp(now + Duration::from_secs_f64(elapsed_s));
        assert!((ramp - expected).abs() < 1e-6, "{ramp} after {elapsed_s} s");
    }

    #[test]
    fn a_newcomer_begins_with_a_tenth_and_has_its_share_after_the_window() {
        ramp_after(0.0, 0.1);
        ramp_after(3.0, 0.1);
        ramp_after(15.0, 0.5);
        ramp_after(29.999, 29.999 / 30.0);
        ramp_after(30.0, 1.0);
        ramp_after(1e6, 1.0);
    }

    #[test]
    fn one_that_never_began_or_that_has_no_window_is_no_newcomer() {
        let now = Instant::now();
        assert_eq!(SlowStart::new(WINDOW, now).ramp(now), 1.0);
        let off = SlowStart::new(Duration::ZERO, now);
        off.begin(now);
        assert_eq!(off.ramp(now), 1.0);
    }

    #[test]
    fn it_can_begin_again() {
        let now = Instant::now();
        let start = SlowStart::new(WINDOW, now);
        start.begin(now);
        assert_eq!(start.ramp(now + WINDOW), 1.0);
        start.begin(now + 2 * WINDOW);
        assert_eq!(start.ramp(now + 2 * WINDOW), FLOOR);
    }

    #[test]
    fn a_newcomer_is_kept_by_its_ramp_and_equals_always() {
        assert!(keeps(0.1, 1.0, || 0.099));
        assert!(!keeps(0.1, 1.0, || 0.101));
        assert!(keeps(0.1, 0.1, || unreachable!("no coin is tossed among equals")));
        assert!(keeps(1.0, 0.1, || unreachable!("nor for the elder")));
        assert!(keeps(0.1, 0.2, || 0.499));
        assert!(!keeps(0.1, 0.2, || 0.501));
    }
}
