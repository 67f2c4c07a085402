//! The channel of tonic clients to a balanced upstream: deadline, attempts, spans, and errors that say what to do.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use shoal_http2::{RecvStream, ResponseFuture};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};

use crate::balancer::Balancer;
use crate::call::attempt::Attempt;
use crate::call::body::{Incoming, Outgoing, STREAM_AFTER};
use crate::call::pick::{Pick, SendError};
use crate::call::timeout::{GRPC_TIMEOUT, format_timeout, parse_timeout};
use crate::call::trace;
use crate::outcome::refused;

/// The number of times a call is sent again after the peer said that it did not process it.
const REFUSED_RETRIES: u32 = 1;

/// The age below which an attempt forwards the caller's own timeout: writing a new one would cost more than it corrects.
const FRESH: Duration = Duration::from_millis(1);

/// Settings of one [`Channel`].
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// The deadline of a call that brings none. Meant for unary calls: a channel for long streams sets `None`, and a call
    /// without a deadline counts as a stream. Default 10 s.
    pub default_deadline: Option<Duration>,
    /// The time a call waits for an endpoint while none is ready, unless its deadline is sooner. Default 1 s.
    pub unavailable_after: Duration,
    /// The `:authority` of the requests. Default: the endpoint's address.
    pub authority: Option<Authority>,
    /// The `user-agent` of calls that bring none. Default `shoal/<version>`.
    pub user_agent: HeaderValue,
    /// The endpoints that are used only when no other takes a call. Default none.
    pub avoided: Vec<SocketAddr>,
}

impl Default for ChannelOptions {
    fn default() -> ChannelOptions {
        ChannelOptions {
            default_deadline: Some(Duration::from_secs(10)),
            unavailable_after: Duration::from_secs(1),
            authority: None,
            user_agent: HeaderValue::from_static(concat!("shoal/", env!("CARGO_PKG_VERSION"))),
            avoided: Vec::new(),
        }
    }
}

/// Sends the calls of generated tonic clients to a balanced upstream. Cheap to clone.
///
/// - A call ends at its `grpc-timeout` (or the default deadline) with DEADLINE_EXCEEDED, whatever it is doing.
/// - While no endpoint is ready, a call waits at most [`ChannelOptions::unavailable_after`], then fails with UNAVAILABLE and
///   the reason (or with DEADLINE_EXCEEDED and the same reason if its own deadline is sooner).
/// - A call that was never sent goes to another endpoint. A call that the peer did not process is sent once more. Nothing else
///   is repeated here.
/// - Each attempt has a client span, and its trace context is sent with the request.
#[derive(Clone, Debug)]
pub struct Channel {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    balancer: Balancer,
    options: ChannelOptions,
}

impl Channel {
    /// Creates a channel over `balancer`.
    pub fn new(balancer: Balancer, options: ChannelOptions) -> Channel {
        Channel { shared: Arc::new(Inner { balancer, options }) }
    }

    /// Returns the balancer that it sends through.
    pub fn balancer(&self) -> &Balancer {
        &self.shared.balancer
    }
}

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<tonic::body::Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // Readiness is decided in each call, which has a deadline; this method has none.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { call(&shared, request).await })
    }
}

async fn call(
    shared: &Inner,
    request: Request<tonic::body::Body>,
) -> Result<Response<tonic::body::Body>, Status> {
    let (mut head, body) = request.into_parts();
    let started = Instant::now();
    let timeout = match head.headers.get(GRPC_TIMEOUT) {
        Some(value) => parse_timeout(value),
        None => shared.options.default_deadline.inspect(|timeout| {
            head.headers.insert(GRPC_TIMEOUT, format_timeout(*timeout));
        }),
    };
    head.headers.entry(header::USER_AGENT).or_insert_with(|| shared.options.user_agent.clone());
    // A timeout that is too long for the clock is no deadline.
    let deadline = timeout.and_then(|timeout| started.checked_add(timeout));
    let call = Call { shared, head, started, deadline };
    match deadline {
        None => call.run(body).await,
        Some(deadline) => {
            timeout_at(deadline, call.run(body)).await.unwrap_or_else(|_| Err(call.deadline_exceeded()))
        }
    }
}

struct Call<'a> {
    shared: &'a Inner,
    head: Parts,
    started: Instant,
    deadline: Option<Instant>,
}

