//! A token bucket that any core may take from without a lock: the generic cell rate algorithm (ITU-T I.371), which keeps
//! one number, the time at which the bucket is full again. Pure: it is told the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The rate of a bucket, and its burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// Between two tokens, in nanoseconds.
    interval: u64,
    /// The burst that an idle bucket lets through, as the time that it takes to refill.
    burst: u64,
}

/// A token bucket: the time at which it is full again.
#[derive(Debug, Default)]
pub(crate) struct TokenBucket {
    /// Nanoseconds since the instant that `since` counts from.
    full_at: AtomicU64,
}

impl Rate {
    /// `per_second` tokens, `burst` (at least one) at once.
    pub(crate) fn new(per_second: f64, burst: u32) -> Rate {
        let interval = (1e9 / per_second).clamp(1.0, 1e15) as u64;
        Rate { interval, burst: interval.saturating_mul(u64::from(burst.max(1))) }
    }
}

impl TokenBucket {
    /// Takes a token, or says in what time there will be one.
    pub(crate) fn take(&self, rate: Rate, since: Duration) -> Result<(), Duration> {
        let now = nanos(since);
        let mut wait = 0;
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(rate.interval);
            wait = next.saturating_sub(now.saturating_add(rate.burst));
            (wait == 0).then_some(next)
        });
        taken.map(|_| ()).map_err(|_| Duration::from_nanos(wait))
    }

    /// Returns whether the bucket is full: as good as new.
    pub(crate) fn is_full(&self, since: Duration) -> bool {
        self.full_at.load(Ordering::Relaxed) <= nanos(since)
    }
}

fn nanos(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn endless_burst_admits_everything() {
        let (bucket, rate) = (TokenBucket::default(), Rate::new(1e-6, u32::MAX));
        for _ in 0..100 {
            assert_eq!(bucket.take(rate, MS), Ok(()));
        }
    }

    #[test]
    fn burst_comes_before_the_rate() {
        let (rate, bucket) = (Rate::new(100.0, 20), TokenBucket::default());
        let taken = |since| (0..1_000).take_while(|_| bucket.take(rate, since).is_ok()).count();
        assert_eq!(taken(Duration::ZERO), 20);
        assert_eq!(bucket.take(rate, Duration::ZERO), Err(10 * MS));
        assert_eq!(bucket.take(rate, 4 * MS), Err(6 * MS), "a refusal takes nothing");
        assert_eq!(taken(10 * MS), 1);
        assert_eq!(taken(1_010 * MS), 20, "no more than the burst is saved");
        assert!(!bucket.is_full(1_010 * MS) && bucket.is_full(1_210 * MS));
    }

    #[test]
    fn bucket_keeps_its_rate() {
        let (rate, bucket) = (Rate::new(50.0, 5), TokenBucket::default());
        let taken = (0..60_000).filter(|ms| bucket.take(rate, MS * *ms).is_ok()).count();
        assert!((3_000..=3_005).contains(&taken), "{taken}");
    }

    #[test]
    fn rate_below_one_per_second_works() {
        let (rate, bucket) = (Rate::new(0.1, 1), TokenBucket::default());
        assert_eq!(bucket.take(rate, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(rate, Duration::from_secs(4)), Err(Duration::from_secs(6)));
    }

    #[test]
    fn concurrent_takes_stay_within_the_bucket() {
        let (rate, bucket) = (Rate::new(1.0, 1_000), TokenBucket::default());
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1_000).filter(|_| bucket.take(rate, Duration::ZERO).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 1_000);
    }
}
