//! How the endpoints of an upstream look from outside, as plain values: for reports, metrics and error messages.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::stores::Backing;

/// Whether an endpoint takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// No connection, or not yet known whether it serves.
    Connecting,
    /// Connected, but it says of itself that it does not serve.
    NotServing,
    /// Connected and serving by its own word, but its calls fail: it is left alone for a while, unless too few others
    /// are left.
    Ejected,
    /// Connected and serving by its own word, on another store than the others.
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

/// An endpoint as it is in one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSnapshot {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share beside its peers.
    pub weight: u32,
    /// Whether it takes calls.
    pub state: EndpointState,
    /// Why it is in that state: the last error, or what health said. Empty when there is nothing to say.
    pub reason: String,
    /// What it says of the store behind it.
    pub backing: Backing,
    /// Its peak-EWMA latency.
    pub ewma: Duration,
    /// What is left of the penalty for a failed call.
    pub penalty: Duration,
    /// Connections that take calls.
    pub connections: usize,
    /// Calls picked for it and not finished, without its long streams.
    pub in_flight: u32,
    /// Long streams open at it.
    pub streams: u32,
    /// Calls picked for it since it was discovered.
    pub calls: u64,
    /// Calls it did its work for, whatever the answer.
    pub successes: u64,
    /// Calls it failed.
    pub failures: u64,
    /// Its share as a newcomer, from 0.1 to 1 (see [`Options::slow_start`](crate::Options::slow_start)).
    pub ramp: f64,
    /// Set while it is ejected.
    pub ejection: Option<EjectionSnapshot>,
}

/// Why an endpoint is left alone, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSnapshot {
    /// What it did.
    pub reason: String,
    /// How long ago it was ejected.
    pub since: Duration,
    /// In what time one call is tried again; zero while that call is awaited or under way.
    pub next_probe: Duration,
    /// How often in a row it was ejected, this time included.
    pub times: u32,
}
