//! The spans of queues, and how a trace crosses them: a job carries the context of the span that enqueued it, and the span
//! that leases the job is linked to that one.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::job::id::QueueName;

/// Makes the span of an Enqueue inside its call. The spans of leases are linked to it.
#[must_use]
pub(crate) fn send(queue: &QueueName) -> Span {
    tracing::info_span!(
        "send",
        otel.name = format_args!("send {queue}"),
        otel.kind = "producer",
        messaging.system = "shoal",
        messaging.operation.name = "send",
        messaging.operation.type = "send",
        messaging.destination.name = queue.as_str(),
        shoal.role = "jobs",
    )
}

/// Makes the span of a LeaseJobs inside its call, with the waiting.
#[must_use]
pub(crate) fn lease(queue: &QueueName) -> Span {
    tracing::info_span!(
        "lease",
        otel.name = format_args!("lease {queue}"),
        otel.kind = "consumer",
        messaging.system = "shoal",
        messaging.operation.name = "lease",
        messaging.operation.type = "receive",
        messaging.destination.name = queue.as_str(),
        messaging.batch.message_count = tracing::field::Empty,
        shoal.role = "jobs",
    )
}

/// Makes the span of maintaining a queue that has something due. A look at any other queue has no span.
#[must_use]
pub(crate) fn tend(queue: &QueueName) -> Span {
    tracing::info_span!(
        "tend",
        otel.name = format_args!("tend {queue}"),
        messaging.destination.name = queue.as_str(),
        shoal.role = "jobs",
    )
}

/// Returns the `traceparent` of a span; `None` if it is not traced.
#[must_use]
pub(crate) fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| {
        let flags = context.trace_flags() & TraceFlags::SAMPLED;
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8())
    })
}

/// Links a span to the span of a `traceparent`. Any other text is ignored.
pub(crate) fn link(span: &Span, traceparent: &str) {
    if let Some(context) = parse(traceparent).filter(|_| !span.is_disabled()) {
        span.add_link(context);
    }
}

/// Returns whether the text is a `traceparent` of W3C Trace Context.
#[must_use]
pub(crate) fn is_traceparent(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<SpanContext> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b'-';
    if text.len() != 55 || !text.bytes().all(lower) {
        return None;
    }
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || (trace.len(), span.len(), flags.len()) != (32, 16, 2) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_w3c_traceparents_parse() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7-01-",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
