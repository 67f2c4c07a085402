//! How long to wait before the next attempt to connect: exponential, jittered, capped. Pure.

use std::time::Duration;

use fastrand::Rng;

/// Doubles from `first` to `max`; each delay is drawn from its upper half, so that the clients of a restarted server do
/// not all come back in the same instant.
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

    /// The delay after one more failure.
    pub(crate) fn next(&mut self, rng: &mut Rng) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + rng.f64() / 2.0)
    }

    /// It works again: the next failure starts from `first`.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_the_cap_within_its_jitter_and_starts_over() {
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
    fn it_stays_at_the_cap_for_ever() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        let mut rng = Rng::with_seed(3);
        for _ in 0..100_000 {
            assert!(backoff.next(&mut rng) <= Duration::from_secs(5));
        }
    }
}
