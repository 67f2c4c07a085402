//! The drift of this process's clock from Cassandra's: measured at intervals, said when it is large, and past a limit a reason
//! to refuse writes and watches, whose timestamps and places come from this clock.
//!
//! A measurement says what Cassandra's time was at a moment of the monotonic clock, so the drift is known at any later moment, and a
//! wall clock that is set is seen by the next call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::ClockReading;
use crate::error::Error;
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::{CassandraStore, Inner};

/// Interval at which the drift is measured.
const EVERY: Duration = Duration::from_secs(30);
/// Interval at which it is measured while writes are refused, and at which that is looked at.
const EVERY_WHILE_REFUSED: Duration = Duration::from_secs(2);
/// Pause between measurements until there are as many as count.
const PAUSE_AT_FIRST: Duration = Duration::from_millis(10);
/// Pause after a measurement that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Number of measurements whose median counts, so that one node with a wrong clock does not.
const MEASUREMENTS: usize = 3;
/// Smallest drift that is said.
const SAID: Duration = Duration::from_millis(200);
/// Half of the unit in which Cassandra says its time.
const HALF_MILLISECOND: i64 = 500;

/// Knowledge of the drift.
#[derive(Debug)]
pub(super) struct ClockDrift {
    limit: Duration,
    state: Mutex<State>,
    complete: watch::Sender<bool>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct State {
    /// The last measurements.
    measured: VecDeque<Measurement>,
    said: bool,
}

/// Cassandra's time at a moment.
#[derive(Debug, Clone, Copy)]
struct Measurement {
    engine_micros: i64,
    at: Instant,
    /// Microseconds that the round trip leaves in doubt.
    unsure: i64,
}

struct Gauge(metrics::Gauge);

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauge")
    }
}

impl Measurement {
    /// Returns the microseconds by which the wall clock is ahead, without what is in doubt.
    fn drift(&self, now: ClockReading) -> i64 {
        let passed = micros(now.monotonic.saturating_duration_since(self.at));
        let difference = now.wall.0 - (self.engine_micros + passed);
        difference.signum() * (difference.abs() - self.unsure).max(0)
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

impl ClockDrift {
    /// Refuses writes and watches when the drift is larger than `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        let gauge = metrics::gauge!("shoal_data_clock_drift_seconds");
        Self { limit, state: Mutex::default(), complete: watch::Sender::new(false), gauge: Gauge(gauge) }
    }

    /// Refuses a write or a watch while the clock is wrong, or was not compared yet.
    ///
    /// # Errors
    /// [`Error::ClockDrift`].
    pub(super) fn check(&self, now: ClockReading) -> Result<(), Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let drift_micros = median(&state.measured, now);
        match drift_micros {
            Some(drift) if Duration::from_micros(drift.unsigned_abs()) <= self.limit => Ok(()),
            _ => Err(Error::ClockDrift { engine: ENGINE, drift_micros, limit: self.limit }),
        }
    }

    /// Waits until the clock was compared, but no longer than this.
    pub(super) async fn compared_within(&self, patience: Duration) {
        let mut complete = self.complete.subscribe();
        if !*complete.borrow_and_update() {
            let _ = tokio::time::timeout(patience, complete.wait_for(|complete| *complete)).await;
        }
    }

    /// Returns whether the clock was compared as often as it takes.
    pub(super) fn is_compared(&self) -> bool {
        *self.complete.borrow()
    }

    /// Takes a measurement: Cassandra's time in milliseconds, and this process's clocks before the question and after the answer.
    fn measured(&self, before: ClockReading, engine_millis: i64, after: ClockReading) {
        let round_trip = after.since(&before);
        let measurement = Measurement {
            engine_micros: engine_millis * 1_000 + HALF_MILLISECOND,
            at: before.monotonic + round_trip / 2,
            // Where in the round trip Cassandra looked at its clock is not known, so that much of the difference is none.
            unsure: micros(round_trip) / 2 + HALF_MILLISECOND,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.measured.push_back(measurement);
        while state.measured.len() > MEASUREMENTS {
            state.measured.pop_front();
        }
        let Some(drift) = median(&state.measured, after) else { return };
        self.complete.send_replace(true);
        let seconds = drift as f64 / 1e6;
        self.gauge.0.set(seconds);
        let large = Duration::from_micros(drift.unsigned_abs()) > SAID;
        if large && !state.said {
            let limit = humantime_serde::re::humantime::format_duration(self.limit);
            tracing::warn!(
                seconds,
                "this host's clock differs from cassandra's: which of two writes stays and when rows end depends on it; run \
                 NTP on both (past {limit} writes and watches are refused)"
            );
        } else if !large && state.said {
            tracing::info!(seconds, "this host's clock agrees with cassandra's again");
        }
        state.said = large;
    }
}

fn median(measured: &VecDeque<Measurement>, now: ClockReading) -> Option<i64> {
    let mut sorted: Vec<i64> = measured.iter().map(|measurement| measurement.drift(now)).collect();
    sorted.sort_unstable();
    let middle = sorted.get(sorted.len() / 2).copied()?;
    (measured.len() >= MEASUREMENTS).then_some(middle)
}

/// Measures until the store is dropped.
pub(super) async fn measure_forever(store: Weak<Inner>) {
    let mut last: Option<Instant> = None;
    loop {
        let Some(inner) = store.upgrade() else { return };
        let store_now = CassandraStore { inner };
        let drift = &store_now.inner.drift;
        let due =
            last.is_none_or(|last| last.elapsed() >= EVERY) || drift.check(ClockReading::now()).is_err();
        let mut pause = EVERY_WHILE_REFUSED;
        if due {
            match store_now.measure_drift().await {
                Ok(()) if drift.is_compared() => last = Some(Instant::now()),
                Ok(()) => pause = PAUSE_AT_FIRST,
                Err(error) => {
                    tracing::debug!(%error, "cassandra's clock was not read");
                    pause = PAUSE_AFTER_FAILURE;
                }
            }
        }
        drop(store_now);
        tokio::time::sleep(pause).await;
    }
}

impl CassandraStore {
    /// Asks Cassandra for its time once.
    pub(super) async fn measure_drift(&self) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let before = ClockReading::now();
        let read = async move {
            let text = "SELECT toUnixTimestamp(now()) FROM system.local";
            answer(connected.session.query_unpaged(text, ()).await?)
        };
        let result = link.run(Intent::Read, "SELECT", "system.local", read).await?;
        let after = ClockReading::now();
        let result = result.into_rows_result().map_err(undecodable)?;
        let (millis,): (i64,) = result.first_row().map_err(undecodable)?;
        self.inner.drift.measured(before, millis, after);
        Ok(())
    }

