//! Sends an attempt of a call to an endpoint, and a second one beside it.

use std::sync::Arc;

use shoal_balance::{Pick, SendError, Share, inject};
use shoal_http2::ResponseFuture;
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use crate::error::Error;
use crate::error::headers_too_long::TooLong;
use crate::forwarding::attempt::Attempt;
use crate::forwarding::request_head::RequestHead;
use crate::forwarding::span;
use crate::forwarding::upstream_stream::UpstreamStream;
use crate::resilience::retry::Attempts;
use crate::upstream::WorkerState;
use crate::upstream::meter::Event;

/// The parts that every attempt of a call is sent with.
pub(super) struct Sending<'c> {
    pub(super) head: &'c mut RequestHead,
    pub(super) upstream: &'c str,
    pub(super) span: &'c Span,
    /// Indicates whether the method is known to stream.
    pub(super) streaming: bool,
}

/// The reason why an attempt was not sent.
pub(super) enum NotSent {
    /// The caller's time was up: no caller would wait for the answer.
    Late,
    /// Its connection is gone.
    Lost(String),
    /// Its connection has too many that wait; another endpoint's may not.
    Full(Error),
    /// The request is such that no endpoint would take it.
    Invalid(Error),
}

impl Sending<'_> {
    pub(super) fn send(
        &mut self,
        mut pick: Pick,
        number: u32,
        ended: bool,
    ) -> Result<(UpstreamStream, ResponseFuture), NotSent> {
        let endpoint = pick.address();
        if self.streaming {
            pick.expect_stream();
        }
        let span = span::attempt(self.span, self.head.path(), endpoint, self.upstream, number);
        let request = self.head.attempt(number, endpoint).map_err(NotSent::Invalid)?.ok_or(NotSent::Late)?;
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
                Err(NotSent::Lost(error.to_string()))
            }
            Err(SendError::Invalid(error)) => {
                Err(NotSent::Invalid(Error::Unforwardable { detail: error.to_string() }))
            }
            Err(SendError::TooLong { address, list }) => {
                Err(NotSent::Invalid(TooLong::call_to(self.upstream, address, list).into()))
            }
            Err(SendError::Full { address, waiting }) => {
                span::end_attempt(&span, Code::ResourceExhausted);
                let upstream = self.upstream.to_owned();
                Err(NotSent::Full(Error::Stuck { upstream, address, waiting }))
            }
            Err(error) => Err(NotSent::Invalid(Error::Unforwardable { detail: error.to_string() })),
        }
    }
}

/// Sends a call that is slow to another endpoint too, if there is one and the upstream's calls have earned it.
pub(super) fn hedge(
    attempt: &mut Attempt<'_>,
    sending: &mut Sending<'_>,
    state: &WorkerState,
    share: &Arc<Share>,
    attempts: &mut Attempts,
) {
    if !attempt.may_be_hedged() {
        return;
    }
    // Asked first: a pick is a claim on its endpoint.
    if !state.hedges.may(Instant::now()) {
        return;
    }
    let Some(pick) = state.balancer.try_pick(Some(share), &[attempt.endpoint()]) else { return };
    // Nobody else on this core has come between.
    if !state.hedges.take(Instant::now()) {
        return;
    }
    let number = attempts.begin();
    match sending.send(pick, number, attempt.is_bodiless()) {
        Ok((stream, response)) => {
            state.meter.event(Event::Hedge);
            attempt.join(stream, response);
        }
        // The call goes on with the attempt it has.
        Err(_) => attempts.unsent(),
    }
}
