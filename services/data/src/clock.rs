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

/// Longest time that a clock goes on ahead of the wall clock, which was set back: as far as the token of a write may be ahead.
pub(crate) const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// The refusal to date a write too far ahead of a wall clock that was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this host's clock shows a time {micros} µs before that of earlier writes")]
pub(crate) struct SetBack {
    /// The microseconds by which the last timestamp is ahead of the wall clock.
    pub(crate) micros: i64,
}

/// A source of timestamps: the wall clock, but never the same or an earlier time twice. A clone has its own, except that clones
/// of one embedded store share one, which goes on after a restart.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: AtomicI64,
    /// The microseconds ahead of the wall clock past which timestamps go back with it. Without any they are refused there.
    goes_back_past: Option<i64>,
}

impl Clock {
    /// Makes a clock for a store that other clones date writes of too. It goes back with the wall clock when that was ahead by more
    /// than this: its timestamps would hide the writes of the others until their clocks come to them.
    pub(crate) fn within(ahead_max: Duration) -> Self {
        Self { last: AtomicI64::default(), goes_back_past: Some(micros(ahead_max)) }
    }

    /// Makes a clock that gives only timestamps later than this one.
    pub(crate) fn going_on_after(last: WriteTimestamp) -> Self {
        Self { last: AtomicI64::new(last.0), goes_back_past: None }
    }

    /// Returns a timestamp that is later than all that this clock gave out, unless it went back with the wall clock.
    ///
    /// # Errors
    /// [`SetBack`] when a clock that does not go back would be more than five minutes ahead of the wall clock.
    pub(crate) fn next(&self) -> Result<WriteTimestamp, SetBack> {
        self.after(WriteTimestamp::now())
    }

    /// Returns the last timestamp that this clock gave out, or goes on after.
    pub(crate) fn last(&self) -> WriteTimestamp {
        WriteTimestamp(self.last.load(Ordering::Relaxed))
    }

    /// Returns the next timestamp, where the wall clock shows `now`.
    pub(crate) fn after(&self, now: WriteTimestamp) -> Result<WriteTimestamp, SetBack> {
        let given = |last: i64| {
            let next = now.0.max(last.saturating_add(STEP));
            match self.goes_back_past {
                Some(ahead_max) if next - now.0 > ahead_max => Some(now.0),
                None if next - now.0 > micros(AHEAD_MAX) => None,
                _ => Some(next),
            }
        };
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given);
        let last = last.map_err(|last| SetBack { micros: last.saturating_sub(now.0) })?;
        let next = given(last).unwrap_or(now.0);
        if next < last {
            let seconds = (last - next) as f64 / 1e6;
            tracing::warn!(seconds, "this host's clock was set back: timestamps of writes go back with it");
        }
        Ok(WriteTimestamp(next))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_only_moves_forward() {
        let clock = Clock::default();
        let after = |now| clock.after(WriteTimestamp(now)).unwrap().0;
        assert_eq!(after(1000), 1000);
        assert_eq!(after(1000), 1002);
        assert_eq!(after(10), 1004);
        assert_eq!(after(2000), 2000);
        let clock = Clock::going_on_after(WriteTimestamp(500));
        assert_eq!(clock.after(WriteTimestamp(1)).unwrap(), WriteTimestamp(502));
    }

    #[test]
    fn clock_runs_ahead_for_minutes_only() {
        let limit = micros(AHEAD_MAX);
        let clock = Clock::going_on_after(WriteTimestamp(limit + 100));
        for _ in 0..2 {
            let refused = clock.after(WriteTimestamp(101));
            assert_eq!(refused, Err(SetBack { micros: limit - 1 }));
        }
        assert_eq!(clock.after(WriteTimestamp(102)).unwrap(), WriteTimestamp(limit + 102));
        assert!(clock.after(WriteTimestamp(102)).is_err());
    }

    #[test]
    fn shared_clock_goes_back_with_host() {
        let clock = Clock::within(Duration::from_secs(5));
        let (now, hour) = (1_800_000_000_000_000, 3_600_000_000);
        assert_eq!(clock.after(WriteTimestamp(now + hour)).unwrap().0, now + hour);
        assert_eq!(
            clock.after(WriteTimestamp(now)).unwrap().0,
            now,
            "other clones would write behind it for an hour"
        );
        assert_eq!(
            clock.after(WriteTimestamp(now - 4_000_000)).unwrap().0,
            now + STEP,
            "a small step is passed over"
        );
    }
}
