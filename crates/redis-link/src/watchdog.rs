//! Keeps a node's connections alive: PINGs them, replaces those that do not answer, and moves the breaker.
//!
//! It alone connects, one attempt at a time: whatever happens to Redis, a clone is no connection storm.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::node::Shared;

/// Between PINGs while all is well: idle connections that died are found by it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between PINGs while calls fail or Redis is not in service.
const INTERVAL_SUSPICIOUS: Duration = Duration::from_millis(100);

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
}

/// A PING's answer.
enum Ping {
    Pong,
    /// Redis answers, and says that it is not in service.
    Refused(String),
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
            let interval = if self.ping().await { INTERVAL } else { INTERVAL_SUSPICIOUS };
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
            Ok(connection) => {
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
                    self.node.down(&error.to_string());
                }
                self.connect_at = Instant::now() + self.backoff.next();
            }
        }
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
        let pings =
            live.into_iter().map(|(slot, requests)| async move { (slot, ping(requests, deadline).await) });
        let mut pings: FuturesUnordered<_> = pings.collect();
        let (mut answered, mut refused) = (false, false);
        while let Some((slot, outcome)) = pings.next().await {
            match outcome {
                Ping::Pong if !refused => {
                    answered = true;
                    node.up();
                }
                Ping::Pong => {}
                Ping::Refused(reason) => {
                    refused = true;
                    node.down(&format!("redis at {} is not in service: {reason}", node.endpoint));
                }
                Ping::Dead => node.replace(slot, None),
            }
        }
        if refused {
            return false;
        }
        if !answered {
            node.down(&format!("redis at {} does not answer PING within {deadline:?}", node.endpoint));
        }
        if node.first_down().is_none() {
            self.backoff.reset();
            self.made = 0;
            return true;
        }
        false
    }
}

async fn ping(mut requests: MultiplexedConnection, deadline: Duration) -> Ping {
    let ping = redis::cmd("PING");
    match timeout(deadline, requests.send_packed_command(&ping)).await {
        Ok(Ok(Value::ServerError(error))) => Ping::Refused(error.to_string()),
        Ok(Ok(_)) => Ping::Pong,
        Ok(Err(_)) | Err(_) => Ping::Dead,
    }
}
