//! Handles one incoming call: span, metrics, deadline, and errors in our shape even where the framework made them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Instrument as _;

use tokio_util::sync::CancellationToken;

use crate::errors::api_error::ApiError;
use crate::errors::reason;
use crate::role::Role;
use crate::serving::answer::{AnswerBytes, Leaving};
use crate::serving::body::{Finish, RpcBody, StreamCutoff, code_of};
use crate::serving::budget::Memory;
use crate::serving::framework_error::{ACCEPT_ENCODING, framework_error};
use crate::serving::incoming::Incoming;
use crate::serving::message::WholeMessages;
use crate::serving::routes::Routes;
use crate::telemetry;
use crate::telemetry::access::{Access, AnsweredBy};
use crate::telemetry::current_call;
use crate::telemetry::metrics::{Method, Methods};

/// The state that all connections of one clone share.
pub(crate) struct Rpc {
    pub(crate) role: Role,
    pub(crate) clone: String,
    pub(crate) routes: Routes,
    pub(crate) methods: Methods,
    pub(crate) draining: CancellationToken,
    pub(crate) memory: Memory,
}

/// Streams of these never end by themselves, and their callers simply come back.
const ENDLESS: [&str; 3] = ["/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha."];

impl Rpc {
    /// Answers one call; every failure is a gRPC status.
    pub(crate) async fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<RpcBody<Finished>> {
        let started = Instant::now();
        let path = request.uri().path();
        let (service, name) = split(path);
        let access = Access::begin(path, request.headers(), peer);
        let role = self.role;
        let Some(route) = self.routes.of(service) else {
            return response_of(
                self.unknown(service).into(),
                Finished::without_span(role, self.methods.unknown(), started, access),
            );
        };
        let method = self.methods.of(path);
        let deadline = match timeout_of(request.headers()) {
            Ok(timeout) => timeout.map(|t| started + t),
            Err(fault) => {
                return response_of(fault.into(), Finished::without_span(role, method, started, access));
            }
        };
        let span = telemetry::server_span(self.role, &self.clone, service, name, request.headers());
        let mut finish = Finished { role, method, started, span: span.clone(), access };
        if let Some(access) = &mut finish.access {
            access.traced(request.headers(), &span);
        }

        let mut request = request.map(|body| WholeMessages::new(body, route.message_bytes_max, &self.memory));
        compress_for_who_does(request.headers_mut());
        let answer = span.in_scope(|| route.server.handle(request));
        let answer = current_call::within(finish.method.clone(), answer.instrument(span.clone()));
        let response = match deadline {
            None => answer.await,
            Some(at) => match tokio::time::timeout_at(at.into(), answer).await {
                Ok(response) => response,
                Err(_) => {
                    let fault = deadline_exceeded(finish.method.path());
                    return response_of(fault.into(), finish);
                }
            },
        };
        let response = match response {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let ended = code_of(response.headers());
        if let Some(status) = ended.and_then(|code| framework_error(code, response.headers())) {
            return response_of(status, finish);
        }
        let cutoff = self.cutoff(&finish.method, deadline);
        let large = response.extensions().get::<AnswerBytes>().map(|AnswerBytes(bytes)| *bytes);
        response.map(|body| {
            let mut body = RpcBody::new(cutoff, finish, Leaving::new(body, &self.memory, large));
            if let Some(code) = ended {
                body.end_with_headers(code);
            }
            body
        })
    }

    /// When a stream is cut before its own end: at its deadline; endless ones also when the drain begins.
    fn cutoff(&self, method: &Arc<Method>, deadline: Option<Instant>) -> Option<StreamCutoff> {
        let endless = ENDLESS.iter().any(|prefix| method.path().starts_with(prefix));
        if deadline.is_none() && !endless {
            return None;
        }
        let draining = endless.then(|| self.draining.clone());
        let method = method.clone();
        Some(Box::pin(async move {
            let expire = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let drain = async {
                match draining {
                    Some(token) => token.cancelled_owned().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expire => deadline_exceeded(method.path()).into(),
                () = drain => ApiError::new(Code::Unavailable, reason::DRAINING, "this clone is shutting down; call again").into(),
            }
        }))
    }

    fn unknown(&self, service: &str) -> ApiError {
        let services = self.routes.names().collect::<Vec<_>>().join(", ");
        ApiError::new(
            Code::Unimplemented,
            reason::UNKNOWN_SERVICE,
            format!("no service `{service}` here; this {} clone serves: {services}", self.role),
        )
        .meta("service", service)
        .meta("services", services)
    }
}

fn response_of(status: Status, finish: Finished) -> Response<RpcBody<Finished>> {
    let code = status.code();
    status.into_http::<Body>().map(|_| {
        let mut body = RpcBody::new(None, finish, Leaving::default());
        body.end_with_headers(code);
        body
    })
}

fn deadline_exceeded(path: &str) -> ApiError {
    ApiError::new(
        Code::DeadlineExceeded,
        reason::DEADLINE_EXCEEDED,
        format!("{path} did not finish within the caller's deadline"),
    )
    .meta("method", path)
}

/// Answers are compressed for callers who compress, and accept it. That a client could read gzip most say, unasked: to
/// compress for all of them would cost far more than the bytes on a mesh's links.
fn compress_for_who_does(headers: &mut HeaderMap) {
    if headers.get(&GRPC_ENCODING).is_none_or(|encoding| encoding == "identity") {
        headers.remove(&GRPC_ACCEPT_ENCODING);
    }
}

static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static(ACCEPT_ENCODING);

fn split(path: &str) -> (&str, &str) {
    path.strip_prefix('/').and_then(|p| p.rsplit_once('/')).unwrap_or(("", ""))
}

/// Looked up for every call: written out, it would be parsed each time.
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Returns the time that a call was given by its caller, from the metadata it came with.
#[must_use]
pub fn call_timeout(metadata: &tonic::metadata::MetadataMap) -> Option<Duration> {
    metadata.get(GRPC_TIMEOUT.as_str())?.to_str().ok().and_then(parse_timeout)
}

/// The caller's `grpc-timeout`, if any.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse_timeout);
    match parsed {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(ApiError::invalid(
            reason::INVALID_TIMEOUT,
            "grpc-timeout",
            "must be 1 to 8 digits and a unit of H, M, S, m, u or n",
        )),
    }
}

/// Parses a `grpc-timeout` header (gRPC over HTTP/2: at most 8 digits and a unit).
pub(crate) fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Reports a call once it is over.
pub(crate) struct Finished {
    role: Role,
    method: Arc<Method>,
    started: Instant,
    span: tracing::Span,
    /// The content of the call's access line, until that is written.
    access: Option<Box<Access>>,
}

impl Finished {
    fn without_span(role: Role, method: Arc<Method>, started: Instant, access: Option<Box<Access>>) -> Self {
        Self { role, method, started, span: tracing::Span::none(), access }
    }

    fn log_access(&mut self, code: Code, elapsed: Duration) {
        if let Some(access) = self.access.take() {
            let clone = self.method.served_by().1;
            access.end(AnsweredBy { role: self.role, clone, forwarded: None }, code, elapsed);
        }
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        // The caller went away before there was an answer.
        if self.access.is_some() {
            self.log_access(Code::Cancelled, self.started.elapsed());
        }
    }
}

impl Finish for Finished {
    fn within<T>(&self, function: impl FnOnce() -> T) -> T {
        current_call::within_sync(self.method.clone(), function)
    }

    fn finish(mut self, code: Code) {
        let elapsed = self.started.elapsed();
        self.method.record(code, elapsed);
        self.log_access(code, elapsed);
        self.span.record("rpc.grpc.status_code", code as i64);
        if matches!(code, Code::Unknown | Code::Internal | Code::DataLoss) {
            self.span.record("otel.status_code", "ERROR");
        }
        let _entered = self.span.enter();
        tracing::debug!(path = self.method.path(), ?code, ?elapsed, "call");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_parse_as_the_protocol_says() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "m", "1", "-1S", "123456789S", "1x", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
