//! Everything the gateway itself can refuse or fail a call with, and what the caller is told. What an upstream answered
//! is never one of these: it passes through as it is.

pub(crate) mod headers_too_long;

use std::net::SocketAddr;
use std::time::Duration;

use shoal_balance::Crowded;
use shoal_kit::ApiError;
use shoal_kit::reason::{self, Reason};
use shoal_kit::role::Role;
use tonic::Code;

use crate::error::headers_too_long::TooLong;

/// The pause before a further call helps, in an outage that is expected to pass.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why the gateway answered a call itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The service is behind no upstream.
    #[error("no service `{service}` behind this gateway; it has: {known}")]
    UnknownService { service: String, known: String },
    /// Clones of a Shoal role have the service, and the gateway was not told of any. It is not for the default.
    #[error(
        "`{service}` is served by clones of the role {role}, and this gateway knows none: say where they are with \
         --peer {role}=HOST:PORT, or give it to an upstream of your own with `services` and `replaces = true`"
    )]
    RoleWithoutPeers { service: String, role: Role },
    /// The service is behind no upstream that has said what it serves, and one has not said it yet.
    #[error(
        "no service `{service}` is known, and upstream `{upstream}` has not said yet what it serves ({why}); name its \
         services in [gateway.upstream.{upstream}] to route them at once"
    )]
    Undescribed { service: String, upstream: String, why: String },
    /// The path is not `/package.Service/Method`.
    #[error("path `{path}` must be /package.Service/Method")]
    MalformedPath { path: String },
    /// `grpc-timeout` cannot be read.
    #[error("grpc-timeout `{value}` must be 1 to 8 digits and a unit of H, M, S, m, u or n")]
    MalformedTimeout { value: String },
    /// The request cannot be sent on over HTTP/2.
    #[error("the request cannot be forwarded: {detail}")]
    Unforwardable { detail: String },
    /// The caller's time was up.
    #[error("{upstream} did not finish {path} within the deadline of {allowed:.1?} ({progress})")]
    DeadlineExceeded { path: String, upstream: String, allowed: Duration, progress: String },
    /// Picking an endpoint took too long.
    #[error("{detail} (waited {waited:.0?}, {attempts} attempts)")]
    NoEndpoint { upstream: String, detail: String, waited: Duration, attempts: u32 },
    /// Endpoints are there, and their servers allow no further stream.
    #[error(
        "`{upstream}` has no stream left: {crowded} (waited {waited:.0?}); try again shortly, or raise \
         SETTINGS_MAX_CONCURRENT_STREAMS of its servers or gateway.balance.connections"
    )]
    Streamless { upstream: String, crowded: Crowded, waited: Duration, attempts: u32 },
    /// A connection takes no further request.
    #[error(
        "`{upstream}` ({address}) does not read its connection, and {waiting} calls wait for it; try again shortly"
    )]
    Stuck { upstream: String, address: SocketAddr, waiting: usize },
    /// An endpoint that had the call is gone, or says it did not take it, and it could not be repeated elsewhere.
    #[error("`{upstream}` ({address}) lost the call: {detail} ({attempts} attempts; {stopped})")]
    Lost { upstream: String, address: SocketAddr, detail: String, attempts: u32, stopped: &'static str },
    /// An endpoint does not speak HTTP/2 as it should.
    #[error("`{upstream}` ({address}) broke the protocol: {detail}")]
    Broken { upstream: String, address: SocketAddr, detail: String },
    /// An endpoint answered with plain HTTP.
    #[error(
        "`{upstream}` ({address}) answered HTTP {status}, which is not gRPC ({attempts} attempts; {stopped})"
    )]
    NotGrpc {
        upstream: String,
        address: SocketAddr,
        status: u16,
        code: Code,
        attempts: u32,
        stopped: &'static str,
    },
    /// A header list is above a limit.
    #[error("{0}")]
    HeadersTooLong(TooLong),
    /// The route's limit of calls in flight is reached.
    #[error("{path} has {most} calls in flight already, as many as its route allows; try again shortly")]
    Crowded { path: String, most: usize },
    /// The gateway's limit of calls in flight is reached, or what it then allows one connection.
    #[error(
        "this connection has {own} calls in flight (each 8 KiB of headers count as one), more than its share of what \
         gateway.limits.calls = {most} leaves free; try again shortly, and end calls that are not needed"
    )]
    TooManyCalls { own: usize, most: usize },
    /// The request to a unary method did not come to its end.
    #[error("the request of {path} was not complete within {allowed:.0?} (gateway.limits.request_time)")]
    RequestUnfinished { path: String, allowed: Duration },
    /// The connection has left too many answers unread for one more call.
    #[error(
        "this connection has {bytes} bytes of unread answers, and gateway.limits.unread_bytes now allows it {most}; \
         read them before you call again, or call on another connection"
    )]
    AnswersUnread { bytes: usize, most: usize },
    /// The answer is not kept for the caller any longer.
    #[error(
        "the answer was not read for {time:.0?}: read large answers as they arrive \
         (gateway.limits.unread_bytes, unread_time)"
    )]
    AnswerNotTaken { time: Duration },
    /// A caller has used up what it may.
    #[error("caller `{caller}` has reached its limit of {limit}; try again in {wait:.0?}")]
    CallerLimit { caller: String, reason: Reason, limit: String, wait: Duration },
    /// The upstream answers more slowly than it can with fewer calls.
    #[error(
        "`{upstream}` has {limit} unanswered calls on this core of the gateway, as many as it answers in time (waited \
         {waited:.0?}); try again shortly"
    )]
    Overloaded { upstream: String, limit: usize, waited: Duration },
    /// The gateway's own service has no such method.
    #[error(
        "{path} is not a method of the gateway's own services; list them with reflection (grpcurl describe)"
    )]
    UnknownMethod { path: String },
    /// A call is ended because its connection is.
    #[error(
        "this connection reached its maximum age, and its calls the grace of {grace:.0?} after it (gateway.connection.max_age, \
         max_age_grace); call again, on a new connection"
    )]
    ConnectionAged { grace: Duration },
    /// A call without end is ended because the gateway drains.
    #[error("this gateway is shutting down; call again")]
    Draining,
}

