//! The access log: one line for each call that ended, when it is asked for.
//!
//! Lines have the target [`TARGET`] and the level INFO. While the log filter keeps them out, a call costs one load of an atomic
//! here. A line has no message and no header but `x-request-id` and the trace's id.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::TraceContextExt as _;
use tonic::Code;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::errors::code::code_name;
use crate::role::Role;
use crate::telemetry::sampling::trace_id;

/// The target of the lines, for log filters.
pub const TARGET: &str = "shoal::access";

/// The header by which callers name a call of theirs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id is left out of its line.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// The rest of a longer method is left out.
const METHOD_BYTES_MAX: usize = 256;

/// The part of a request that the line of its call shows.
#[derive(Debug)]
pub struct Access {
    method: Box<str>,
    peer: SocketAddr,
    request_id: Option<Box<str>>,
    trace_id: Option<Box<str>>,
}

/// The clone that answered a call.
#[derive(Debug, Clone, Copy)]
pub struct AnsweredBy<'a> {
    /// The role of this process that took the call.
    pub role: Role,
    /// The clone that took it; for the gateway `gateway`.
    pub clone: &'a str,
    /// Where the gateway forwarded it to.
    pub forwarded: Option<Forwarded<'a>>,
}

/// Where the gateway forwarded a call to.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded<'a> {
    /// The upstream's name.
    pub upstream: &'a str,
    /// The clone that had the call last, if any had it.
    pub endpoint: Option<SocketAddr>,
    /// The number of attempts that were sent.
    pub attempts: u32,
}

impl Access {
    /// Takes from a request what its line will tell. Nothing, unless lines are asked for.
    #[inline]
    #[must_use]
    pub fn begin(path: &str, headers: &HeaderMap, peer: SocketAddr) -> Option<Box<Access>> {
        tracing::enabled!(target: TARGET, Level::INFO).then(|| Box::new(Access::of(path, headers, peer)))
    }

    fn of(path: &str, headers: &HeaderMap, peer: SocketAddr) -> Access {
        let visible = |id: &&str| {
            !id.is_empty()
                && id.len() <= REQUEST_ID_BYTES_MAX
                && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let request_id = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(visible);
        let path = path.strip_prefix('/').unwrap_or(path);
        let method = &path[..path.floor_char_boundary(METHOD_BYTES_MAX)];
        Access {
            method: method.escape_debug().to_string().into(),
            peer,
            request_id: request_id.map(Into::into),
            trace_id: trace_id(headers).map(Into::into),
        }
    }

    /// Takes the trace that the call was put into: of its span, or the one that its headers name by now.
    pub fn traced(&mut self, headers: &HeaderMap, span: &Span) {
        if self.trace_id.is_some() {
            return;
        }
        self.trace_id = trace_id(headers).map(Into::into);
        if self.trace_id.is_none() && !span.is_disabled() {
            let context = span.context();
            let context = context.span().span_context().clone();
            self.trace_id = context.is_valid().then(|| context.trace_id().to_string().into());
        }
    }

    /// Writes the line of a call that ended.
    pub fn end(&self, by: AnsweredBy<'_>, code: Code, took: Duration) {
        let forwarded = by.forwarded.as_ref();
        tracing::info!(
            target: TARGET,
            role = by.role.name(),
            clone = by.clone,
            method = &*self.method,
            code = code_name(code),
            duration_ms = format_args!("{:.3}", took.as_secs_f64() * 1e3),
            peer = %self.peer,
            request_id = self.request_id.as_deref(),
            trace_id = self.trace_id.as_deref(),
            upstream = forwarded.map(|forwarded| forwarded.upstream),
            endpoint = forwarded.and_then(|forwarded| forwarded.endpoint).map(tracing::field::display),
            attempts = forwarded.map(|forwarded| forwarded.attempts),
            "call"
        );
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn access(path: &str, headers: &[(&'static str, &str)]) -> Access {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        Access::of(path, &headers, SocketAddr::from(([127, 0, 0, 1], 9)))
    }

    #[test]
    fn ids_are_taken_from_their_headers() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let access = access("/a.B/C", &[("x-request-id", "r-1"), ("traceparent", parent)]);
        assert_eq!((&*access.method, access.request_id.as_deref()), ("a.B/C", Some("r-1")));
        assert_eq!(access.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    }

    #[test]
    fn unusable_ids_are_left_out() {
        let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        for id in ["", "two words", &long] {
            assert_eq!(access("/a.B/C", &[("x-request-id", id)]).request_id, None, "{id}");
        }
        assert_eq!(access("/a.B/C", &[("traceparent", "garbage")]).trace_id, None);
    }

    #[test]
    fn a_long_method_is_cut() {
        let method = access(&format!("/{}", "é".repeat(METHOD_BYTES_MAX)), &[]).method;
        assert_eq!(method.len(), METHOD_BYTES_MAX);
    }
}
