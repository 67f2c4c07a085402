//! Follows the primary of a link to one Redis: the server in use may become a replica of another one, and its name may get
//! another address. The watchdog then looks where the name leads now. The server in use stays until a primary is found there,
//! so that reads go on while there is no primary.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connection::Connection;
use crate::connection::hello::Hello;
use crate::error::{LinkError, Trouble};
use crate::health::Condition;
use crate::node::{Kind, Node, Shared};
use crate::script::Request;

/// The interval between two looks at the addresses of a name, give or take a quarter.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(4);

/// The longest time for a resolver's answer that is still used.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// The pause before the second look for a primary; each later pause is twice the one before, up to [`SEARCH_PAUSE_MAX`].
const SEARCH_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between two looks for a primary: a promotion is found within it.
const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The state of the search for a primary.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Search {
    /// Counts the times that all connections went to another server.
    moved: u64,
    /// Set while the server in use is a replica.
    demoted: bool,
    /// Set once a look found no primary since the server became a replica.
    looked: bool,
}

/// Tells when the connections of a node go to another server.
#[derive(Debug)]
pub(crate) struct Moves {
    search: watch::Receiver<Search>,
    seen: u64,
}

impl Moves {
    /// Resolves once the connections have gone to another server since this was made. Cancel-safe.
    pub(crate) async fn moved(&mut self) {
        let seen = self.seen;
        if self.search.wait_for(|search| search.moved != seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Node {
    /// Sends one command. If the server has become a replica and another one is the primary, the command is sent once more
    /// there, because a replica has not done it.
    pub(crate) async fn follow(&self, request: Request<'_>, deadline: Instant) -> Result<Value, LinkError> {
        let before = self.shared.moved.load(Ordering::Acquire);
        let reply = self.request(request, false, deadline).await?;
        if is_replicas(&reply) && self.shared.found_primary(before, deadline).await {
            return self.request(request, false, deadline).await;
        }
        Ok(reply)
    }

    pub(crate) fn moves(&self) -> Moves {
        let search = self.shared.search.subscribe();
        let seen = search.borrow().moved;
        Moves { search, seen }
    }
}

fn is_replicas(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if Trouble::of_code(error.code()) == Some(Trouble::Replica))
}

impl Shared {
    /// Waits for the watchdog's first look for a primary; later calls do not wait. Returns whether one was found since `before`.
    async fn found_primary(&self, before: u64, deadline: Instant) -> bool {
        if self.kind() != Kind::Single {
            return false;
        }
        let mut search = self.search.subscribe();
        let ended = search.wait_for(|search| search.moved != before || search.looked || !search.demoted);
        matches!(timeout_at(deadline, ended).await, Ok(Ok(search)) if search.moved != before)
    }

    /// The server in use is a replica.
    pub(crate) fn is_demoted(&self) {
        if let Some(condition) = Condition::of_trouble(Trouble::Replica) {
            self.refuses(condition);
        }
        if self.kind() == Kind::Single
            && self.search.send_if_modified(|search| !std::mem::replace(&mut search.demoted, true))
        {
            self.suspicion.notify_one();
        }
    }

    /// Records the role that the server in use tells of itself.
    pub(crate) fn heard(&self, hello: Option<Hello>) {
        match hello {
            Some(hello) if hello.replica => self.is_demoted(),
            Some(_) => {
                self.search.send_if_modified(|search| {
                    search.looked = false;
                    std::mem::replace(&mut search.demoted, false)
                });
            }
            None => {}
        }
    }

    /// Returns whether the primary is to be looked for.
    pub(crate) fn is_searching(&self) -> bool {
        self.stray.load(Ordering::Acquire) || self.search.borrow().demoted
    }

    /// Looks once for a primary at every address of the name, and moves to one that is found. Returns whether one was.
    pub(crate) async fn search(&self) -> bool {
        if self.search.borrow().demoted {
            self.peers().into_iter().for_each(|peer| self.dialer.shun(peer));
        }
        let found = self.look().await;
        let moved = found.is_some();
        match found {
            Some(connection) => self.move_to(connection),
            None => self.search.send_modify(|search| search.looked = search.demoted),
        }
        moved
    }

    async fn look(&self) -> Option<Connection> {
        let mut seen = Vec::new();
        loop {
            let connection =
                Connection::open(&self.dialer, &self.settings, &self.scripts.all()).await.ok()?;
            if !connection.is_replica() {
                return Some(connection);
            }
            self.dialer.shun(connection.peer);
            if seen.contains(&connection.peer) {
                return None;
            }
            seen.push(connection.peer);
        }
    }

    /// Leaves the server in use for another one, which has answered. Calls in flight end where they began.
    pub(crate) fn move_to(&self, connection: Connection) {
        let (endpoint, role, address) = (&self.endpoint, self.settings.role, connection.peer);
        tracing::info!(%endpoint, role, %address, "the connections to redis go to another server");
        metrics::counter!("shoal_redis_moves_total", "role" => role).increment(1);
        self.dialer.prefer(address);
        self.replace(0, Some(connection));
        for slot in 1..self.slots.len() {
            self.replace(slot, None);
        }
        self.stray.store(false, Ordering::Release);
        self.writes_again();
        let moved = self.moved.fetch_add(1, Ordering::AcqRel) + 1;
        self.search.send_replace(Search { moved, demoted: false, looked: false });
        self.up();
    }
}

/// Returns the pause after a number of looks that found no primary.
pub(crate) fn search_pause(looks: u32) -> Duration {
    SEARCH_PAUSE_MAX.min(SEARCH_PAUSE.saturating_mul(1 << looks.min(8)))
}

/// Resolves the name of a single Redis at intervals, so that connections to addresses that the name no longer has are ended.
pub(crate) async fn follow_name(node: Arc<Shared>) {
    while node.kind() != Kind::OfCluster {
        sleep(RESOLVE_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        // One that cannot be asked says nothing.
        let Ok(Ok(addresses)) = timeout(RESOLVE_DEADLINE, node.dialer.resolve()).await else { continue };
        let gone = |peer: &SocketAddr| !addresses.contains(peer);
        let stray = !addresses.is_empty() && node.peers().iter().any(gone);
        if node.stray.swap(stray, Ordering::AcqRel) != stray && stray {
            node.suspicion.notify_one();
        }
    }
}
