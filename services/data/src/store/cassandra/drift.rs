//! The drift of this process's clock from Cassandra's: measured at intervals, said when it is large, and past a limit a reason
//! to refuse writes, whose timestamps come from this clock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::{CassandraStore, Inner};

/// Interval at which the drift is measured.
const EVERY: Duration = Duration::from_secs(30);
/// Interval until there are as many measurements as count.
const EVERY_AT_FIRST: Duration = Duration::from_secs(1);
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
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct State {
    /// The last measurements in microseconds; positive if this clock is ahead.
    measured: VecDeque<i64>,
    said: bool,
}

struct Gauge(metrics::Gauge);

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauge")
    }
}

impl ClockDrift {
    /// Refuses writes when the drift is larger than `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        let gauge = metrics::gauge!("shoal_data_clock_drift_seconds");
        Self { limit, state: Mutex::default(), gauge: Gauge(gauge) }
    }

    /// Refuses a write while the clock is wrong.
    ///
    /// # Errors
    /// [`Error::ClockDrift`].
    pub(super) fn check(&self) -> Result<(), Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match median(&state.measured) {
            Some(drift) if Duration::from_micros(drift.unsigned_abs()) > self.limit => {
                Err(Error::ClockDrift { engine: ENGINE, drift_micros: drift, limit: self.limit })
            }
            _ => Ok(()),
        }
    }

    /// Takes a measurement: Cassandra's time in milliseconds, and this clock before the question and after the answer.
    fn measured(&self, before: WriteTimestamp, engine_millis: i64, after: WriteTimestamp) {
        let middle = before.0 + (after.0 - before.0) / 2;
        let difference = middle - (engine_millis * 1_000 + HALF_MILLISECOND);
        // Where in the round trip Cassandra looked at its clock is not known, so that much of the difference is none.
        let unsure = (after.0 - before.0).max(0) / 2 + HALF_MILLISECOND;
        let drift = difference.signum() * (difference.abs() - unsure).max(0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.measured.push_back(drift);
        while state.measured.len() > MEASUREMENTS {
            state.measured.pop_front();
        }
        let Some(drift) = median(&state.measured) else { return };
        let seconds = drift as f64 / 1e6;
        self.gauge.0.set(seconds);
        let large = Duration::from_micros(drift.unsigned_abs()) > SAID;
        if large && !state.said {
            let limit = humantime_serde::re::humantime::format_duration(self.limit);
            tracing::warn!(
                seconds,
                "this host's clock differs from cassandra's: which of two writes stays and when rows end depends on it; run \
                 NTP on both (past {limit} writes are refused)"
            );
        } else if !large && state.said {
            tracing::info!(seconds, "this host's clock agrees with cassandra's again");
        }
        state.said = large;
    }

    fn complete(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).measured.len() >= MEASUREMENTS
    }
}

fn median(measured: &VecDeque<i64>) -> Option<i64> {
    let mut sorted: Vec<i64> = measured.iter().copied().collect();
    sorted.sort_unstable();
    // Of two the smaller, so that a single measurement in doubt says nothing.
    let middle = sorted.get(sorted.len().saturating_sub(1) / 2).copied()?;
    (measured.len() >= MEASUREMENTS).then_some(middle)
}

/// Measures until the store is dropped.
pub(super) async fn measure_forever(store: Weak<Inner>) {
    loop {
        let Some(inner) = store.upgrade() else { return };
        let store_now = CassandraStore { inner };
        if let Err(error) = store_now.measure_drift().await {
            tracing::debug!(%error, "cassandra's clock was not read");
        }
        let pause = if store_now.inner.drift.complete() { EVERY } else { EVERY_AT_FIRST };
        drop(store_now);
        tokio::time::sleep(pause).await;
    }
}

impl CassandraStore {
    /// Asks Cassandra for its time once.
    pub(super) async fn measure_drift(&self) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let before = WriteTimestamp::now();
        let read = async move {
            let text = "SELECT toUnixTimestamp(now()) FROM system.local";
            answer(connected.session.query_unpaged(text, ()).await?)
        };
        let result = link.run(Intent::Read, "SELECT", "system.local", read).await?;
        let after = WriteTimestamp::now();
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

    /// Tells a store that its clock is ahead, as often as it takes to be believed.
    pub(in crate::store::cassandra) fn pretend(store: &CassandraStore, ahead: Duration) {
        for _ in 0..MEASUREMENTS {
            measure(&store.inner.drift, i64::try_from(ahead.as_micros()).unwrap(), 0);
        }
    }

    fn measure(drift: &ClockDrift, ahead: i64, round_trip: i64) {
        let at = 1_800_000_000_000_000;
        let before = WriteTimestamp(at + ahead - round_trip / 2);
        drift.measured(before, at / 1_000, WriteTimestamp(before.0 + round_trip));
    }

    fn refused(drift: &ClockDrift) -> bool {
        matches!(drift.check(), Err(Error::ClockDrift { .. }))
    }

    #[test]
    fn writes_are_refused_past_the_limit() {
        let drift = ClockDrift::new(Duration::from_secs(5));
        for ahead in [6_000_000, -6_000_000] {
            for _ in 0..MEASUREMENTS {
                measure(&drift, 0, 1_000);
            }
            measure(&drift, ahead, 1_000);
            assert!(!refused(&drift), "one node of several may be wrong");
            measure(&drift, ahead, 1_000);
            assert!(refused(&drift), "{ahead}");
        }
        measure(&drift, 300_000, 1_000);
        measure(&drift, 300_000, 1_000);
        assert!(!refused(&drift) && drift.state.lock().unwrap().said);
        measure(&drift, 100_000, 1_000);
        measure(&drift, 100_000, 1_000);
        assert!(!drift.state.lock().unwrap().said);
    }

    #[test]
    fn slow_answers_are_no_drift() {
        let drift = ClockDrift::new(Duration::from_secs(5));
        for _ in 0..MEASUREMENTS {
            measure(&drift, 6_000_000, 13_000_000);
        }
        assert!(!refused(&drift) && !drift.state.lock().unwrap().said);
    }
}
