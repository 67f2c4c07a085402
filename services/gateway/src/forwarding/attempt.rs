//! Moves one attempt of a call, both halves by one task in one future, until either the endpoint's answer is handed on or
//! something breaks. Spawns nothing and boxes nothing on the way of a call that goes well.
//!
//! A slow attempt may be joined by a hedged one at another endpoint. Whichever answers first is handed on, and the other is
//! reset; until then the failure of one is no failure.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use shoal_balance::{Outcome, code_of};
use shoal_http2::{Error as Broken, Reason, RecvStream, ResponseFuture, SendStream};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::admission::adaptive_limit::Permit;
use crate::forwarding::attempt_end::{AttemptEnd, AttemptSummary};
use crate::forwarding::downstream::{Downstream, handed_on};
use crate::forwarding::replay::Replay;
use crate::forwarding::request_body::RequestBody;
use crate::forwarding::response_body::ResponseBody;
use crate::forwarding::upstream_stream::UpstreamStream;
use crate::resilience::pushback::Pushback;
use crate::resilience::retry::FailedAttempt;
use crate::upstream::WorkerState;
use crate::upstream::meter::Event;

/// A call whose answer goes on for longer than this after it began is a stream: it no longer counts as work in flight. One whose
/// method is known to stream is after this time whether it has begun or not: headers may come with the first event only.
const STREAM_AFTER: Duration = Duration::from_secs(1);

/// The parts of a call that its attempts share.
pub(crate) struct Sides<'a> {
    pub(crate) caller: &'a mut Downstream,
    pub(crate) request_body: &'a mut RequestBody,
    /// Given back when an answer begins.
    pub(crate) permit: &'a mut Option<Permit>,
    /// If its method is known to have one message each way.
    pub(crate) unary: Option<Unary>,
}

/// The rules for a call with one message each way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unary {
    /// The time by which the whole request must have arrived.
    pub(crate) request_by: Option<Instant>,
}

/// An attempt of a call at an endpoint, and maybe at a second one.
pub(crate) struct Attempt<'a> {
    caller: &'a mut Downstream,
    request_body: &'a mut RequestBody,
    permit: &'a mut Option<Permit>,
    unary: Option<Unary>,
    /// Wakes this task when the request is late; made when it has to be waited for.
    request_by: Option<Pin<Box<Sleep>>>,
    state: &'a WorkerState,
    stream: UpstreamStream,
    answer: Answer,
    uploading: bool,
    /// The part of the request that a hedged attempt which has taken over was not sent yet.
    replay: Option<Box<Replay>>,
    /// Set if an answer that is nothing but UNAVAILABLE is given back instead of handed on.
    withhold: bool,
    /// When the call is a long stream.
    stream_at: Option<Instant>,
    /// Wakes this task then; made when an answer has to be waited for, which one to a unary call seldom has.
    streaming: Option<Pin<Box<Sleep>>>,
    hedged: Option<Box<HedgedAttempt>>,
    failed_hedge: Option<FailedAttempt>,
    /// When the first attempt was opened.
    began: Instant,
    latency: Option<Duration>,
    pushback: Option<Pushback>,
    outcome: Outcome,
    /// The HTTP status of the answer that is coming.
    http: StatusCode,
}

/// The second of two attempts, while neither has answered.
struct HedgedAttempt {
    stream: UpstreamStream,
    response: ResponseFuture,
    replay: Option<Box<Replay>>,
}

enum Answer {
    Awaited(ResponseFuture),
    /// Its headers are here, and held back: of a unary call that may be repeated they say nothing by themselves, and the
    /// trailers may be all that follows.
    Begun(Box<Response<()>>, RecvStream),
    Coming(ResponseBody),
    /// The answer has ended.
    Over,
}

