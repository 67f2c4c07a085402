//! Slow start: a newcomer's share grows from a tenth to the whole, so that a cold process does not meet the traffic of a warm
//! one (Envoy, "Slow start mode", with its aggression of 1).
//!
//! Envoy scales the endpoint's weight. Power of two choices with a weight inside the cost gives an idle newcomer nothing at
//! all, so the ramp is a coin here: the newcomer is chosen as usual, and kept with the probability of its ramp *relative to the
//! other endpoint drawn*. Where all are new, or there is only one, that is 1: a fresh mesh is not slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The share that a newcomer starts with.
pub(crate) const FLOOR: f64 = 0.1;

/// The time since one endpoint takes calls.
#[derive(Debug)]
pub(crate) struct SlowStart {
    window: Duration,
    base: Instant,
    /// The start in milliseconds since `base`, plus one; 0 if it is no newcomer.
    since_ms: AtomicU64,
}

impl SlowStart {
    /// Creates a ramp of the length `window`; zero disables it.
    pub(crate) fn new(window: Duration, now: Instant) -> SlowStart {
        SlowStart { window, base: now, since_ms: AtomicU64::new(0) }
    }

    /// Starts the ramp.
    pub(crate) fn begin(&self, now: Instant) {
        self.since_ms.store(self.ms(now) + 1, Ordering::Relaxed);
    }

    /// Returns the share at `now`, from [`FLOOR`] to 1.
    pub(crate) fn ramp(&self, now: Instant) -> f64 {
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        if since_ms == 0 {
            return 1.0;
        }
        let elapsed_ms = self.ms(now).saturating_sub(since_ms - 1);
        let window_ms = self.window.as_millis() as u64;
        if elapsed_ms >= window_ms {
            // The next pick need not divide. A newcomer that begins in this instant loses its ramp to the end of an old one
            // only if exactly the length of the window lies between two clock readings.
            let _ = self.since_ms.compare_exchange(since_ms, 0, Ordering::Relaxed, Ordering::Relaxed);
            return 1.0;
        }
        (elapsed_ms as f64 / window_ms as f64).max(FLOOR)
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64
    }
}

/// Returns whether the `chosen` one of two is kept; otherwise the `other` is taken. `coin` is from [0, 1).
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
    fn ramps_from_tenth_to_whole_share() {
        ramp_after(0.0, 0.1);
        ramp_after(3.0, 0.1);
        ramp_after(15.0, 0.5);
        ramp_after(29.999, 29.999 / 30.0);
        ramp_after(30.0, 1.0);
        ramp_after(1e6, 1.0);
    }

    #[test]
    fn no_window_means_no_ramp() {
        let now = Instant::now();
        assert_eq!(SlowStart::new(WINDOW, now).ramp(now), 1.0);
        let off = SlowStart::new(Duration::ZERO, now);
        off.begin(now);
        assert_eq!(off.ramp(now), 1.0);
    }

    #[test]
    fn ramp_can_restart() {
        let now = Instant::now();
        let start = SlowStart::new(WINDOW, now);
        start.begin(now);
        assert_eq!(start.ramp(now + WINDOW), 1.0);
        start.begin(now + 2 * WINDOW);
        assert_eq!(start.ramp(now + 2 * WINDOW), FLOOR);
    }

    #[test]
    fn newcomer_is_kept_by_its_ramp() {
        assert!(keeps(0.1, 1.0, || 0.099));
        assert!(!keeps(0.1, 1.0, || 0.101));
        assert!(keeps(0.1, 0.1, || unreachable!("no coin is tossed among equals")));
        assert!(keeps(1.0, 0.1, || unreachable!("nor for the elder")));
        assert!(keeps(0.1, 0.2, || 0.499));
        assert!(!keeps(0.1, 0.2, || 0.501));
    }
}
