//! Counters of calls by upstream and code, made once and reused: recording a call allocates nothing.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram};
use tonic::Code;

const CODES: usize = 17;

/// `gateway_calls_total`, `gateway_call_duration_seconds`, `gateway_retries_total` of one upstream on one core.
pub(crate) struct Meter {
    upstream: String,
    duration: OnceLock<Histogram>,
    retries: OnceLock<Counter>,
    codes: [OnceLock<Counter>; CODES],
}

impl Meter {
    /// For one upstream, or for what the gateway answers itself.
    pub(crate) fn new(upstream: &str) -> Meter {
        Meter {
            upstream: upstream.to_owned(),
            duration: OnceLock::new(),
            retries: OnceLock::new(),
            codes: [const { OnceLock::new() }; CODES],
        }
    }

    /// Counts one finished call.
    pub(crate) fn call(&self, code: Code, elapsed: Duration) {
        let name = || self.upstream.clone();
        self.duration
            .get_or_init(|| metrics::histogram!("gateway_call_duration_seconds", "upstream" => name()))
            .record(elapsed.as_secs_f64());
        if let Some(slot) = self.codes.get(code as usize) {
            slot.get_or_init(|| {
                metrics::counter!("gateway_calls_total", "upstream" => name(), "grpc_code" => format!("{code:?}"))
            })
            .increment(1);
        }
    }

    /// Counts one repeated attempt.
    pub(crate) fn retry(&self) {
        self.retries
            .get_or_init(|| metrics::counter!("gateway_retries_total", "upstream" => self.upstream.clone()))
            .increment(1);
    }
}
