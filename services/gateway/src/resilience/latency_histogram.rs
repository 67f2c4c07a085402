//! The latencies of the last seconds in fixed buckets: recording one is an addition, and nothing is allocated. Pure: it
//! is told the time.
//!
//! Buckets are log-linear as in HdrHistogram: eight to each doubling, so that a percentile is told at most an eighth too
//! high, and never too low.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The length of a window; samples older than two of these are forgotten.
const WINDOW: Duration = Duration::from_secs(15);

/// Buckets to a doubling.
const STEPS: u64 = 8;
/// Doublings from eight microseconds: past four minutes everything is one bucket.
const DOUBLINGS: u64 = 25;
const BUCKETS: usize = (STEPS * DOUBLINGS) as usize;

/// Written by one core, read by anyone: two readers and a writer at once may disagree by the sample that is being written.
#[derive(Debug)]
pub(crate) struct LatencyHistogram {
    windows: [[AtomicU32; BUCKETS]; 2],
    /// The number of the current window, since `base` of whoever tells the time.
    current: AtomicU64,
}

/// Samples added up, to be asked for percentiles.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    counts: [u64; BUCKETS],
    count: u64,
}

impl LatencyHistogram {
    pub(crate) fn new() -> LatencyHistogram {
        let empty = || [const { AtomicU32::new(0) }; BUCKETS];
        LatencyHistogram { windows: [empty(), empty()], current: AtomicU64::new(0) }
    }

    /// Takes in one latency, `since` an instant that stays the same.
    pub(crate) fn record(&self, latency: Duration, since: Duration) {
        let number = window_of(since);
        let before = self.current.load(Ordering::Relaxed);
        if number > before {
            self.turn(before, number);
        }
        if let Some(bucket) = self.windows[number as usize % 2].get(bucket_of(latency)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds what was recorded lately to `sum`.
    pub(crate) fn add_to(&self, sum: &mut Summary, since: Duration) {
        let (now, current) = (window_of(since), self.current.load(Ordering::Relaxed));
        for number in [current, current.wrapping_sub(1)] {
            // One before the first is none, and what nobody has turned over since is old.
            if number > current || number + 1 < now {
                continue;
            }
            for (total, bucket) in sum.counts.iter_mut().zip(&self.windows[number as usize % 2]) {
                let count = u64::from(bucket.load(Ordering::Relaxed));
                *total += count;
                sum.count += count;
            }
        }
    }

    /// Returns what was recorded lately.
    pub(crate) fn summary(&self, since: Duration) -> Summary {
        let mut sum = Summary::default();
        self.add_to(&mut sum, since);
        sum
    }

    fn turn(&self, before: u64, number: u64) {
        let empty = |window: &[AtomicU32; BUCKETS]| {
            window.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        };
        empty(&self.windows[number as usize % 2]);
        if number > before + 1 {
            empty(&self.windows[(number as usize + 1) % 2]);
        }
        self.current.store(number, Ordering::Relaxed);
    }
}

impl Default for Summary {
    fn default() -> Summary {
        Summary { counts: [0; BUCKETS], count: 0 }
    }
}

impl Summary {
    /// Returns how many samples there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns what `share` of the samples stay within, from above; none when there are no samples.
    pub(crate) fn percentile(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(top_of(bucket));
            }
        }
        None
    }
}

fn window_of(since: Duration) -> u64 {
    since.as_secs() / WINDOW.as_secs()
}

/// The first bucket holds everything below eight microseconds, and then each doubling has eight.
fn bucket_of(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(STEPS);
    let doubling = u64::from(micros.ilog2());
    let step = (micros >> (doubling - 3)) - STEPS;
    let bucket = (doubling - 3) * STEPS + step;
    usize::try_from(bucket).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The highest latency of a bucket.
fn top_of(bucket: usize) -> Duration {
    let (doubling, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    Duration::from_micros((STEPS + step + 1) << doubling)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn near(actual: Option<Duration>, expected: Duration) {
        let ratio = actual.expect("samples").as_secs_f64() / expected.as_secs_f64();
        assert!((1.0..1.13).contains(&ratio), "{actual:?} is not {expected:?}");
    }

    #[test]
    fn percentiles_are_told_within_a_bucket() {
        let latencies = LatencyHistogram::new();
        for n in 1..=1_000 {
            latencies.record(MS * n / 10, Duration::ZERO);
        }
        let summary = latencies.summary(Duration::ZERO);
        assert_eq!(summary.count(), 1_000);
        for (share, expected) in [(0.5, 50 * MS), (0.95, 95 * MS), (0.99, 99 * MS)] {
            near(summary.percentile(share), expected);
        }
    }

    #[test]
    fn bucket_top_is_not_below_latency() {
        let mut before = 0;
        for micros in 0..10_000 {
            let latency = Duration::from_micros(micros);
            let bucket = bucket_of(latency);
            assert!(top_of(bucket) >= latency, "{latency:?} in {bucket}");
            assert!(bucket == before || bucket == before + 1, "{latency:?} in {bucket}");
            before = bucket;
        }
        for doubling in 0..28 {
            let latency = Duration::from_micros((1 << doubling) + 3);
            let top = top_of(bucket_of(latency));
            assert!(top >= latency && (doubling < 3 || top <= latency * 9 / 8), "{latency:?} up to {top:?}");
        }
        assert_eq!(bucket_of(Duration::from_secs(100_000)), BUCKETS - 1);
    }

    #[test]
    fn old_windows_are_forgotten() {
        let latencies = LatencyHistogram::new();
        latencies.record(900 * MS, Duration::ZERO);
        latencies.record(MS, WINDOW);
        near(latencies.summary(WINDOW).percentile(1.0), 900 * MS);
        assert_eq!(latencies.summary(WINDOW * 2).count(), 1, "the old one has left");
        assert_eq!(latencies.summary(WINDOW * 3).count(), 0, "nobody recorded since");
        latencies.record(2 * MS, WINDOW * 9);
        near(latencies.summary(WINDOW * 9).percentile(1.0), 2 * MS);
    }

    #[test]
    fn without_samples_there_is_no_percentile() {
        assert_eq!(LatencyHistogram::new().summary(Duration::ZERO).percentile(0.5), None);
    }
}