    /// Begins to measure in the background.
    pub(super) fn watch_clock(&self) {
        self.inner.link.spawn_until_closed(measure_forever(Arc::downgrade(&self.inner)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::WriteTimestamp;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Returns the drift of a clock that was compared and is right.
    pub(in crate::store::cassandra) fn right(limit: Duration, now: ClockReading) -> ClockDrift {
        let drift = ClockDrift::new(limit);
        for _ in 0..MEASUREMENTS {
            drift.measured(now, now.wall.0 / 1_000, now);
        }
        drift
    }

    /// Tells a store that its clock is ahead, as often as it takes to be believed.
    pub(in crate::store::cassandra) fn pretend(store: &CassandraStore, ahead: Duration) {
        for _ in 0..MEASUREMENTS {
            let now = ClockReading::now();
            store.inner.drift.measured(now, (now.wall.0 - micros(ahead)) / 1_000, now);
        }
    }

    fn now() -> ClockReading {
        ClockReading { wall: WriteTimestamp(1_800_000_000_000_000), monotonic: Instant::now() }
    }

    /// Measures at `now`, whose wall clock is ahead by so many microseconds.
    fn measure(drift: &ClockDrift, now: ClockReading, ahead: i64, round_trip: Duration) {
        let (half, engine) = (round_trip / 2, now.wall.0 - ahead);
        let before =
            ClockReading { wall: WriteTimestamp(now.wall.0 - micros(half)), monotonic: now.monotonic - half };
        let after =
            ClockReading { wall: WriteTimestamp(now.wall.0 + micros(half)), monotonic: now.monotonic + half };
        drift.measured(before, engine / 1_000, after);
    }

    fn refused(drift: &ClockDrift, now: ClockReading) -> bool {
        matches!(drift.check(now), Err(Error::ClockDrift { .. }))
    }

    #[test]
    fn writes_are_refused_past_the_limit() {
        let (now, short) = (now(), Duration::from_millis(1));
        let drift = right(LIMIT, now);
        for ahead in [6_000_000, -6_000_000] {
            for _ in 0..MEASUREMENTS {
                measure(&drift, now, 0, short);
            }
            measure(&drift, now, ahead, short);
            assert!(!refused(&drift, now), "one node of several may be wrong");
            measure(&drift, now, ahead, short);
            assert!(refused(&drift, now), "{ahead}");
        }
        measure(&drift, now, 300_000, short);
        measure(&drift, now, 300_000, short);
        assert!(!refused(&drift, now) && drift.state.lock().unwrap().said);
        measure(&drift, now, 100_000, short);
        measure(&drift, now, 100_000, short);
        assert!(!drift.state.lock().unwrap().said);
    }

    #[test]
    fn slow_answers_are_no_drift() {
        let (now, drift) = (now(), ClockDrift::new(LIMIT));
        for _ in 0..MEASUREMENTS {
            measure(&drift, now, 6_000_000, Duration::from_secs(13));
        }
        assert!(!refused(&drift, now) && !drift.state.lock().unwrap().said);
    }

    #[test]
    fn uncompared_clock_refuses_writes() {
        let (now, drift) = (now(), ClockDrift::new(LIMIT));
        for _ in 0..MEASUREMENTS {
            assert!(refused(&drift, now) && !drift.is_compared());
            measure(&drift, now, 0, Duration::ZERO);
        }
        assert!(!refused(&drift, now) && drift.is_compared());
    }

    #[test]
    fn stepped_clock_refuses_at_once() {
        let start = now();
        let drift = right(LIMIT, start);
        let at = |passed: u64, step: i64| ClockReading {
            wall: WriteTimestamp(start.wall.0 + (passed.cast_signed() + step) * 1_000_000),
            monotonic: start.monotonic + Duration::from_secs(passed),
        };
        assert!(!refused(&drift, at(3600, 0)));
        assert!(refused(&drift, at(1, -60)) && refused(&drift, at(1, 60)));
        assert!(!refused(&drift, at(2, 0)), "it was set right again");
    }
}
