//! The stream of an attempt at its endpoint, with its span and the pick that counts it.

use std::net::SocketAddr;

use shoal_balance::{Outcome, Pick};
use shoal_http2::{Reason, SendStream};
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use crate::forwarding::span;

/// The stream of one attempt at its endpoint. It ends once, with the first end it is given; one that is dropped before has ended
/// with its caller, or with the caller's time.
pub(crate) struct UpstreamStream {
    pub(super) pick: Pick,
    span: Span,
    pub(super) stream: SendStream,
    pub(super) opened: Instant,
    deadline: Option<Instant>,
    ended: bool,
}

impl UpstreamStream {
    pub(crate) fn new(
        pick: Pick,
        span: Span,
        stream: SendStream,
        deadline: Option<Instant>,
    ) -> UpstreamStream {
        UpstreamStream { pick, span, stream, opened: Instant::now(), deadline, ended: false }
    }

    /// The endpoint.
    pub(crate) fn address(&self) -> SocketAddr {
        self.pick.address()
    }

    /// Returns how it went, for the endpoint and for the caller.
    pub(crate) fn end(&mut self, outcome: Outcome, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            self.pick.outcome(outcome);
            span::end_attempt(&self.span, code);
        }
    }

    pub(super) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The connection tells the endpoint, in a few milliseconds if the attempt is younger.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.is_late() {
            self.end(Outcome::TimedOut, Code::DeadlineExceeded);
        } else {
            self.end(Outcome::CallerGone, Code::Cancelled);
        }
    }
}
