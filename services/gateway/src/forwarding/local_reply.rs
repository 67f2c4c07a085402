//! The gateway's own answers, as frames: gRPC errors as HTTP 200 with `grpc-status` (alone, or after what was already
//! sent), and plain HTTP for what is not gRPC at all.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use shoal_http2::{RecvStream, SendResponse};
use shoal_kit::ApiError;
use tokio::time::timeout;
use tonic::Status;

use crate::error::Error;
use crate::forwarding::request_head::Kind;
use crate::resilience::pushback::PUSHBACK;

/// The longest `grpc-message` the gateway writes: with its details it must fit a client's default header list of 8 KiB.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The answer to `GET /`: what this port is, for people, probes and conformance tools.
const PAGE: &str =
    "This port speaks gRPC. Try: grpcurl -plaintext HOST:PORT list\nHealth: grpc.health.v1.Health/Check\n";

/// The bytes of a request that is no call which are read before it is answered.
const UNWANTED_BYTES_MAX: usize = 64 << 10;
/// The time for which it is read; a request that is sent slowly is answered before its end.
const UNWANTED_WITHIN: Duration = Duration::from_secs(1);

/// The headers that end a call with `error`.
pub(crate) fn trailers(error: Error) -> HeaderMap {
    let pushback = error.pushback();
    let mut headers = status(error);
    if let Some(pushback) = pushback {
        // Up, or a wait of half a millisecond would be none.
        let millis = u64::try_from(pushback.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        headers.insert(PUSHBACK, HeaderValue::from(millis));
    }
    headers
}

fn status(error: Error) -> HeaderMap {
    let fault = ApiError::from(error);
    let status = Status::from(fault.clone());
    let mut headers = HeaderMap::with_capacity(4);
    // Names of upstreams and endpoints fit; a list of a thousand services in a message does not.
    if status.message().len() <= MESSAGE_BYTES_MAX && status.add_header(&mut headers).is_ok() {
        return headers;
    }
    headers.clear();
    let message: String = fault.message().chars().take(MESSAGE_BYTES_MAX / 4).collect();
    let short = ApiError::new(fault.code(), fault.reason(), format!("{message}…"));
    if Status::from(short).add_header(&mut headers).is_err() {
        headers.clear();
        headers.insert(Status::GRPC_STATUS, HeaderValue::from(fault.code() as i32));
    }
    headers
}

/// A gRPC error before anything was sent. Nothing to do if the caller is gone.
pub(crate) fn refuse(respond: &mut SendResponse, error: Error) {
    let mut response = Response::new(());
    *response.headers_mut() = trailers(error);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let _ = respond.send_response(&response, true);
}

/// Refuses a request that is no call and has too many headers.
pub(crate) fn too_long(respond: &mut SendResponse) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let _ = respond.send_response(&response, true);
}

/// Reads a request that is no call to its end, so that no answer overtakes what is wrong with it: a reset, or frames that
/// make it malformed. Bounded in bytes and in time. Says whether there is anybody to answer.
pub(crate) async fn heard(mut body: RecvStream) -> bool {
    let read = async {
        let mut read = 0;
        while read < UNWANTED_BYTES_MAX
            && let Some(chunk) = body.data().await
        {
            let Ok(chunk) = chunk else { return false };
            read += chunk.len();
            body.release(chunk.len());
        }
        read >= UNWANTED_BYTES_MAX || body.trailers().await.is_ok()
    };
    timeout(UNWANTED_WITHIN, read).await.unwrap_or(true)
}

/// Answers what is no call: a page for people, or what was wrong with the method or the content type. What answers HEAD is
/// the head of that alone (RFC 9110 §9.3.2).
pub(crate) async fn plain(respond: &mut SendResponse, kind: Kind, asked: &Method) {
    let (status, body, allow) = match kind {
        Kind::Page => (StatusCode::OK, PAGE, None),
        Kind::WrongMethod => {
            (StatusCode::METHOD_NOT_ALLOWED, "gRPC calls are POST requests.\n", Some("POST"))
        }
        Kind::Grpc | Kind::WrongContent => {
            let body = "gRPC calls have the content type application/grpc.\n";
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, body, None)
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let bare = asked == Method::HEAD;
    if let Ok(mut stream) = respond.send_response(&response, bare)
        && !bare
    {
        // Ends with the connection if the peer never has room for it.
        let _ = stream.send(Bytes::from_static(body.as_bytes()), true).await;
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn check(known: String) -> Status {
        let error = Error::UnknownService { service: "a.B".into(), known };
        Status::from_header_map(&trailers(error)).expect("a status")
    }

    #[test]
    fn gateway_error_carries_reason_and_metadata() {
        let status = check("shoal.cache.v1.CacheService".into());
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        let info = status.get_details_error_info().expect("ErrorInfo");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("shoal", "UNKNOWN_SERVICE"));
        assert_eq!(info.metadata["service"], "a.B");
        assert!(status.message().contains("shoal.cache.v1.CacheService"));
    }

    #[test]
    fn limit_sends_pushback_and_retry_info() {
        let wait = std::time::Duration::from_micros(2_300);
        let limit = "100 calls a second".to_owned();
        let error = Error::CallerLimit {
            caller: "billing".into(),
            reason: shoal_kit::reason::CALLER_RATE,
            limit,
            wait,
        };
        let headers = trailers(error);
        assert_eq!(headers[PUSHBACK], "3");
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().expect("RetryInfo").retry_delay, Some(wait));
        assert!(status.message().contains("`billing`") && status.message().contains("100 calls a second"));
    }

    #[test]
    fn long_message_is_cut_keeping_reason() {
        let status = check("x.Y, ".repeat(2_000));
        assert!(status.message().len() < MESSAGE_BYTES_MAX && status.message().contains("`a.B`"));
        assert_eq!(status.get_details_error_info().expect("ErrorInfo").reason, "UNKNOWN_SERVICE");
    }
}
