//! A target: its connections, its state, and its snapshot for the outside.

pub(crate) mod backoff;
pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod feedback;
pub(crate) mod keepalive;
pub(crate) mod stream_limit;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::endpoint::connection::{CloseReason, Connection};
use crate::load::Load;
use crate::options::Options;
use crate::snapshot::{EndpointSnapshot, EndpointState};
use crate::stores::{Backing, Sight};

/// The time within which a server that closed its connection gracefully and is back counts as the same process: it limits the
/// age of connections. A server that restarts takes longer, or does not close gracefully.
const SAME_WITHIN: Duration = Duration::from_millis(250);

/// A target. Its task and the drivers of its connections change it; everyone reads it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) load: Arc<Load>,
    status: Mutex<Status>,
}

#[derive(Debug)]
struct Status {
    /// The state by its connections and its own health report: never [`EndpointState::Ejected`] nor
    /// [`EndpointState::OtherStore`].
    state: EndpointState,
    reason: String,
    /// The store that it reported last.
    backing: Backing,
    /// The reason why it must not be used although it serves.
    refused: Option<String>,
    /// The connections in use, the oldest first.
    connections: Arc<[Arc<Connection>]>,
    /// The time of the last graceful close, if it served until then.
    left: Option<Instant>,
}

impl Status {
    fn is_ready(&self) -> bool {
        self.state == EndpointState::Ready && self.refused.is_none()
    }
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, weight: u32, options: &Options) -> Endpoint {
        Endpoint {
            address,
            load: Arc::new(Load::new(weight, options, Instant::now())),
            status: Mutex::new(Status {
                state: EndpointState::Connecting,
                reason: "not tried yet".into(),
                backing: Backing::default(),
                refused: None,
                connections: Arc::from([]),
                left: None,
            }),
        }
    }

    /// Returns the connections for calls, the oldest first; `None` while the endpoint is not ready.
    pub(crate) fn ready_connections(&self) -> Option<Arc<[Arc<Connection>]>> {
        let status = self.status();
        status.is_ready().then(|| status.connections.clone())
    }

    pub(crate) fn snapshot(&self, now: Instant) -> EndpointSnapshot {
        let status = self.status();
        let ejection = self.load.outlier.snapshot(now);
        let (state, reason) = match (&ejection, status.state) {
            (_, EndpointState::Ready) if status.refused.is_some() => {
                (EndpointState::OtherStore, status.refused.clone().unwrap_or_default())
            }
            (Some(ejection), EndpointState::Ready) => (EndpointState::Ejected, ejection.reason.clone()),
            (_, state) => (state, status.reason.clone()),
        };
        EndpointSnapshot {
            address: self.address,
            weight: self.load.weight(),
            state,
            reason,
            backing: status.backing.clone(),
            ewma: Duration::from_secs_f64(self.load.ewma_s(now).max(0.0)),
            penalty: self.load.penalty(now),
            connections: status.connections.len(),
            in_flight: self.load.in_flight(),
            streams: self.load.streams(),
            calls: self.load.calls(),
            successes: self.load.successes(),
            failures: self.load.failures(),
            ramp: self.load.ramp(now),
            ejection,
        }
    }

    /// Returns whether it reports that it serves, on the same store as the others.
    pub(crate) fn is_ready(&self) -> bool {
        self.status().is_ready()
    }

    /// Returns what the choice of a store needs to know of it.
    pub(crate) fn sight(&self) -> Sight {
        let status = self.status();
        match status.state {
            EndpointState::Connecting => Sight::Lost,
            // Its health could not be asked: it has not left on purpose.
            EndpointState::NotServing if status.backing.store.is_empty() => Sight::Lost,
            EndpointState::Ready if !status.backing.store.is_empty() => {
                Sight::Serving(status.backing.clone())
            }
            _ => Sight::Left,
        }
    }

    /// Sets the reason why it must not be used although it serves, or removes it.
    pub(crate) fn set_refused(&self, reason: Option<&String>) {
        self.status().refused = reason.cloned();
    }

    /// Returns the oldest connection, which is the one that is asked for health.
    pub(crate) fn first_connection(&self) -> Option<Arc<Connection>> {
        self.status().connections.first().cloned()
    }

    /// Adds a connection. With the first one the state is not known yet.
    pub(crate) fn attach(&self, connection: Arc<Connection>) {
        let mut status = self.status();
        if status.connections.is_empty() {
            status.state = EndpointState::Connecting;
            status.reason = "waiting for the first health answer".into();
        }
        status.connections = status.connections.iter().cloned().chain([connection]).collect();
    }

    /// Sets the reported state, unless the endpoint has lost its connections meanwhile. Returns the state before, if anything
    /// changed.
    pub(crate) fn report(
        &self,
        state: EndpointState,
        reason: String,
        backing: Backing,
    ) -> Option<EndpointState> {
        let mut status = self.status();
        let is_same = status.state == state && status.reason == reason && status.backing == backing;
        if status.connections.is_empty() || is_same {
            return None;
        }
        (status.reason, status.backing) = (reason, backing);
        Some(std::mem::replace(&mut status.state, state))
    }

    /// Removes `connection`, for `reason`. Returns false if it was removed already.
    pub(crate) fn detach(&self, connection: &Arc<Connection>, reason: String) -> bool {
        let mut status = self.status();
        let connections: Arc<[Arc<Connection>]> =
            status.connections.iter().filter(|known| !Arc::ptr_eq(known, connection)).cloned().collect();
        if connections.len() == status.connections.len() {
            return false;
        }
        if connections.is_empty() {
            let served = status.state == EndpointState::Ready;
            status.left = left(served, connection.close_reason(), Instant::now());
            status.state = EndpointState::Connecting;
            status.reason = reason;
        }
        status.connections = connections;
        true
    }

    /// Returns whether the process that serves now is the one that served before.
    pub(crate) fn is_same_process(&self, now: Instant) -> bool {
        is_same(self.status().left, now)
    }

    pub(crate) fn failed_to_connect(&self, reason: String) -> bool {
        let mut status = self.status();
        let news = status.reason != reason;
        status.state = EndpointState::Connecting;
        status.reason = reason;
        news
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time of a close after which the same process may be back in a moment.
fn left(served: bool, close_reason: CloseReason, now: Instant) -> Option<Instant> {
    (served && close_reason == CloseReason::Graceful).then_some(now)
}

/// Returns whether the reconnected server is the same process.
fn is_same(left: Option<Instant>, now: Instant) -> bool {
    left.is_some_and(|left| now.saturating_duration_since(left) < SAME_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quick_graceful_return_is_same_process() {
        let now = Instant::now();
        let left_politely = left(true, CloseReason::Graceful, now);
        assert!(is_same(left_politely, now + SAME_WITHIN / 2));
        assert!(!is_same(left_politely, now + SAME_WITHIN), "a restart takes as long");
        assert!(!is_same(left(true, CloseReason::Other, now), now), "it was killed");
        assert!(!is_same(left(true, CloseReason::EnhanceYourCalm, now), now));
        assert!(!is_same(left(false, CloseReason::Graceful, now), now), "it did not serve");
        assert!(!is_same(None, now));
    }
}
