//! What a balancer is told about its upstream and its connections. Plain values; nothing is read later.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::stores::Stores;

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
    /// How many bytes may wait for a connection's socket before those who send wait. Default 256 KiB.
    pub send_buffer: usize,
    /// The longest header block accepted from an endpoint, in bytes. Default 64 KiB.
    pub header_list_max: u32,
    /// How many fields such a block may have. Default 100.
    pub header_fields_max: usize,
    /// Headers that are written "never indexed" (RFC 7541 §7.1.3), beside cookies and what HTTP has to authenticate by.
    /// Default none.
    pub secrets: Vec<HeaderName>,
    /// How long connecting may take, and then the answer to the first ping. Default 1 s each.
    pub connect_timeout: Duration,
    /// The delay after a first failed connection, doubled each time. Default 20 ms: a restart on the same host is back
    /// within about 100 ms.
    pub backoff_first: Duration,
    /// The longest delay between two attempts to connect. Default 5 s.
    pub backoff_max: Duration,
    /// How long a connection with calls may be without an answer before it is pinged; one without calls, twice as long.
    /// Default 1 s.
    pub keepalive_interval: Duration,
    /// How long a ping may take before the connection is given up. Default 2 s.
    pub keepalive_timeout: Duration,
    /// How long the calls of a connection that takes no new ones may go on. Default 10 min, for long streams.
    pub drain: Duration,
    /// The name that is watched in `grpc.health.v1`; `Some("")`, the default, is the server as a whole, and `None` takes
    /// every connected endpoint for serving. A server without the health service is taken for serving too.
    pub health_service: Option<String>,
    /// Whether health is watched where it can be. A watch is a stream without end: a server that gives each of its streams a
    /// thread has one less for calls. Default true; false: it is checked.
    pub health_watched: bool,
    /// How often health is checked where it is not watched. Default 5 s.
    pub health_interval: Duration,
    /// How long a health answer may take. Default 1 s.
    pub health_timeout: Duration,
    /// How long an endpoint is shunned that answered UNAVAILABLE or RESOURCE_EXHAUSTED, unless it said itself how long.
    /// Default 5 s; zero: not at all.
    pub penalty: Duration,
    /// How long a newcomer's share grows, from a tenth to the whole. Default 30 s; zero: it has the whole at once.
    pub slow_start: Duration,
    /// When an endpoint that fails is left alone. Default [`Ejection::default`]; `None`: never.
    pub ejection: Option<Ejection>,
    /// How many of many targets are used. Default [`Subset::default`]; `None`: all.
    pub subset: Option<Subset>,
    /// The most connections to one endpoint. A second one is made when four fifths of the streams that the peer allows on
    /// the first are in use. Default 8; 1: never a second one.
    pub connections_max: usize,
    /// Which of the counts of a [`Share`](crate::Share) is of this upstream. Default 0.
    pub share_index: usize,
    /// How long a further connection may be without calls before it is closed. Default 30 s.
    pub connection_idle: Duration,
    /// Which store the endpoints may stand on, if they name one: shared by the balancers of one upstream in a process. Default:
    /// not shared.
    pub stores: Arc<Stores>,
    /// Fixes the random choices, for tests. Default `None`.
    pub seed: Option<u64>,
}

/// When an endpoint that fails is left alone, and for how long (Envoy, "Outlier detection"; gRFC A50).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// As many failures without a success in between. Default 5.
    pub consecutive: u32,
    /// Or this share of the calls within `window`. Default 0.5.
    pub failure_ratio: f64,
    /// Provided there were as many. Default 20.
    pub calls_min: u32,
    /// The time that the share is of. Default 10 s.
    pub window: Duration,
    /// How long the first time. Doubled each time. Default 1 s.
    pub base_ejection_time: Duration,
    /// How long at most. Default 60 s.
    pub max: Duration,
    /// The most that may be ejected at once, as a share of the endpoints that are connected and serving. Default 0.5.
    pub ejected_max: f64,
    /// When fewer than this share of all endpoints could be picked, the ejected are picked too: few that fail are better
    /// than the load of all on one (Envoy, "Panic threshold"). Default 0.5.
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
    /// Whether one more may be ejected, of so many that are connected and serving.
    pub(crate) fn allows(&self, ejected: usize, serving: usize) -> bool {
        (ejected + 1) as f64 <= self.ejected_max * serving as f64
    }
}

/// How many of many targets one balancer uses (gRFC A68).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset {
    /// The most targets used. Default 100: every endpoint then has a hundred callers' connections at most for each hundred
    /// balancers, and a hundred endpoints still share out the load of one that is lost.
    pub size: usize,
    /// Which of the balancers of this process it is, from 0: those of one process take different targets.
    pub index: usize,
    /// How many balancers of this upstream the process has. Default 1.
    pub count: usize,
    /// Who the process is: another number, another choice. Default: drawn at random, so that processes differ.
    pub identity: u64,
}

impl Subset {
    /// The choice of one of `count` balancers of a process: a core of a gateway.
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
    /// The defaults for the upstream `name`, called by `role`.
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
