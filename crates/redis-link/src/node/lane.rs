//! Lanes: the connections that a call may use. Reads do not wait behind writes, which Redis may hold back for long
//! (`CLIENT PAUSE … WRITE`, as a planned fail-over does it) and with them whatever follows on their connection.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, Pipeline};
use tokio::time::{Instant, timeout_at};

use tokio::sync::OwnedSemaphorePermit;

use crate::connection::Connection;
use crate::error::LinkError;
use crate::node::Shared;

/// The number of calls on one connection from which on the next one is used. Calls that share a connection share its system
/// calls, here and in Redis.
const BUSY: usize = 512;

/// The silence after which a connection with calls in flight no longer helps out the other lane.
const STUCK_AFTER: Duration = Duration::from_millis(20);

/// The number of big values on their way from or to one node at once. It bounds their memory and the wait for each other.
pub(crate) const BULK_MAX: usize = 8;

/// The kind of a call: Redis may hold back writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Read,
    Write,
}

impl Lane {
    /// Classifies a command: a command that is not known to read is a write, and so is a script unless it runs as one that reads.
    pub(crate) fn of_command(command: &Cmd) -> Lane {
        if reads(command) { Lane::Read } else { Lane::Write }
    }

    pub(crate) fn of_pipeline(pipeline: &Pipeline) -> Lane {
        if pipeline.cmd_iter().all(reads) { Lane::Read } else { Lane::Write }
    }

    /// Returns the lane's part of a node's connections: the first half is for writes, and a single connection for both lanes.
    pub(crate) fn slots(self, connections: usize) -> Range<usize> {
        let writes = connections.div_ceil(2);
        match self {
            Lane::Write => 0..writes,
            Lane::Read if writes == connections => 0..connections,
            Lane::Read => writes..connections,
        }
    }
}

fn reads(command: &Cmd) -> bool {
    let Some(Arg::Simple(name)) = command.args_iter().next() else { return false };
    let mut upper = [0; 16];
    let Some(upper) = upper.get_mut(..name.len()) else { return false };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    matches!(
        &*upper,
        b"GET"
            | b"MGET"
            | b"GETRANGE"
            | b"STRLEN"
            | b"EXISTS"
            | b"TYPE"
            | b"TTL"
            | b"PTTL"
            | b"HGET"
            | b"HMGET"
            | b"HGETALL"
            | b"HLEN"
            | b"LLEN"
            | b"LRANGE"
            | b"LINDEX"
            | b"SMEMBERS"
            | b"SCARD"
            | b"ZSCORE"
            | b"ZMSCORE"
            | b"ZCARD"
            | b"ZCOUNT"
            | b"ZRANGE"
            | b"ZRANGEBYSCORE"
            | b"XLEN"
            | b"XINFO"
            | b"XRANGE"
            | b"XREVRANGE"
            | b"EVALSHA_RO"
            | b"PING"
            | b"HELLO"
            | b"TIME"
            | b"INFO"
            | b"CLIENT"
            | b"CLUSTER"
            | b"CONFIG"
            | b"SCRIPT"
            | b"ASKING"
    )
}

/// A connection in use by a call.
pub(crate) struct Lease {
    pub(crate) requests: MultiplexedConnection,
    pub(crate) connection: Arc<Connection>,
    pub(crate) lane: Lane,
    /// The lane of a call with a big value.
    pub(crate) bulk: Option<OwnedSemaphorePermit>,
}

