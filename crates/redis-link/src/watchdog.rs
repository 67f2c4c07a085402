//! Keeps a node's connections alive: PINGs them, replaces those that do not answer, and moves the breaker.
//!
//! It also asks now and then, in place of a PING, whether a write would be taken, and what Redis does when its memory is full.
//! It alone connects, one attempt at a time: whatever happens to Redis, a clone is no connection storm.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::error::{self, LinkError, Trouble};
use crate::eviction::MemoryPolicy;
use crate::health::Condition;
use crate::node::Shared;
use crate::script::Script;

/// Between PINGs while all is well, each of one connection: idle ones that died are found by it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between PINGs while calls fail or Redis is not in service.
const INTERVAL_SUSPICIOUS: Duration = Duration::from_millis(100);

/// Between PINGs while writes are refused.
const INTERVAL_REFUSING: Duration = Duration::from_millis(250);

/// Between two questions whether a write would be taken, while all is well: a call that is refused finds out at once.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at the eviction policy, which may be set at any time. One that does not suit the role is looked at with
/// every PING.
const POLICY_INTERVAL: Duration = Duration::from_secs(10);

/// Has no keys and writes nothing, and is refused as a script that writes would be: a script that states flags, and none that
/// says otherwise, is taken for one (Redis 7, "Script flags").
pub(crate) static PROBE: LazyLock<Script> = LazyLock::new(|| Script::new("probe", "#!lua\nreturn 0"));

/// Runs until the node is dropped.
pub(crate) async fn run(node: Arc<Shared>) {
    let now = Instant::now();
    let mut watchdog = Watchdog {
        node,
        backoff: Backoff::default(),
        made: 0,
        connect_at: now,
        pinged_at: now,
        ping_at: now + INTERVAL,
        probe_at: now,
        policy_at: now + POLICY_INTERVAL,
        well: false,
        turn: 0,
    };
    loop {
        watchdog.turn().await;
    }
}

struct Watchdog {
    node: Arc<Shared>,
    backoff: Backoff,
    /// Connections made since all of them answered a PING.
    made: usize,
    connect_at: Instant,
    pinged_at: Instant,
    ping_at: Instant,
    probe_at: Instant,
    policy_at: Instant,
    /// All connections answered, and no call has failed since.
    well: bool,
    /// Counts the PINGs that went to one connection.
    turn: usize,
}

/// A PING's answer.
enum Ping {
    Pong,
    /// Redis answers, and would take a write, as far as can be told.
    Writable,
    /// Redis answers, and refuses writes.
    Refusing(Condition),
    /// Redis answers, and says that it is not in service, or not for this client.
    Refused(LinkError),
    Dead,
}

impl Watchdog {
    async fn turn(&mut self) {
        if let Some(slot) = self.node.first_down()
            && Instant::now() >= self.connect_at
        {
            self.connect(slot).await;
        }
        if Instant::now() >= self.ping_at {
            let well = (self.is_quiet() && self.ping_one().await) || self.ping().await;
            self.well = well;
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
        tokio::select! {
            () = sleep_until(wake) => {}
            // Replaced in the next turn.
            () = self.node.one_ended() => {}
            () = self.node.suspicion.notified() => {
                self.well = false;
                // Failing calls ask for one PING each; they share one.
                self.ping_at = self.ping_at.min(self.pinged_at + INTERVAL_SUSPICIOUS);
            }
        }
    }

    /// One attempt to fill `slot`.
    async fn connect(&mut self, slot: usize) {
        let attempt =
            Connection::open(&self.node.endpoint, &self.node.settings, &self.node.scripts.all()).await;
        let outcome = if attempt.is_ok() { "ok" } else { "failed" };
        metrics::counter!("redis_connects_total", "role" => self.node.settings.role, "outcome" => outcome)
            .increment(1);
        match attempt {
            Ok(mut connection) => {
                self.node.has_policy(connection.memory_policy.take());
                self.node.replace(slot, Some(connection));
                self.node.up();
                self.made += 1;
                // More than there are slots: they die as they are made.
                let dying = self.made > self.node.settings.connections;
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

    /// Asks what Redis does when its memory is full, if that is due.
    async fn look_at_policy(&mut self) {
        if Instant::now() < self.policy_at && self.node.loses().is_none() {
            return;
        }
        let Some((_, mut requests)) = self.node.live().into_iter().next() else { return };
        self.policy_at = Instant::now() + POLICY_INTERVAL;
        let ask = MemoryPolicy::ask();
        if let Ok(Ok(reply)) =
            timeout(self.node.settings.call_deadline, requests.send_packed_command(&ask)).await
        {
            self.node.has_policy(MemoryPolicy::of_reply(reply));
        }
    }

    /// Whether nothing more is to be found out than that Redis is there.
    fn is_quiet(&self) -> bool {
        self.well && Instant::now() < self.probe_at && !self.node.refusing.load(Ordering::Acquire)
    }

    /// PINGs one connection, each in its turn: enough to know that Redis is there. True if it is, and no connection is missing.
    async fn ping_one(&mut self) -> bool {
        let mut live = self.node.live();
        if live.is_empty() || self.node.first_down().is_some() {
            return false;
        }
        self.turn = self.turn.wrapping_add(1);
        let (_, requests) = live.swap_remove(self.turn % live.len());
        if !matches!(ping(requests, self.node.settings.call_deadline).await, Ping::Pong) {
            return false;
        }
        self.node.up();
        true
    }

    /// PINGs every live connection, ends the dead ones, and moves the breaker. True if all is well.
    async fn ping(&mut self) -> bool {
        let node = &self.node;
        let live = node.live();
        if live.is_empty() {
            return false;
        }
        // What takes longer than a call may fails the calls as well.
        let deadline = node.settings.call_deadline;
        // One of them is asked for more.
        let probe = Instant::now() >= self.probe_at || node.refusing.load(Ordering::Acquire);
        let pings = live.into_iter().enumerate().map(|(at, (slot, requests))| async move {
            let answer = if probe && at == 0 {
                self::probe(requests, deadline).await
            } else {
                ping(requests, deadline).await
            };
            (slot, answer)
        });
        let mut pings: FuturesUnordered<_> = pings.collect();
        let (mut answered, mut refused) = (false, false);
        while let Some((slot, outcome)) = pings.next().await {
            match outcome {
                Ping::Refused(error) => {
                    refused = true;
                    node.down(error);
                }
                Ping::Dead => node.replace(slot, None),
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
            self.probe_at = Instant::now() + PROBE_INTERVAL;
        }
        if refused {
            return false;
        }
        if !answered {
            let place = node.settings.place(&node.endpoint);
            node.down(LinkError::Unavailable(format!("{place} does not answer PING within {deadline:?}")));
        }
        if node.first_down().is_none() {
            self.backoff.reset();
            self.made = 0;
            return true;
        }
        false
    }
}

/// What an answer to PING, or to more, says of the node.
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

async fn ping(mut requests: MultiplexedConnection, deadline: Duration) -> Ping {
    let ping = redis::cmd("PING");
    match timeout(deadline, requests.send_packed_command(&ping)).await {
        // It says nothing of writes.
        Ok(reply) => match read(reply, Ping::Refused) {
            Ping::Writable => Ping::Pong,
            other => other,
        },
        Err(_) => Ping::Dead,
    }
}

/// Asks whether a write would be taken.
async fn probe(mut requests: MultiplexedConnection, deadline: Duration) -> Ping {
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
    timeout(deadline, asked).await.map_or(Ping::Dead, |reply| read(reply, |_| Ping::Writable))
}
