//! A call that is forwarded: at which endpoint, how often, and how it ends.

use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use shoal_balance::{Outcome, Pick, Share, code_of, code_of_reset, refused};
use shoal_http2::{Error as Broken, Reason, RecvStream};
use shoal_kit::access::Forwarded;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};
use tracing::Span;

use crate::admission::adaptive_limit::{LimitExceeded, Permit};
use crate::admission::concurrency::ConcurrencyPermit;
use crate::admission::unread_answers::NotTaken;
use crate::error::Error;
use crate::error::headers_too_long::TooLong;
use crate::forwarding::attempt::{Attempt, Sides, Unary};
use crate::forwarding::attempt_end::{AttemptEnd, AttemptSummary};
use crate::forwarding::call_end::{self, CallEnd, Meters};
use crate::forwarding::downstream::Downstream;
use crate::forwarding::request_body::RequestBody;
use crate::forwarding::request_head::RequestHead;
use crate::forwarding::sending::{NotSent, Sending, hedge};
use crate::resilience::hedging::Method;
use crate::resilience::pushback::Pushback;
use crate::resilience::retry::{Attempts, Failure, Situation};
use crate::routing::table::Route;
use crate::upstream::meter::Event;
use crate::upstream::{Upstream, WorkerState};

/// The time a call waits for an endpoint while none is ready, unless its deadline is sooner. Long enough for a clone that
/// restarts, short enough that a caller is not kept waiting for nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Permits that a call holds while it goes on: of its caller and of its route.
pub(super) type Admitted = [Option<ConcurrencyPermit>; 2];

/// Has an upstream answer a call.
pub(super) async fn forward(
    core: usize,
    route: Arc<Route>,
    head: RequestHead,
    body: RecvStream,
    caller: Downstream,
    span: Span,
    _permits: Admitted,
) {
    let started = head.started();
    let destination = route.destination();
    let upstream = &destination.upstream;
    let state = upstream.on_worker(core);
    let share = caller.client().share.clone();
    let mut call = Call {
        route: &route,
        share: &share,
        upstream,
        state,
        request_body: RequestBody::new(body, route.retry.body_bytes),
        attempts: Attempts::new(route.retry),
        permit: None,
        head,
        caller,
        span: &span,
        at: None,
    };
    let end = call.run().await;
    let forwarded = Forwarded { upstream: &upstream.name, endpoint: call.at, attempts: call.attempts.made() };
    let meters = Meters { upstream: Some(&state.meter), method: &destination.calls };
    call_end::finish(end, &mut call.caller, &span, meters, started, Some(forwarded));
}

/// A call that is forwarded.
struct Call<'c> {
    route: &'c Route,
    share: &'c Arc<Share>,
    upstream: &'c Upstream,
    state: &'c WorkerState,
    head: RequestHead,
    caller: Downstream,
    request_body: RequestBody,
    attempts: Attempts,
    /// The permit that counts it against the limit of its upstream.
    permit: Option<Permit>,
    span: &'c Span,
    /// The endpoint that has it.
    at: Option<SocketAddr>,
}

/// The hedging of an attempt: it may be joined by a second one.
struct Hedging {
    /// When; none as long as it is not known what is slow.
    after: Option<Duration>,
    method: Option<Arc<Method>>,
}

/// The failure of an attempt after which another may follow.
struct Retryable {
    failure: Failure,
    endpoint: SocketAddr,
    detail: String,
    /// The answer to hand on if the call is not repeated.
    answer: Option<Box<http::Response<()>>>,
    /// The error for the caller if no other endpoint can be tried at once.
    full: Option<Error>,
}

