//! The metrics of one clone's connection to Cassandra, looked up once: a statement must not search a registry.

use std::time::Duration;

use crate::error::Error;

/// Outcomes of statements, as the other engines call them.
const OUTCOMES: [&str; 4] = ["ok", "unavailable", "unknown", "server"];

/// The metrics of a connection.
pub(super) struct Meter {
    calls: [metrics::Counter; OUTCOMES.len()],
    duration: metrics::Histogram,
    up: metrics::Gauge,
    registry_retries: metrics::Counter,
}

impl Meter {
    pub(super) fn new() -> Meter {
        let calls = OUTCOMES.map(|outcome| {
            metrics::counter!("shoal_engine_calls_total", "role" => "data", "engine" => "cassandra", "outcome" => outcome)
        });
        Meter {
            calls,
            duration: metrics::histogram!("shoal_engine_call_duration_seconds", "role" => "data", "engine" => "cassandra"),
            up: metrics::gauge!("shoal_engine_up", "role" => "data", "engine" => "cassandra"),
            registry_retries: metrics::counter!("shoal_data_registry_retries_total"),
        }
    }

    /// Counts a change of the registry that is repeated.
    pub(super) fn registry_retry(&self) {
        self.registry_retries.increment(1);
    }

    /// Counts a statement that was sent and answered, or given up, after `elapsed`.
    pub(super) fn statement(&self, error: Option<&Error>, elapsed: Duration) {
        let outcome = match error {
            None => 0,
            Some(Error::Unavailable { .. }) => 1,
            Some(Error::OutcomeUnknown { .. }) => 2,
            Some(_) => 3,
        };
        self.calls[outcome].increment(1);
        self.duration.record(elapsed.as_secs_f64());
    }

    /// Shows whether Cassandra answers.
    pub(super) fn up(&self, up: bool) {
        self.up.set(if up { 1.0 } else { 0.0 });
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}
