//! Spans of a call: the server span of the gateway, and a client span for each attempt. None is made when tracing is
//! off, nor for a call that is not sampled. Fields never hold headers or messages.

use std::net::SocketAddr;

use shoal_kit::role::Role;
use shoal_kit::sampling::{Sampled, Sampling};
use shoal_kit::telemetry;
use tonic::Code;
use tracing::Span;
use tracing::field::Empty;

use crate::forwarding::request_head::RequestHead;

/// The gateway's own span, child of the caller's, if the call is traced.
pub(crate) fn call(sampling: Sampling, head: &mut RequestHead) -> Span {
    match sampling.decide(head.headers()) {
        Sampled::Yes => {}
        Sampled::No(tell) => {
            if let Some(parent) = tell {
                head.set_trace(parent);
            }
            return Span::none();
        }
    }
    let (service, method) = split(head.path());
    telemetry::server_span(Role::Gateway, "gateway", service, method, head.headers())
}

/// The span of one attempt (OpenTelemetry, "Semantic conventions for gRPC").
pub(crate) fn attempt(call: &Span, path: &str, endpoint: SocketAddr, upstream: &str, number: u32) -> Span {
    if call.is_disabled() {
        return Span::none();
    }
    let (service, method) = split(path);
    tracing::info_span!(
        parent: call,
        "attempt",
        otel.kind = "client",
        otel.name = path.trim_start_matches('/'),
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        server.address = %endpoint.ip(),
        server.port = endpoint.port(),
        shoal.role = Role::Gateway.name(),
        shoal.upstream = upstream,
        shoal.attempt = number,
    )
}

/// Ends an attempt's span: for a client every status but OK is an error.
pub(crate) fn end_attempt(span: &Span, code: Code) {
    if !span.is_disabled() {
        span.record("rpc.grpc.status_code", code as i32);
        if code != Code::Ok {
            span.record("otel.status_code", "ERROR");
        }
        mark_end(span);
    }
}

/// A span's end is the last moment it was left; one that is never entered would seem to take no time.
fn mark_end(span: &Span) {
    span.in_scope(|| {});
}

/// Ends the gateway's span: for a server only its own faults are errors.
pub(crate) fn end_call(span: &Span, code: Code) {
    if !span.is_disabled() {
        span.record("rpc.grpc.status_code", code as i32);
        if matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ) {
            span.record("otel.status_code", "ERROR");
        }
        mark_end(span);
    }
}

fn split(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').rsplit_once('/').unwrap_or(("", ""))
}