impl Call<'_> {
    async fn run(&mut self) -> CallEnd {
        self.state.budget().call(self.head.started());
        let end = match self.head.deadline {
            None => self.attempts().await,
            Some((allowed, _)) if allowed.is_zero() => CallEnd::Failed(self.deadline_exceeded()),
            Some((_, deadline)) => match self.attempts_until(deadline).await {
                Some(end) => end,
                // Dropping the attempt has cancelled it at the endpoint.
                None => CallEnd::Failed(self.deadline_exceeded()),
            },
        };
        match (end, self.caller.client().ending()) {
            // It is there; or it has gone in this instant, and hears nothing.
            (CallEnd::CallerGone, Some(ending)) => CallEnd::Failed(ending),
            (end, _) => end,
        }
    }

    /// Makes attempts until the deadline; none when the time is up. This is not tokio's `timeout_at`, which would move the whole
    /// future of the attempts once more.
    async fn attempts_until(&mut self, deadline: Instant) -> Option<CallEnd> {
        let mut attempts = pin!(self.attempts());
        let mut late = pin!(sleep_until(deadline));
        poll_fn(|cx| match attempts.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    async fn attempts(&mut self) -> CallEnd {
        if let Err(end) = self.enter().await {
            return end;
        }
        let mut patience = Instant::now() + PATIENCE;
        let mut full = None;
        loop {
            let picked = match full.take() {
                None => self.pick(patience).await,
                Some(error) => self.pick_another(error),
            };
            let pick = match picked {
                Ok(pick) => pick,
                Err(end) => return end,
            };
            let mut failed = match self.attempt(pick).await {
                Ok(end) => return end,
                Err(failed) => failed,
            };
            full = failed.full.take();
            let delay = match self.again(&failed) {
                Ok(delay) => delay,
                Err(stopped) => return self.give_up(failed, stopped),
            };
            if full.is_some() {
                continue;
            }
            if failed.failure == Failure::NotSent {
                if Instant::now() >= patience {
                    return self.give_up(failed, "no endpoint took it in time");
                }
                // Lets the driver of the lost connection say that it is gone.
                tokio::task::yield_now().await;
                continue;
            }
            self.state.meter.event(Event::Retry);
            if !delay.is_zero() {
                tokio::select! {
                    _ = self.caller.gone() => return CallEnd::CallerGone,
                    () = sleep(delay) => {}
                }
            }
            self.request_body.rewind();
            patience = Instant::now() + PATIENCE;
        }
    }

    /// Waits its turn: until its connection has taken some of the answers it has, and if the upstream is protected from
    /// overload.
    async fn enter(&mut self) -> Result<(), CallEnd> {
        if self.caller.client().unread.holds_calls() {
            Box::pin(answers_are_taken(&mut self.caller)).await?;
        }
        let Some(limiter) = self.state.limiter.as_ref().filter(|_| self.route.limited) else { return Ok(()) };
        let entered = tokio::select! {
            biased;
            entered = limiter.enter() => entered,
            _ = self.caller.gone() => return Err(CallEnd::CallerGone),
        };
        match entered {
            Ok(permit) => {
                self.permit = Some(permit);
                Ok(())
            }
            Err(LimitExceeded { limit, waited }) => {
                self.state.meter.event(Event::Shed);
                Err(CallEnd::Failed(Error::Overloaded {
                    upstream: self.upstream.name.clone(),
                    limit,
                    waited,
                }))
            }
        }
    }

    /// An endpoint that has not failed this call, or when all have, any.
    async fn pick(&mut self, patience: Instant) -> Result<Pick, CallEnd> {
        self.at = None;
        let (balancer, share) = (&self.state.balancer, Some(self.share));
        if let Some(pick) = balancer.try_pick(share, self.attempts.tried()) {
            return Ok(pick);
        }
        self.attempts.forget_tried();
        let picked = tokio::select! {
            _ = self.caller.gone() => return Err(CallEnd::CallerGone),
            picked = balancer.pick_wait(share, &[], patience) => picked,
        };
        picked.map_err(|unavailable| {
            let upstream = self.upstream.name.clone();
            let (waited, attempts) = (self.head.started().elapsed(), self.attempts.made());
            CallEnd::Failed(match unavailable.crowded {
                Some(crowded) => {
                    self.state.meter.event(Event::Streamless);
                    Error::Streamless { upstream, crowded, waited, attempts }
                }
                None => Error::NoEndpoint { upstream, detail: unavailable.to_string(), waited, attempts },
            })
        })
    }

    /// An endpoint that has not failed this call, for which another one had no place.
    fn pick_another(&mut self, full: Error) -> Result<Pick, CallEnd> {
        self.at = None;
        self.state.balancer.try_pick(Some(self.share), self.attempts.tried()).ok_or_else(|| {
            self.state.meter.event(Event::Streamless);
            CallEnd::Failed(full)
        })
    }

    async fn attempt(&mut self, pick: Pick) -> Result<CallEnd, Retryable> {
        let endpoint = pick.address();
        self.at = Some(endpoint);
        let number = self.attempts.begin();
        let ended = self.request_body.is_empty();
        let hedging = self.hedging(number);
        let unary = self.unary();
        let mut sending = Sending {
            head: &mut self.head,
            upstream: &self.upstream.name,
            span: self.span,
            streaming: self.route.streaming,
        };
        let withhold = self.route.idempotent && self.request_body.replayable();
        let (stream, response) = match sending.send(pick, number, ended) {
            Ok(sent) => sent,
            Err(NotSent::Lost(detail)) => return Err(failed(Failure::NotSent, endpoint, detail)),
            Err(NotSent::Full(error)) => {
                let unsent = failed(Failure::NotSent, endpoint, String::new());
                return Err(Retryable { full: Some(error), ..unsent });
            }
            Err(NotSent::Invalid(error)) => return Ok(CallEnd::Failed(error)),
            Err(NotSent::Late) => {
                self.attempts.unsent();
                self.at = None;
                return Ok(CallEnd::Failed(self.deadline_exceeded()));
            }
        };
        let sides = Sides {
            caller: &mut self.caller,
            request_body: &mut self.request_body,
            permit: &mut self.permit,
            unary,
        };
        let mut attempt = Attempt::new(sides, self.state, stream, response, !ended, withhold);
        let attempt_end = match hedging.as_ref().and_then(|hedging| hedging.after) {
            None => attempt.run().await,
            Some(after) => match timeout(after, attempt.run()).await {
                Ok(end) => end,
                Err(_) => {
                    hedge(&mut attempt, &mut sending, self.state, self.share, &mut self.attempts);
                    attempt.run().await
                }
            },
        };
        let AttemptSummary { mut stream, failed_hedge, latency, pushback, outcome } = attempt.summary();
        self.at = Some(stream.address());
        if let Some(failed_hedge) = failed_hedge {
            self.attempts.hedge_failed(failed_hedge);
        }
        if let Some(pushback) = pushback.or(failed_hedge.and_then(|failed_hedge| failed_hedge.pushback)) {
            self.state.hedges.pause(pushback, Instant::now());
        }
        if let (Some(latency), Some(method)) = (latency, hedging.and_then(|hedging| hedging.method)) {
            self.state.hedges.answered(&method, latency, Instant::now());
        }
        let (mut outcome, ended) = self.judge(attempt_end, stream.address(), pushback, outcome);
        if outcome == Outcome::ServerError && self.is_malformed() {
            // What the caller malformed is no failure of who could not take it.
            outcome = Outcome::Neutral;
        }
        stream.end(outcome, ended.as_ref().map_or(Code::Unavailable, CallEnd::code));
        ended
    }

    /// Returns what the end of an attempt means for its endpoint, whose answer says `outcome`, and for the call.
    fn judge(
        &mut self,
        end: AttemptEnd,
        endpoint: SocketAddr,
        pushback: Option<Pushback>,
        outcome: Outcome,
    ) -> (Outcome, Result<CallEnd, Retryable>) {
        match end {
            AttemptEnd::Answered(code) => (outcome, Ok(CallEnd::Answered(code))),
            AttemptEnd::CallerGone => (Outcome::CallerGone, Ok(CallEnd::CallerGone)),
            AttemptEnd::NotSent => {
                let (path, allowed) =
                    (self.head.path().to_owned(), self.route.request_time.unwrap_or_default());
                (Outcome::CallerGone, Ok(CallEnd::Failed(Error::RequestUnfinished { path, allowed })))
            }
            AttemptEnd::NotTaken(NotTaken(time)) => {
                metrics::counter!("shoal_gateway_refused_total", "limit" => "unread").increment(1);
                (Outcome::CallerGone, Ok(CallEnd::Failed(Error::AnswerNotTaken { time })))
            }
            AttemptEnd::Late => (Outcome::TimedOut, Ok(CallEnd::Failed(self.deadline_exceeded()))),
            AttemptEnd::Withheld(answer) => {
                let failure = Failure::Unavailable(pushback);
                let answer = Some(Box::new(answer));
                (outcome, Err(Retryable { failure, endpoint, detail: String::new(), answer, full: None }))
            }
            AttemptEnd::Broken(error) => self.broken(endpoint, &error),
        }
    }

    /// Returns whether the caller sent what no endpoint could have taken.
    fn is_malformed(&self) -> bool {
        self.request_body.is_malformed(self.route.unary, self.head.is_encoded())
    }

    /// The endpoint's stream ended before its answer did.
    fn broken(&mut self, endpoint: SocketAddr, error: &Broken) -> (Outcome, Result<CallEnd, Retryable>) {
        let outcome = Outcome::of_stream_error(error);
        if refused(error) {
            return (outcome, Err(failed(Failure::Refused, endpoint, error.to_string())));
        }
        if !error.is_reset() {
            return (outcome, Err(failed(Failure::Lost, endpoint, error.to_string())));
        }
        if let Some(list) = error.header_list_too_long() {
            let error = TooLong::answer(&self.upstream.name, endpoint, list).into();
            return (outcome, Ok(CallEnd::Failed(error)));
        }
        if !error.is_remote() {
            // The answer was malformed, and its stream was reset for it.
            let (upstream, detail) = (self.upstream.name.clone(), error.to_string());
            return (outcome, Ok(CallEnd::Failed(Error::Broken { upstream, address: endpoint, detail })));
        }
        // The endpoint reset the stream: so do we, with its reason.
        let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        let late = self.head.deadline.is_some_and(|(_, deadline)| Instant::now() >= deadline);
        if reason == Reason::CANCEL && late {
            return (Outcome::TimedOut, Ok(CallEnd::Failed(self.deadline_exceeded())));
        }
        self.caller.reset(reason);
        (outcome, Ok(CallEnd::Answered(code_of_reset(reason))))
    }

    /// If its method is unary: when its request is to be complete.
    fn unary(&self) -> Option<Unary> {
        let allowed = self.route.request_time?;
        // A time too far for the clock is never.
        Some(Unary { request_by: self.head.started().checked_add(allowed) })
    }

    /// Returns whether and when the attempt of that number is joined by a second one.
    fn hedging(&self, number: u32) -> Option<Hedging> {
        let hedge = self.route.hedge.filter(|_| self.route.idempotent && number == 1)?;
        let (hedges, now) = (&self.state.hedges, Instant::now());
        hedges.call(now);
        let method = hedges.method(self.head.path());
        let after = hedge.after.or_else(|| hedges.slow(method.as_ref()?, now));
        Some(Hedging { after, method })
    }

    fn again(&mut self, failed: &Retryable) -> Result<Duration, &'static str> {
        if self.caller.body().is_some() {
            return Err("its answer had begun");
        }
        let situation =
            Situation { idempotent: self.route.idempotent, replayable: self.request_body.replayable() };
        let budget = || {
            let taken = self.state.budget().take(Instant::now());
            if !taken {
                self.state.meter.event(Event::RetryRefused);
            }
            taken
        };
        self.attempts.again(failed.failure, failed.endpoint, situation, budget, &mut Rng::new())
    }

    fn give_up(&mut self, failed: Retryable, stopped: &'static str) -> CallEnd {
        let answer = failed.answer.map(|answer| (code_of(answer.status(), answer.headers()), answer));
        if let Some((code, answer)) = &answer
            && !answer.headers().contains_key(Status::GRPC_STATUS)
        {
            return CallEnd::Failed(Error::NotGrpc {
                upstream: self.upstream.name.clone(),
                address: failed.endpoint,
                status: answer.status().as_u16(),
                code: *code,
                attempts: self.attempts.made(),
                stopped,
            });
        }
        if let Some((_, answer)) = answer {
            // The endpoint's own words say more than ours.
            return match self.caller.head(&answer, true) {
                Ok(()) => CallEnd::Answered(Code::Unavailable),
                Err(_) => CallEnd::CallerGone,
            };
        }
        CallEnd::Failed(Error::Lost {
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

/// Waits until the connection of a call has taken some of the answers it has.
async fn answers_are_taken(caller: &mut Downstream) -> Result<(), CallEnd> {
    let client = caller.client().clone();
    let in_time = tokio::select! {
        in_time = client.unread.has_room() => in_time,
        _ = caller.gone() => return Err(CallEnd::CallerGone),
    };
    if in_time {
        return Ok(());
    }
    metrics::counter!("shoal_gateway_refused_total", "limit" => "unread").increment(1);
    let (bytes, most) = (client.unread.counter.bytes(), client.unread.most());
    Err(CallEnd::Failed(Error::AnswersUnread { bytes, most }))
}

fn failed(failure: Failure, endpoint: SocketAddr, detail: String) -> Retryable {
    Retryable { failure, endpoint, detail, answer: None, full: None }
}
