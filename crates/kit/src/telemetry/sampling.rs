//! Decides which calls are traced before a span is made: most are not, and a span that nobody will see is expensive. Where
//! no span is made the decision still goes along, so that all processes behind decide alike (W3C Trace Context, `sampled`).

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

use crate::role::Role;
use crate::telemetry::{ROLE_ATTRIBUTE, TelemetryConfig};

/// The header that carries the trace of a call (<https://www.w3.org/TR/trace-context/#traceparent-header>).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// `00-`, 32 digits of the trace, `-`, 16 of the span, `-`, 2 of the flags.
const TRACEPARENT_BYTES: usize = 55;
/// Where the two digits of the flags are.
const FLAGS_AT: usize = 53;

/// Decides which calls the gateway traces: where most traces begin.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// The sampled fraction of the traces that begin here; none if tracing is off.
    ratio: Option<f64>,
}

/// The decision about one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sampled {
    /// Spans are made.
    Yes,
    /// The call gets no span. The header tells the next processes, in place of any `traceparent`; `None` if the caller told it already.
    No(Option<HeaderValue>),
}

impl Sampling {
    /// Makes the sampling of a process from its configuration.
    #[must_use]
    pub fn of(config: &TelemetryConfig) -> Sampling {
        Sampling { ratio: config.otlp.is_some().then_some(config.sample_ratio) }
    }

    /// A caller's own decision is followed; of the others a share is traced.
    #[must_use]
    pub fn decide(&self, headers: &HeaderMap) -> Sampled {
        let Some(ratio) = self.ratio else { return Sampled::No(None) };
        match headers.get(TRACEPARENT).and_then(sampled) {
            Some(true) => Sampled::Yes,
            Some(false) => Sampled::No(None),
            None if fastrand::f64() < ratio => Sampled::Yes,
            None => Sampled::No(Some(unsampled())),
        }
    }
}

/// Returns the id of the trace that a call is part of, if its caller says one.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parent = headers.get(TRACEPARENT)?;
    sampled(parent)?;
    parent.to_str().ok()?.get(3..35)
}

/// Returns the decision in a `traceparent`; none if it is not valid.
fn sampled(parent: &HeaderValue) -> Option<bool> {
    let bytes = parent.as_bytes();
    // Later versions may be longer, behind another dash.
    let long_enough = match bytes.get(TRACEPARENT_BYTES) {
        None => bytes.len() == TRACEPARENT_BYTES,
        Some(next) => !bytes.starts_with(b"00") && *next == b'-',
    };
    let dashes = [2, 35, 52];
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = |(at, byte): (usize, &u8)| if dashes.contains(&at) { *byte == b'-' } else { lower(byte) };
    let well_formed = long_enough && bytes.iter().take(TRACEPARENT_BYTES).enumerate().all(digits);
    let zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
    if !well_formed || bytes.starts_with(b"ff") || zero(&bytes[3..35]) || zero(&bytes[36..52]) {
        return None;
    }
    let last = char::from(bytes[FLAGS_AT + 1]).to_digit(16)?;
    Some(last & 1 == 1)
}

/// A trace that nobody records.
fn unsampled() -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex(&mut text[3..19], fastrand::u64(..));
    // Neither the trace nor the span may be all zeros.
    hex(&mut text[19..35], fastrand::u64(1..));
    hex(&mut text[36..52], fastrand::u64(1..));
    let mut value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
    // No two calls have the same: HPACK would fill its table with them.
    value.set_sensitive(true);
    value
}

/// The lowest digits of a number that fit.
fn hex(to: &mut [u8], mut number: u64) {
    for digit in to.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// Decides for spans that begin a trace.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    ratio: f64,
}

impl Root {
    pub(crate) fn new(ratio: f64) -> Root {
        Root { ratio }
    }
}

impl ShouldSample for Root {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        // The gateway makes a server span only for what it has decided to trace: to draw again would trace the square.
        let of_gateway =
            |kv: &KeyValue| kv.key.as_str() == ROLE_ATTRIBUTE && kv.value.as_str() == Role::Gateway.name();
        if *kind == SpanKind::Server && attributes.iter().any(of_gateway) {
            return SamplingResult {
                decision: SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: TraceState::default(),
            };
        }
        Sampler::TraceIdRatioBased(self.ratio).should_sample(parent, trace, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn decide(ratio: Option<f64>, parent: Option<&'static str>) -> Sampled {
        let mut headers = HeaderMap::new();
        if let Some(parent) = parent {
            headers.insert(TRACEPARENT, HeaderValue::from_static(parent));
        }
        Sampling { ratio }.decide(&headers)
    }

    #[test]
    fn the_callers_decision_is_followed_whatever_the_ratio() {
        assert_eq!(decide(Some(0.0), Some(SAMPLED)), Sampled::Yes);
        assert_eq!(decide(Some(1.0), Some(UNSAMPLED)), Sampled::No(None));
    }

    #[test]
    fn without_tracing_headers_are_left_alone() {
        assert_eq!(decide(None, Some(SAMPLED)), Sampled::No(None));
        assert_eq!(decide(None, None), Sampled::No(None));
    }

    #[test]
    fn an_untraced_call_is_sampled_once() {
        assert_eq!(decide(Some(1.0), None), Sampled::Yes);
        let Sampled::No(Some(parent)) = decide(Some(0.0), None) else { panic!("told") };
        assert_eq!(sampled(&parent), Some(false), "{parent:?}");
        assert!(parent.is_sensitive());
        let Sampled::No(Some(other)) = decide(Some(0.0), None) else { panic!("told") };
        assert_ne!(parent, other);
        let yes = (0..10_000).filter(|_| decide(Some(0.1), None) == Sampled::Yes).count();
        assert!((800..1_200).contains(&yes), "{yes} of 10000");
    }

    #[test]
    fn what_is_no_traceparent_counts_as_none() {
        for parent in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(matches!(decide(Some(0.0), Some(parent)), Sampled::No(Some(_))), "{parent}");
        }
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert_eq!(decide(Some(0.0), Some(later)), Sampled::Yes);
    }

    #[test]
    fn gateway_spans_are_not_sampled_again() {
        let decide = |kind, role: &'static str| {
            let attributes = [KeyValue::new(ROLE_ATTRIBUTE, role)];
            Root::new(0.0).should_sample(None, TraceId::from(7), "rpc", &kind, &attributes, &[]).decision
        };
        assert_eq!(decide(SpanKind::Server, "gateway"), SamplingDecision::RecordAndSample);
        assert_eq!(decide(SpanKind::Server, "cache"), SamplingDecision::Drop);
        assert_eq!(decide(SpanKind::Client, "gateway"), SamplingDecision::Drop);
    }
}
