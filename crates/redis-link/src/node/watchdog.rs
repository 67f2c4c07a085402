//! Keeps a node's connections alive: PINGs them, replaces those that do not answer, and moves the breaker.
//!
//! The watchdog also asks at intervals, in place of a PING, whether a write would be taken, and what the eviction policy is.
//! Only the watchdog connects, one attempt at a time: whatever happens to Redis, a clone causes no connection storm.

mod held_writes;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use redis::{Pipeline, Value};
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::connection::hello::{Hello, Mode};
use crate::connection::{Connection, PROBE};
use crate::error::{self, LinkError, Trouble};
use crate::health::Condition;
use crate::health::eviction::MemoryPolicy;
use crate::node::primary_search;
use crate::node::watchdog::held_writes::Held;
use crate::node::{Kind, Shared};

/// The interval between PINGs while all is well: they find idle connections that died. One of them asks whether a write would be
/// taken. The interval is long because all clones of all roles ask; a call that is refused or not answered asks at once.
const INTERVAL: Duration = Duration::from_secs(5);

/// The interval between PINGs while calls fail or Redis is not in service.
const INTERVAL_SUSPICIOUS: Duration = Duration::from_millis(100);

/// The interval between PINGs while writes are refused.
const INTERVAL_REFUSING: Duration = Duration::from_millis(250);

/// The interval between two looks at the eviction policy, which may be set at any time. A policy that does not suit the role is
/// looked at with every PING.
const POLICY_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until the node is dropped, or tells that it belongs to a Cluster, which has watchdogs of its own.
pub(crate) async fn run(node: Arc<Shared>) {
    let now = Instant::now();
    let mut watchdog = Watchdog {
        of_cluster: node.kind() == Kind::OfCluster,
        node,
        backoff: Backoff::default(),
        made: 0,
        connect_at: now,
        pinged_at: now,
        ping_at: now + INTERVAL,
        probe_at: now,
        policy_at: now + POLICY_INTERVAL,
        search_at: now,
        searches: 0,
        held: None,
    };
    while !watchdog.is_relieved() {
        watchdog.turn().await;
    }
}

pub(crate) struct Watchdog {
    pub(crate) node: Arc<Shared>,
    /// Set if the node belonged to a Cluster from the beginning.
    of_cluster: bool,
    backoff: Backoff,
    /// The number of connections made since all of them answered a PING.
    made: usize,
    connect_at: Instant,
    pinged_at: Instant,
    ping_at: Instant,
    /// The time at which to ask whether a write would be taken.
    probe_at: Instant,
    policy_at: Instant,
    search_at: Instant,
    /// The number of looks for a primary that found none.
    searches: u32,
    /// A write that Redis holds back.
    pub(crate) held: Option<Held>,
}

/// The answer to a PING or a probe.
pub(crate) enum Ping {
    Pong,
    /// The server did not answer in time, and still sends an earlier reply.
    Busy,
    /// Redis answers, and would take a write as far as the answer shows.
    Writable,
    /// Redis answers, and refuses writes.
    Refusing(Condition),
    /// Redis answers that it is not in service, or does not accept this client.
    Refused(LinkError),
    Dead,
}