impl From<TooLong> for Error {
    fn from(too_long: TooLong) -> Error {
        Error::HeadersTooLong(too_long)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let message = error.to_string();
        match error {
            Error::UnknownService { service, known } => {
                ApiError::new(Code::Unimplemented, reason::UNKNOWN_SERVICE, message)
                    .meta("service", service)
                    .meta("services", known)
            }
            Error::RoleWithoutPeers { service, role } => {
                ApiError::new(Code::Unavailable, reason::ROLE_WITHOUT_PEERS, message)
                    .meta("service", service)
                    .meta("role", role.name())
            }
            Error::Undescribed { service, upstream, why } => {
                ApiError::new(Code::Unavailable, reason::UPSTREAM_NOT_DESCRIBED, message)
                    .meta("service", service)
                    .meta("upstream", upstream)
                    .meta("why", why)
                    .retry_after(RETRY_AFTER)
            }
            Error::MalformedPath { path } => {
                ApiError::new(Code::Unimplemented, reason::INVALID_PATH, message).meta("path", path)
            }
            Error::MalformedTimeout { .. } => ApiError::invalid(
                reason::INVALID_TIMEOUT,
                "grpc-timeout",
                "must be 1 to 8 digits and a unit of H, M, S, m, u or n",
            ),
            Error::Unforwardable { detail } => {
                ApiError::new(Code::Internal, reason::UNFORWARDABLE_REQUEST, message).meta("detail", detail)
            }
            Error::DeadlineExceeded { path, upstream, allowed, progress } => {
                ApiError::new(Code::DeadlineExceeded, reason::DEADLINE_EXCEEDED, message)
                    .meta("method", path)
                    .meta("upstream", upstream)
                    .meta("allowed", format!("{allowed:?}"))
                    .meta("progress", progress)
            }
            Error::NoEndpoint { upstream, detail, waited, attempts } => {
                ApiError::new(Code::Unavailable, reason::NO_ENDPOINT, message)
                    .meta("upstream", upstream)
                    .meta("detail", detail)
                    .meta("waited", format!("{waited:?}"))
                    .meta("attempts", attempts.to_string())
                    .retry_after(RETRY_AFTER)
            }
            Error::Streamless { upstream, crowded, waited, attempts } => {
                ApiError::new(Code::ResourceExhausted, reason::UPSTREAM_STREAMS, message)
                    .meta("upstream", upstream)
                    .meta("allowed", crowded.allowed.to_string())
                    .meta("held", crowded.held.to_string())
                    .meta("waited", format!("{waited:?}"))
                    .meta("attempts", attempts.to_string())
                    .retry_after(RETRY_AFTER)
            }
            Error::Stuck { upstream, address, waiting } => {
                ApiError::new(Code::ResourceExhausted, reason::UPSTREAM_CONNECTION_FULL, message)
                    .meta("upstream", upstream)
                    .meta("endpoint", address.to_string())
                    .meta("waiting", waiting.to_string())
                    .retry_after(RETRY_AFTER)
            }
            Error::Lost { upstream, address, detail, attempts, stopped } => {
                ApiError::new(Code::Unavailable, reason::ENDPOINT_LOST, message)
                    .meta("upstream", upstream)
                    .meta("endpoint", address.to_string())
                    .meta("detail", detail)
                    .meta("attempts", attempts.to_string())
                    .meta("not_repeated_because", stopped)
            }
            Error::Broken { upstream, address, detail } => {
                ApiError::new(Code::Internal, reason::UPSTREAM_PROTOCOL_ERROR, message)
                    .meta("upstream", upstream)
                    .meta("endpoint", address.to_string())
                    .meta("detail", detail)
            }
            Error::NotGrpc { upstream, address, status, code, attempts, stopped } => {
                ApiError::new(code, reason::UPSTREAM_NOT_GRPC, message)
                    .meta("upstream", upstream)
                    .meta("endpoint", address.to_string())
                    .meta("http_status", status.to_string())
                    .meta("attempts", attempts.to_string())
                    .meta("not_repeated_because", stopped)
            }
            Error::HeadersTooLong(too_long) => too_long.fault(message),
            Error::Crowded { path, most } => {
                ApiError::new(Code::ResourceExhausted, reason::TOO_MANY_CALLS, message)
                    .meta("method", path)
                    .meta("in_flight", most.to_string())
                    .retry_after(RETRY_AFTER)
            }
            Error::TooManyCalls { own, most } => {
                ApiError::new(Code::ResourceExhausted, reason::CALLS_IN_FLIGHT, message)
                    .meta("limit", "gateway.limits.calls")
                    .meta("most", most.to_string())
                    .meta("of_connection", own.to_string())
                    .retry_after(RETRY_AFTER)
            }
            Error::RequestUnfinished { path, allowed } => {
                ApiError::new(Code::DeadlineExceeded, reason::REQUEST_UNFINISHED, message)
                    .meta("limit", "gateway.limits.request_time")
                    .meta("method", path)
                    .meta("allowed", format!("{allowed:?}"))
            }
            Error::AnswersUnread { bytes, most } => {
                ApiError::new(Code::ResourceExhausted, reason::ANSWERS_UNREAD, message)
                    .meta("limit", "gateway.limits.unread_bytes")
                    .meta("unread_bytes", bytes.to_string())
                    .meta("most", most.to_string())
                    .retry_after(RETRY_AFTER)
            }
            Error::AnswerNotTaken { time } => {
                ApiError::new(Code::ResourceExhausted, reason::ANSWER_NOT_READ, message)
                    .meta("limit", "gateway.limits.unread_bytes")
                    .meta("waited", format!("{time:?}"))
            }
            Error::CallerLimit { caller, reason, limit, wait } => {
                ApiError::new(Code::ResourceExhausted, reason, message)
                    .meta("caller", caller)
                    .meta("limit", limit)
                    .retry_after(wait)
            }
            Error::Overloaded { upstream, limit, waited } => {
                ApiError::new(Code::ResourceExhausted, reason::UPSTREAM_OVERLOADED, message)
                    .meta("upstream", upstream)
                    .meta("limit", limit.to_string())
                    .meta("waited", format!("{waited:?}"))
                    .meta("attempts", "0")
                    .retry_after(RETRY_AFTER)
            }
            Error::UnknownMethod { path } => {
                ApiError::new(Code::Unimplemented, reason::UNKNOWN_METHOD, message).meta("path", path)
            }
            Error::ConnectionAged { grace } => {
                ApiError::new(Code::Unavailable, reason::CONNECTION_AGED, message)
                    .meta("limit", "gateway.connection.max_age_grace")
                    .meta("grace", format!("{grace:?}"))
            }
            Error::Draining => {
                ApiError::new(Code::Unavailable, reason::DRAINING, message).retry_after(RETRY_AFTER)
            }
        }
    }
}

impl Error {
    /// Returns how long its caller is to leave the call alone (gRFC A6, pushback): for limits, which many callers run into at
    /// once.
    pub(crate) fn pushback(&self) -> Option<Duration> {
        match self {
            Error::CallerLimit { wait, .. } => Some(*wait),
            Error::Overloaded { .. }
            | Error::Crowded { .. }
            | Error::Streamless { .. }
            | Error::Stuck { .. }
            | Error::TooManyCalls { .. } => Some(RETRY_AFTER),
            _ => None,
        }
    }

    /// The code the caller gets.
    pub(crate) fn code(&self) -> Code {
        ApiError::from(self.clone()).code()
    }
}
