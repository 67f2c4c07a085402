//! The metrics of one database of one role. They are looked up once, so that a write does not search a registry.

use std::time::Duration;

use crate::error::Error;

/// The value of the label that distinguishes this engine from the others.
const ENGINE: &str = "embedded";

/// The outcomes of writes, named as by the other engines.
const OUTCOMES: [&str; 4] = ["ok", "unavailable", "full", "server"];

/// The metrics of one database.
pub(crate) struct Meter {
    calls: [metrics::Counter; OUTCOMES.len()],
    duration: metrics::Histogram,
    commit: metrics::Histogram,
    failures: metrics::Counter,
    disk: metrics::Gauge,
    free: metrics::Gauge,
    up: metrics::Gauge,
    full: metrics::Gauge,
    read_only: metrics::Gauge,
}

impl Meter {
    pub(crate) fn new(role: &'static str) -> Meter {
        let calls = OUTCOMES.map(|outcome| {
            metrics::counter!("shoal_engine_calls_total", "role" => role, "engine" => ENGINE, "outcome" => outcome)
        });
        Meter {
            calls,
            duration: metrics::histogram!("shoal_engine_call_duration_seconds", "role" => role, "engine" => ENGINE),
            commit: metrics::histogram!("shoal_embedded_commit_duration_seconds", "role" => role),
            failures: metrics::counter!("shoal_embedded_failures_total", "role" => role),
            disk: metrics::gauge!("shoal_embedded_disk_bytes", "role" => role),
            free: metrics::gauge!("shoal_embedded_free_bytes", "role" => role),
            up: metrics::gauge!("shoal_engine_up", "role" => role, "engine" => ENGINE),
            full: metrics::gauge!("shoal_engine_full", "role" => role, "engine" => ENGINE),
            read_only: metrics::gauge!("shoal_engine_read_only", "role" => role, "engine" => ENGINE),
        }
    }

    /// Counts a write that was answered after `elapsed`.
    pub(crate) fn write(&self, error: Option<&Error>, elapsed: Duration) {
        let outcome = match error {
            None => 0,
            Some(Error::Failed(_) | Error::Closed | Error::Reopening) => 1,
            Some(Error::Full(_)) => 2,
            Some(_) => 3,
        };
        self.calls[outcome].increment(1);
        self.duration.record(elapsed.as_secs_f64());
    }

    /// Records how long a group took to commit.
    pub(crate) fn committed(&self, elapsed: Duration) {
        self.commit.record(elapsed.as_secs_f64());
    }

    /// Counts a failure of the disk.
    pub(crate) fn failed(&self) {
        self.failures.increment(1);
    }

    /// Sets the number of bytes in the files.
    pub(crate) fn disk(&self, bytes: u64) {
        self.disk.set(bytes as f64);
    }

    /// Sets the number of free bytes on the disk.
    pub(crate) fn free(&self, bytes: u64) {
        self.free.set(bytes as f64);
    }

    /// Sets whether the database works, is full, and refuses all writes.
    pub(crate) fn condition(&self, up: bool, full: bool, read_only: bool) {
        for (gauge, is) in [(&self.up, up), (&self.full, full), (&self.read_only, read_only)] {
            gauge.set(if is { 1.0 } else { 0.0 });
        }
    }
}
