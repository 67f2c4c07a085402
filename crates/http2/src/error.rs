//! The reasons why a stream or a connection ended before its time.

use std::fmt;
use std::sync::Arc;

use crate::hpack::ListTooLong;

/// An error code (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(u32);

impl Reason {
    /// The connection ends without an error.
    pub const NO_ERROR: Reason = Reason(0);
    /// The peer broke a rule of the protocol.
    pub const PROTOCOL_ERROR: Reason = Reason(1);
    /// Something failed internally.
    pub const INTERNAL_ERROR: Reason = Reason(2);
    /// The peer sent more than a window allowed.
    pub const FLOW_CONTROL_ERROR: Reason = Reason(3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Reason = Reason(4);
    /// A frame came for a stream that is half closed.
    pub const STREAM_CLOSED: Reason = Reason(5);
    /// A frame has a size that it must not have.
    pub const FRAME_SIZE_ERROR: Reason = Reason(6);
    /// The stream was refused before anything was done.
    pub const REFUSED_STREAM: Reason = Reason(7);
    /// The stream is no longer needed.
    pub const CANCEL: Reason = Reason(8);
    /// The state of the header compression differs between the sides.
    pub const COMPRESSION_ERROR: Reason = Reason(9);
    /// The connection of a CONNECT was lost.
    pub const CONNECT_ERROR: Reason = Reason(10);
    /// The peer behaves in a way that may generate excessive load.
    pub const ENHANCE_YOUR_CALM: Reason = Reason(11);
    /// The transport is not secure enough.
    pub const INADEQUATE_SECURITY: Reason = Reason(12);
    /// HTTP/1.1 is required.
    pub const HTTP_1_1_REQUIRED: Reason = Reason(13);

    pub(crate) fn new(code: u32) -> Reason {
        Reason(code)
    }

    pub(crate) fn code(self) -> u32 {
        self.0
    }

    fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The side that ended the stream or the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Peer,
    /// The side of this crate, for what the peer did or because a handle was dropped.
    Us,
}

/// The reason why a stream or a connection is over. Cheap to clone: a connection gives it to each of its streams.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Kind);

#[derive(Clone, Debug, thiserror::Error)]
enum Kind {
    #[error("{} the stream: {reason}", if *.by == By::Peer { "the peer reset" } else { "we reset" })]
    Reset { reason: Reason, by: By },
    #[error("{} the connection: {reason}{}{why}", if *.by == By::Peer { "the peer ended" } else { "we ended" }, if .why.is_empty() { "" } else { ", " })]
    GoAway { reason: Reason, by: By, why: Arc<str> },
    #[error("we reset the stream: {0}")]
    TooLong(ListTooLong),
    #[error("{what}")]
    Io { what: Arc<str> },
}

impl Error {
    pub(crate) fn reset(reason: Reason, by: By) -> Error {
        Error(Kind::Reset { reason, by })
    }

    pub(crate) fn go_away(reason: Reason, by: By, why: &str) -> Error {
        Error(Kind::GoAway { reason, by, why: why.into() })
    }

    /// Returns the error of a connection that is ended for what the peer did (RFC 9113 §5.4.1).
    pub(crate) fn connection(reason: Reason, why: &str) -> Error {
        Error::go_away(reason, By::Us, why)
    }

    pub(crate) fn too_long(list: ListTooLong) -> Error {
        Error(Kind::TooLong(list))
    }

    pub(crate) fn io(what: &str) -> Error {
        Error(Kind::Io { what: what.into() })
    }

    /// Returns whether the stream was reset, by either side.
    pub fn is_reset(&self) -> bool {
        matches!(self.0, Kind::Reset { .. } | Kind::TooLong(_))
    }

    /// Returns the limit of ours that the peer's header list was above, if the stream was reset for that. The peer has
    /// broken no rule by it.
    pub fn header_list_too_long(&self) -> Option<ListTooLong> {
        match self.0 {
            Kind::TooLong(list) => Some(list),
            _ => None,
        }
    }

    /// Returns whether the connection was ended with a GOAWAY, by either side, that does not cover the stream.
    pub fn is_go_away(&self) -> bool {
        matches!(self.0, Kind::GoAway { .. })
    }

    /// Returns whether the connection was lost.
    pub fn is_io(&self) -> bool {
        matches!(self.0, Kind::Io { .. })
    }

    /// Returns whether the peer ended the stream or the connection, with a frame that says so.
    pub fn is_remote(&self) -> bool {
        matches!(self.0, Kind::Reset { by: By::Peer, .. } | Kind::GoAway { by: By::Peer, .. })
    }

    /// Returns the text that came with the code.
    pub(crate) fn why(&self) -> &str {
        match &self.0 {
            Kind::GoAway { why, .. } => why,
            Kind::Reset { .. } | Kind::TooLong(_) | Kind::Io { .. } => "",
        }
    }

    /// Returns the error code, unless the connection was lost without one.
    pub fn reason(&self) -> Option<Reason> {
        match &self.0 {
            Kind::Reset { reason, .. } | Kind::GoAway { reason, .. } => Some(*reason),
            Kind::TooLong(_) => Some(Reason::CANCEL),
            Kind::Io { .. } => None,
        }
    }
}
