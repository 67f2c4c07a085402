//! The clock in Redis or a Redis Cluster.
//!
//! | key | holds |
//! |---|---|
//! | `{..}t` | sorted set, the state of a shard: `c` clock, `e` epoch, `f` floor, `r` the server process it was made in, `m` when; `#TAG` and `~TAG` stamps, HARD and SOFT |
//! | `{..}w` | hash, the number of open intents of a tag; kept while one may be open |
//!
//! A new epoch is random and is taken when the state is missing (evicted, flushed) or was made in another process (a restart from a
//! snapshot, a fail-over): what such a process remembers may lack the last stamps, so every entry of the shard misses. A process may
//! also come back, after another was in its place and both lived on: a clone that saw another in between trusts no epoch that was
//! made before, and the first of them that writes takes a new one, which holds for all. Not covered: two processes that both take
//! writes at the same time, and a clone that never was connected to the one in between.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use redis::Value;
use shoal_redis_link::{Link, LinkError, Script};

use crate::intent::Intent;
use crate::process::{Process, number};
use crate::shard::{Shard, fnv1a};
use crate::stamp::{STAMPS_MAX, Strength};

/// Shards of a namespace on a Cluster; all clones must agree, so it is no setting.
const CLUSTER_SHARDS: u64 = 16;
/// A shard's state outlives its longest entry (30 days), and not the namespace nobody uses any more.
const STATE_TTL_MS: &str = "2764800000";
/// Hints of the process behind a shard; a collision costs Redis one INFO, nothing else.
const CLUSTER_HINTS: usize = 1024;

static BEGIN: LazyLock<Script> =
    LazyLock::new(|| RedisClock::script("tags.begin", &[include_str!("redis/begin.lua")]));
static END: LazyLock<Script> =
    LazyLock::new(|| RedisClock::script("tags.end", &[include_str!("redis/end.lua")]));
static STAMP: LazyLock<Script> =
    LazyLock::new(|| RedisClock::script("tags.stamp", &[include_str!("redis/stamp.lua")]));

/// A clock in Redis. Clones of it share their hints.
#[derive(Debug, Clone)]
pub struct RedisClock {
    inner: Arc<Inner>,
}

/// The part of a clock that all who share its Redis must agree on, but for the bound of stamps.
#[derive(Debug, Clone)]
pub struct RedisClockConfig {
    /// The prefix of every key.
    pub prefix: String,
    /// The number of stamps that a shard keeps ([`STAMPS_MAX`]).
    pub stamps_max: usize,
    /// Returns the longest intent of a namespace; zero if nobody announces writes there. When the state of a shard is lost, nothing
    /// that is loaded there within this time is kept, because an intent may be lost with it.
    pub intent_max: fn(&str) -> Duration,
}

impl RedisClockConfig {
    /// Keeps keys under `prefix`, in namespaces where nobody announces writes.
    #[must_use]
    pub fn new(prefix: String) -> Self {
        Self { prefix, stamps_max: STAMPS_MAX, intent_max: |_| Duration::ZERO }
    }
}

#[derive(Debug)]
struct Inner {
    link: Link,
    config: RedisClockConfig,
    /// The number of shards of a namespace, once Redis has said whether it is a Cluster.
    shards: OnceLock<u64>,
    hints: Box<[AtomicU64]>,
}

