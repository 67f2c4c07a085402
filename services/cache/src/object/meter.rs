//! The metrics of a kind's loads, at one clone.

use std::time::Duration;

use crate::loader::{LoadError, Loads};

/// The outcomes of a call of a loader, as the label `outcome` has them.
const OUTCOMES: [&str; 5] = ["ok", "unreachable", "timed_out", "refused", "protocol"];

/// The counters and the histogram of a kind's loads.
#[derive(Clone)]
pub(crate) struct LoadMeter {
    calls: [metrics::Counter; OUTCOMES.len()],
    seconds: metrics::Histogram,
}

impl LoadMeter {
    pub(crate) fn new(kind: &str, clone: &str) -> Self {
        let labels = || [("kind", kind.to_owned()), ("clone", clone.to_owned())];
        let calls = OUTCOMES.map(|outcome| {
            let [kind, clone] = labels();
            let labels = [kind, clone, ("outcome", outcome.to_owned())];
            metrics::counter!("shoal_cache_loader_calls_total", &labels)
        });
        Self { calls, seconds: metrics::histogram!("shoal_cache_load_duration_seconds", &labels()) }
    }

    /// Records a call of the loader, whatever the number of objects.
    pub(crate) fn record(&self, took: Duration, loads: &Result<Loads, LoadError>) {
        let outcome = match loads {
            Ok(_) => OUTCOMES[0],
            Err(error) => error.label(),
        };
        if let Some(index) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.calls[index].increment(1);
        }
        self.seconds.record(took.as_secs_f64());
    }
}