impl Lease {
    fn of(connection: &Arc<Connection>, lane: Lane) -> Lease {
        if connection.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            connection.progress.asked();
        }
        Lease { requests: connection.requests.clone(), connection: Arc::clone(connection), lane, bulk: None }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Returns the connection for big values, which is made when the first of them comes; waits for it and for a turn.
    pub(crate) async fn lease_bulk(&self, lane: Lane, deadline: Instant) -> Result<Lease, LinkError> {
        if !self.bulk_wanted.swap(true, Ordering::AcqRel) {
            self.suspicion.notify_one();
        }
        let place = || self.settings.place(&self.endpoint);
        let turn = timeout_at(deadline, Arc::clone(&self.bulk).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(LinkError::Unavailable(format!(
                "{}: {BULK_MAX} big values are on their way",
                place()
            )));
        };
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(reason) = self.refusal(lane) {
                return Err(reason);
            }
            if let Some(connection) = self.connection(self.settings.connections) {
                let mut lease = Lease::of(&connection, lane);
                lease.bulk = Some(turn);
                return Ok(lease);
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(LinkError::Unavailable(format!("{}: still connecting", place())));
            }
        }
    }

    /// Returns the error with which a call must fail at once, if it must.
    fn refusal(&self, lane: Lane) -> Option<LinkError> {
        let of_writes = || self.write_breaker.refusal().filter(|_| lane == Lane::Write);
        self.breaker.refusal().or_else(of_writes)
    }

    /// Returns a live connection; waits for one until the deadline, unless the breaker is open.
    pub(crate) async fn lease(&self, lane: Lane, deadline: Instant) -> Result<Lease, LinkError> {
        if let Some(reason) = self.refusal(lane) {
            return Err(reason);
        }
        if let Some(lease) = self.pick(lane) {
            return Ok(lease);
        }
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(reason) = self.refusal(lane) {
                return Err(reason);
            }
            if let Some(lease) = self.pick(lane) {
                return Ok(lease);
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                let place = self.settings.place(&self.endpoint);
                return Err(LinkError::Unavailable(format!("{place}: still connecting")));
            }
        }
    }

    /// Picks the lane's first live connection that is not busy. If all are busy, picks one of the other lane that is neither
    /// busy nor stuck, or else the lane's connection with the fewest calls. A lane without a live connection uses those of the
    /// other lane.
    pub(crate) fn pick(&self, lane: Lane) -> Option<Lease> {
        let own = lane.slots(self.settings.connections);
        let mut best: Option<(usize, Arc<Connection>)> = None;
        for slot in &self.slots[own.clone()] {
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            let Some(connection) = slot.as_ref().filter(|connection| connection.is_live()) else { continue };
            let in_flight = connection.in_flight.load(Ordering::Relaxed);
            if in_flight < BUSY {
                return Some(Lease::of(connection, lane));
            }
            if best.as_ref().is_none_or(|(fewest, _)| in_flight < *fewest) {
                best = Some((in_flight, Arc::clone(connection)));
            }
        }
        let others = self.slots[..self.settings.connections]
            .iter()
            .enumerate()
            .filter(|(index, _)| !own.contains(index));
        for (_, slot) in others {
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            let Some(connection) = slot.as_ref().filter(|connection| connection.is_live()) else { continue };
            let in_flight = connection.in_flight.load(Ordering::Relaxed);
            let is_stuck = || in_flight > 0 && connection.progress.silence() >= STUCK_AFTER;
            if best.is_none() || (in_flight < BUSY && !is_stuck()) {
                return Some(Lease::of(connection, lane));
            }
        }
        best.map(|(_, connection)| Lease::of(&connection, lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_share_one_connection_only() {
        for (connections, writes, reads) in
            [(1, 0..1, 0..1), (2, 0..1, 1..2), (3, 0..2, 2..3), (4, 0..2, 2..4)]
        {
            assert_eq!(Lane::Write.slots(connections), writes);
            assert_eq!(Lane::Read.slots(connections), reads);
        }
    }

    #[test]
    fn unknown_commands_are_writes() {
        for (name, lane) in [
            ("get", Lane::Read),
            ("EVALSHA_RO", Lane::Read),
            ("EVALSHA", Lane::Write),
            ("SET", Lane::Write),
            ("A-COMMAND-OF-A-MODULE", Lane::Write),
        ] {
            assert_eq!(Lane::of_command(redis::cmd(name).arg("k")), lane, "{name}");
        }
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg("k").cmd("HGETALL").arg("h");
        assert_eq!(Lane::of_pipeline(&pipe), Lane::Read);
        pipe.cmd("DEL").arg("k");
        assert_eq!(Lane::of_pipeline(&pipe), Lane::Write);
    }
}