impl Watchdog {
    async fn turn(&mut self) {
        if !self.node.doubtful.load(Ordering::Acquire) {
            self.held = None;
        }
        if let Some(slot) = self.node.first_down()
            && Instant::now() >= self.connect_at
        {
            self.connect(slot).await;
            if self.is_relieved() {
                return;
            }
        }
        if self.node.is_searching() && Instant::now() >= self.search_at {
            self.search().await;
        }
        if Instant::now() >= self.ping_at {
            let well = self.ping().await;
            self.look_at_policy().await;
            let interval = match well {
                false => INTERVAL_SUSPICIOUS,
                true if self.node.refusing.load(Ordering::Acquire) => INTERVAL_REFUSING,
                true => INTERVAL,
            };
            self.pinged_at = Instant::now();
            self.ping_at = self.pinged_at + interval;
        }
        let wake = match self.node.first_down() {
            Some(_) => self.connect_at.min(self.ping_at),
            None => self.ping_at,
        };
        let wake = if self.node.is_searching() { wake.min(self.search_at) } else { wake };
        tokio::select! {
            () = sleep_until(wake) => {}
            // Replaced in the next turn.
            () = self.node.one_ended() => {}
            (slot, answer) = held_back(&mut self.held) => self.write_ended(slot, answer),
            () = self.node.suspicion.notified() => {
                // Failing calls ask for one PING each; they share one.
                self.ping_at = self.ping_at.min(self.pinged_at + INTERVAL_SUSPICIOUS);
            }
        }
    }

    /// Makes one attempt to fill `slot`.
    async fn connect(&mut self, slot: usize) {
        let attempt =
            Connection::open(&self.node.dialer, &self.node.settings, &self.node.scripts.all()).await;
        let outcome = if attempt.is_ok() { "ok" } else { "failed" };
        metrics::counter!("shoal_redis_connects_total", "role" => self.node.settings.role, "outcome" => outcome)
            .increment(1);
        let used = attempt.and_then(|connection| self.greet(&connection).map(|()| connection));
        match used {
            Ok(_) if self.is_relieved() => self.node.up(),
            Ok(connection) => {
                self.use_for(slot, connection);
                if self.node.doubtful.load(Ordering::Acquire) && self.node.is_for_writes_alone(slot) {
                    self.try_write(slot).await;
                }
                self.made += 1;
                // More than there are slots: they die as they are made.
                let dying = self.made > self.node.slots.len();
                let pause = if dying { self.backoff.next() } else { Duration::ZERO };
                self.connect_at = Instant::now() + pause;
                self.ping_at = self.ping_at.min(Instant::now() + INTERVAL_SUSPICIOUS);
            }
            Err(error) => {
                self.node.replace(slot, None);
                if self.node.live().is_empty() {
                    self.node.down(error);
                }
                self.connect_at = Instant::now() + self.backoff.next();
            }
        }
    }

    /// Learns the server's kind from a new connection. Fails if a link cannot use such a server.
    fn greet(&self, connection: &Connection) -> Result<(), LinkError> {
        let node = &self.node;
        let unfit = |what: &str| {
            let place = node.settings.place(&node.endpoint);
            Err(LinkError::Unavailable(format!("{place} {what}")))
        };
        match (node.kind(), connection.hello.map_or(Mode::Standalone, |hello| hello.mode)) {
            (_, Mode::Sentinel) => unfit(
                "is a Sentinel, which keeps no data: give redis+sentinel://HOST:PORT/NAME, or the URL of the Redis it watches",
            ),
            (Kind::Single, Mode::Cluster) => {
                unfit("is a node of a Redis Cluster and was none when this process started: restart it")
            }
            (Kind::Unknown, Mode::Cluster) => {
                node.is_a(Kind::OfCluster);
                Ok(())
            }
            (Kind::Unknown, Mode::Standalone) => {
                node.is_a(Kind::Single);
                Ok(())
            }
            (Kind::Single | Kind::OfCluster, Mode::Standalone) | (Kind::OfCluster, Mode::Cluster) => Ok(()),
        }
    }

    /// Puts a connection into its slot. Connections to two servers are never used together: the newer server is the one to use,
    /// unless it is a replica.
    fn use_for(&self, slot: usize, mut connection: Connection) {
        let (node, peer, hello) = (&self.node, connection.peer, connection.hello);
        node.has_policy(connection.memory_policy.take());
        // Behind one address another server may answer.
        let process = |connection: &Connection| connection.process.map(|met| met.process());
        let other =
            |live: &Connection| process(live).zip(process(&connection)).is_some_and(|(one, two)| one != two);
        let moved = node.dialer.has_moved_to(peer) || node.live().iter().any(|(_, live)| other(live));
        if node.kind() == Kind::Single && moved {
            if connection.is_replica() && !node.peers().is_empty() {
                node.dialer.shun(peer);
                return;
            }
            node.move_to(connection);
        } else {
            node.dialer.prefer(peer);
            node.replace(slot, Some(connection));
        }
        node.heard(hello);
        node.up();
    }

