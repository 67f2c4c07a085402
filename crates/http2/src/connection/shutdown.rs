//! The end of a connection: with a GOAWAY of either side, a client that sends no more requests, an error, or a lost socket
//! (RFC 9113 §6.8).

use crate::connection::{Core, Role};
use crate::error::{By, Error, Reason};
use crate::frame::{self, STREAM_MAX};
use crate::stream::{Sending, Stream};

/// The payload of the PING that asks whether a peer has seen our GOAWAY.
pub(super) const LEAVING: [u8; 8] = *b"leaving!";

/// The progress of a server's graceful shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// A GOAWAY is sent, and the streams that the peer opens before it sees that are served.
    GoAwaySent,
    /// Streams above this one are not served.
    LastStream(u32),
}

/// The state of the connection's end.
#[derive(Debug)]
pub(crate) struct Shutdown {
    leaving: Leaving,
    /// The last stream that the peer serves, once it has sent a GOAWAY.
    peer_last_id: u32,
    /// The peer's GOAWAY: it opens, and lets us open, no more streams.
    peer_goaway: Option<Error>,
    /// A client opens no more streams.
    retired: bool,
    /// The reason why the connection is over.
    over: Option<Error>,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown {
            leaving: Leaving::No,
            peer_last_id: STREAM_MAX,
            peer_goaway: None,
            retired: false,
            over: None,
        }
    }
}

impl Shutdown {
    /// Returns whether streams of that id come too late to be served.
    pub(super) fn is_too_late(&self, id: u32) -> bool {
        matches!(self.leaving, Leaving::LastStream(last) if id > last)
    }

    /// Returns whether a client may open streams.
    pub(super) fn may_open(&self) -> bool {
        self.peer_goaway.is_none() && self.over.is_none()
    }

    /// Returns why a client sends no more requests, if it does not.
    pub(super) fn refusal(&self) -> Option<Error> {
        let error = self.over.as_ref().or(self.peer_goaway.as_ref()).cloned();
        error.or_else(|| self.retired.then(|| Error::io("the connection is no longer used")))
    }
}

impl Core {
    /// Returns why the connection is over, if it is.
    pub(crate) fn over(&self) -> Option<&Error> {
        self.shutdown.over.as_ref()
    }

    /// Returns the peer's GOAWAY, if it has sent one.
    pub(crate) fn peer_goaway(&self) -> Option<Error> {
        self.shutdown.peer_goaway.clone()
    }

    /// Sends no more requests of a client. The connection ends with the last response.
    pub(crate) fn retire(&mut self) {
        self.shutdown.retired = true;
    }

    /// Returns whether the connection ends with its last stream.
    pub(super) fn is_leaving(&self) -> bool {
        let Shutdown { leaving, peer_goaway, retired, .. } = &self.shutdown;
        *leaving != Leaving::No || *retired || peer_goaway.is_some()
    }

    /// Returns whether a connection that is leaving has nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        let leaves = match self.role {
            Role::Server => matches!(self.shutdown.leaving, Leaving::LastStream(_)),
            Role::Client => self.shutdown.retired || self.shutdown.peer_goaway.is_some(),
        };
        leaves
            && !self.has_open_streams()
            && !self.has_queued()
            && !self.has_requests()
            && self.send_buffer.is_empty()
    }

    /// Ends the connection and all its streams. The peer is told, if that is of use.
    pub(crate) fn end(&mut self, error: &Error) {
        if self.shutdown.over.is_some() {
            return;
        }
        if error.is_go_away() && !error.is_remote() {
            let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
            let last = if self.role == Role::Server { self.streams.last_id() } else { 0 };
            frame::write_goaway(self.send_buffer.frames(), last, reason, error.why());
        }
        self.shutdown.over = Some(error.clone());
        self.late_resets.clear();
        self.lose(|_| true, error);
        self.streams.accept_no_more();
        self.ping.wake();
        self.wake_driver();
    }

    /// Ends streams because the connection is over for them.
    fn lose(&mut self, which: impl Fn(&Stream) -> bool, error: &Error) {
        for key in self.streams.keys(which) {
            let stream = &mut self.streams[key];
            if !stream.is_over() {
                stream.error = Some(error.clone());
                stream.sending = Sending::Closed;
                stream.wake();
                self.close_if_over(key);
            }
        }
    }

    /// Ends the streams above `last`, and those that have no id yet.
    fn lose_above(&mut self, last: u32, error: &Error) {
        self.lose(|stream| stream.id == 0 || stream.id > last, error);
    }

    /// Follows a GOAWAY: the peer will not look at streams above `last`, and wants no new ones.
    pub(super) fn goaway_received(&mut self, last: u32, reason: Reason, why: &str) {
        let error = Error::go_away(reason, By::Peer, why);
        let earlier = self.shutdown.peer_goaway.is_some();
        // Before streams end, or others would be opened in their place.
        self.shutdown.peer_goaway = Some(error.clone());
        // Nothing was opened since an earlier GOAWAY: only a lower id leaves out more.
        if self.role == Role::Client && (!earlier || last < self.shutdown.peer_last_id) {
            self.shutdown.peer_last_id = last;
            self.lose_above(last, &error);
        }
        self.wake_driver();
    }

    /// Goes on as if the peer had sent a GOAWAY, because all stream ids are used. Requests that wait for a stream get an error
    /// that lets them be sent on another connection.
    pub(super) fn use_up(&mut self) -> Error {
        const WHY: &str = "all stream ids are used";
        let error = Error::go_away(Reason::NO_ERROR, By::Us, WHY);
        self.shutdown.peer_goaway = Some(error.clone());
        self.shutdown.peer_last_id = STREAM_MAX;
        self.lose_above(STREAM_MAX, &Error::go_away(Reason::NO_ERROR, By::Peer, WHY));
        self.wake_driver();
        error
    }

    /// Begins the graceful shutdown of a server with a GOAWAY, and with a PING whose answer tells that the peer has seen it.
    pub(crate) fn leave(&mut self) {
        if self.shutdown.leaving == Leaving::No && self.shutdown.over.is_none() {
            self.shutdown.leaving = Leaving::GoAwaySent;
            frame::write_goaway(self.send_buffer.frames(), STREAM_MAX, Reason::NO_ERROR, "");
            frame::write_ping(self.send_buffer.frames(), false, LEAVING);
            self.wake_driver();
        }
    }

    /// Goes on with the graceful shutdown: the peer has seen the first GOAWAY, and is told the last stream that is served.
    pub(super) fn goaway_seen(&mut self) {
        if self.shutdown.leaving == Leaving::GoAwaySent {
            let last = self.streams.last_id();
            self.shutdown.leaving = Leaving::LastStream(last);
            frame::write_goaway(self.send_buffer.frames(), last, Reason::NO_ERROR, "");
        }
    }
}
