//! Judges an endpoint by how its calls ended: the one table of what each gRPC code and each broken stream says about the
//! endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use shoal_http2::{Error, Reason};
use tonic::{Code, Status};

/// The trailer by which an endpoint says how long to avoid it (gRFC A6, "Pushback").
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The trailer by which an endpoint says that its error is the fault of the caller, or of something behind the endpoint: any
/// other endpoint would have answered the same.
const FAULT_OF: &str = "shoal-fault-of";

/// Returns the gRPC status of an answer, from its trailers (or its headers, if there were no trailers). An answer without a
/// gRPC status is mapped by its HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
pub fn code_of(http: StatusCode, trailers: &HeaderMap) -> Code {
    match trailers.get(Status::GRPC_STATUS) {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None => code_of_http(http),
    }
}

fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 431 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The outcome of a call, as a judgement of its endpoint.
///
/// | outcome | failure for the ejection | avoided |
/// |---|---|---|
/// | `Success` | no: it ends a series of failures | no |
/// | `EndpointFault` | yes | 5 s ([`Options::penalty`](crate::Options::penalty)) |
/// | `Pushback` | yes | for the time it asked for |
/// | `Overloaded` | no: ejecting a busy endpoint only makes the others busier | for the time it asked for, else 5 s |
/// | `ServerError` | yes | no |
/// | `TimedOut` | if it answered no other call meanwhile, unless the call streams or waited for a stream | no; its latency is at least the time waited |
/// | `CallerGone`, `Neutral` | no | no |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint processed the call, whatever the answer: NOT_FOUND is a success here.
    Success,
    /// The endpoint or the path to it failed: UNAVAILABLE, a lost connection, a malformed answer.
    EndpointFault,
    /// UNAVAILABLE, with the time after which the endpoint wants to be asked again.
    Pushback(Duration),
    /// RESOURCE_EXHAUSTED or REFUSED_STREAM: the endpoint works and is overloaded. With the pushback it sent, if any.
    Overloaded(Option<Duration>),
    /// INTERNAL, UNKNOWN, DATA_LOSS: the endpoint is broken, or cannot process this request.
    ServerError,
    /// The deadline passed. Whether that was the endpoint's fault depends on what else it answered meanwhile.
    TimedOut,
    /// The caller went away. Only says that the endpoint took at least this long.
    CallerGone,
    /// The call says nothing about the endpoint, which never received it, as after a GOAWAY.
    Neutral,
}

impl Outcome {
    /// Judges an answer by its HTTP status and its `trailers` (or its headers, if there were no trailers).
    ///
    /// gRPC's outlier detection (gRFC A50) counts every code but OK, so that one caller with bad arguments can eject healthy
    /// endpoints. Envoy counts the codes that it maps to an HTTP status from 500. This is Envoy's list without the codes that
    /// callers cause: UNIMPLEMENTED (501 there) and DEADLINE_EXCEEDED (504), which the endpoint has *answered* here.
    ///
    /// An HTTP status from 400 to 499 without a gRPC status is an answer to the request, whatever its code for the caller:
    /// refusing a header list that is too long (431) is no failure. Neither is an error that the endpoint reports as not its
    /// own.
    pub fn of_answer(http: StatusCode, trailers: &HeaderMap) -> Outcome {
        let has_status = trailers.contains_key(Status::GRPC_STATUS);
        let refuses = !has_status && http.is_client_error() && http != StatusCode::TOO_MANY_REQUESTS;
        if refuses || trailers.contains_key(FAULT_OF) {
            return Outcome::Success;
        }
        match code_of(http, trailers) {
            Code::Unavailable => pushback(trailers).map_or(Outcome::EndpointFault, Outcome::Pushback),
            Code::ResourceExhausted => Outcome::Overloaded(pushback(trailers)),
            Code::Internal | Code::Unknown | Code::DataLoss => Outcome::ServerError,
            Code::DeadlineExceeded | Code::Cancelled => Outcome::CallerGone,
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => Outcome::Success,
        }
    }

    /// Judges a stream that ended before its answer did.
    ///
    /// | end of the stream | outcome |
    /// |---|---|
    /// | the connection was lost, or this side ended it | `EndpointFault` |
    /// | above the last stream of the peer's GOAWAY | `Neutral`: the endpoint never had it |
    /// | reset by the peer: REFUSED_STREAM, ENHANCE_YOUR_CALM | `Overloaded` |
    /// | reset by the peer: CANCEL | `Success`: it answered |
    /// | reset by the peer: any other reason | `ServerError`, like an answer with INTERNAL |
    /// | reset by this side: the header list of the answer is too long | `Success`: the peer has broken no rule |
    /// | reset by this side: CANCEL | `CallerGone`: nobody wants the answer |
    /// | reset by this side: any other reason | `EndpointFault`: the answer was malformed |
    ///
    /// INADEQUATE_SECURITY is PERMISSION_DENIED for the caller and still an error of the endpoint: the connection that is not
    /// secure enough is ours, and no caller can have caused it.
    pub fn of_stream_error(error: &Error) -> Outcome {
        if !error.is_reset() {
            return if refused(error) { Outcome::Neutral } else { Outcome::EndpointFault };
        }
        if error.header_list_too_long().is_some() {
            return Outcome::Success;
        }
        match error.reason() {
            Some(Reason::CANCEL) if error.is_remote() => Outcome::Success,
            Some(Reason::CANCEL) => Outcome::CallerGone,
            _ if !error.is_remote() => Outcome::EndpointFault,
            Some(Reason::REFUSED_STREAM | Reason::ENHANCE_YOUR_CALM) => Outcome::Overloaded(None),
            _ => Outcome::ServerError,
        }
    }
}

