//! The options of a balancer: plain values; nothing is read later.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::stores::Stores;

/// The settings of one [`Balancer`](crate::Balancer). Start from [`Options::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The upstream's name, as it appears in errors, logs and spans: `cache`.
    pub name: String,
    /// The caller's role, the `shoal.role` of the client spans: `gateway`, `cache`, `client`.
    pub role: &'static str,
    /// The receive window of one stream in bytes, fixed. Default 1 MiB: a full window a round trip is 1 GiB/s at 1 ms.
    pub stream_window: u32,
    /// The receive window of a connection in bytes, fixed. Default 8 MiB: eight stalled readers do not stop the others.
    pub connection_window: u32,
    /// The bytes that may wait for a connection's socket before senders wait. Default 256 KiB.
    pub send_buffer: usize,
    /// The longest header block accepted from an endpoint, in bytes. Default 64 KiB.
    pub header_list_max: u32,
    /// The most fields of such a block. Default 100.
    pub header_fields_max: usize,
    /// The headers that are written "never indexed" (RFC 7541 §7.1.3), in addition to cookies and HTTP's own authentication
    /// headers. Default none.
    pub secrets: Vec<HeaderName>,
    /// The longest time for connecting, and again for the answer to the first ping. Default 1 s each.
    pub connect_timeout: Duration,
    /// The delay after a first failed connection, doubled each time. Default 20 ms: a restart on the same host is back
    /// within about 100 ms.
    pub backoff_first: Duration,
    /// The longest delay between two attempts to connect. Default 5 s.
    pub backoff_max: Duration,
    /// The time without an answer after which a connection with calls is pinged; without calls, twice as long. Default 1 s.
    pub keepalive_interval: Duration,
    /// The longest time for the answer to a ping before the connection is given up. Default 2 s.
    pub keepalive_timeout: Duration,
    /// The longest time the calls of a connection may go on after it takes no new ones. Default 10 min, for long streams.
    pub drain: Duration,
    /// The service name that is watched in `grpc.health.v1`. `Some("")`, the default, is the server as a whole. With `None`
    /// every connected endpoint counts as serving. A server without the health service counts as serving too.
    pub health_service: Option<String>,
    /// Watches health where possible, rather than checking it. A watch is an endless stream: a server with a thread per stream
    /// has one less for calls. Default true.
    pub health_watched: bool,
    /// The interval between health checks where health is not watched. Default 5 s.
    pub health_interval: Duration,
    /// The longest time for a health answer. Default 1 s.
    pub health_timeout: Duration,
    /// The time an endpoint is avoided after UNAVAILABLE or RESOURCE_EXHAUSTED, unless it names a time itself. Default 5 s;
    /// zero disables it.
    pub penalty: Duration,
    /// The time in which a newcomer's share grows from a tenth to the whole. Default 30 s; zero gives it the whole at once.
    pub slow_start: Duration,
    /// The rules by which failing endpoints are ejected. Default [`Ejection::default`]; `None` never ejects.
    pub ejection: Option<Ejection>,
    /// The part of many targets that is used. Default [`Subset::default`]; `None` uses all.
    pub subset: Option<Subset>,
    /// The most connections to one endpoint. A second one is made when four fifths of the streams that the peer allows on the
    /// first are in use. Default 8; with 1 there is never a second one.
    pub connections_max: usize,
    /// The index of this upstream in the counts of a [`Share`](crate::Share). Default 0.
    pub share_index: usize,
    /// The time without calls after which a connection that is not the first one is closed. Default 30 s.
    pub connection_idle: Duration,
    /// The choice of the store that the endpoints must share, if they name one. Shared by the balancers of one upstream in a
    /// process. Default: not shared.
    pub stores: Arc<Stores>,
    /// Fixes the random choices, for tests. Default `None`.
    pub seed: Option<u64>,
}

/// The rules by which a failing endpoint is ejected, and for how long (Envoy, "Outlier detection"; gRFC A50).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// The number of failures without a success in between that ejects. Default 5.
    pub consecutive: u32,
    /// The ratio of failures among the calls within `window` that ejects. Default 0.5.
    pub failure_ratio: f64,
    /// The fewest calls within `window` for which the ratio counts. Default 20.
    pub calls_min: u32,
    /// The time over which the ratio is computed. Default 10 s.
    pub window: Duration,
    /// The length of the first ejection, doubled each time. Default 1 s.
    pub base_ejection_time: Duration,
    /// The longest ejection. Default 60 s.
    pub max: Duration,
    /// The most endpoints that may be ejected at once, as a ratio of those that are connected and serving. Default 0.5.
    pub ejected_max: f64,
    /// The ratio of all endpoints that could be picked below which the ejected are picked too: a few failing endpoints are
    /// better than all load on one (Envoy, "Panic threshold"). Default 0.5.
    pub panic_threshold: f64,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection {
            consecutive: 5,
            failure_ratio: 0.5,
            calls_min: 20,
            window: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(1),
            max: Duration::from_secs(60),
            ejected_max: 0.5,
            panic_threshold: 0.5,
        }
    }
}

impl Ejection {
    /// Returns whether one more of the connected and serving endpoints may be ejected.
    pub(crate) fn allows(&self, ejected: usize, serving: usize) -> bool {
        (ejected + 1) as f64 <= self.ejected_max * serving as f64
    }
}

/// The part of many targets that one balancer uses (gRFC A68).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset {
    /// The most targets used. Default 100: every endpoint then has at most a hundred connections per hundred balancers, and a
    /// hundred endpoints still share the load of one that is lost.
    pub size: usize,
    /// The index of the balancer in this process, from 0: the balancers of one process take different targets.
    pub index: usize,
    /// The number of balancers of this upstream in the process. Default 1.
    pub count: usize,
    /// The identity of the process: another number, another choice. Default: drawn at random, so that processes differ.
    pub identity: u64,
}

impl Subset {
    /// Returns the choice of one of `count` balancers of a process, such as a core of a gateway.
    pub fn of_process(identity: u64, index: usize, count: usize) -> Subset {
        Subset { size: 100, index, count, identity }
    }
}

impl Default for Subset {
    fn default() -> Subset {
        Subset::of_process(fastrand::u64(..), 0, 1)
    }
}

impl Options {
    /// Returns the defaults for the upstream `name`, called by `role`.
    pub fn new(name: impl Into<String>, role: &'static str) -> Options {
        Options {
            name: name.into(),
            role,
            stream_window: 1024 * 1024,
            connection_window: 8 * 1024 * 1024,
            send_buffer: 256 * 1024,
            header_list_max: 64 * 1024,
            header_fields_max: 100,
            secrets: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(2),
            drain: Duration::from_secs(600),
            health_service: Some(String::new()),
            health_watched: true,
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(1),
            penalty: Duration::from_secs(5),
            slow_start: Duration::from_secs(30),
            ejection: Some(Ejection::default()),
            subset: Some(Subset::default()),
            connections_max: 8,
            share_index: 0,
            connection_idle: Duration::from_secs(30),
            stores: Arc::default(),
            seed: None,
        }
    }
}