impl<'a> Attempt<'a> {
    /// `withhold`: an answer that is nothing but UNAVAILABLE is given back.
    pub(crate) fn new(
        Sides { caller, request_body, permit, unary }: Sides<'a>,
        state: &'a WorkerState,
        stream: UpstreamStream,
        response: ResponseFuture,
        uploading: bool,
        withhold: bool,
    ) -> Attempt<'a> {
        Attempt {
            caller,
            request_body,
            permit,
            unary,
            request_by: None,
            state,
            began: stream.opened,
            stream_at: stream.pick.expects_stream().then(|| stream.opened + STREAM_AFTER),
            stream,
            answer: Answer::Awaited(response),
            uploading,
            replay: None,
            withhold,
            streaming: None,
            hedged: None,
            failed_hedge: None,
            latency: None,
            pushback: None,
            outcome: Outcome::Neutral,
            http: StatusCode::OK,
        }
    }

    /// Runs it to its end. Dropped before, it goes on where it was when run again.
    pub(crate) async fn run(&mut self) -> AttemptEnd {
        match std::future::poll_fn(|cx| self.poll(cx)).await {
            Ok(end) => end,
            Err(reason) => self.leave(reason),
        }
    }

    /// The caller is gone: so are we.
    fn leave(&mut self, reason: Reason) -> AttemptEnd {
        self.stream.reset(reason);
        if let Some(mut hedged) = self.hedged.take() {
            hedged.stream.reset(reason);
            hedged.stream.end(Outcome::CallerGone, Code::Cancelled);
        }
        AttemptEnd::CallerGone
    }

    /// Returns what is left when it has run.
    pub(crate) fn summary(self) -> AttemptSummary {
        AttemptSummary {
            stream: self.stream,
            failed_hedge: self.failed_hedge,
            latency: self.latency,
            pushback: self.pushback,
            outcome: self.outcome,
        }
    }

    /// Returns whether a hedged attempt may be sent the same: the request is complete and at hand, and nothing of an answer is here.
    pub(crate) fn may_be_hedged(&self) -> bool {
        self.request_body.is_complete() && matches!(self.answer, Answer::Awaited(_))
    }

    /// Returns the endpoint that a hedged attempt avoids.
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.stream.address()
    }

    /// Returns whether the request has no body at all.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.request_body.is_empty()
    }

    /// Sends the same to another endpoint too. Only if the attempt [may be hedged](Attempt::may_be_hedged).
    pub(crate) fn join(&mut self, stream: UpstreamStream, response: ResponseFuture) {
        let replay = (!self.request_body.is_empty()).then(|| Box::new(self.request_body.replay()));
        self.hedged = Some(Box::new(HedgedAttempt { stream, response, replay }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AttemptEnd, Reason>> {
        if let Poll::Ready(reason) = self.caller.poll_gone(cx) {
            return Poll::Ready(Err(reason));
        }
        if self.uploading {
            match self.request_body.poll(cx, &mut self.stream.stream, self.caller.client()) {
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(error.reason().map_or(Reason::CANCEL, handed_on)));
                }
                Poll::Ready(Ok(())) => self.uploading = false,
                Poll::Pending if self.is_late_to_ask(cx) => return Poll::Ready(Ok(AttemptEnd::NotSent)),
                Poll::Pending => {}
            }
        }
        loop {
            replay(&mut self.replay, &mut self.stream.stream, cx);
            match &mut self.answer {
                Answer::Awaited(response) => {
                    let response = match Pin::new(response).poll(cx) {
                        Poll::Ready(response) => response,
                        Poll::Pending => {
                            self.may_become_stream(cx);
                            match ready!(self.poll_hedged(cx)) {
                                Some(response) => Ok(response),
                                // It fell, and the first goes on alone.
                                None => return Poll::Pending,
                            }
                        }
                    };
                    if self.hedged.is_some() && self.first_has_failed(&response) {
                        continue;
                    }
                    match response {
                        Err(error) => return Poll::Ready(Ok(AttemptEnd::Broken(error))),
                        Ok(response) => {
                            if let Some(end) = self.answered(response, cx)? {
                                return Poll::Ready(Ok(end));
                            }
                        }
                    }
                }
                Answer::Begun(_, body) => match body.poll_data(cx) {
                    Poll::Pending => {
                        self.may_become_stream(cx);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Ok(AttemptEnd::Broken(error))),
                    Poll::Ready(Some(Ok(chunk))) => self.go_on(chunk)?,
                    Poll::Ready(None) => {
                        return match ready!(body.poll_trailers(cx)) {
                            Err(error) => Poll::Ready(Ok(AttemptEnd::Broken(error))),
                            Ok(trailers) => Poll::Ready(self.ended_bare(trailers)),
                        };
                    }
                },
                // It was said how it ended.
                Answer::Over => return Poll::Pending,
                Answer::Coming(response_body) => {
                    let Some((to, unread)) = self.caller.takes() else {
                        return Poll::Ready(Err(Reason::CANCEL));
                    };
                    return match response_body.poll(cx, to, unread, self.unary.is_some()) {
                        Poll::Ready(body) => Poll::Ready(self.ended(body)),
                        Poll::Pending => {
                            self.may_become_stream(cx);
                            Poll::Pending
                        }
                    };
                }
            }
        }
    }

    /// Ready with the answer of the hedged attempt, which then takes the place of the first; with none when the hedged one has failed.
    fn poll_hedged(&mut self, cx: &mut Context<'_>) -> Poll<Option<Response<RecvStream>>> {
        let Some(hedged) = &mut self.hedged else { return Poll::Pending };
        replay(&mut hedged.replay, &mut hedged.stream.stream, cx);
        let response = ready!(Pin::new(&mut hedged.response).poll(cx));
        let Some(mut hedged) = self.hedged.take() else { return Poll::Pending };
        match response {
            Ok(response) if !is_unavailable(response.status(), response.headers()) => {
                self.replay = hedged.replay.take();
                self.uploading = false;
                let cancelled = std::mem::replace(&mut self.stream, hedged.stream);
                self.state.meter.event(Event::HedgeWon);
                cancel(cancelled);
                Poll::Ready(Some(response))
            }
            failed => {
                let failed_hedge = fail(&mut hedged.stream, &failed);
                self.failed_hedge = Some(failed_hedge);
                Poll::Ready(None)
            }
        }
    }

    /// Returns whether the first attempt has failed while there is a hedged one, which then takes its place.
    fn first_has_failed(&mut self, response: &Result<Response<RecvStream>, Broken>) -> bool {
        if response.as_ref().is_ok_and(|response| !is_unavailable(response.status(), response.headers())) {
            return false;
        }
        let Some(hedged) = self.hedged.take() else { return false };
        self.failed_hedge = Some(fail(&mut self.stream, response));
        self.stream = hedged.stream;
        self.answer = Answer::Awaited(hedged.response);
        self.replay = hedged.replay;
        self.uploading = false;
        true
    }

    /// The request is not complete. Says whether it was to be by now.
    fn is_late_to_ask(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.unary.and_then(|unary| unary.request_by) else { return false };
        let timer = self.request_by.get_or_insert_with(|| Box::pin(sleep_until(at)));
        timer.as_mut().poll(cx).is_ready()
    }

    /// There is nothing to hand on yet.
    fn may_become_stream(&mut self, cx: &mut Context<'_>) {
        let Some(at) = self.stream_at else { return };
        let timer = self.streaming.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.as_mut().poll(cx).is_ready() {
            self.stream.pick.became_stream();
            (self.stream_at, self.streaming) = (None, None);
        }
    }

    /// Response headers are here. Says how the attempt ended, if it did.
    fn answered(
        &mut self,
        response: Response<RecvStream>,
        cx: &mut Context<'_>,
    ) -> Result<Option<AttemptEnd>, Reason> {
        if let Some(hedged) = self.hedged.take() {
            cancel(hedged.stream);
        }
        self.stream.pick.first_response();
        let now = Instant::now();
        self.latency = Some(now - self.began);
        let latency = now - self.stream.opened;
        self.state.answered(self.stream.address(), latency, now);
        let (parts, mut body) = response.into_parts();
        let response = Response::from_parts(parts, ());
        self.http = response.status();
        if !body.is_end_stream() && !self.is_withheld(&response) {
            self.stream_at = Some(now + STREAM_AFTER);
            let held = self.withhold && self.unary.is_some() && response.status().is_success();
            let chunk = if held { body.poll_data(cx) } else { Poll::Ready(Some(Ok(Bytes::new()))) };
            self.answer = if let Poll::Ready(Some(Ok(chunk))) = chunk {
                self.hand_on(&response, latency)?;
                Answer::Coming(ResponseBody::new(body, chunk))
            } else {
                Answer::Begun(Box::new(response), body)
            };
            return Ok(None);
        }
        let code = self.code_of(response.headers());
        if code == Code::Cancelled && self.stream.is_late() {
            return Ok(Some(AttemptEnd::Late));
        }
        if self.is_withheld(&response) {
            return Ok(Some(AttemptEnd::Withheld(response)));
        }
        self.caller.head(&response, true).map_err(|_| Reason::CANCEL)?;
        Ok(Some(AttemptEnd::Answered(code)))
    }

    /// Hands the headers of an answer on, `latency` after its attempt was opened.
    fn hand_on(&mut self, response: &Response<()>, latency: Duration) -> Result<(), Reason> {
        if response.status().is_success() {
            self.stream.pick.begun();
        }
        self.request_body.forget();
        // An answer that is only an error says little of how busy the endpoint is, and counts until the call ends.
        if let Some(permit) = self.permit.take() {
            permit.answered(latency);
        }
        self.caller.head(response, false).map_err(|_| Reason::CANCEL)
    }

    /// The first of the body of an answer that was held back is here.
    fn go_on(&mut self, chunk: Bytes) -> Result<(), Reason> {
        let Some((response, body)) = self.begun() else { return Ok(()) };
        self.hand_on(&response, self.stream.opened.elapsed())?;
        self.answer = Answer::Coming(ResponseBody::new(body, chunk));
        Ok(())
    }

    /// An answer that was held back has ended without a message.
    fn ended_bare(&mut self, trailers: Option<HeaderMap>) -> Result<AttemptEnd, Reason> {
        let Some((mut response, _body)) = self.begun() else { return Ok(AttemptEnd::CallerGone) };
        match trailers {
            Some(trailers) if is_unavailable(response.status(), &trailers) => {
                self.code_of(&trailers);
                response.headers_mut().extend(trailers);
                Ok(AttemptEnd::Withheld(*response))
            }
            trailers => {
                self.hand_on(&response, self.stream.opened.elapsed())?;
                self.ended(Ok(trailers))
            }
        }
    }

    /// Returns what was held back.
    fn begun(&mut self) -> Option<(Box<Response<()>>, RecvStream)> {
        match std::mem::replace(&mut self.answer, Answer::Over) {
            Answer::Begun(response, body) => Some((response, body)),
            other => {
                self.answer = other;
                None
            }
        }
    }

    fn ended(&mut self, body: Result<Option<HeaderMap>, AttemptEnd>) -> Result<AttemptEnd, Reason> {
        let trailers = match body {
            Ok(trailers) => trailers,
            Err(AttemptEnd::CallerGone) => return Err(Reason::CANCEL),
            Err(end) => return Ok(end),
        };
        let code = match &trailers {
            Some(trailers) => self.code_of(trailers),
            // In gRPC that is the endpoint's mistake.
            None => self.code_of(&HeaderMap::new()),
        };
        // tonic's servers answer CANCELLED when the time they were given is up.
        if code == Code::Cancelled && self.stream.is_late() {
            return Ok(AttemptEnd::Late);
        }
        let to = self.caller.body().ok_or(Reason::CANCEL)?;
        let sent = match trailers {
            Some(trailers) => to.send_trailers(trailers),
            None => to.finish(),
        };
        sent.map_err(|_| Reason::CANCEL)?;
        Ok(AttemptEnd::Answered(code))
    }

    /// Returns whether an answer with the head `response` is given back instead of handed on.
    fn is_withheld(&self, response: &Response<()>) -> bool {
        self.withhold && is_unavailable(response.status(), response.headers())
    }

    /// The status of an answer. With one that says that it was too much comes what the endpoint wants of us.
    fn code_of(&mut self, headers: &HeaderMap) -> Code {
        let code = code_of(self.http, headers);
        if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
            self.pushback = Pushback::of(headers);
        }
        self.outcome = Outcome::of_answer(self.http, headers);
        code
    }
}