    /// Looks for the primary if the server in use is a replica or the name no longer leads to it.
    async fn search(&mut self) {
        let found = self.node.search().await;
        self.searches = if found { 0 } else { self.searches.saturating_add(1) };
        let now = Instant::now();
        self.search_at = if found { now } else { now + primary_search::search_pause(self.searches - 1) };
        self.connect_at = now;
        self.ping_at = self.ping_at.min(now + INTERVAL_SUSPICIOUS);
    }

    /// Returns whether the server turned out to be a node of a Cluster, whose watchdogs take over.
    fn is_relieved(&self) -> bool {
        !self.of_cluster && self.node.kind() == Kind::OfCluster
    }

    /// Asks for the eviction policy if that is due.
    async fn look_at_policy(&mut self) {
        if Instant::now() < self.policy_at && self.node.loses().is_none() {
            return;
        }
        // The last one is for reads.
        let Some((_, connection)) = self.node.live().pop() else { return };
        let mut requests = connection.requests.clone();
        self.policy_at = Instant::now() + POLICY_INTERVAL;
        let ask = MemoryPolicy::ask();
        if let Ok(Ok(reply)) =
            timeout(self.node.settings.call_deadline, requests.send_packed_command(&ask)).await
        {
            self.node.has_policy(MemoryPolicy::of_reply(reply));
        }
    }

    /// Returns whether PINGs ask for the server's role. In a Cluster the slot map tells it.
    fn asks_role(&self) -> bool {
        self.node.kind() == Kind::Single
    }

    /// PINGs every live connection, ends the dead ones, and moves the breaker. Returns whether all is well.
    async fn ping(&mut self) -> bool {
        let node = &self.node;
        let held = self.held.is_some();
        let mut live = node.live();
        // What is held back answers nothing.
        live.retain(|(slot, _)| !(held && node.is_for_writes_alone(*slot)));
        if live.is_empty() {
            return false;
        }
        // What takes longer than a call may fails the calls as well.
        let deadline = node.settings.call_deadline;
        // One of them is asked for more.
        let probe = !held && (Instant::now() >= self.probe_at || node.refusing.load(Ordering::Acquire));
        let alone = node.settings.connections == 1;
        let role = self.asks_role();
        let pings = live.into_iter().enumerate().map(|(at, (slot, connection))| async move {
            let (answer, hello) = if probe && at == 0 && (alone || node.is_for_writes_alone(slot)) {
                (self::probe(&connection, deadline).await, None)
            } else {
                ping(&connection, deadline, role).await
            };
            (slot, answer, hello)
        });
        let mut pings: FuturesUnordered<_> = pings.collect();
        let (mut answered, mut refused, mut busy) = (false, false, false);
        while let Some((slot, outcome, hello)) = pings.next().await {
            node.heard(hello);
            match outcome {
                Ping::Refused(error) => {
                    refused = true;
                    node.down(error);
                }
                Ping::Dead => {
                    // Before a write takes the way of reads.
                    if node.is_for_writes_alone(slot) {
                        node.doubts_writes();
                    }
                    node.replace(slot, None);
                }
                Ping::Busy => busy = true,
                Ping::Pong | Ping::Writable | Ping::Refusing(_) if refused => {}
                answer => {
                    answered = true;
                    match answer {
                        Ping::Refusing(condition) => node.refuses(condition),
                        Ping::Writable => node.takes_writes(),
                        _ => {}
                    }
                    node.up();
                }
            }
        }
        if probe {
            // An only connection is asked either in its turn.
            let every = if alone { INTERVAL.mul_f32(1.5) } else { INTERVAL };
            self.probe_at = Instant::now() + every;
        }
        if refused {
            return false;
        }
        if !answered && !busy {
            let place = node.settings.place(&node.endpoint);
            node.down(LinkError::Unavailable(format!("{place} does not answer PING within {deadline:?}")));
        }
        if node.first_down().is_none() && !busy {
            self.backoff.reset();
            self.made = 0;
            return true;
        }
        false
    }
}

