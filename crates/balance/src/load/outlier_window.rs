//! Counts successes and failures within a sliding window of ten buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const BUCKETS: u64 = 10;

/// The bits of a count. A bucket is one word (the low bits of its tick, failures, successes), so that the calls of several
/// threads lose no count and take no lock.
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// The most ticks that a call may be reported late. Beyond it, the stamp counts as the next turn.
const LATE_MAX: u16 = 100;

/// A ring of buckets. Its ticks wrap: a bucket that was silent for exactly 65 536 ticks (18 hours at 10 s) is counted once
/// more, and for up to [`LATE_MAX`] ticks before that it counts nothing.
#[derive(Debug)]
pub(crate) struct Window {
    base: Instant,
    tick_ms: u64,
    buckets: [AtomicU64; BUCKETS as usize],
}

/// The successes and failures within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
}

impl Window {
    pub(crate) fn new(length: Duration, now: Instant) -> Window {
        let tick_ms = (length.as_millis() as u64 / BUCKETS).max(1);
        Window { base: now, tick_ms, buckets: [const { AtomicU64::new(0) }; BUCKETS as usize] }
    }

    /// Counts one more call, unless it is reported so late that its bucket is in use again.
    pub(crate) fn add(&self, success: bool, at: Instant) {
        let tick = self.tick(at);
        let one = if success { 1 } else { 1 << COUNT_BITS };
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let kept = match stamp(word).wrapping_sub(tick as u16) {
                0 => word,
                1..=LATE_MAX if word != 0 => return None,
                _ => word_of(tick),
            };
            // A bucket holds sixteen million per second: more would spill into the neighbouring bits.
            let full = successes(kept) == COUNT_MAX || failures(kept) == COUNT_MAX;
            (!full).then_some(kept + one)
        });
    }

    /// The successes and failures within the window.
    pub(crate) fn counts(&self, now: Instant) -> Counts {
        let now = self.tick(now) as u16;
        let mut counts = Counts::default();
        for bucket in &self.buckets {
            let word = bucket.load(Ordering::Relaxed);
            if u64::from(now.wrapping_sub(stamp(word))) < BUCKETS {
                counts.successes += successes(word);
                counts.failures += failures(word);
            }
        }
        counts
    }

    /// Clears all counts.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    fn tick(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_millis() as u64 / self.tick_ms
    }
}

fn word_of(tick: u64) -> u64 {
    u64::from(tick as u16) << (2 * COUNT_BITS)
}

fn stamp(word: u64) -> u16 {
    (word >> (2 * COUNT_BITS)) as u16
}

fn failures(word: u64) -> u64 {
    (word >> COUNT_BITS) & COUNT_MAX
}

fn successes(word: u64) -> u64 {
    word & COUNT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn window() -> (Window, Instant) {
        let now = Instant::now();
        (Window::new(10 * S, now), now)
    }

    fn counts(window: &Window, at: Instant) -> (u64, u64) {
        let counts = window.counts(at);
        (counts.successes, counts.failures)
    }

    #[test]
    fn forgets_calls_outside_window() {
        let (window, now) = window();
        for second in 0..30 {
            window.add(second % 3 != 0, now + second * S);
        }
        assert_eq!(counts(&window, now + 29 * S), (7, 3));
        assert_eq!(counts(&window, now + 34 * S), (4, 1));
        assert_eq!(counts(&window, now + 39 * S), (0, 0));
    }

    #[test]
    fn turned_ring_counts_nothing_twice() {
        let (window, now) = window();
        for _ in 0..100 {
            window.add(true, now);
        }
        window.add(false, now + 10 * S);
        assert_eq!(counts(&window, now + 10 * S), (0, 1));
        window.add(false, now + 100_000 * S);
        assert_eq!(counts(&window, now + 100_000 * S), (0, 1));
    }

    #[test]
    fn late_calls_erase_nothing() {
        let (window, now) = window();
        for _ in 0..30 {
            window.add(false, now + 70 * S);
        }
        window.add(true, now + 60 * S);
        window.add(true, now);
        assert_eq!(counts(&window, now + 70 * S), (0, 30));
        window.add(true, now + 65 * S);
        assert_eq!(counts(&window, now + 70 * S), (1, 30), "its bucket is its own");
    }

    #[test]
    fn cleared_bucket_is_usable_anytime() {
        for tick in [65_530, 65_600, 100_000] {
            let (window, now) = window();
            window.add(true, now + tick * S);
            assert_eq!(counts(&window, now + tick * S), (1, 0), "{tick}");
        }
    }

    #[test]
    fn clear_forgets_all_counts() {
        let (window, now) = window();
        window.add(true, now + 3 * S);
        window.clear();
        assert_eq!(counts(&window, now + 3 * S), (0, 0));
    }
}