/// Moves what can be moved; done or not wanted, there is nothing left to send.
fn replay(left: &mut Option<Box<Replay>>, to: &mut SendStream, cx: &mut Context<'_>) {
    if let Some(replay) = left
        && replay.poll(cx, to).is_ready()
    {
        *left = None;
    }
}

/// Resets the attempt that was too slow. Its endpoint has not answered: it takes at least this long.
fn cancel(mut cancelled: UpstreamStream) {
    cancelled.end(Outcome::CallerGone, Code::Cancelled);
    cancelled.reset(Reason::CANCEL);
}

/// Ends an attempt that failed while another one goes on.
fn fail(stream: &mut UpstreamStream, response: &Result<Response<RecvStream>, Broken>) -> FailedAttempt {
    let outcome = match response {
        Ok(response) => Outcome::of_answer(response.status(), response.headers()),
        Err(error) => Outcome::of_stream_error(error),
    };
    stream.end(outcome, Code::Unavailable);
    let pushback = response.as_ref().ok().and_then(|response| Pushback::of(response.headers()));
    FailedAttempt { endpoint: stream.address(), pushback }
}

/// Returns whether an answer with this head is UNAVAILABLE whatever follows, and another endpoint could better it: gRPC's own status in
/// the headers, or an HTTP status that means it. An endpoint that says the failure is not its own is believed.
fn is_unavailable(http: StatusCode, headers: &HeaderMap) -> bool {
    let is_whole = headers.contains_key(Status::GRPC_STATUS) || !http.is_success();
    is_whole
        && code_of(http, headers) == Code::Unavailable
        && Outcome::of_answer(http, headers) != Outcome::Success
}