/// Returns what an answer to PING or to the probe says of the node.
fn read(reply: Result<Value, redis::RedisError>, unknown: fn(LinkError) -> Ping) -> Ping {
    match reply {
        Ok(Value::ServerError(error)) => match Trouble::of_code(error.code()) {
            Some(trouble @ (Trouble::NoPassword | Trouble::WrongPassword)) => Ping::Refused(trouble.error()),
            // Nobody asked for what this user may not do.
            Some(Trouble::NotPermitted) => Ping::Writable,
            Some(trouble) => Condition::of_trouble(trouble).map_or(Ping::Pong, Ping::Refusing),
            None if error::is_out_of_service(error.code()) => Ping::Refused(LinkError::from_server(&error)),
            None => unknown(LinkError::Unavailable(format!("redis answers PING with {error}"))),
        },
        Ok(_) => Ping::Writable,
        Err(_) => Ping::Dead,
    }
}

/// Sends a PING and, with `role`, asks whether the server is a replica.
async fn ping(connection: &Connection, deadline: Duration, role: bool) -> (Ping, Option<Hello>) {
    let mut requests = connection.requests.clone();
    let mut ping = Pipeline::with_capacity(2);
    ping.cmd("PING");
    if role {
        ping.add_command(Hello::ask());
    }
    match timeout(deadline, requests.send_packed_commands(&ping, 0, ping.len())).await {
        Ok(Ok(replies)) => {
            let mut replies = replies.into_iter();
            let pong = read(Ok(replies.next().unwrap_or(Value::Nil)), Ping::Refused);
            let hello = replies.next().and_then(Hello::of_reply);
            // A PONG says nothing of writes.
            (if matches!(pong, Ping::Writable) { Ping::Pong } else { pong }, hello)
        }
        Ok(Err(_)) => (Ping::Dead, None),
        Err(_) => (unanswered(connection, deadline), None),
    }
}

/// Asks whether a write would be taken.
pub(crate) async fn probe(connection: &Connection, deadline: Duration) -> Ping {
    let mut requests = connection.requests.clone();
    let asked = async {
        let reply = requests.send_packed_command(&PROBE.evalsha(&[], &[])).await?;
        if !matches!(&reply, Value::ServerError(error) if error.code() == "NOSCRIPT") {
            return Ok(reply);
        }
        let mut load = redis::pipe();
        load.add_command(PROBE.load()).add_command(PROBE.evalsha(&[], &[]));
        let mut replies = requests.send_packed_commands(&load, 0, 2).await?;
        Ok(replies.pop().unwrap_or(Value::Nil))
    };
    // A Redis that knows no flags of scripts cannot say.
    match timeout(deadline, asked).await {
        Ok(reply) => read(reply, |_| Ping::Writable),
        Err(_) => unanswered(connection, deadline),
    }
}

/// Judges a connection that did not answer in time. Bytes that came meanwhile belong to an earlier reply, and show that the
/// server lives.
fn unanswered(connection: &Connection, deadline: Duration) -> Ping {
    if connection.progress.heard_within(deadline) { Ping::Busy } else { Ping::Dead }
}

/// Waits for the answer to the write that Redis holds back; for ever if there is none.
async fn held_back(held: &mut Option<Held>) -> (usize, Ping) {
    match held {
        Some((slot, answer)) => (*slot, answer.await),
        None => std::future::pending().await,
    }
}
