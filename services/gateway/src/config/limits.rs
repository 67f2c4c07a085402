//! `[gateway.limits]`: bounds on connections, calls, headers, windows and unread answers.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use shoal_kit::settings::DurationText;

/// Limits of one client connection and of the process.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of all clients together, fewer if the process may not open that many files. When one more comes, the
    /// connection that has been idle for longest is closed. An idle one costs 18 KiB.
    pub connections: usize,
    /// Connections of one address (for IPv6, of one /64). When one more comes, the longest idle of them is closed. 0: no such
    /// limit.
    pub connections_per_address: usize,
    /// Calls in flight on all connections together. A half-open call costs 8 KiB. One connection has at most a quarter of what is
    /// left free, so that those with many calls leave some to the others.
    pub calls: usize,
    /// Calls in flight on one connection, told to the client in its SETTINGS.
    pub streams: u32,
    /// Bytes of a call's headers, or of its trailers, told to the client in its SETTINGS.
    pub header_bytes: u32,
    /// Bytes of an answer's headers, or of its trailers, told to the clones in SETTINGS.
    pub answer_header_bytes: u32,
    /// Fields of a call's or of an answer's headers, or of its trailers.
    pub header_fields: usize,
    /// Bytes a client may send on a call before the upstream takes them.
    pub stream_window: u32,
    /// Bytes a client may send on a connection before the upstreams take them.
    pub connection_window: u32,
    /// Bytes an upstream may send on a call before its client takes them. With `send_buffer` this is what a client that
    /// reads nothing costs.
    pub answer_window: u32,
    /// The time from the first octet of a header block, or of a frame that is not DATA, to the last.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub header_time: Duration,
    /// The same for a frame of DATA, of which the sender may not have all at hand: 16 KiB at most.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub frame_time: Duration,
    /// The time that the request to a method that is known to be unary may take to arrive.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub request_time: Duration,
    /// Bytes of answers that one connection may leave unread, or a quarter of what `unread_bytes_total` leaves free, if that is
    /// less. Further calls of a connection above it wait.
    pub unread_bytes: usize,
    /// The same for all connections together.
    pub unread_bytes_total: usize,
    /// The time that an answer of one message is kept for a caller that takes nothing of it, and that a call waits for others of
    /// its connection to be taken.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub unread_time: Duration,
    /// Bytes of answers that wait for the socket of one client connection.
    pub send_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 10_000,
            calls: 32_768,
            streams: 1_000,
            header_bytes: 64 << 10,
            answer_header_bytes: 64 << 10,
            header_fields: 100,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            answer_window: 256 << 10,
            header_time: Duration::from_secs(10),
            frame_time: Duration::from_secs(20),
            request_time: Duration::from_secs(10 * 60),
            unread_bytes: 8 << 20,
            unread_bytes_total: 128 << 20,
            unread_time: Duration::from_secs(30),
            send_buffer: 64 << 10,
        }
    }
}