impl RedisClock {
    /// Makes a clock over a link.
    #[must_use]
    pub fn new(link: Link, config: RedisClockConfig) -> Self {
        let hints = (0..CLUSTER_HINTS).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { link, config, shards: OnceLock::new(), hints }) }
    }

    /// Makes a script that runs on a shard: `parts` after the functions of the shard's state (`state.lua`), whose own arguments
    /// begin at `ARGV[6]` and whose answer is an array that begins with the process.
    #[must_use]
    pub fn script(name: &'static str, parts: &[&str]) -> Script {
        let source = [&[include_str!("redis/state.lua")], parts].concat();
        Script::new(name, &source.concat())
    }

    /// Returns the scripts of the clock itself, for a link that loads them on every new connection.
    #[must_use]
    pub fn scripts() -> Vec<Script> {
        [&BEGIN, &END, &STAMP].map(|script| Script::clone(script)).to_vec()
    }

    /// Returns the shard of a route, once it is known whether Redis is a Cluster: the number of shards depends on it.
    ///
    /// # Errors
    /// Fails when Redis does not answer and has not answered before.
    pub async fn shard(&self, namespace: &str, route: &str) -> Result<Shard, LinkError> {
        let shards = self.known_shards().await?;
        Ok(self.numbered(namespace, fnv1a(route.as_bytes()) % shards, shards))
    }

    /// Returns all shards of a namespace.
    ///
    /// # Errors
    /// Fails when Redis does not answer and has not answered before.
    pub async fn shards(&self, namespace: &str) -> Result<Vec<Shard>, LinkError> {
        let shards = self.known_shards().await?;
        Ok((0..shards).map(|number| self.numbered(namespace, number, shards)).collect())
    }

    /// Returns the shard of a route, as if Redis was no Cluster until it has said so.
    #[must_use]
    pub fn shard_now(&self, namespace: &str, route: &str) -> Shard {
        let shards = self.inner.shards.get().copied().unwrap_or(1);
        self.numbered(namespace, fnv1a(route.as_bytes()) % shards, shards)
    }

    /// Returns whether each namespace has one shard, which is so on one Redis. `None` if Redis was not asked yet.
    #[must_use]
    pub fn is_single(&self) -> Option<bool> {
        self.inner.shards.get().map(|shards| *shards == 1)
    }

    async fn known_shards(&self) -> Result<u64, LinkError> {
        if let Some(shards) = self.inner.shards.get() {
            return Ok(*shards);
        }
        let cluster = self.inner.link.is_cluster().await?;
        Ok(*self.inner.shards.get_or_init(|| if cluster { CLUSTER_SHARDS } else { 1 }))
    }

    fn numbered(&self, namespace: &str, number: u64, shards: u64) -> Shard {
        let config = &self.inner.config;
        let quiet = (config.intent_max)(namespace);
        Shard::new(&config.prefix, namespace, number, shards, CLUSTER_HINTS).quiet(quiet)
    }

    /// Returns the process that answered for this shard last.
    #[must_use]
    pub fn guess(&self, shard: &Shard) -> Process {
        Process::from_bits(self.inner.hints[shard.hint].load(Ordering::Relaxed))
    }

    /// Notes the process that answered for this shard.
    pub fn note(&self, shard: &Shard, process: Process) {
        self.inner.hints[shard.hint].store(process.bits(), Ordering::Relaxed);
    }

    /// Returns the time since which a process is back after another was in its place; `None` if it never was away.
    #[must_use]
    pub fn returned_at(&self, process: Process) -> Option<u64> {
        self.inner.link.returned_at(process.bits())
    }

    /// Runs a script that only writes: no reader sees what it writes by a wrong guess.
    ///
    /// # Errors
    /// Those of the link.
    pub async fn write(
        &self,
        link: &Link,
        script: &Script,
        shard: &Shard,
        args: &[&[u8]],
    ) -> Result<Vec<Value>, LinkError> {
        let guess = self.guess(shard);
        let before = Before::new(guess, self.since(guess), shard);
        let reply: Vec<Value> = link.script(script, &[shard.name()], &before.args(args)).await?;
        if let Some(process) = reply.first().and_then(Process::of_reply) {
            self.note(shard, process);
        }
        Ok(reply)
    }

    /// Runs a script that answers what is there and must not be misled. One that `repeats`, because it can be run again with the
    /// same effect, is run without asking Redis for its process if the connection tells it.
    ///
    /// # Errors
    /// Those of the link.
    pub async fn read_and_write(
        &self,
        link: &Link,
        script: &Script,
        shard: &Shard,
        args: &[&[u8]],
        repeats: bool,
    ) -> Result<Vec<Value>, LinkError> {
        if repeats && let Some(reply) = self.read_and_write_known(link, script, shard, args).await? {
            return Ok(reply);
        }
        let mut since = self.since(self.guess(shard));
        loop {
            let before = Before::new(Process::NONE, since, shard);
            let reply: Vec<Value> = link.script(script, &[shard.name()], &before.args(args)).await?;
            let process = reply.first().and_then(Process::of_reply).unwrap_or(Process::NONE);
            self.note(shard, process);
            // It went to a process that came back in this moment: once more, in a new epoch.
            let back = self.since(process);
            if back <= since {
                return Ok(reply);
            }
            since = back;
        }
    }

    /// Runs such a script without asking Redis, if its connection tells which process ran it. Returns `None` if that is not the
    /// process of the shard's state, or not known.
    async fn read_and_write_known(
        &self,
        link: &Link,
        script: &Script,
        shard: &Shard,
        args: &[&[u8]],
    ) -> Result<Option<Vec<Value>>, LinkError> {
        let guess = self.guess(shard);
        if guess == Process::NONE || self.is_single() != Some(true) {
            return Ok(None);
        }
        let since = self.since(guess);
        let before = Before::new(guess, since, shard);
        let (reply, process): (Vec<Value>, _) =
            link.script_by(script, &[shard.name()], &before.args(args)).await?;
        let made_in = reply.first().and_then(Process::of_reply);
        let process = process.map(Process::from_bits);
        let known = process == Some(guess) && made_in == process && self.since(guess) == since;
        Ok(known.then_some(reply))
    }

    fn since(&self, process: Process) -> u64 {
        self.returned_at(process).unwrap_or(0)
    }

    pub(crate) async fn begin(
        &self,
        namespace: &str,
        route: &str,
        tags: &[String],
        length: Duration,
    ) -> Result<Intent, LinkError> {
        let since = Instant::now();
        let mut intent = Intent {
            namespace: namespace.to_owned(),
            route: route.to_owned(),
            tags: tags.to_vec(),
            length,
            epoch: 0,
            until: 0,
            since,
        };
        self.extend(&mut intent).await?;
        Ok(intent)
    }

    pub(crate) async fn extend(&self, intent: &mut Intent) -> Result<(), LinkError> {
        let since = Instant::now();
        let shard = self.shard(&intent.namespace, &intent.route).await?;
        let own = [
            intent.length.as_micros().to_string(),
            self.inner.config.stamps_max.to_string(),
            intent.epoch.to_string(),
            intent.until.to_string(),
        ];
        let args: Vec<&[u8]> = own.iter().chain(&intent.tags).map(String::as_bytes).collect();
        let reply = self.write(&self.inner.link, &BEGIN, &shard, &args).await?;
        let (Some(epoch), Some(until)) = (reply.get(1).and_then(number), reply.get(2).and_then(number))
        else {
            return Err(LinkError::Unknown(format!("tags.begin answered {reply:?}")));
        };
        (intent.epoch, intent.until, intent.since) = (epoch, until, since);
        Ok(())
    }

    pub(crate) async fn end(&self, intent: Intent) -> Result<(), LinkError> {
        let shard = self.shard(&intent.namespace, &intent.route).await?;
        let own = [intent.epoch.to_string(), intent.until.to_string()];
        let args: Vec<&[u8]> = own.iter().chain(&intent.tags).map(String::as_bytes).collect();
        self.write(&self.inner.link, &END, &shard, &args).await?;
        Ok(())
    }

    pub(crate) async fn stamp_all(
        &self,
        namespace: &str,
        tags: &[String],
        strength: Strength,
    ) -> Result<(), LinkError> {
        if tags.is_empty() {
            return Ok(());
        }
        let members: Vec<String> = tags.iter().map(|tag| format!("{}{tag}", strength.mark())).collect();
        self.stamp_members(namespace, &members).await
    }

    pub(crate) async fn clear(&self, namespace: &str) -> Result<(), LinkError> {
        self.stamp_members(namespace, &[]).await
    }

    async fn stamp_members(&self, namespace: &str, members: &[String]) -> Result<(), LinkError> {
        let most = self.inner.config.stamps_max.to_string();
        let args: Vec<&[u8]> = [&most].into_iter().chain(members).map(String::as_bytes).collect();
        let shards = self.shards(namespace).await?;
        let stamps = shards.iter().map(|shard| self.write(&self.inner.link, &STAMP, shard, &args));
        try_join_all(stamps).await?;
        Ok(())
    }
}

/// The arguments before a script's own.
struct Before([String; 5]);

impl Before {
    fn new(guess: Process, since: u64, shard: &Shard) -> Before {
        // 52 bits: a score is a double.
        let epoch = fastrand::u64(..) >> 12;
        Before([
            guess.to_string(),
            since.to_string(),
            epoch.to_string(),
            STATE_TTL_MS.to_owned(),
            shard.quiet.as_micros().to_string(),
        ])
    }

    fn args<'a>(&'a self, own: &[&'a [u8]]) -> Vec<&'a [u8]> {
        self.0.iter().map(String::as_bytes).chain(own.iter().copied()).collect()
    }
}
