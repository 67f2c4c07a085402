//! One call from its first header to its last: where it goes, at which endpoint, how often, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use shoal_balance::{Outcome, Pick, SendError, inject, refused};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;
use tracing::Span;

use crate::caller::Caller;
use crate::core::Core;
use crate::error::Error;
use crate::exchange::{Exchange, Exchanged};
use crate::meter::Meter;
use crate::request::{Head, Kind, kind};
use crate::resets::{PREMATURE, Resets};
use crate::retry::{Attempts, Failure, Situation};
use crate::table::{Route, Target};
use crate::upload::Upload;
use crate::upstream::{Lane, Upstream};
use crate::{answer, local, span};

/// How long a call waits for an endpoint while none is ready, unless its deadline is sooner. Long enough for a clone
/// that restarts, short enough that a caller is not kept waiting for nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A stream is not reset sooner than this after it was opened. A server that finds both in one read counts the stream as
/// reset before it was looked at, and ends the connection after twenty of those (h2's default, tonic's and hyper's too):
/// one caller that cancels in a hurry would break the calls of all others.
const RESET_AFTER: Duration = Duration::from_millis(5);

/// A pushback longer than this is no retry but another call.
const PUSHBACK_MAX: Duration = Duration::from_secs(10);

/// Answers one request.
pub(crate) async fn serve(
    core: Arc<Core>,
    connection: Arc<Resets>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    match kind(&parts) {
        Kind::Grpc => {}
        Kind::Page => return answer::page(&mut respond),
        Kind::WrongMethod => return answer::wrong_method(&mut respond),
        Kind::WrongContent => return answer::wrong_content(&mut respond),
    }
    let mut caller = Caller::new(respond);
    if caller.is_gone() {
        // Opened and reset in one breath: nobody else needs to know.
        return connection.premature();
    }
    let found = match core.catalog.table().find(parts.uri.path(), &parts.headers) {
        Ok(Target::Upstream(route)) => Ok(Some(route.clone())),
        Ok(Target::Local) => Ok(None),
        Err(error) => Err(error),
    };
    let route = match found {
        Ok(route) => route,
        Err(error) => return refuse(&core.meter, &mut caller, error, started),
    };
    let bounds = route.as_ref().map_or(&core.config.deadline, |route| &route.deadline);
    let head = match Head::read(parts, started, bounds) {
        Ok(head) => head,
        Err(error) => return refuse(&core.meter, &mut caller, error, started),
    };
    let span = span::call(&head);
    let upstream;
    let (end, meter) = match &route {
        None => (local::serve(&core, head, body, &mut caller, &span).await, &core.meter),
        Some(route) => {
            upstream = route.upstream().clone();
            let lane = upstream.lane(core.index);
            let _inside = match route.gate.as_ref().map(|gate| gate.enter().ok_or(gate.most)).transpose() {
                Ok(inside) => inside,
                Err(most) => {
                    let error = Error::Crowded { path: head.path().to_owned(), most };
                    return refuse(&lane.meter, &mut caller, error, started);
                }
            };
            let call = Call {
                route,
                upstream: &upstream,
                lane,
                upload: Upload::new(body, route.retry.body_bytes),
                attempts: Attempts::new(route.retry),
                head,
                caller,
                span: &span,
                at: None,
            };
            (call.run().await, &lane.meter)
        }
    };
    let (code, caller_gone) = match end {
        Ended::With(code) => (code, false),
        Ended::CallerGone => (Code::Cancelled, true),
    };
    span::end_call(&span, code);
    let took = started.elapsed();
    meter.call(code, took);
    if caller_gone && took < PREMATURE {
        connection.premature();
    }
}

fn refuse(meter: &Meter, caller: &mut Caller, error: Error, started: Instant) {
    meter.call(error.code(), started.elapsed());
    caller.fail(error);
}

/// How a call ended, for those who count.
pub(crate) enum Ended {
    /// With a code the caller was sent, or a reset that means it.
    With(Code),
    /// The caller left first.
    CallerGone,
}

/// A call that is forwarded.
struct Call<'c> {
    route: &'c Route,
    upstream: &'c Upstream,
    lane: &'c Lane,
    head: Head,
    caller: Caller,
    upload: Upload,
    attempts: Attempts,
    span: &'c Span,
    /// The endpoint that has it.
    at: Option<SocketAddr>,
}

/// How a call ended.
enum End {
    /// The caller has an endpoint's answer, or its reset.
    Handed(Code),
    /// The caller is to be told.
    Failed(Error),
    /// Nobody is there to be told.
    CallerGone,
}

/// How an attempt ended, if not the call.
struct Retryable {
    failure: Failure,
    endpoint: SocketAddr,
    detail: String,
    /// What to hand on if it is not repeated.
    answer: Option<Box<http::Response<()>>>,
}

