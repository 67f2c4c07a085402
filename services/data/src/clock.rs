//! Write timestamps, and the clock that a clone takes them from for writes without an idempotency token.
//!
//! The timestamp of a write decides which write of a row stays, and makes a repeat harmless: the same write at the same
//! timestamp changes nothing more.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A timestamp of a write, or another time in the same unit: microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriteTimestamp(pub(crate) i64);

/// Number of timestamps that one Mutate uses: deleted ranges are applied one microsecond before everything else.
const STEP: i64 = 2;

impl WriteTimestamp {
    /// Returns the time of the wall clock.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Returns the time that is `seconds` later.
    #[must_use]
    pub(crate) fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(i64::from(seconds) * 1_000_000))
    }
}

/// The wall clock and the monotonic clock, read at one moment. The wall clock may be set; the other only goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockReading {
    /// The time of the wall clock.
    pub(crate) wall: WriteTimestamp,
    /// The time of the monotonic clock.
    pub(crate) monotonic: Instant,
}

impl ClockReading {
    /// Reads both clocks.
    pub(crate) fn now() -> Self {
        Self { wall: WriteTimestamp::now(), monotonic: Instant::now() }
    }

    /// Returns the time since an earlier reading by the monotonic clock.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        self.monotonic.saturating_duration_since(earlier.monotonic)
    }
}

/// A source of timestamps: the wall clock, but never the same or an earlier time twice. A clone has its own, except that clones
/// of one embedded store share one.
#[derive(Debug)]
pub(crate) struct Clock {
    last: AtomicI64,
    /// The most microseconds by which a timestamp may be ahead of the wall clock.
    ahead_max: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: AtomicI64::default(), ahead_max: i64::MAX }
    }
}

impl Clock {
    /// Makes a clock for a store that other clones date writes of too. It goes back with the wall clock when that was ahead by more
    /// than this: its timestamps would hide the writes of the others until their clocks come to them.
    pub(crate) fn within(ahead_max: Duration) -> Self {
        let ahead_max = i64::try_from(ahead_max.as_micros()).unwrap_or(i64::MAX);
        Self { last: AtomicI64::default(), ahead_max }
    }

    /// Returns a timestamp that is later than all that this clock gave out, unless it went back with the wall clock.
    pub(crate) fn next(&self) -> WriteTimestamp {
        self.after(WriteTimestamp::now())
    }

    fn after(&self, now: WriteTimestamp) -> WriteTimestamp {
        let next = |last: i64| {
            let next = now.0.max(last.saturating_add(STEP));
            if next - now.0 > self.ahead_max { now.0 } else { next }
        };
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        let last = last.unwrap_or(now.0);
        let next = next(last);
        if next < last {
            let seconds = (last - next) as f64 / 1e6;
            tracing::warn!(seconds, "this host's clock was set back: timestamps of writes go back with it");
        }
        WriteTimestamp(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_only_moves_forward() {
        let clock = Clock::default();
        assert_eq!(clock.after(WriteTimestamp(1000)), WriteTimestamp(1000));
        assert_eq!(clock.after(WriteTimestamp(1000)), WriteTimestamp(1002));
        assert_eq!(clock.after(WriteTimestamp(10)), WriteTimestamp(1004));
        assert_eq!(clock.after(WriteTimestamp(2000)), WriteTimestamp(2000));
    }

    #[test]
    fn shared_clock_goes_back_with_host() {
        let clock = Clock::within(Duration::from_secs(5));
        let (now, hour) = (1_800_000_000_000_000, 3_600_000_000);
        assert_eq!(clock.after(WriteTimestamp(now + hour)).0, now + hour);
        assert_eq!(clock.after(WriteTimestamp(now)).0, now, "other clones would write behind it for an hour");
        assert_eq!(clock.after(WriteTimestamp(now - 4_000_000)).0, now + STEP, "a small step is passed over");
    }
}
