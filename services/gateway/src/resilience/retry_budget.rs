//! Limits how many calls may be repeated: a share of the calls made plus a few a second, over a sliding window. After Finagle's
//! `RetryBudget`. Pure: it is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// The window is that of Finagle's default: what was not used within it is gone.
const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(1);
/// Thousandths, so that a fifth of a retry can be saved.
const ONE: i64 = 1000;

/// Earns with every call and with time, and spends with every retry.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    per_call: i64,
    per_second: i64,
    began: Instant,
    /// Earned less spent, by second.
    slots: [i64; SLOTS],
    sum: i64,
    /// The second the newest slot stands for.
    second: u64,
}

impl RetryBudget {
    /// `share` of the calls may be repeated (0.2: a fifth), and `per_second` more.
    pub(crate) fn new(share: f64, per_second: f64, now: Instant) -> RetryBudget {
        let thousandths = |n: f64| (n.clamp(0.0, 1e6) * ONE as f64) as i64;
        let mut budget = RetryBudget {
            per_call: thousandths(share),
            per_second: thousandths(per_second),
            began: now,
            slots: [0; SLOTS],
            sum: 0,
            second: 0,
        };
        // As after a window without calls: one that has just started is to hold no less than one that has been idle.
        for slot in 0..SLOTS as u64 {
            budget.second = slot;
            budget.earn(budget.per_second);
        }
        budget.second = 0;
        budget
    }

    /// A call was made.
    pub(crate) fn call(&mut self, now: Instant) {
        self.turn(now);
        self.earn(self.per_call);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.turn(now);
        let enough = self.sum >= ONE;
        if enough {
            self.earn(-ONE);
        }
        enough
    }

    /// Returns how many retries it holds.
    pub(crate) fn left(&mut self, now: Instant) -> f64 {
        self.turn(now);
        self.sum as f64 / ONE as f64
    }

    fn earn(&mut self, amount: i64) {
        self.slots[self.second as usize % SLOTS] += amount;
        self.sum += amount;
    }

    /// Lets go of the seconds that have left the window and earns for those that came.
    fn turn(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs();
        if second <= self.second {
            return;
        }
        let passed = second - self.second;
        // After a whole idle window every slot is new.
        self.second = self.second.max(second.saturating_sub(SLOTS as u64));
        for _ in 0..passed.min(SLOTS as u64) {
            self.second += 1;
            let slot = &mut self.slots[self.second as usize % SLOTS];
            self.sum -= std::mem::take(slot);
            self.earn(self.per_second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(budget: &mut RetryBudget, now: Instant) -> u32 {
        (0..100_000).take_while(|_| budget.take(now)).count() as u32
    }

    #[test]
    fn budget_adds_share_and_rate() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.2, 10.0, start);
        for _ in 0..1_000 {
            budget.call(start);
        }
        // Ten seconds' worth, as one that has been idle for long.
        assert_eq!(spend(&mut budget, start), 300);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(3)), 0);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(13)), 100);
    }

    #[test]
    fn unused_budget_expires_after_ten_seconds() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.2, 10.0, start);
        for _ in 0..10_000 {
            budget.call(start);
        }
        assert_eq!(spend(&mut budget, start + Duration::from_secs(60)), 100);
        assert_eq!(spend(&mut budget, start + Duration::from_secs(3_600)), 100);
    }

    #[test]
    fn outage_attempts_stay_within_the_bound() {
        // 50 calls a second for a minute, each of which would be repeated twice.
        let start = Instant::now();
        let mut budget = RetryBudget::new(0.2, 10.0, start);
        let (mut calls, mut attempts) = (0u32, 0u32);
        for tick in 0..3_000u32 {
            let now = start + Duration::from_millis(20) * tick;
            budget.call(now);
            calls += 1;
            attempts += 1 + (0..2).take_while(|_| budget.take(now)).count() as u32;
        }
        let bound = 1.2 * f64::from(calls) + 10.0 * 60.0;
        assert!(f64::from(attempts) <= bound + 100.0, "{attempts} attempts of {calls} calls, bound {bound}");
        assert!(f64::from(attempts) >= bound * 0.95, "{attempts} attempts of {calls} calls, bound {bound}");
    }
}
