//! One call's claim on one endpoint: counted as in flight from the pick to the drop, sampled at the first answer.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use shoal_http2::{ListTooLong, ResponseFuture, SendStream};
use tokio::time::Instant;

use crate::call::accounting::{Claim, Verdict};
use crate::endpoint::connection::Link;
use crate::fairness::attribution::Blame;
use crate::fairness::share::Share;
use crate::outcome::Outcome;

/// An endpoint picked for one call. Drop it when the call is over.
#[derive(Debug)]
pub struct Pick {
    link: Arc<Link>,
    share: Option<Arc<Share>>,
    claim: Claim,
    sent: bool,
}

impl Pick {
    /// `probe`: the call decides over an ejected endpoint.
    pub(crate) fn new(link: Arc<Link>, share: Option<Arc<Share>>, probe: bool, now: Instant) -> Pick {
        link.room.take(share.as_ref());
        let mut claim = Claim::new(&link.load, probe, now);
        if !link.streams.has_room() {
            claim.queue();
        }
        if link.streams.open() {
            link.load.crowd.want();
        }
        Pick { link, share, claim, sent: false }
    }

    /// The endpoint's address.
    pub fn address(&self) -> SocketAddr {
        self.link.address
    }

    /// The call's method is known to stream, in either direction, so that its answer may come when something happens and not
    /// before, headers and all (grpc-go, Java and C++ send them with the first message). Nothing is concluded from waiting for
    /// it, and it [is a long stream](Pick::became_stream) a second after it was sent. To be said before it is.
    ///
    /// Of a method of which nothing is known this is better not said: a stalled endpoint is noticed by the answers that do not
    /// come, and a stream taken for a unary call costs its endpoint but a place in the queue, and five seconds of its share
    /// when it answers nobody else meanwhile.
    pub fn expect_stream(&mut self) {
        self.claim.expect_stream(&self.link.load);
    }

    /// Whether its method is known to stream.
    pub fn expects_stream(&self) -> bool {
        self.claim.expects_stream()
    }

    /// Opens a stream for `request`, which must carry an absolute URI (scheme and authority). Does not wait: should the peer
    /// have lowered its limit since the pick, the stream is opened when there is room for it.
    pub fn send(
        &mut self,
        request: &Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream), SendError> {
        if self.link.is_down() {
            return Err(self.not_sent(self.link.down_reason()));
        }
        match self.link.sender().send_request(request, end_of_stream) {
            Ok(streams) => {
                self.sent = true;
                Ok(streams)
            }
            Err(shoal_http2::SendError::Invalid(why)) => Err(SendError::Invalid(why)),
            Err(shoal_http2::SendError::TooLong(list)) => {
                Err(SendError::TooLong { address: self.link.address, list })
            }
            Err(shoal_http2::SendError::Full(waiting)) => {
                Err(SendError::Full { address: self.link.address, waiting })
            }
            Err(shoal_http2::SendError::Closed(why)) => {
                // Its driver is about to learn of it.
                let reason = if self.link.is_down() { self.link.down_reason() } else { why.to_string() };
                Err(self.not_sent(reason))
            }
        }
    }

    /// The first bytes of an answer are here: samples the latency, counted from the pick. Only the first call counts.
    pub fn first_response(&mut self) {
        if self.claim.answered().is_none() {
            self.link.answered();
            self.claim.answer(&self.link.load, Instant::now());
        }
    }

    /// The headers of an answer are here that is no error yet, and its body is to come. A probe that [is expected to
    /// stream](Pick::expect_stream) has gone well by that.
    pub fn begun(&mut self) {
        let verdict =
            self.claim.begun(&self.link.load, self.claim.answered().unwrap_or(self.claim.started()));
        self.execute(verdict);
    }

    /// The call is a long stream: it no longer counts as in flight but as a stream, of which 64 weigh like one call. To be
    /// said of any call that goes on for a second after its first answer, and of one that [is expected to
    /// stream](Pick::expect_stream) a second after it was sent. Only the first call counts.
    pub fn became_stream(&mut self) {
        let verdict = self.claim.became_stream(&self.link.load, Instant::now());
        self.execute(verdict);
    }

    /// How the call went. To be said once.
    pub fn outcome(&mut self, outcome: Outcome) {
        // A success was seen when it was answered; that need not be asked of the clock again, unless it was long ago.
        let seen = match (outcome, self.claim.ends_with_its_answer()) {
            (Outcome::Success, Some(answered)) => answered,
            _ => Instant::now(),
        };
        let verdict = match self.blame(outcome, seen) {
            Blame::Caller => self.claim.excused(&self.link.load, seen),
            blame => self.claim.outcome(&self.link.load, outcome, blame == Blame::Endpoint, seen),
        };
        self.execute(verdict);
    }

    /// Whose a failure is that the outcome says, seeing how others answered the same share.
    fn blame(&self, outcome: Outcome, now: Instant) -> Blame {
        let Some(share) = &self.share else { return Blame::Endpoint };
        let (index, endpoint) = (self.link.room.index, self.link.address);
        match outcome {
            Outcome::ServerError => return share.failed(index, endpoint, now),
            Outcome::Success => share.served(index, endpoint, now),
            _ => {}
        }
        Blame::Endpoint
    }

    fn execute(&self, verdict: Verdict) {
        if verdict == Verdict::Nothing {
            return;
        }
        let Some(feedback) = self.link.feedback() else { return };
        match verdict {
            Verdict::Nothing => {}
            Verdict::Eject(reason) => {
                feedback.eject(self.link.address, &self.link.load, &reason, Instant::now());
            }
            Verdict::Readmitted => feedback.readmitted(self.link.address),
        }
    }

    /// When it was picked.
    pub(crate) fn started(&self) -> Instant {
        self.claim.started()
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    fn not_sent(&self, reason: String) -> SendError {
        SendError::NotSent { address: self.link.address, reason }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.claim.end(&self.link.load, self.sent, Instant::now);
        self.link.streams.close();
        if self.link.room.give(self.share.as_ref())
            && let Some(feedback) = self.link.feedback()
        {
            feedback.room_freed();
        }
    }
}

/// A request that did not leave this process.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection takes no more requests. Nothing was sent: any endpoint may be tried, whatever the method.
    #[error("not sent to {address}: {reason}")]
    NotSent {
        /// The endpoint that was picked.
        address: SocketAddr,
        /// Why its connection ended.
        reason: String,
    },
    /// Too many requests wait for the connection to take them: its peer reads nothing, or allows fewer streams than it did.
    #[error("not sent to {address}: {waiting} requests wait for its connection, as many as may")]
    Full {
        /// The endpoint that was picked.
        address: SocketAddr,
        /// How many.
        waiting: usize,
    },
    /// The request's header list is above what the endpoint has announced that it takes.
    #[error("not sent to {address}: {list}, which it announced")]
    TooLong {
        /// The endpoint that was picked.
        address: SocketAddr,
        /// The list, and the limit.
        list: ListTooLong,
    },
    /// The request itself cannot be sent over HTTP/2, to no endpoint: a URI without authority, a forbidden header.
    #[error("not a valid HTTP/2 request: {0}")]
    Invalid(&'static str),
}

impl SendError {
    /// Whether the same request may be tried at another endpoint: it never left, and it could.
    pub fn never_sent(&self) -> bool {
        matches!(self, SendError::NotSent { .. })
    }
}
