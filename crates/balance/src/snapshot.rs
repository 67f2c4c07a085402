//! Snapshots of the endpoints of an upstream as plain values, for reports, metrics and error messages.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::stores::Backing;

/// The state of an endpoint: whether it takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Not connected, or its health is not known yet.
    Connecting,
    /// Connected, but it reports that it does not serve.
    NotServing,
    /// Connected and serving by its own report, but its calls fail: it gets no calls for a while, unless too few other
    /// endpoints are left.
    Ejected,
    /// Connected and serving by its own report, on another store than the other endpoints.
    OtherStore,
    /// Connected and serving.
    Ready,
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointState::Connecting => "connecting",
            EndpointState::NotServing => "not serving",
            EndpointState::Ejected => "ejected",
            EndpointState::OtherStore => "on another store",
            EndpointState::Ready => "ready",
        })
    }
}

/// An endpoint at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSnapshot {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The weight beside its peers.
    pub weight: u32,
    /// The state: whether it takes calls.
    pub state: EndpointState,
    /// The reason for the state: the last error, or the health report. Empty if there is none.
    pub reason: String,
    /// The store that it reports.
    pub backing: Backing,
    /// The peak-EWMA latency.
    pub ewma: Duration,
    /// The rest of the penalty for a failed call.
    pub penalty: Duration,
    /// The number of connections that take calls.
    pub connections: usize,
    /// The number of running calls, without long streams.
    pub in_flight: u32,
    /// The number of open long streams.
    pub streams: u32,
    /// The number of calls picked for it since it was discovered.
    pub calls: u64,
    /// The number of calls it processed, whatever the answer.
    pub successes: u64,
    /// The number of calls it failed.
    pub failures: u64,
    /// The slow-start share, from 0.1 to 1 (see [`Options::slow_start`](crate::Options::slow_start)).
    pub ramp: f64,
    /// The ejection, while it is ejected.
    pub ejection: Option<EjectionSnapshot>,
}

/// The reason why an endpoint is ejected, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSnapshot {
    /// The failures that led to the ejection.
    pub reason: String,
    /// The time since it was ejected.
    pub since: Duration,
    /// The time until a probe is due; zero while the probe is awaited or under way.
    pub next_probe: Duration,
    /// The number of ejections in a row, this one included.
    pub times: u32,
}
