//! One call's claim on one endpoint: counted as in flight from the pick to the drop, sampled at the first answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Request;
use tokio::time::Instant;

use crate::connection::Link;
use crate::outcome::Outcome;

/// An endpoint picked for one call. Drop it when the call is over.
#[derive(Debug)]
pub struct Pick {
    link: Arc<Link>,
    started: Instant,
    /// When the first bytes of its answer came.
    answered: Option<Instant>,
    /// How many calls the endpoint had answered when this one was picked.
    answers_before: u64,
    sent: bool,
    stream: bool,
    /// It decides whether an ejected endpoint comes back, and has not decided yet.
    probe: bool,
}

/// A call that timed out sooner than this says nothing of its endpoint: it was the caller who was in a hurry.
const STALLED_MIN: Duration = Duration::from_millis(100);

impl Pick {
    pub(crate) fn new(link: Arc<Link>, probe: bool, now: Instant) -> Pick {
        link.load.start(now);
        if link.streams.open() {
            link.load.crowd.want();
        }
        let answers_before = link.load.answers();
        Pick { link, started: now, answered: None, answers_before, sent: false, stream: false, probe }
    }

    /// The endpoint's address.
    pub fn address(&self) -> SocketAddr {
        self.link.address
    }

    /// Opens a stream for `request`, which must carry an absolute URI (scheme and authority). Does not wait for the
    /// peer's stream limit: h2 opens the stream when it can.
    pub async fn send(
        &mut self,
        request: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), SendError> {
        if self.link.is_down() {
            return Err(self.not_sent(Some(Box::new(request))));
        }
        match self.link.sender().send_request(request, end_of_stream) {
            Ok(streams) => {
                self.sent = true;
                Ok(streams)
            }
            // h2 refuses what no peer would take; everything else is the connection's fault.
            Err(error) if error.reason().is_none() && !error.is_io() => Err(SendError::Invalid(error)),
            Err(_) => Err(self.not_sent(None)),
        }
    }

    /// The first bytes of an answer are here: samples the latency, counted from the pick. Only the first call counts.
    pub fn first_response(&mut self) {
        if self.answered.is_none() {
            let now = Instant::now();
            self.answered = Some(now);
            self.link.answered();
            self.link.load.answered(now - self.started, now);
        }
    }

    /// The call is a long stream: it no longer counts as in flight but as a stream, of which 64 weigh like one call. To be
    /// said of a streaming call that goes on for a second after its first answer. Only the first call counts.
    pub fn became_stream(&mut self) {
        if !std::mem::replace(&mut self.stream, true) {
            self.link.load.became_stream();
            if std::mem::take(&mut self.probe) {
                // Its end may be hours away.
                self.probed(Some(true), Instant::now());
            }
        }
    }

    /// How the call went. Only the first call counts for the ejection of the endpoint.
    pub fn outcome(&mut self, outcome: Outcome) {
        let load = &self.link.load;
        // A success was seen when it was answered; that need not be asked of the clock again.
        let seen = match (outcome, self.answered) {
            (Outcome::Success, Some(answered)) => answered,
            _ => Instant::now(),
        };
        match outcome {
            Outcome::Success => load.succeeded(),
            Outcome::EndpointFault => load.shun(None, seen),
            Outcome::Pushback(time) => load.shun(Some(time), seen),
            Outcome::Overloaded(pushback) => load.shun(pushback, seen),
            Outcome::ServerError | Outcome::TimedOut | Outcome::CallerGone | Outcome::Neutral => {}
        }
        let went_well = self.went_well(outcome, seen);
        if went_well == Some(false) || matches!(outcome, Outcome::Overloaded(_)) {
            load.failed();
        }
        if std::mem::take(&mut self.probe) {
            self.probed(went_well, seen);
        } else if went_well == Some(true) {
            load.outlier.succeeded(self.started, seen);
        } else if went_well == Some(false)
            && let Some(reason) = load.outlier.failed(self.started, seen)
            && let Some(shared) = self.link.shared()
        {
            shared.eject(self.link.address, load, reason, seen);
        }
    }

    /// What an outcome says of the endpoint; `None`: nothing.
    fn went_well(&self, outcome: Outcome, now: Instant) -> Option<bool> {
        match outcome {
            Outcome::Success | Outcome::Overloaded(_) => Some(true),
            Outcome::EndpointFault | Outcome::Pushback(_) | Outcome::ServerError => Some(false),
            // It has answered: what its caller made of that is the caller's.
            Outcome::TimedOut | Outcome::CallerGone if self.answered.is_some() => self.probe.then_some(true),
            Outcome::TimedOut => {
                // Who answers others meanwhile is not stalled; this call alone was too long.
                let silent = self.probe || self.link.load.answers() == self.answers_before;
                (silent && now - self.started >= STALLED_MIN).then_some(false)
            }
            Outcome::CallerGone | Outcome::Neutral => None,
        }
    }

    /// The probe of an ejected endpoint is over.
    fn probed(&self, went_well: Option<bool>, now: Instant) {
        if self.link.load.outlier.probed(went_well, now)
            && let Some(shared) = self.link.shared()
        {
            shared.readmitted(self.link.address);
        }
    }

    /// When it was picked.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    fn not_sent(&self, request: Option<Box<Request<()>>>) -> SendError {
        SendError::NotSent { address: self.link.address, reason: self.link.down_reason(), request }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        let load = &self.link.load;
        if self.answered.is_none() {
            let now = Instant::now();
            load.unanswered(self.sent.then(|| now - self.started), now);
        }
        if self.stream {
            load.finish_stream();
        } else {
            load.finish();
        }
        if self.probe {
            // Nothing was learnt.
            self.probed(None, Instant::now());
        }
        if self.link.streams.close()
            && let Some(shared) = self.link.shared()
        {
            shared.has_room_again();
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
        /// The request, unless h2 has swallowed it.
        request: Option<Box<Request<()>>>,
    },
    /// The request itself cannot be sent over HTTP/2, to no endpoint: a URI without authority, a forbidden header.
    #[error("not a valid HTTP/2 request: {0}")]
    Invalid(#[source] h2::Error),
}

impl SendError {
    /// Whether the same request may be tried at another endpoint: it never left, and it could.
    pub fn never_sent(&self) -> bool {
        matches!(self, SendError::NotSent { .. })
    }

    /// The request, to be sent elsewhere.
    pub fn into_request(self) -> Option<Request<()>> {
        match self {
            SendError::NotSent { request, .. } => request.map(|request| *request),
            SendError::Invalid(_) => None,
        }
    }
}

/// Whether the peer has said that it did not process the stream this error is of: REFUSED_STREAM, or a stream above the
/// last one its GOAWAY names. Such a call may be sent once more, whatever its method (RFC 9113 §8.7).
///
/// A stream that the GOAWAY does cover ends with an I/O error when the connection does, never with this.
pub fn refused(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away() || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
}
