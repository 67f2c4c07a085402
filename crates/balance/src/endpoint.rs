//! One target: its connections, what is known of it, and how it looks from outside.

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

/// A server that said good-bye and is back this soon is the same process on another connection: it ages them. One that
/// restarts takes longer, or does not say good-bye.
const SAME_WITHIN: Duration = Duration::from_millis(250);

/// The state of one target. Changed by its task and by the drivers of its connections, read by everyone.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) load: Arc<Load>,
    status: Mutex<Status>,
}

#[derive(Debug)]
struct Status {
    /// What it is by its connections and its own word: neither [`EndpointState::Ejected`] nor [`EndpointState::OtherStore`].
    state: EndpointState,
    reason: String,
    /// What it said last of its store.
    backing: Backing,
    /// Why it must not be used although it serves.
    refused: Option<String>,
    /// The oldest first.
    connections: Arc<[Arc<Connection>]>,
    /// When it served last, if it was left with a good-bye.
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

    /// Returns the connections that calls may be sent on, the oldest first: `None` while it is not ready.
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

    /// Whether it serves by its own word, and on the store that the others have.
    pub(crate) fn is_ready(&self) -> bool {
        self.status().is_ready()
    }

    /// How it is seen by those who choose a store.
    pub(crate) fn sight(&self) -> Sight {
        let status = self.status();
        match status.state {
            EndpointState::Connecting => Sight::Lost,
            // Its health could not be asked: that is no good-bye.
            EndpointState::NotServing if status.backing.store.is_empty() => Sight::Lost,
            EndpointState::Ready if !status.backing.store.is_empty() => {
                Sight::Serving(status.backing.clone())
            }
            _ => Sight::Left,
        }
    }

    /// Says whether it must not be used although it serves, and why.
    pub(crate) fn set_refused(&self, reason: Option<&String>) {
        self.status().refused = reason.cloned();
    }

    /// The oldest connection: the one that is asked for health.
    pub(crate) fn first_connection(&self) -> Option<Arc<Connection>> {
        self.status().connections.first().cloned()
    }

    /// Adds a connection. The first one makes known nothing yet.
    pub(crate) fn attach(&self, connection: Arc<Connection>) {
        let mut status = self.status();
        if status.connections.is_empty() {
            status.state = EndpointState::Connecting;
            status.reason = "waiting for the first health answer".into();
        }
        status.connections = status.connections.iter().cloned().chain([connection]).collect();
    }

    /// Says what is known of the endpoint, unless it has lost its connections meanwhile. Returns the state before, if
    /// anything changed.
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

    /// Takes `connection` out, for `reason`. Returns false if it was out already.
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

    /// Whether what serves now is the process that served before.
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

/// When an endpoint was left, if the same process may be back in a moment.
fn left(served: bool, close_reason: CloseReason, now: Instant) -> Option<Instant> {
    (served && close_reason == CloseReason::Graceful).then_some(now)
}

/// Whether who serves at `now` is who served when it was left.
fn is_same(left: Option<Instant>, now: Instant) -> bool {
    left.is_some_and(|left| now.saturating_duration_since(left) < SAME_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_said_good_bye_and_is_back_at_once_is_the_same_and_nobody_else() {
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
