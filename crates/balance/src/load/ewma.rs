//! Keeps the peak-EWMA of a latency, after Finagle's `PeakEwma` load metric: a rise counts at once, a fall decays with time
//! constant τ.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time constant τ, after which 1/e of an old value is left.
pub(crate) const TAU: Duration = Duration::from_secs(10);

/// The latency an endpoint is believed to have before any is known.
pub(crate) const INITIAL: Duration = Duration::from_millis(30);

/// A peak-EWMA in one atomic word: seconds as `f32` in the high half, milliseconds since `base` in the low half.
///
/// With one word, a pick reads it without a lock, and no sample is lost when two come at once. The milliseconds wrap after 49
/// days: an endpoint that was silent for exactly that long is misjudged for a moment, within its old value.
#[derive(Debug)]
pub(crate) struct Ewma {
    base: Instant,
    word: AtomicU64,
}

impl Ewma {
    pub(crate) fn new(initial: Duration, now: Instant) -> Ewma {
        Ewma { base: now, word: AtomicU64::new(pack(initial.as_secs_f32(), 0)) }
    }

    /// Returns the value at `now` in seconds. It decays towards zero while nothing is observed, so that an endpoint that was
    /// slow is tried again.
    pub(crate) fn get(&self, now: Instant) -> f64 {
        let (value, stamp) = unpack(self.word.load(Ordering::Relaxed));
        f64::from(value) * weight_left(self.tick(now).wrapping_sub(stamp))
    }

    /// Adds one latency.
    pub(crate) fn observe(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64();
        self.update(
            now,
            |decayed, left| if sample > decayed { sample } else { decayed + sample * (1.0 - left) },
        );
    }

    /// Adds a lower bound of a latency: an answer that was not waited for to its end may only raise the value.
    pub(crate) fn observe_at_least(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64();
        if sample > self.get(now) {
            self.update(now, |decayed, _| decayed.max(sample));
        }
    }

    /// Restarts at `seconds`.
    pub(crate) fn reset(&self, seconds: f64, now: Instant) {
        self.word.store(pack(seconds as f32, self.tick(now)), Ordering::Relaxed);
    }

    fn update(&self, now: Instant, next: impl Fn(f64, f64) -> f64) {
        let tick = self.tick(now);
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (value, stamp) = unpack(word);
            let left = weight_left(tick.wrapping_sub(stamp));
            Some(pack(next(f64::from(value) * left, left) as f32, tick))
        });
    }

    fn tick(&self, now: Instant) -> u32 {
        // The milliseconds wrap on purpose; see the type.
        now.saturating_duration_since(self.base).as_millis() as u32
    }
}

/// Returns e^(-Δ/τ): the part of a value that is left `elapsed_ms` later.
fn weight_left(elapsed_ms: u32) -> f64 {
    // Two threads may read the clock in one order and write in the other: a stamp slightly ahead counts as no time.
    if elapsed_ms > u32::MAX - 1_000 {
        return 1.0;
    }
    (-f64::from(elapsed_ms) / TAU.as_millis() as f64).exp()
}

fn pack(value: f32, stamp: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(stamp)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= expected * 0.001 + 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn decays_by_time_constant() {
        let now = Instant::now();
        let ewma = Ewma::new(INITIAL, now);
        near(ewma.get(now), 0.030);
        near(ewma.get(now + TAU), 0.030 / std::f64::consts::E);
    }

    #[test]
    fn peak_counts_at_once() {
        let now = Instant::now();
        let ewma = Ewma::new(MS, now);
        ewma.observe(200 * MS, now + 5 * MS);
        near(ewma.get(now + 5 * MS), 0.200);
    }

    #[test]
    fn fall_depends_on_time_not_samples() {
        let now = Instant::now();
        let ewma = Ewma::new(100 * MS, now);
        for _ in 0..1_000 {
            ewma.observe(MS, now);
        }
        near(ewma.get(now), 0.100);
        ewma.observe(MS, now + TAU);
        let left = (-1.0_f64).exp();
        near(ewma.get(now + TAU), 0.100 * left + 0.001 * (1.0 - left));
    }

    #[test]
    fn lower_bound_only_raises() {
        let now = Instant::now();
        let ewma = Ewma::new(100 * MS, now);
        ewma.observe_at_least(MS, now + TAU);
        near(ewma.get(now + TAU), 0.100 / std::f64::consts::E);
        ewma.observe_at_least(900 * MS, now + TAU);
        near(ewma.get(now + TAU), 0.900);
    }

    #[test]
    fn out_of_order_clock_is_ignored() {
        let now = Instant::now();
        let ewma = Ewma::new(MS, now);
        ewma.observe(50 * MS, now + 20 * MS);
        ewma.observe(MS, now + 10 * MS);
        near(ewma.get(now + 10 * MS), 0.050);
    }
}
