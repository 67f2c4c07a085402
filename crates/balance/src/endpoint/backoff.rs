//! Computes the delay before the next attempt to connect: exponential, jittered, capped.

use std::time::Duration;

use fastrand::Rng;

/// A delay that doubles from `first` to `max`. Each delay is drawn from its upper half, so that the clients of a restarted
/// server do not all come back at the same instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, max: max.max(first), failures: 0 }
    }

    /// Returns the delay after one more failure.
    pub(crate) fn next(&mut self, rng: &mut Rng) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + rng.f64() / 2.0)
    }

    /// Records a success: the next failure starts from `first`.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_with_jitter_until_reset() {
        let mut rng = Rng::with_seed(3);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        for whole_ms in [20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000] {
            let delay = backoff.next(&mut rng);
            let whole = Duration::from_millis(whole_ms);
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_millis(20));
    }

    #[test]
    fn stays_at_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        let mut rng = Rng::with_seed(3);
        for _ in 0..100_000 {
            assert!(backoff.next(&mut rng) <= Duration::from_secs(5));
        }
    }
}
