//! The metrics of a link's calls.

use std::fmt;

/// The outcomes of calls, as the metric's label has them.
const OUTCOMES: [&str; 9] =
    ["ok", "unavailable", "unknown", "moving", "full", "read_only", "denied", "server", CANCELLED];
/// The label that tells this engine from the others.
const ENGINE: &str = "redis";
/// The outcome of a call that its caller gave up.
pub(crate) const CANCELLED: &str = "cancelled";

/// The counters of a link, looked up once: a call must not search a registry.
pub(crate) struct Meter {
    role: &'static str,
    calls: [metrics::Counter; OUTCOMES.len()],
    duration: metrics::Histogram,
}

impl Meter {
    pub(crate) fn new(role: &'static str) -> Self {
        let calls = OUTCOMES.map(|outcome| {
            metrics::counter!("shoal_engine_calls_total", "role" => role, "engine" => ENGINE, "outcome" => outcome)
        });
        let duration =
            metrics::histogram!("shoal_engine_call_duration_seconds", "role" => role, "engine" => ENGINE);
        Self { role, calls, duration }
    }

    pub(crate) fn record(&self, outcome: &'static str, seconds: f64) {
        if let Some(known) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.calls[known].increment(1);
        }
        self.duration.record(seconds);
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("role", &self.role).finish_non_exhaustive()
    }
}