impl Call<'_> {
    async fn run(mut self) -> Ended {
        self.lane.budget().call(self.head.started());
        let end = match self.head.deadline {
            None => self.attempts().await,
            Some((allowed, _)) if allowed.is_zero() => End::Failed(self.deadline_exceeded()),
            Some((_, deadline)) => match timeout_at(deadline, self.attempts()).await {
                Ok(end) => end,
                // Dropping the attempt has cancelled it at the endpoint.
                Err(_) => End::Failed(self.deadline_exceeded()),
            },
        };
        match end {
            End::Handed(code) => Ended::With(code),
            End::CallerGone => Ended::CallerGone,
            End::Failed(error) => {
                let code = error.code();
                self.caller.fail(error);
                Ended::With(code)
            }
        }
    }

    async fn attempts(&mut self) -> End {
        let mut patience = self.head.started() + PATIENCE;
        loop {
            let pick = match self.pick(patience).await {
                Ok(pick) => pick,
                Err(end) => return end,
            };
            let number = self.attempts.begin();
            let span =
                span::attempt(self.span, self.head.path(), pick.address(), &self.upstream.name, number);
            let failed = match self.attempt(pick, number, &span).await {
                Ok(end) => {
                    span::end_attempt(&span, end.code());
                    return end;
                }
                Err(failed) => failed,
            };
            span::end_attempt(&span, Code::Unavailable);
            let delay = match self.again(&failed) {
                Ok(delay) => delay,
                Err(stopped) => return self.give_up(failed, stopped),
            };
            if failed.failure == Failure::NotSent {
                if Instant::now() >= patience {
                    return self.give_up(failed, "no endpoint took it in time");
                }
                // Lets the driver of the lost connection say that it is gone.
                tokio::task::yield_now().await;
                continue;
            }
            self.lane.meter.retry();
            if !delay.is_zero() {
                tokio::select! {
                    _ = self.caller.gone() => return End::CallerGone,
                    () = sleep(delay) => {}
                }
            }
            self.upload.rewind();
            patience = Instant::now() + PATIENCE;
        }
    }

    /// An endpoint that has not failed this call, or when all have, any.
    async fn pick(&mut self, patience: Instant) -> Result<Pick, End> {
        self.at = None;
        if let Ok(pick) = self.lane.balancer.pick(self.attempts.tried()) {
            return Ok(pick);
        }
        self.attempts.forget_tried();
        let picked = tokio::select! {
            _ = self.caller.gone() => return Err(End::CallerGone),
            picked = self.lane.balancer.picked(&[], patience) => picked,
        };
        picked.map_err(|unavailable| {
            End::Failed(Error::NoEndpoint {
                upstream: self.upstream.name.clone(),
                detail: unavailable.to_string(),
                waited: self.head.started().elapsed(),
                attempts: self.attempts.made(),
            })
        })
    }

    async fn attempt(&mut self, mut pick: Pick, number: u32, span: &Span) -> Result<End, Retryable> {
        let endpoint = pick.address();
        self.at = Some(endpoint);
        let mut request = match self.head.attempt(number, endpoint) {
            Ok(request) => request,
            Err(error) => return Ok(End::Failed(error)),
        };
        if !span.is_disabled() {
            span.in_scope(|| inject(request.headers_mut()));
        }
        let ended = self.upload.is_empty();
        let streams = match pick.send(request, ended).await {
            Ok(streams) => streams,
            Err(error) if error.never_sent() => {
                return Err(failed(Failure::NotSent, endpoint, error.to_string()));
            }
            Err(SendError::Invalid(error)) => {
                return Ok(End::Failed(Error::Unforwardable { detail: error.to_string() }));
            }
            Err(error) => return Ok(End::Failed(Error::Unforwardable { detail: error.to_string() })),
        };
        let sent = Instant::now();
        let deadline = self.head.deadline.map(|(_, deadline)| deadline);
        let withhold = self.route.idempotent && self.upload.replayable();
        let exchange =
            Exchange::new(&mut self.caller, &mut self.upload, &mut pick, streams, ended, deadline, withhold);
        match exchange.run().await {
            Exchanged::Answered(code) => {
                pick.outcome(outcome_of(code));
                Ok(End::Handed(code))
            }
            Exchanged::CallerGone(mut stream, reason) => {
                if let Some(left) = RESET_AFTER.checked_sub(sent.elapsed()) {
                    sleep(left).await;
                }
                stream.send_reset(reason);
                pick.outcome(Outcome::CallerGone);
                Ok(End::CallerGone)
            }
            Exchanged::Late => {
                pick.outcome(Outcome::CallerGone);
                Ok(End::Failed(self.deadline_exceeded()))
            }
            Exchanged::Withheld(answer) => {
                pick.outcome(Outcome::EndpointFault);
                let failure = Failure::Unavailable(pushback_of(&answer));
                let answer = Some(Box::new(answer));
                Err(Retryable { failure, endpoint, detail: String::new(), answer })
            }
            Exchanged::Broken(error) => self.broken(&mut pick, &error),
        }
    }

    /// The endpoint's stream ended before its answer did.
    fn broken(&mut self, pick: &mut Pick, error: &h2::Error) -> Result<End, Retryable> {
        let endpoint = pick.address();
        if refused(error) {
            let overloaded = error.is_reset();
            pick.outcome(if overloaded { Outcome::EndpointFault } else { Outcome::CallerGone });
            return Err(failed(Failure::Refused, endpoint, error.to_string()));
        }
        if error.is_reset() {
            let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
            if error.is_remote() {
                return Ok(self.reset(pick, reason));
            }
            // h2 found the answer malformed and has reset the stream itself.
            pick.outcome(Outcome::EndpointFault);
            return Ok(End::Failed(Error::Broken {
                upstream: self.upstream.name.clone(),
                address: endpoint,
                detail: error.to_string(),
            }));
        }
        pick.outcome(Outcome::EndpointFault);
        Err(failed(Failure::Lost, endpoint, error.to_string()))
    }

    /// The endpoint reset the stream: so do we, with its reason.
    fn reset(&mut self, pick: &mut Pick, reason: Reason) -> End {
        let late = self.head.deadline.is_some_and(|(_, deadline)| Instant::now() >= deadline);
        if reason == Reason::CANCEL && late {
            pick.outcome(Outcome::CallerGone);
            return End::Failed(self.deadline_exceeded());
        }
        let code = code_of_reset(reason);
        pick.outcome(if code == Code::Cancelled { Outcome::Success } else { Outcome::EndpointFault });
        self.caller.reset(reason);
        End::Handed(code)
    }

    fn again(&mut self, failed: &Retryable) -> Result<Duration, &'static str> {
        if self.caller.body().is_some() {
            return Err("its answer had begun");
        }
        let situation = Situation { idempotent: self.route.idempotent, replayable: self.upload.replayable() };
        let budget = || self.lane.budget().take(Instant::now());
        let delay =
            self.attempts.again(failed.failure, failed.endpoint, situation, budget, &mut Rng::new())?;
        if delay > PUSHBACK_MAX { Err("the endpoint asked for a longer wait") } else { Ok(delay) }
    }

    fn give_up(&mut self, failed: Retryable, stopped: &'static str) -> End {
        if let Some(answer) = failed.answer {
            // The endpoint's own words say more than ours.
            return match self.caller.head(*answer, true) {
                Ok(()) => End::Handed(Code::Unavailable),
                Err(_) => End::CallerGone,
            };
        }
        End::Failed(Error::Lost {
            upstream: self.upstream.name.clone(),
            address: failed.endpoint,
            detail: failed.detail,
            attempts: self.attempts.made(),
            stopped,
        })
    }

    fn deadline_exceeded(&mut self) -> Error {
        let attempts = self.attempts.made();
        let progress = match self.at {
            _ if self.caller.body().is_some() => "its answer had begun".to_owned(),
            Some(endpoint) => format!("attempt {attempts}, at {endpoint}"),
            None => format!("no endpoint had it, after {attempts} attempts"),
        };
        Error::DeadlineExceeded {
            path: self.head.path().to_owned(),
            upstream: self.upstream.name.clone(),
            allowed: self.head.deadline.map_or(Duration::ZERO, |(allowed, _)| allowed),
            progress,
        }
    }
}

impl End {
    fn code(&self) -> Code {
        match self {
            End::Handed(code) => *code,
            End::Failed(error) => error.code(),
            End::CallerGone => Code::Cancelled,
        }
    }
}

fn failed(failure: Failure, endpoint: SocketAddr, detail: String) -> Retryable {
    Retryable { failure, endpoint, detail, answer: None }
}

/// What a code says of the endpoint that answered it.
fn outcome_of(code: Code) -> Outcome {
    match code {
        Code::Unavailable | Code::ResourceExhausted => Outcome::EndpointFault,
        Code::DeadlineExceeded | Code::Cancelled => Outcome::CallerGone,
        _ => Outcome::Success,
    }
}

/// What a reset means in gRPC ("gRPC over HTTP/2", Errors).
fn code_of_reset(reason: Reason) -> Code {
    match reason {
        Reason::CANCEL => Code::Cancelled,
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// `grpc-retry-pushback-ms`: how long to wait; anything but a number of milliseconds says not to repeat at all.
fn pushback_of(answer: &http::Response<()>) -> Option<Option<Duration>> {
    let value = answer.headers().get("grpc-retry-pushback-ms")?;
    let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    Some(millis.map(Duration::from_millis))
}
