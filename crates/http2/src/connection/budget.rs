//! Budgets for frames that cost their sender nothing and change little: a number of them at once, refilled as time passes.

use std::time::{Duration, Instant};

/// A token bucket. Its clock is read when it is first used and when it is empty, not for each token.
#[derive(Debug)]
pub(crate) struct Budget {
    burst: u32,
    /// The time in which one token comes back.
    refill: Duration,
    left: u32,
    /// The time up to which tokens came back.
    refilled: Option<Instant>,
}

impl Budget {
    pub(crate) fn new(burst: u32, refill: Duration) -> Budget {
        Budget { burst, refill, left: burst, refilled: None }
    }

    /// Takes a token. Returns false when none is left.
    pub(crate) fn take(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 || self.refilled.is_none() {
            let now = now();
            let since = *self.refilled.get_or_insert(now);
            let back = now.saturating_duration_since(since).as_nanos() / self.refill.as_nanos().max(1);
            let back = u32::try_from(back).unwrap_or(u32::MAX);
            if back >= self.burst {
                (self.left, self.refilled) = (self.burst, Some(now));
            } else {
                self.left += back;
                self.refilled = Some(since + self.refill * back);
            }
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }

    /// Gives tokens back for something useful that the peer did.
    pub(crate) fn earn(&mut self, tokens: u32) {
        self.left = self.left.saturating_add(tokens).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes until none is left.
    fn drain(budget: &mut Budget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.take(|| now)).count() as u32
    }

    #[test]
    fn budget_refills_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(10, Duration::from_millis(100));
        assert_eq!(drain(&mut budget, start), 10);
        assert_eq!(drain(&mut budget, start + Duration::from_millis(99)), 0);
        assert_eq!(drain(&mut budget, start + Duration::from_millis(350)), 3);
        assert_eq!(
            drain(&mut budget, start + Duration::from_millis(399)),
            0,
            "50 ms were left over, not 149"
        );
        assert_eq!(drain(&mut budget, start + Duration::from_millis(400)), 1);
        assert_eq!(drain(&mut budget, start + Duration::from_secs(3_600)), 10, "no more than a burst");
        assert_eq!(drain(&mut budget, start + Duration::from_secs(3_600)), 0);
    }

    #[test]
    fn clock_is_read_only_when_needed() {
        let (start, mut reads) = (Instant::now(), 0);
        let mut budget = Budget::new(100, Duration::from_millis(1));
        for _ in 0..100 {
            assert!(budget.take(|| {
                reads += 1;
                start
            }));
        }
        assert_eq!(reads, 1);
    }

    #[test]
    fn earned_tokens_never_exceed_the_burst() {
        let now = Instant::now();
        let mut budget = Budget::new(10, Duration::from_secs(1));
        budget.earn(5);
        assert_eq!(drain(&mut budget, now), 10);
        budget.earn(4);
        assert_eq!(drain(&mut budget, now), 4);
        budget.earn(u32::MAX);
        assert_eq!(drain(&mut budget, now), 10);
    }
}