/// Returns the pushback if it is a time. Any other value means "do not repeat this" and names no time.
fn pushback(trailers: &HeaderMap) -> Option<Duration> {
    let millis = trailers.get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

/// Returns the status of a broken stream for the caller (gRPC over HTTP/2, "Errors").
pub(crate) fn status_of(error: &Error, upstream: &str, address: SocketAddr) -> Status {
    if refused(error) || !error.is_reset() {
        return Status::unavailable(format!("`{upstream}` ({address}) was lost before it answered: {error}"));
    }
    if let Some(list) = error.header_list_too_long() {
        return Status::resource_exhausted(format!(
            "the answer of `{upstream}` ({address}) was dropped: {list}"
        ));
    }
    let code = error.reason().map_or(Code::Internal, code_of_reset);
    // A stream is refused by the peer only; by us it was reset for a malformed answer.
    let code = if code == Code::Unavailable { Code::Internal } else { code };
    Status::new(code, format!("the stream to `{upstream}` ({address}) ended early: {error}"))
}

/// Returns the code that a reset with `reason` stands for (gRPC over HTTP/2, "Errors").
pub fn code_of_reset(reason: Reason) -> Code {
    match reason {
        Reason::CANCEL => Code::Cancelled,
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// Returns whether the peer has said that it did not process the stream: REFUSED_STREAM, or a stream above the last one that
/// its GOAWAY names. Such a call may be sent once more, whatever its method (RFC 9113 §8.7).
///
/// A stream that the GOAWAY covers ends with an I/O error when the connection does, never with this.
pub fn refused(error: &Error) -> bool {
    error.is_remote()
        && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: Code, pushback: Option<&'static str>, outcome: Outcome) {
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, (code as i32).into());
        if let Some(pushback) = pushback {
            trailers.insert(PUSHBACK, pushback.parse().unwrap());
        }
        assert_eq!(Outcome::of_answer(StatusCode::OK, &trailers), outcome);
    }

    #[test]
    fn caller_errors_count_as_success() {
        for code in [
            Code::Ok,
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::Unauthenticated,
        ] {
            check(code, Some("100"), Outcome::Success);
        }
        check(Code::Cancelled, None, Outcome::CallerGone);
        check(Code::DeadlineExceeded, None, Outcome::CallerGone);
    }

    #[test]
    fn endpoint_errors_fail_but_overload_does_not() {
        check(Code::Unavailable, None, Outcome::EndpointFault);
        check(Code::ResourceExhausted, None, Outcome::Overloaded(None));
        for code in [Code::Internal, Code::Unknown, Code::DataLoss] {
            check(code, None, Outcome::ServerError);
        }
    }

    #[test]
    fn plain_http_answer_maps_by_status() {
        for (http, code, outcome) in [
            (400, Code::Internal, Outcome::Success),
            (401, Code::Unauthenticated, Outcome::Success),
            (404, Code::Unimplemented, Outcome::Success),
            (415, Code::Unknown, Outcome::Success),
            (431, Code::Internal, Outcome::Success),
            (429, Code::Unavailable, Outcome::EndpointFault),
            (500, Code::Unknown, Outcome::ServerError),
            (502, Code::Unavailable, Outcome::EndpointFault),
            (503, Code::Unavailable, Outcome::EndpointFault),
            (504, Code::Unavailable, Outcome::EndpointFault),
            (200, Code::Unknown, Outcome::ServerError),
        ] {
            let status = StatusCode::from_u16(http).unwrap();
            assert_eq!(code_of(status, &HeaderMap::new()), code, "{http}");
            assert_eq!(Outcome::of_answer(status, &HeaderMap::new()), outcome, "{http}");
        }
    }

    #[test]
    fn error_marked_as_foreign_is_success() {
        for code in [Code::ResourceExhausted, Code::Internal, Code::Unavailable] {
            let mut trailers = HeaderMap::new();
            trailers.insert(Status::GRPC_STATUS, (code as i32).into());
            trailers.insert(FAULT_OF, "caller".parse().unwrap());
            assert_eq!(Outcome::of_answer(StatusCode::OK, &trailers), Outcome::Success);
        }
    }

    #[test]
    fn pushback_is_parsed_as_milliseconds() {
        let after = Duration::from_millis(300);
        check(Code::Unavailable, Some("300"), Outcome::Pushback(after));
        check(Code::ResourceExhausted, Some("300"), Outcome::Overloaded(Some(after)));
        check(Code::Unavailable, Some("-1"), Outcome::EndpointFault);
        check(Code::Unavailable, Some("soon"), Outcome::EndpointFault);
        check(Code::ResourceExhausted, Some("-1"), Outcome::Overloaded(None));
    }
}
