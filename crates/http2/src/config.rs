//! The limits that one side of a connection sets for the other.

use http::HeaderName;

/// The limits of one connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes that a peer may send on a stream before they are read.
    pub stream_window: u32,
    /// Bytes that a peer may send on all streams together before they are read.
    pub connection_window: u32,
    /// Streams that a client may have open at once. Without meaning for a client.
    pub streams_max: u32,
    /// Bytes of a header list, counted as in RFC 9113 §6.5.2: names, values, and 32 for each field.
    pub header_list_max: u32,
    /// Fields of a header list.
    pub header_fields_max: usize,
    /// Requests that may wait to be sent. Further requests are refused with [`SendError::Full`](crate::SendError::Full).
    /// Without meaning for a server.
    pub queued_max: usize,
    /// Makes one stream leave others a part of the peer's connection-level window: at least four ninths of what there is,
    /// until it is given back. For a client whose streams belong to different callers.
    pub leaves_window: bool,
    /// Bytes of DATA of all streams that may wait for the socket. DATA that does not fit waits at its source.
    pub send_buffer: usize,
    /// Streams that a client may reset before they are accepted. More at once end the connection (CVE-2023-44487).
    pub pending_accept_resets_max: usize,
    /// Streams that were reset on this side and are remembered, so that frames still under way on them are no error.
    pub locally_reset_max: usize,
    /// Makes resets of streams on which the peer has sent nothing yet wait for
    /// [`send_late_resets`](crate::ClientConnection::send_late_resets). Without meaning for a server.
    pub late_resets: bool,
    /// Fields that are sent "never indexed" (RFC 7541 §6.2.3), beside cookies and the fields by which HTTP authenticates.
    pub secrets: Vec<HeaderName>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            stream_window: 1 << 20,
            connection_window: 8 << 20,
            streams_max: 1_000,
            header_list_max: 64 << 10,
            header_fields_max: 100,
            queued_max: 4_096,
            leaves_window: false,
            send_buffer: 256 << 10,
            pending_accept_resets_max: 1_024,
            locally_reset_max: 1_024,
            late_resets: false,
            secrets: Vec::new(),
        }
    }
}
