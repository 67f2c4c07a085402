//! One call's accounting on one endpoint: counted as in flight from the pick to the drop, sampled at the first answer.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use shoal_http2::{ListTooLong, ResponseFuture, SendStream};
use tokio::time::Instant;

use crate::call::accounting::{CallAccounting, EjectionChange};
use crate::endpoint::connection::Connection;
use crate::fairness::attribution::Blame;
use crate::fairness::share::Share;
use crate::outcome::Outcome;

/// An endpoint picked for one call. Drop it when the call is over.
#[derive(Debug)]
pub struct Pick {
    connection: Arc<Connection>,
    share: Option<Arc<Share>>,
    accounting: CallAccounting,
    sent: bool,
}

impl Pick {
    /// `probe`: the call decides over an ejected endpoint.
    pub(crate) fn new(
        connection: Arc<Connection>,
        share: Option<Arc<Share>>,
        probe: bool,
        now: Instant,
    ) -> Pick {
        connection.fair_queue.take(share.as_ref());
        let mut accounting = CallAccounting::new(&connection.load, probe, now);
        if !connection.streams.has_room() {
            accounting.queue();
        }
        if connection.streams.open() {
            connection.load.connection_demand.want();
        }
        Pick { connection, share, accounting, sent: false }
    }

    /// The endpoint's address.
    pub fn address(&self) -> SocketAddr {
        self.connection.address
    }

    /// The call's method is known to stream, in either direction, so that its answer may come when something happens and not
    /// before, headers and all (grpc-go, Java and C++ send them with the first message). Nothing is concluded from waiting for
    /// it, and it [is a long stream](Pick::became_stream) a second after it was sent. To be said before it is.
    ///
    /// Of a method of which nothing is known this is better not said: a stalled endpoint is noticed by the answers that do not
    /// come, and a stream taken for a unary call costs its endpoint but a place in the queue, and five seconds of its share
    /// when it answers nobody else meanwhile.
    pub fn expect_stream(&mut self) {
        self.accounting.expect_stream(&self.connection.load);
    }

    /// Whether its method is known to stream.
    pub fn expects_stream(&self) -> bool {
        self.accounting.expects_stream()
    }

    /// Opens a stream for `request`, which must carry an absolute URI (scheme and authority). Does not wait: should the peer
    /// have lowered its limit since the pick, the stream is opened when there is room for it.
    pub fn send(
        &mut self,
        request: &Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream), SendError> {
        if self.connection.is_down() {
            return Err(self.not_sent(self.connection.down_reason()));
        }
        match self.connection.sender().send_request(request, end_of_stream) {
            Ok(streams) => {
                self.sent = true;
                Ok(streams)
            }
            Err(shoal_http2::SendError::Invalid(why)) => Err(SendError::Invalid(why)),
            Err(shoal_http2::SendError::TooLong(list)) => {
                Err(SendError::TooLong { address: self.connection.address, list })
            }
            Err(shoal_http2::SendError::Full(waiting)) => {
                Err(SendError::Full { address: self.connection.address, waiting })
            }
            Err(shoal_http2::SendError::Closed(why)) => {
                // Its driver is about to learn of it.
                let reason =
                    if self.connection.is_down() { self.connection.down_reason() } else { why.to_string() };
                Err(self.not_sent(reason))
            }
        }
    }

    /// The first bytes of an answer are here: samples the latency, counted from the pick. Only the first call counts.
    pub fn first_response(&mut self) {
        if self.accounting.answered().is_none() {
            self.connection.answered();
            self.accounting.answer(&self.connection.load, Instant::now());
        }
    }

    /// The headers of an answer are here that is no error yet, and its body is to come. A probe that [is expected to
    /// stream](Pick::expect_stream) has gone well by that.
    pub fn begun(&mut self) {
        let change = self
            .accounting
            .begun(&self.connection.load, self.accounting.answered().unwrap_or(self.accounting.started()));
        self.execute(change);
    }

    /// The call is a long stream: it no longer counts as in flight but as a stream, of which 64 weigh like one call. To be
    /// said of any call that goes on for a second after its first answer, and of one that [is expected to
    /// stream](Pick::expect_stream) a second after it was sent. Only the first call counts.
    pub fn became_stream(&mut self) {
        let change = self.accounting.became_stream(&self.connection.load, Instant::now());
        self.execute(change);
    }

    /// How the call went. To be said once.
    pub fn outcome(&mut self, outcome: Outcome) {
        // A success was seen when it was answered; that need not be asked of the clock again, unless it was long ago.
        let seen = match (outcome, self.accounting.ends_with_its_answer()) {
            (Outcome::Success, Some(answered)) => answered,
            _ => Instant::now(),
        };
        let change = match self.blame(outcome, seen) {
            Blame::Caller => self.accounting.excused(&self.connection.load, seen),
            blame => self.accounting.outcome(&self.connection.load, outcome, blame == Blame::Endpoint, seen),
        };
        self.execute(change);
    }

    /// Whose a failure is that the outcome says, seeing how others answered the same share.
    fn blame(&self, outcome: Outcome, now: Instant) -> Blame {
        let Some(share) = &self.share else { return Blame::Endpoint };
        let (index, endpoint) = (self.connection.fair_queue.index, self.connection.address);
        match outcome {
            Outcome::ServerError => return share.failed(index, endpoint, now),
            Outcome::Success => share.served(index, endpoint, now),
            _ => {}
        }
        Blame::Endpoint
    }

    fn execute(&self, change: EjectionChange) {
        if change == EjectionChange::Nothing {
            return;
        }
        let Some(feedback) = self.connection.feedback() else { return };
        match change {
            EjectionChange::Nothing => {}
            EjectionChange::Eject(reason) => {
                feedback.eject(self.connection.address, &self.connection.load, &reason, Instant::now());
            }
            EjectionChange::Readmitted => feedback.readmitted(self.connection.address),
        }
    }

    /// When it was picked.
    pub(crate) fn started(&self) -> Instant {
        self.accounting.started()
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn not_sent(&self, reason: String) -> SendError {
        SendError::NotSent { address: self.connection.address, reason }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.accounting.end(&self.connection.load, self.sent, Instant::now);
        self.connection.streams.close();
        if self.connection.fair_queue.give(self.share.as_ref())
            && let Some(feedback) = self.connection.feedback()
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
