//! Counts the calls of one method at one upstream, for Prometheus. Made with the route table and reused: recording a call
//! allocates nothing.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram};
use shoal_kit::code::{CODES, code_name};
use tonic::Code;

/// The label of calls whose method is not known: the names that callers make up are none.
pub(crate) const UNKNOWN: &str = "unknown";

/// The calls of one method at one upstream, of all cores.
pub(crate) struct MethodMeter {
    upstream: Box<str>,
    method: Box<str>,
    duration: OnceLock<Histogram>,
    codes: [OnceLock<Counter>; CODES.len()],
}

impl MethodMeter {
    /// Creates what counts the calls of `method` (`package.Service/Method`, or one that stands for many) at `upstream`.
    pub(crate) fn new(upstream: &str, method: &str) -> MethodMeter {
        let meter = MethodMeter {
            upstream: upstream.into(),
            method: method.into(),
            duration: OnceLock::new(),
            codes: std::array::from_fn(|_| OnceLock::new()),
        };
        // Its rate has a first value.
        meter.count(Code::Ok, 0);
        meter
    }

    /// Counts a call that ended.
    pub(crate) fn record(&self, code: Code, elapsed: Duration) {
        let (upstream, method) = (|| self.upstream.to_string(), || self.method.to_string());
        let duration = self.duration.get_or_init(|| {
            metrics::histogram!("shoal_gateway_call_duration_seconds",
                "upstream" => upstream(), "method" => method())
        });
        duration.record(elapsed.as_secs_f64());
        self.count(code, 1);
    }

    fn count(&self, code: Code, calls: u64) {
        let (upstream, method) = (|| self.upstream.to_string(), || self.method.to_string());
        if let Some(counter) = self.codes.get(code as usize) {
            let new = || {
                metrics::counter!("shoal_gateway_calls_total",
                    "upstream" => upstream(), "method" => method(), "code" => code_name(code))
            };
            counter.get_or_init(new).increment(calls);
        }
    }
}
