//! Detects that Redis holds back writes while it answers reads (`CLIENT PAUSE … WRITE`), and when it takes them again. A
//! connection whose write is held back answers nothing at all, like a dead one. A new connection tells the two apart: it
//! answers PING, and does not answer a write. Meanwhile writes are refused at once, and none of them is done.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::timeout;

use crate::error::LinkError;
use crate::health::{Condition, Refusal};
use crate::node::Shared;
use crate::node::lane::Lane;
use crate::node::watchdog::{Ping, Watchdog, probe};

/// The longest wait for a write that is held back. After it the connection is given up, and another one is tried.
const HELD_MAX: Duration = Duration::from_secs(60);

const WHY: &str = "it answers reads and holds writes back (CLIENT PAUSE)";

/// The write whose answer says that writes are taken again.
pub(crate) type Held = (usize, BoxFuture<'static, Ping>);

impl Watchdog {
    /// Tries a write on the connection in `slot`.
    pub(crate) async fn try_write(&mut self, slot: usize) {
        let Some(connection) = self.node.connection(slot) else { return };
        let mut answer: BoxFuture<'static, Ping> =
            Box::pin(async move { probe(&connection, HELD_MAX).await });
        match timeout(self.node.settings.call_deadline, &mut answer).await {
            Ok(answer) => self.write_ended(slot, answer),
            Err(_) => {
                self.node.holds_writes();
                self.held = Some((slot, answer));
            }
        }
    }

    /// Handles the end of the write in `slot`: it was answered, or its connection died.
    pub(crate) fn write_ended(&mut self, slot: usize, answer: Ping) {
        self.held = None;
        match answer {
            Ping::Dead | Ping::Busy => self.node.replace(slot, None),
            Ping::Refused(error) => self.node.down(error),
            Ping::Refusing(condition) => {
                self.node.writes_again();
                self.node.refuses(condition);
            }
            Ping::Pong | Ping::Writable => {
                self.node.writes_again();
                self.node.up();
            }
        }
    }
}

impl Shared {
    /// Returns whether the slot is for writes alone: reads have other slots.
    pub(crate) fn is_for_writes_alone(&self, slot: usize) -> bool {
        let connections = self.settings.connections;
        Lane::Write.slots(connections).contains(&slot) && !Lane::Read.slots(connections).contains(&slot)
    }

    /// Opens the breaker for writes, because a connection for writes is silent while reads are answered. It stays open until a
    /// write is answered.
    pub(crate) fn doubts_writes(&self) {
        self.doubtful.store(true, Ordering::Release);
        let place = self.settings.place(&self.endpoint);
        self.write_breaker.open(LinkError::Unavailable(format!("{place} does not answer writes")));
    }

    /// Reports that Redis holds back writes: it answers reads, and does not answer a write on a new connection.
    fn holds_writes(&self) {
        self.doubtful.store(true, Ordering::Release);
        self.refusing.store(true, Ordering::Release);
        self.write_breaker.open(LinkError::ReadOnly(WHY.to_owned()));
        self.report.is(Condition::Refusing(WHY, Refusal::Writes));
    }
}
