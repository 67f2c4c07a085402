//! Trace context out: the W3C headers of the current span, and the client span of one attempt.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TraceContextExt;
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Sets `traceparent` and `tracestate` to the current `tracing` span (<https://www.w3.org/TR/trace-context/>).
///
/// Without an OpenTelemetry layer, or outside a span, the headers stay as they are: what a caller sent passes through.
pub fn inject(headers: &mut HeaderMap) {
    inject_span(&Span::current(), headers);
}

pub(crate) fn inject_span(span: &Span, headers: &mut HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    let span = context.span();
    let span_context = span.span_context();
    if !span_context.is_valid() {
        return;
    }
    let parent = format!(
        "00-{}-{}-{:02x}",
        span_context.trace_id(),
        span_context.span_id(),
        span_context.trace_flags().to_u8() & 1
    );
    if let Ok(mut parent) = HeaderValue::try_from(parent) {
        // No two calls have the same: HPACK would fill its table with them.
        parent.set_sensitive(true);
        headers.insert(TRACEPARENT, parent);
    }
    let state = span_context.trace_state().header();
    match HeaderValue::try_from(state) {
        Ok(state) if !state.is_empty() => headers.insert(TRACESTATE, state),
        // The state of another parent does not belong to this one.
        _ => headers.remove(TRACESTATE),
    };
}

/// The client span of one attempt, by OpenTelemetry's `rpc.*` conventions. `path` is `/package.Service/Method`.
pub(crate) fn attempt_span(path: &str, address: SocketAddr, role: &'static str) -> Span {
    let name = path.trim_start_matches('/');
    let (service, method) = name.rsplit_once('/').unwrap_or((name, ""));
    tracing::info_span!(
        "attempt",
        otel.kind = "client",
        otel.name = name,
        otel.status_code = field::Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = field::Empty,
        server.address = %address.ip(),
        server.port = address.port(),
        shoal.role = role,
    )
}

/// Ends an attempt's span with the status of the call.
pub(crate) fn record_status(span: &Span, code: tonic::Code) {
    span.record("rpc.grpc.status_code", code as i32);
    // For a client every status but OK is an error (OpenTelemetry, "Semantic conventions for gRPC").
    if code != tonic::Code::Ok {
        span.record("otel.status_code", "ERROR");
    }
    // A span's end is the last moment it was left; one that is never entered would seem to take no time.
    span.in_scope(|| {});
}
