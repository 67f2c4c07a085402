//! The pause between attempts to connect: it doubles, is bounded, and has jitter so that clones do not move in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);

/// The longest pause. With one attempt it fits into a second, so that Redis is used again within a second of its return.
const LONGEST: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the next pause: half to all of 20 ms doubled for each failure since the last reset, up to 500 ms.
    pub(crate) fn next(&mut self) -> Duration {
        let full = LONGEST.min(FIRST.saturating_mul(1 << self.failures.min(10)));
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_until_reset() {
        let mut backoff = Backoff::default();
        for full in [20, 40, 80, 160, 320, 500, 500, 500] {
            let pause = backoff.next();
            let full = Duration::from_millis(full);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} for {full:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next() <= LONGEST);
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
