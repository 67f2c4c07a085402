//! A call's pick of an endpoint: counted as in flight from the pick to the drop, with its latency sampled at the first answer.

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
    /// Counts a call at `connection`. `probe`: the call decides whether an ejected endpoint is readmitted.
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

    /// Returns the endpoint's address.
    pub fn address(&self) -> SocketAddr {
        self.connection.address
    }

    /// Records that the method is known to stream in either direction, so that its answer, headers included, may come only with
    /// the first event (grpc-go, Java and C++ send the headers with the first message). Waiting for the answer then says
    /// nothing about the endpoint, and the call [is a long stream](Pick::became_stream) one second after it was sent. Must be
    /// called before the request is sent.
    ///
    /// Do not call this for methods whose kind is unknown: a stalled endpoint is detected by missing responses. A stream that
    /// is taken for a unary call only counts as a call in flight, and costs the endpoint its traffic for five seconds if it
    /// answers no other call meanwhile.
    pub fn expect_stream(&mut self) {
        self.accounting.expect_stream(&self.connection.load);
    }

    /// Returns whether the method is known to stream.
    pub fn expects_stream(&self) -> bool {
        self.accounting.expects_stream()
    }

    /// Opens a stream for `request`, which must carry an absolute URI (scheme and authority). Does not wait: if the peer has
    /// lowered its limit since the pick, the stream opens when there is room for it.
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
                // The connection's driver is about to learn of the end.
                let reason =
                    if self.connection.is_down() { self.connection.down_reason() } else { why.to_string() };
                Err(self.not_sent(reason))
            }
        }
    }

    /// Records the first bytes of an answer and samples the latency, counted from the pick. Only the first call counts.
    pub fn first_response(&mut self) {
        if self.accounting.answered().is_none() {
            self.connection.answered();
            self.accounting.answer(&self.connection.load, Instant::now());
        }
    }

    /// Records that the headers of an answer came without an error and that its body follows. A probe that [is expected to
    /// stream](Pick::expect_stream) has succeeded.
    pub fn begun(&mut self) {
        let change = self
            .accounting
            .begun(&self.connection.load, self.accounting.answered().unwrap_or(self.accounting.started()));
        self.execute(change);
    }

    /// Records that the call is a long stream: it no longer counts as in flight but as a stream, 64 of which weigh like one
    /// call. To be called one second after the first answer of a call that still goes on, and one second after the request of a
    /// call that [is expected to stream](Pick::expect_stream). Only the first call counts.
    pub fn became_stream(&mut self) {
        let change = self.accounting.became_stream(&self.connection.load, Instant::now());
        self.execute(change);
    }

    /// Records how the call went. Must be called once.
    pub fn outcome(&mut self, outcome: Outcome) {
        // The time of a success is the time of its answer. The clock is read again only for long streams.
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

    /// Decides whose fault a failure is, from how other endpoints answered the same share.
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

    /// Returns the time of the pick.
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
    /// The connection takes no more requests. Nothing was sent, so any endpoint may be tried, whatever the method.
    #[error("not sent to {address}: {reason}")]
    NotSent {
        /// The endpoint that was picked.
        address: SocketAddr,
        /// The reason why its connection ended.
        reason: String,
    },
    /// Too many requests wait for the connection: its peer does not read, or allows fewer streams than before.
    #[error("not sent to {address}: {waiting} requests already wait for its connection, the most that may")]
    Full {
        /// The endpoint that was picked.
        address: SocketAddr,
        /// The number of requests that wait.
        waiting: usize,
    },
    /// The request's header list exceeds the limit that the endpoint announced.
    #[error("not sent to {address}: {list}, which it announced")]
    TooLong {
        /// The endpoint that was picked.
        address: SocketAddr,
        /// The size of the list, and the limit.
        list: ListTooLong,
    },
    /// The request is not valid HTTP/2 for any endpoint: a URI without authority, or a forbidden header.
    #[error("not a valid HTTP/2 request: {0}")]
    Invalid(&'static str),
}

impl SendError {
    /// Returns whether the same request may be tried at another endpoint: it was valid, and it was never sent.
    pub fn never_sent(&self) -> bool {
        matches!(self, SendError::NotSent { .. })
    }
}
