//! The pause between attempts to connect: doubling, bounded, jittered so that clones do not move in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);

/// Redis is used again within a second of its return: this pause and one attempt fit in it.
const LONGEST: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Half to all of 20 ms doubled for each failure since the last reset, up to 500 ms.
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
    fn pauses_double_from_20_to_500_ms_with_jitter_and_start_over_after_a_reset() {
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
