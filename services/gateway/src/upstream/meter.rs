//! Counts of one upstream on one core, to be read back: calls by their code, and what happened to them. Recording one allocates
//! nothing. Prometheus has the calls by method ([`super::method_meter`]).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;
use shoal_kit::code::CODES;
use tonic::Code;

/// An event that is counted beside calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// An attempt after one that failed.
    Retry,
    /// A retry that was not made because the budget was used up.
    RetryRefused,
    /// A second attempt beside one that is slow.
    Hedge,
    /// A second attempt that answered first.
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
    codes: [AtomicU64; CODES.len()],
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
    /// Creates the counts of an upstream.
    pub(crate) fn new(upstream: &str) -> Meter {
        let meter = Meter {
            upstream: upstream.to_owned(),
            codes: std::array::from_fn(|_| AtomicU64::new(0)),
            events: std::array::from_fn(|_| Count::default()),
        };
        // Rates have a first value.
        for (count, name) in meter.events.iter().zip(EVENTS) {
            count
                .metric
                .get_or_init(|| metrics::counter!(name, "upstream" => upstream.to_owned()))
                .increment(0);
        }
        meter
    }

    /// Counts a call that ended.
    pub(crate) fn call(&self, code: Code) {
        if let Some(count) = self.codes.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts what happened to a call.
    pub(crate) fn event(&self, event: Event) {
        let index = event as usize;
        self.events[index].add(|| metrics::counter!(EVENTS[index], "upstream" => self.upstream.clone()));
    }

    /// Returns how many calls ended with each code, by its name; those that never came are left out.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.codes.iter().map(|count| count.load(Ordering::Relaxed));
        CODES.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Returns how often something happened.
    pub(crate) fn events(&self, event: Event) -> u64 {
        self.events[event as usize].count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_can_be_read_back() {
        let meter = Meter::new("cache");
        meter.call(Code::Ok);
        meter.call(Code::Unauthenticated);
        meter.call(Code::Ok);
        meter.event(Event::Shed);
        assert_eq!(meter.calls().collect::<Vec<_>>(), [("OK", 2), ("UNAUTHENTICATED", 1)]);
        assert_eq!((meter.events(Event::Shed), meter.events(Event::Hedge)), (1, 0));
    }
}