impl Call<'_> {
    async fn run(&self, body: tonic::body::Body) -> Result<Response<tonic::body::Body>, Status> {
        let mut body = Outgoing::begin(body).await?;
        let mut tried: Vec<SocketAddr> = self.shared.options.avoided.clone();
        let mut refusals = 0;
        let mut patience = self.patience();
        let mut full: Option<Status> = None;
        loop {
            // A call whose deadline has passed is not forwarded: nobody waits for the endpoint's work.
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(self.deadline_exceeded());
            }
            let pick = match full.take() {
                None => self.pick(&mut tried, patience).await?,
                Some(status) => self.shared.balancer.try_pick(None, &tried).ok_or(status)?,
            };
            let address = pick.address();
            match self.attempt(pick, &mut body).await? {
                Attempted::Answered(response) => return Ok(response),
                Attempted::Refused(status) => {
                    if refusals == REFUSED_RETRIES || !body.is_sendable() {
                        return Err(status);
                    }
                    refusals += 1;
                    patience = self.patience();
                }
                Attempted::Full(status) => full = Some(status),
                Attempted::NotSent(status) => {
                    if Instant::now() >= patience {
                        return Err(status);
                    }
                    // Lets the driver of the connection report that it is gone.
                    tokio::task::yield_now().await;
                }
            }
            tried.push(address);
        }
    }

    /// Picks an endpoint that was not tried yet or, when all were tried, any endpoint.
    async fn pick(&self, tried: &mut Vec<SocketAddr>, patience: Instant) -> Result<Pick, Status> {
        let balancer = &self.shared.balancer;
        if let Some(pick) = balancer.try_pick(None, tried) {
            return Ok(pick);
        }
        tried.clear();
        balancer.pick_wait(None, &[], patience).await.map_err(|unavailable| {
            if self.deadline.is_some_and(|deadline| deadline <= patience) {
                Status::deadline_exceeded(format!("deadline exceeded: {unavailable}"))
            } else if unavailable.crowded.is_some() {
                Status::resource_exhausted(unavailable.to_string())
            } else {
                Status::unavailable(unavailable.to_string())
            }
        })
    }

    /// Returns how long to wait for an endpoint, counted from now.
    fn patience(&self) -> Instant {
        let patience = Instant::now() + self.shared.options.unavailable_after;
        self.deadline.map_or(patience, |deadline| deadline.min(patience))
    }

    async fn attempt(&self, mut pick: Pick, body: &mut Outgoing) -> Result<Attempted, Status> {
        // Generated clients do not say whether a method streams. A streamed request, or a call without a deadline, counts as a
        // stream.
        if body.is_streamed() || self.deadline.is_none() {
            pick.expect_stream();
        }
        let options = self.shared.balancer.options();
        let span = trace::attempt_span(self.head.uri.path(), pick.address(), options.role);
        let request = self.request(&pick, &span)?;
        let mut attempt = Attempt::new(pick, span, self.deadline);
        let (response, stream) = match attempt.pick().send(&request, body.is_empty()) {
            Ok(streams) => streams,
            Err(error @ (SendError::Full { .. } | SendError::TooLong { .. })) => {
                attempt.end_unsent(Code::ResourceExhausted);
                let status = Status::resource_exhausted(format!("`{}`: {error}", options.name));
                let is_full = matches!(error, SendError::Full { .. });
                return if is_full { Ok(Attempted::Full(status)) } else { Err(status) };
            }
            Err(error @ SendError::Invalid(_)) => {
                attempt.end_unsent(Code::Internal);
                return Err(Status::internal(error.to_string()));
            }
            Err(error) => {
                attempt.end_unsent(Code::Unavailable);
                return Ok(Attempted::NotSent(Status::unavailable(format!("`{}`: {error}", options.name))));
            }
        };
        let pump = body.send(stream);
        let response = match answer(response, &mut attempt).await {
            Ok(response) => response,
            Err(error) => {
                let status = attempt.end_with_error(&error);
                return if refused(&error) { Ok(Attempted::Refused(status)) } else { Err(status) };
            }
        };
        attempt.pick().first_response();
        let (head, stream) = response.into_parts();
        if stream.is_end_stream() {
            if let Some(status) = attempt.end_with(&head.headers, head.status) {
                return Err(status);
            }
            return Ok(Attempted::Answered(Response::from_parts(head, tonic::body::Body::empty())));
        }
        if head.status.is_success() {
            attempt.pick().begun();
        }
        let body = Incoming::new(stream, head.status, self.deadline, Some(attempt), pump);
        Ok(Attempted::Answered(Response::from_parts(head, tonic::body::Body::new(body))))
    }

    /// Builds the request of this attempt: absolute URI, remaining time, and the attempt's trace context.
    fn request(&self, pick: &Pick, span: &tracing::Span) -> Result<Request<()>, Status> {
        let authority = self.shared.options.authority.as_ref().or(pick.connection().authority.as_ref());
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = authority.cloned();
        uri.path_and_query = self.head.uri.path_and_query().cloned();
        let uri =
            Uri::from_parts(uri).map_err(|error| Status::internal(format!("not a gRPC path: {error}")))?;

        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.head.headers.clone();
        if let Some(deadline) = self.deadline
            && pick.started() > self.started + FRESH
        {
            let left = deadline.saturating_duration_since(pick.started());
            request.headers_mut().insert(GRPC_TIMEOUT, format_timeout(left));
        }
        // If a filter has dropped the attempt's span, the caller's own span is the parent.
        let parent = if span.is_disabled() { &tracing::Span::current() } else { span };
        trace::inject_span(parent, request.headers_mut());
        Ok(request)
    }

    fn deadline_exceeded(&self) -> Status {
        let name = self.shared.balancer.name();
        let waited = self.started.elapsed();
        Status::deadline_exceeded(format!("`{name}` did not answer within {waited:.0?}"))
    }
}

/// Waits for the response headers.
async fn answer(
    mut response: ResponseFuture,
    attempt: &mut Attempt,
) -> Result<Response<RecvStream>, shoal_http2::Error> {
    if attempt.pick().expects_stream() {
        if let Ok(response) = timeout(STREAM_AFTER, &mut response).await {
            return response;
        }
        attempt.pick().became_stream();
    }
    response.await
}

enum Attempted {
    Answered(Response<tonic::body::Body>),
    /// The peer did not process the request.
    Refused(Status),
    /// The request was not sent.
    NotSent(Status),
    /// The request was not sent, because too many wait for the connection.
    Full(Status),
}
