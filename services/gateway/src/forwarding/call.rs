//! One call from its first header to its last: where it goes, at which endpoint, how often, and how it ends.

use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use http::Request;
use shoal_balance::{Outcome, Pick, SendError, Share, code_of, inject, refused};
use shoal_http2::{Error as Broken, ListTooLong, Reason, RecvStream, ResponseFuture, SendResponse};
use shoal_kit::access::{Access, Forwarded};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};
use tracing::Span;

use crate::admission::adaptive_limit::{LimitExceeded, Permit};
use crate::admission::concurrency::ConcurrencyPermit;
use crate::admission::connection_state::ConnectionState;
use crate::admission::rapid_reset::PREMATURE;
use crate::admission::unread_answers::NotTaken;
use crate::error::Error;
use crate::error::headers_too_long::TooLong;
use crate::forwarding::attempt::{
    Attempt, AttemptEnd, AttemptSummary, Sides, Unary, UpstreamStream, outcome_of_error,
};
use crate::forwarding::context::CallContext;
use crate::forwarding::downstream::Downstream;
use crate::forwarding::in_flight::InFlight;
use crate::forwarding::request_body::RequestBody;
use crate::forwarding::request_head::{Kind, RequestHead, is_call, kind};
use crate::forwarding::{local, local_reply, span};
use crate::resilience::hedging::Method;
use crate::resilience::pushback::Pushback;
use crate::resilience::retry::{Attempts, Failure, Situation};
use crate::routing::table::{Route, Target};
use crate::upstream::meter::{Event, Meter};
use crate::upstream::{Upstream, WorkerState};

/// How long a call waits for an endpoint while none is ready, unless its deadline is sooner. Long enough for a clone
/// that restarts, short enough that a caller is not kept waiting for nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers one request: at once if it is to be refused, else in a task of its own.
pub(crate) fn serve(
    context: &Arc<CallContext>,
    client: &Arc<ConnectionState>,
    request: Request<RecvStream>,
    mut respond: SendResponse,
) {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let (in_flight, entered) = InFlight::enter(context, client, &parts);
    let kind = kind(&parts);
    let too_long = parts.extensions.get::<ListTooLong>();
    if too_long.is_some() && !is_call(&kind, &parts) {
        return local_reply::too_long(&mut respond);
    }
    if kind != Kind::Grpc && too_long.is_none() && entered.is_ok() {
        tokio::spawn(async move {
            if local_reply::heard(body).await {
                local_reply::plain(&mut respond, kind, &parts.method).await;
            }
            drop(in_flight);
        });
        return;
    }
    let access = Access::begin(parts.uri.path(), &parts.headers, client.peer);
    let mut caller = Downstream::new(respond, in_flight, access);
    if let Some(ending) = client.ending() {
        return refuse(&context.meter, &mut caller, ending, started);
    }
    if caller.is_gone() {
        // Opened and reset in one breath: nobody else needs to know.
        return client.resets.premature();
    }
    if let Err(error) = entered {
        return refuse(&context.meter, &mut caller, error, started);
    }
    if let Some(list) = too_long {
        return refuse(&context.meter, &mut caller, TooLong::call(*list), started);
    }
    let found = match context.catalog.table().find(parts.uri.path(), &parts.headers) {
        Ok(Target::Upstream(route)) => Ok(Some(route.clone())),
        Ok(Target::Local) => Ok(None),
        Err(error) => Err(error),
    };
    let route = match found {
        Ok(route) => route,
        Err(error) => return refuse(&context.meter, &mut caller, error, started),
    };
    let bounds = route.as_ref().map_or(&context.config.deadline, |route| &route.deadline);
    let mut head = match RequestHead::read(parts, started, bounds) {
        Ok(head) => head,
        Err(error) => return refuse(&context.meter, &mut caller, error, started),
    };
    let span = span::call(context.sampling, &mut head);
    caller.traced(head.headers(), &span);
    let Some(route) = route else {
        let context = context.clone();
        tokio::spawn(Box::pin(async move {
            let end = local::serve(&context, head, body, &mut caller, &span).await;
            ended(&end, &span, &context.meter, started, &caller, None);
        }));
        return;
    };
    let inside = match admit(context, client, &route, &head, started) {
        Ok(inside) => inside,
        Err(error) => {
            span::end_call(&span, error.code());
            let meter = &route.upstream().on_worker(context.index).meter;
            return refuse(meter, &mut caller, error, started);
        }
    };
    let forwarded = forward(context.index, route, head, body, caller, span, inside);
    // Boxed: a task moves what it is given half a dozen times, and this is kilobytes.
    tokio::spawn(Box::pin(forwarded));
}

