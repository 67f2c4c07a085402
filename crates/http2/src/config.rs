//! What one side of a connection allows the other.

use http::HeaderName;

/// Limits of one connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes a peer may send on a stream before they are read.
    pub stream_window: u32,
    /// The same for all streams together.
    pub connection_window: u32,
    /// Streams a client may have open at once. Of no meaning for a client.
    pub streams_max: u32,
    /// Bytes of a header list, counted as RFC 9113 §6.5.2 does: names, values, and 32 for each field.
    pub header_list_max: u32,
    /// Fields of a header list.
    pub header_fields_max: usize,
    /// Requests that wait to be sent, beyond which further ones are refused: [`SendError::Full`](crate::SendError::Full). Of no
    /// meaning for a server.
    pub queued_max: usize,
    /// Whether one stream leaves others a part of the peer's connection-level window: at least four ninths of what there is,
    /// until it is given back. For a client whose streams are different callers'.
    pub leaves_window: bool,
    /// Bytes of DATA that wait for the socket, of all streams together. What does not fit waits where it comes from.
    pub send_buffer: usize,
    /// Streams reset by a client before they were looked at; more at once, and the connection is ended (CVE-2023-44487).
    pub pending_accept_resets_max: usize,
    /// Streams we have reset and remember, so that frames still under way on them are no error.
    pub locally_reset_max: usize,
    /// Whether resets of streams of which the peer has said nothing yet wait for
    /// [`send_late_resets`](crate::ClientConnection::send_late_resets). Of no meaning for a server.
    pub late_resets: bool,
    /// Fields we send "never indexed" (RFC 7541 §6.2.3), beside cookies and what HTTP has to authenticate by.
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
