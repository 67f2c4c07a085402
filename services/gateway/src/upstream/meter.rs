//! Counters of calls by upstream and code: for Prometheus, and to be read back. Made once and reused: recording a call
//! allocates nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Histogram};
use shoal_kit::code::{CODES, code_name};
use tonic::Code;

/// What is counted beside calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// An attempt after one that failed.
    Retry,
    /// A retry that was not made because the budget was used up.
    RetryRefused,
    /// A second attempt beside one that is slow.
    Hedge,
    /// Of those, one that answered first.
    HedgeWon,
    /// A call refused because the upstream is overloaded.
    Shed,
    /// A call refused because the upstream's servers allow no further stream.
    Streamless,
}

const EVENTS: [&str; 6] = [
    "shoal_gateway_retries_total",
    "shoal_gateway_retries_refused_total",
    "shoal_gateway_hedges_total",
    "shoal_gateway_hedges_won_total",
    "shoal_gateway_shed_total",
    "shoal_gateway_streams_refused_total",
];

/// The counts of one upstream on one core.
pub(crate) struct Meter {
    upstream: String,
    duration: OnceLock<Histogram>,
    codes: [Count; CODES.len()],
    events: [Count; EVENTS.len()],
}

#[derive(Default)]
struct Count {
    count: AtomicU64,
    metric: OnceLock<Counter>,
}

impl Count {
    fn add(&self, metric: impl FnOnce() -> Counter) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.metric.get_or_init(metric).increment(1);
    }
}

impl Meter {
    /// For one upstream, or for what the gateway answers itself.
    pub(crate) fn new(upstream: &str) -> Meter {
        Meter {
            upstream: upstream.to_owned(),
            duration: OnceLock::new(),
            codes: std::array::from_fn(|_| Count::default()),
            events: std::array::from_fn(|_| Count::default()),
        }
    }

    /// Counts one finished call.
    pub(crate) fn call(&self, code: Code, elapsed: Duration) {
        let name = || self.upstream.clone();
        self.duration
            .get_or_init(|| metrics::histogram!("shoal_gateway_call_duration_seconds", "upstream" => name()))
            .record(elapsed.as_secs_f64());
        if let Some(count) = self.codes.get(code as usize) {
            count.add(|| {
                metrics::counter!("shoal_gateway_calls_total", "upstream" => name(), "code" => code_name(code))
            });
        }
    }

    /// Counts what happened to a call.
    pub(crate) fn event(&self, event: Event) {
        let index = event as usize;
        self.events[index].add(|| metrics::counter!(EVENTS[index], "upstream" => self.upstream.clone()));
    }

    /// How many calls ended with each code, by its name; those that never came are left out.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.codes.iter().map(|count| count.count.load(Ordering::Relaxed));
        CODES.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// How often something happened.
    pub(crate) fn events(&self, event: Event) -> u64 {
        self.events[event as usize].count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_can_be_read_back() {
        let meter = Meter::new("cache");
        meter.call(Code::Ok, Duration::from_millis(1));
        meter.call(Code::Unauthenticated, Duration::from_millis(1));
        meter.call(Code::Ok, Duration::from_millis(1));
        meter.event(Event::Shed);
        assert_eq!(meter.calls().collect::<Vec<_>>(), [("OK", 2), ("UNAUTHENTICATED", 1)]);
        assert_eq!((meter.events(Event::Shed), meter.events(Event::Hedge)), (1, 0));
    }
}