/// What a call counts as while it goes on.
type Admitted = [Option<ConcurrencyPermit>; 2];

/// Lets a call in that is within its caller's limits and its route's.
fn admit(
    context: &CallContext,
    client: &ConnectionState,
    route: &Route,
    head: &RequestHead,
    started: Instant,
) -> Result<Admitted, Error> {
    let callers = context.callers.as_ref();
    let admitted =
        callers.map(|callers| callers.admit(&client.caller, head.headers(), started)).transpose()?;
    let crowded = |most| Error::Crowded { path: head.path().to_owned(), most };
    let entered = route.gate.as_ref().map(|gate| gate.enter().ok_or_else(|| crowded(gate.most)));
    Ok([admitted.flatten(), entered.transpose()?])
}

/// Answers a call by an upstream.
async fn forward(
    core: usize,
    route: Arc<Route>,
    head: RequestHead,
    body: RecvStream,
    caller: Downstream,
    span: Span,
    _inside: Admitted,
) {
    let started = head.started();
    let upstream = route.upstream();
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
    ended(&end, &span, &state.meter, started, &call.caller, Some(forwarded));
}

/// Counts a call that is over.
fn ended(
    end: &Ended,
    span: &Span,
    meter: &Meter,
    started: Instant,
    caller: &Downstream,
    forwarded: Option<Forwarded<'_>>,
) {
    let (code, caller_gone) = match end {
        Ended::With(code) => (*code, false),
        Ended::CallerGone => (Code::Cancelled, true),
    };
    span::end_call(span, code);
    let took = started.elapsed();
    meter.call(code, took);
    caller.log_access(code, took, forwarded);
    if caller_gone && took < PREMATURE {
        caller.client().resets.premature();
    }
}

fn refuse(meter: &Meter, caller: &mut Downstream, error: Error, started: Instant) {
    let (code, took) = (error.code(), started.elapsed());
    meter.call(code, took);
    caller.log_access(code, took, None);
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
    share: &'c Arc<Share>,
    upstream: &'c Upstream,
    state: &'c WorkerState,
    head: RequestHead,
    caller: Downstream,
    request_body: RequestBody,
    attempts: Attempts,
    /// While it counts against the limit of its upstream.
    permit: Option<Permit>,
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

/// Of an attempt that may be joined by a second one.
struct Hedging {
    /// When; none as long as it is not known what is slow.
    after: Option<Duration>,
    method: Option<Arc<Method>>,
}

/// What every attempt of a call is sent with.
struct Sending<'c> {
    head: &'c mut RequestHead,
    upstream: &'c str,
    span: &'c Span,
    /// Whether the method is known to stream.
    streaming: bool,
}

/// Why an attempt was not sent.
enum Unsent {
    /// The caller's time was up: the endpoint would be asked for what nobody waits for.
    Late,
    /// Its connection is gone.
    Lost(String),
    /// Its connection has too many that wait; another endpoint's may not.
    Full(Error),
    /// No endpoint would take it.
    Invalid(Error),
}

/// How an attempt ended, if not the call.
struct Retryable {
    failure: Failure,
    endpoint: SocketAddr,
    detail: String,
    /// What to hand on if it is not repeated.
    answer: Option<Box<http::Response<()>>>,
    /// What to say if no other endpoint can be tried at once.
    full: Option<Error>,
}

