//! What a balancer is told about its upstream and its connections. Plain values; nothing is read later.

use std::time::Duration;

/// Settings of one [`Balancer`](crate::Balancer). Start from [`Options::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The upstream's name, as it appears in errors, logs and spans: `cache`.
    pub name: String,
    /// Who is calling, the `shoal.role` of the client spans: `gateway`, `cache`, `client`.
    pub role: &'static str,
    /// The receive window of one stream in bytes, fixed. Default 1 MiB: a full window a round trip is 1 GiB/s at 1 ms.
    pub stream_window: u32,
    /// The receive window of a connection in bytes, fixed. Default 8 MiB: eight stalled readers do not stop the others.
    pub connection_window: u32,
    /// How many bytes one stream may have queued for sending before its writer waits. Default 1 MiB.
    pub send_buffer: usize,
    /// The longest header block accepted from an endpoint, in bytes. Default 64 KiB.
    pub header_list_max: u32,
    /// How long connecting may take, and then the answer to the first ping. Default 1 s each.
    pub connect_timeout: Duration,
    /// The delay after a first failed connection, doubled each time. Default 20 ms: a restart on the same host is back
    /// within about 100 ms.
    pub backoff_first: Duration,
    /// The longest delay between two attempts to connect. Default 5 s.
    pub backoff_max: Duration,
    /// How long a connection may be without an answer before it is pinged. Default 2 s.
    pub keepalive_interval: Duration,
    /// How long a ping may take before the connection is given up. Default 2 s.
    pub keepalive_timeout: Duration,
    /// How long the calls of a connection that takes no new ones may go on. Default 10 min, for long streams.
    pub drain: Duration,
    /// The name that is watched in `grpc.health.v1`; `Some("")`, the default, is the server as a whole, and `None` takes
    /// every connected endpoint for serving. A server without the health service is taken for serving too.
    pub health_service: Option<String>,
    /// How often health is checked where it cannot be watched. Default 5 s.
    pub health_interval: Duration,
    /// How long a health answer may take. Default 1 s.
    pub health_timeout: Duration,
    /// Fixes the random choices, for tests. Default `None`.
    pub seed: Option<u64>,
}

impl Options {
    /// The defaults for the upstream `name`, called by `role`.
    pub fn new(name: impl Into<String>, role: &'static str) -> Options {
        Options {
            name: name.into(),
            role,
            stream_window: 1024 * 1024,
            connection_window: 8 * 1024 * 1024,
            send_buffer: 1024 * 1024,
            header_list_max: 64 * 1024,
            connect_timeout: Duration::from_secs(1),
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            drain: Duration::from_secs(600),
            health_service: Some(String::new()),
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(1),
            seed: None,
        }
    }
}