impl Call<'_> {
    async fn run(&mut self) -> Ended {
        self.state.budget().call(self.head.started());
        let end = match self.head.deadline {
            None => self.attempts().await,
            Some((allowed, _)) if allowed.is_zero() => End::Failed(self.deadline_exceeded()),
            Some((_, deadline)) => match self.attempts_until(deadline).await {
                Some(end) => end,
                // Dropping the attempt has cancelled it at the endpoint.
                None => End::Failed(self.deadline_exceeded()),
            },
        };
        let end = match (end, self.caller.client().ending()) {
            // It is there; or it has gone in this instant, and hears nothing.
            (End::CallerGone, Some(ending)) => End::Failed(ending),
            (end, _) => end,
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

    /// None when the time is up. Not tokio's `timeout_at`, which would move the whole future of the attempts once more.
    async fn attempts_until(&mut self, deadline: Instant) -> Option<End> {
        let mut attempts = pin!(self.attempts());
        let mut late = pin!(sleep_until(deadline));
        poll_fn(|cx| match attempts.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    async fn attempts(&mut self) -> End {
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
                    _ = self.caller.gone() => return End::CallerGone,
                    () = sleep(delay) => {}
                }
            }
            self.request_body.rewind();
            patience = Instant::now() + PATIENCE;
        }
    }

    /// Waits its turn: until its connection has taken some of the answers it has, and if the upstream is protected from
    /// overload.
    async fn enter(&mut self) -> Result<(), End> {
        if self.caller.client().unread.holds_calls() {
            Box::pin(answers_are_taken(&mut self.caller)).await?;
        }
        let Some(limiter) = self.state.limiter.as_ref().filter(|_| self.route.limited) else { return Ok(()) };
        let entered = tokio::select! {
            biased;
            entered = limiter.enter() => entered,
            _ = self.caller.gone() => return Err(End::CallerGone),
        };
        match entered {
            Ok(permit) => {
                self.permit = Some(permit);
                Ok(())
            }
            Err(LimitExceeded { limit, waited }) => {
                self.state.meter.event(Event::Shed);
                Err(End::Failed(Error::Overloaded { upstream: self.upstream.name.clone(), limit, waited }))
            }
        }
    }

    /// An endpoint that has not failed this call, or when all have, any.
    async fn pick(&mut self, patience: Instant) -> Result<Pick, End> {
        self.at = None;
        let (balancer, share) = (&self.state.balancer, Some(self.share));
        if let Some(pick) = balancer.try_pick(share, self.attempts.tried()) {
            return Ok(pick);
        }
        self.attempts.forget_tried();
        let picked = tokio::select! {
            _ = self.caller.gone() => return Err(End::CallerGone),
            picked = balancer.picked(share, &[], patience) => picked,
        };
        picked.map_err(|unavailable| {
            let upstream = self.upstream.name.clone();
            let (waited, attempts) = (self.head.started().elapsed(), self.attempts.made());
            End::Failed(match unavailable.crowded {
                Some(crowded) => {
                    self.state.meter.event(Event::Streamless);
                    Error::Streamless { upstream, crowded, waited, attempts }
                }
                None => Error::NoEndpoint { upstream, detail: unavailable.to_string(), waited, attempts },
            })
        })
    }

    /// An endpoint that has not failed this call, for which another one had no place.
    fn pick_another(&mut self, full: Error) -> Result<Pick, End> {
        self.at = None;
        self.state.balancer.try_pick(Some(self.share), self.attempts.tried()).ok_or_else(|| {
            self.state.meter.event(Event::Streamless);
            End::Failed(full)
        })
    }

    async fn attempt(&mut self, pick: Pick) -> Result<End, Retryable> {
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
        let (attempt, response) = match sending.send(pick, number, ended) {
            Ok(sent) => sent,
            Err(Unsent::Lost(detail)) => return Err(failed(Failure::NotSent, endpoint, detail)),
            Err(Unsent::Full(error)) => {
                let unsent = failed(Failure::NotSent, endpoint, String::new());
                return Err(Retryable { full: Some(error), ..unsent });
            }
            Err(Unsent::Invalid(error)) => return Ok(End::Failed(error)),
            Err(Unsent::Late) => {
                self.attempts.unsent();
                self.at = None;
                return Ok(End::Failed(self.deadline_exceeded()));
            }
        };
        let sides = Sides {
            caller: &mut self.caller,
            request_body: &mut self.request_body,
            permit: &mut self.permit,
            unary,
        };
        let mut attempting = Attempt::new(sides, self.state, attempt, response, !ended, withhold);
        let ended_as = match hedging.as_ref().and_then(|hedging| hedging.after) {
            None => attempting.run().await,
            Some(after) => match timeout(after, attempting.run()).await {
                Ok(ended_as) => ended_as,
                Err(_) => {
                    hedge(&mut attempting, &mut sending, self.state, self.share, &mut self.attempts);
                    attempting.run().await
                }
            },
        };
        let AttemptSummary { mut attempt, failed_hedge, latency, pushback, outcome } = attempting.summary();
        self.at = Some(attempt.address());
        if let Some(failed_hedge) = failed_hedge {
            self.attempts.hedge_failed(failed_hedge);
        }
        if let Some(pushback) = pushback.or(failed_hedge.and_then(|failed_hedge| failed_hedge.pushback)) {
            self.state.hedges.pause(pushback, Instant::now());
        }
        if let (Some(latency), Some(method)) = (latency, hedging.and_then(|hedging| hedging.method)) {
            self.state.hedges.answered(&method, latency, Instant::now());
        }
        let (mut outcome, ended) = self.judge(ended_as, attempt.address(), pushback, outcome);
        if outcome == Outcome::ServerError && self.is_malformed() {
            // What the caller malformed is no failure of who could not take it.
            outcome = Outcome::Neutral;
        }
        attempt.end(outcome, ended.as_ref().map_or(Code::Unavailable, End::code));
        ended
    }

    /// What the end of an attempt means for its endpoint, whose answer says `outcome`, and for the call.
    fn judge(
        &mut self,
        ended_as: AttemptEnd,
        endpoint: SocketAddr,
        pushback: Option<Pushback>,
        outcome: Outcome,
    ) -> (Outcome, Result<End, Retryable>) {
        match ended_as {
            AttemptEnd::Answered(code) => (outcome, Ok(End::Handed(code))),
            AttemptEnd::CallerGone => (Outcome::CallerGone, Ok(End::CallerGone)),
            AttemptEnd::NotSent => {
                let (path, allowed) =
                    (self.head.path().to_owned(), self.route.request_time.unwrap_or_default());
                (Outcome::CallerGone, Ok(End::Failed(Error::RequestUnfinished { path, allowed })))
            }
            AttemptEnd::NotTaken(NotTaken(time)) => {
                metrics::counter!("shoal_gateway_refused_total", "limit" => "unread").increment(1);
                (Outcome::CallerGone, Ok(End::Failed(Error::AnswerNotTaken { time })))
            }
            AttemptEnd::Late => (Outcome::TimedOut, Ok(End::Failed(self.deadline_exceeded()))),
            AttemptEnd::Withheld(answer) => {
                let failure = Failure::Unavailable(pushback);
                let answer = Some(Box::new(answer));
                (outcome, Err(Retryable { failure, endpoint, detail: String::new(), answer, full: None }))
            }
            AttemptEnd::Broken(error) => self.broken(endpoint, &error),
        }
    }

    /// Whether the caller sent what no endpoint could have taken.
    fn is_malformed(&self) -> bool {
        self.request_body.is_malformed(self.route.unary, self.head.is_encoded())
    }

    /// The endpoint's stream ended before its answer did.
    fn broken(&mut self, endpoint: SocketAddr, error: &Broken) -> (Outcome, Result<End, Retryable>) {
        let outcome = outcome_of_error(error);
        if refused(error) {
            return (outcome, Err(failed(Failure::Refused, endpoint, error.to_string())));
        }
        if !error.is_reset() {
            return (outcome, Err(failed(Failure::Lost, endpoint, error.to_string())));
        }
        if let Some(list) = error.header_list_too_long() {
            let error = TooLong::answer(&self.upstream.name, endpoint, list);
            return (outcome, Ok(End::Failed(error)));
        }
        if !error.is_remote() {
            // The answer was malformed, and its stream was reset for it.
            let (upstream, detail) = (self.upstream.name.clone(), error.to_string());
            return (outcome, Ok(End::Failed(Error::Broken { upstream, address: endpoint, detail })));
        }
        // The endpoint reset the stream: so do we, with its reason.
        let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        let late = self.head.deadline.is_some_and(|(_, deadline)| Instant::now() >= deadline);
        if reason == Reason::CANCEL && late {
            return (Outcome::TimedOut, Ok(End::Failed(self.deadline_exceeded())));
        }
        self.caller.reset(reason);
        (outcome, Ok(End::Handed(code_of_reset(reason))))
    }

    /// If its method is unary: when its request is to be complete.
    fn unary(&self) -> Option<Unary> {
        let allowed = self.route.request_time?;
        // A time too far for the clock is never.
        Some(Unary { request_by: self.head.started().checked_add(allowed) })
    }

    /// Whether and when the attempt of that number is joined by a second one.
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

    fn give_up(&mut self, failed: Retryable, stopped: &'static str) -> End {
        let answer = failed.answer.map(|answer| (code_of(answer.status(), answer.headers()), answer));
        if let Some((code, answer)) = &answer
            && !answer.headers().contains_key(Status::GRPC_STATUS)
        {
            return End::Failed(Error::NotGrpc {
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

impl Sending<'_> {
    fn send(
        &mut self,
        mut pick: Pick,
        number: u32,
        ended: bool,
    ) -> Result<(UpstreamStream, ResponseFuture), Unsent> {
        let endpoint = pick.address();
        if self.streaming {
            pick.expect_stream();
        }
        let span = span::attempt(self.span, self.head.path(), endpoint, self.upstream, number);
        let request = self.head.attempt(number, endpoint).map_err(Unsent::Invalid)?.ok_or(Unsent::Late)?;
        if !span.is_disabled() {
            span.in_scope(|| inject(request.headers_mut()));
        }
        match pick.send(&*request, ended) {
            Ok((response, stream)) => {
                let deadline = self.head.deadline.map(|(_, deadline)| deadline);
                Ok((UpstreamStream::new(pick, span, stream, deadline), response))
            }
            Err(error) if error.never_sent() => {
                span::end_attempt(&span, Code::Unavailable);
                Err(Unsent::Lost(error.to_string()))
            }
            Err(SendError::Invalid(error)) => {
                Err(Unsent::Invalid(Error::Unforwardable { detail: error.to_string() }))
            }
            Err(SendError::TooLong { address, list }) => {
                Err(Unsent::Invalid(TooLong::call_to(self.upstream, address, list)))
            }
            Err(SendError::Full { address, waiting }) => {
                span::end_attempt(&span, Code::ResourceExhausted);
                let upstream = self.upstream.to_owned();
                Err(Unsent::Full(Error::Stuck { upstream, address, waiting }))
            }
            Err(error) => Err(Unsent::Invalid(Error::Unforwardable { detail: error.to_string() })),
        }
    }
}

/// Sends a call that is slow to another endpoint too, if there is one and the upstream's calls have earned it.
fn hedge(
    attempting: &mut Attempt<'_>,
    sending: &mut Sending<'_>,
    state: &WorkerState,
    share: &Arc<Share>,
    attempts: &mut Attempts,
) {
    if !attempting.may_be_hedged() {
        return;
    }
    // Asked first: a pick is a claim on its endpoint.
    if !state.hedges.may(Instant::now()) {
        return;
    }
    let Some(pick) = state.balancer.try_pick(Some(share), &[attempting.endpoint()]) else { return };
    // Nobody else on this core has come between.
    if !state.hedges.take(Instant::now()) {
        return;
    }
    let number = attempts.begin();
    match sending.send(pick, number, attempting.is_bodiless()) {
        Ok((attempt, response)) => {
            state.meter.event(Event::Hedge);
            attempting.join(attempt, response);
        }
        // The call goes on with the attempt it has.
        Err(_) => attempts.unsent(),
    }
}

/// Waits until the connection of a call has taken some of the answers it has.
async fn answers_are_taken(caller: &mut Downstream) -> Result<(), End> {
    let client = caller.client().clone();
    let in_time = tokio::select! {
        in_time = client.unread.has_room() => in_time,
        _ = caller.gone() => return Err(End::CallerGone),
    };
    if in_time {
        return Ok(());
    }
    metrics::counter!("shoal_gateway_refused_total", "limit" => "unread").increment(1);
    let (bytes, most) = (client.unread.counter.bytes(), client.unread.most());
    Err(End::Failed(Error::AnswersUnread { bytes, most }))
}

fn failed(failure: Failure, endpoint: SocketAddr, detail: String) -> Retryable {
    Retryable { failure, endpoint, detail, answer: None, full: None }
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
