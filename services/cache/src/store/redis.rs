//! The store on Redis or a Redis Cluster.
//!
//! A namespace has shards (1 on one Redis, 16 on a Cluster), each with the hash tag `{NAMESPACE#SHARD}` and these keys:
//!
//! | key | holds |
//! |---|---|
//! | `{..}t` | sorted set, the state of the shard: `c` logical clock, `e` epoch, `r` the server process it was made in, `m` when |
//! | `{..}e:KEY` | string, an entry: header and payload (see `frame`) |
//! | `{..}l:KEY` | string, a lease: token, epoch, clock; one byte more once somebody waits for its end |
//!
//! The end of a lease that somebody waits for is published on the channel `PREFIXwake`, as the lease's key.
//!
//! An entry counts only while its epoch is the shard's and the shard's process is the one that answers. A new epoch is
//! random and is taken when the state is missing (evicted, flushed) or was made in another process (a restart from a
//! snapshot, a fail-over): what such a process remembers may lack the last deletes, so all of it misses. A process may also come
//! back, after another was in its place and both lived on: a clone that saw another in between trusts no epoch that was made
//! before, and the first of them that writes takes a new one, which holds for all. Not covered: two processes that both take
//! writes at the same time, and a clone that never was connected to the one in between.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::{Pipeline, Value};
use shoal_kit::EngineError;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script, Subscription, SubscriptionEvent};
use tokio_util::task::AbortOnDropHandle;

use super::wake::Wakes;
use super::{Acquired, Draft, Found, Record, Store, StoreError, Token};
use crate::key::Key;

mod bulk;
mod frame;
mod run;

pub(crate) use bulk::Bulk;
use frame::Frame;
use run::{Run, Runs};

const ENGINE: &str = "redis";
/// The kinds of keys, behind the name of their shard; as in `state.lua`.
const ENTRY: &str = "e:";
const LEASE: &str = "l:";
const STATE: &str = "t";
/// Shards of a namespace on a Cluster; all clones must agree, so it is no setting.
const CLUSTER_SHARDS: u64 = 16;
/// A shard's state outlives its longest entry (30 days), and not the namespace nobody uses any more.
const STATE_TTL_MS: &str = "2764800000";
/// Hints of the process behind a shard; a collision costs Redis one INFO, nothing else.
const CLUSTER_HINTS: usize = 1024;

static PUT: LazyLock<Script> = LazyLock::new(|| script("cache.put", include_str!("redis/put.lua")));
static ACQUIRE: LazyLock<Script> =
    LazyLock::new(|| script("cache.acquire", include_str!("redis/acquire.lua")));
static FILL: LazyLock<Script> = LazyLock::new(|| script("cache.fill", include_str!("redis/fill.lua")));
static DELETE: LazyLock<Script> =
    LazyLock::new(|| Script::new("cache.delete", include_str!("redis/delete.lua")));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("cache.release", include_str!("redis/release.lua")));

fn script(name: &'static str, body: &str) -> Script {
    Script::new(name, &[include_str!("redis/state.lua"), include_str!("redis/present.lua"), body].concat())
}

/// Entries in Redis.
pub(crate) struct RedisStore {
    link: Link,
    /// The link for entries of `bulk`.
    bulk_link: Link,
    bulk: Bulk,
    prefix: String,
    /// The number of shards of a namespace, once Redis has said whether it is a Cluster.
    shards: OnceLock<u64>,
    runs: Runs,
    hints: Box<[AtomicU64]>,
    channel: String,
    wakes: Arc<Wakes<Vec<u8>>>,
    _listener: AbortOnDropHandle<()>,
}

/// The names of the three keys of an entry.
struct Names {
    state: Vec<u8>,
    entry: Vec<u8>,
    lease: Vec<u8>,
    hint: usize,
    bulk: bool,
}

/// A read of one key: the entry, and the lease if it was asked for.
struct Read {
    record: Option<Record>,
    lease: Option<Token>,
}

impl RedisStore {
    /// Opens the store and connects in the background. Every key begins with `prefix`, and entries of the `bulk`
    /// namespaces may be big.
    pub(crate) fn open(link: LinkConfig, prefix: String, bulk: Bulk) -> Result<Self, LinkError> {
        let scripts = [&PUT, &ACQUIRE, &FILL, &DELETE, &RELEASE].map(|script| Script::clone(script)).to_vec();
        let role = link.role;
        let link = Link::open(LinkConfig { scripts, ..link })?;
        let channel = format!("{prefix}wake");
        let wakes = Wakes::new();
        let listener = tokio::spawn(listen(link.subscribe(&channel), wakes.clone()));
        Ok(Self {
            channel,
            wakes,
            _listener: AbortOnDropHandle::new(listener),
            bulk_link: link.bulk(),
            bulk,
            link,
            prefix,
            shards: OnceLock::new(),
            runs: Runs::new(role),
            hints: (0..CLUSTER_HINTS).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Returns the link to Redis.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Returns the key under which the store has its name.
    pub(crate) fn name_key(&self) -> String {
        format!("{}store-id", self.prefix)
    }

    /// Returns an error with the reason if Redis cannot be asked now.
    pub(crate) fn ready_now(&self) -> Result<(), String> {
        self.link.ready_now()
    }

    /// Waits until Redis answers.
    pub(crate) async fn ready(&self, within: Duration) -> Result<(), LinkError> {
        self.link.ready(within).await
    }

    /// Returns the names of a key, once it is known whether Redis is a Cluster: the number of shards depends on it.
    async fn named(&self, key: &Key) -> Result<Names, StoreError> {
        if self.shards.get().is_none() {
            let cluster = self.link.is_cluster().await.map_err(read_error)?;
            let _ = self.shards.set(if cluster { CLUSTER_SHARDS } else { 1 });
        }
        Ok(self.names(key))
    }

    fn names(&self, key: &Key) -> Names {
        let hash = fnv1a(key.name().as_bytes());
        let shards = self.shards.get().copied().unwrap_or(1);
        let (namespace, shard) = (key.namespace().as_str(), hash % shards);
        let tag = format!("{}{{{namespace}#{shard}}}", self.prefix);
        let named = |kind: &str| format!("{tag}{kind}{}", key.name()).into_bytes();
        // One Redis is one process, whatever the namespace.
        let hints = if shards == 1 { 1 } else { self.hints.len() as u64 };
        let hint = (fnv1a(tag.as_bytes()) % hints) as usize;
        let bulk = self.bulk.contains(key.namespace());
        Names {
            entry: named(ENTRY),
            lease: named(LEASE),
            state: format!("{tag}{STATE}").into_bytes(),
            hint,
            bulk,
        }
    }

    fn link_of(&self, names: &Names) -> &Link {
        if names.bulk { &self.bulk_link } else { &self.link }
    }

    /// Reads in one round trip and no script: as a script the same read would cost Redis many times more.
    async fn read(&self, key: &Key, with_lease: bool) -> Result<Read, StoreError> {
        let names = self.named(key).await?;
        let returned = self.link.returned_at(self.guess(&names).bits()).is_some();
        let asked = |pipe: &mut Pipeline| {
            pipe.cmd("GET").arg(&names.entry).cmd("ZMSCORE").arg(&names.state).arg("e").arg("r");
            if returned {
                pipe.arg("m");
            }
            if with_lease {
                pipe.cmd("GET").arg(&names.lease);
            }
        };
        let mut known = None;
        if self.shards.get() == Some(&1) {
            let mut pipe = redis::pipe();
            asked(&mut pipe);
            let (replies, process) = self.link_of(&names).pipeline_by(&pipe).await.map_err(read_error)?;
            known = process.map(|process| (Run::from_bits(process), replies));
        }
        let (run, mut replies) = match known {
            Some(known) => known,
            None => self.read_of_node(self.link_of(&names), asked).await?,
        };
        self.hint(&names, run);
        let lease = if with_lease { replies.pop() } else { None };
        let (state, entry) = (replies.pop(), replies.pop());
        let since = self.link.returned_at(run.bits());
        let Some(epoch) = state.and_then(|state| epoch_of(state, run, since)) else {
            return Ok(Read { record: None, lease: None });
        };
        let record = match entry {
            // A frame of another version is no error: while versions roll it is a miss.
            Some(Value::BulkString(entry)) => {
                Frame::decode(entry.into()).filter(|frame| frame.epoch == epoch).map(record)
            }
            _ => None,
        };
        let lease = lease.and_then(Lease::decode).filter(|lease| lease.epoch == epoch);
        Ok(Read { record, lease: lease.map(|lease| lease.token) })
    }

    /// Reads from a Cluster, whose nodes are each asked for their process. A new connection is asked, and named so that
    /// it need not be asked again.
    async fn read_of_node(
        &self,
        link: &Link,
        asked: impl Fn(&mut Pipeline),
    ) -> Result<(Run, Vec<Value>), StoreError> {
        if !self.runs.must_ask() {
            let mut pipe = redis::pipe();
            pipe.cmd("CLIENT").arg("GETNAME");
            asked(&mut pipe);
            let replies: Vec<Value> = link.pipeline(&pipe).await.map_err(read_error)?;
            if let Some(run) = self.runs.named(replies.first()) {
                return Ok((run, replies));
            }
        }
        let name = self.runs.new_name();
        let mut pipe = redis::pipe();
        pipe.cmd("CLIENT").arg("SETNAME").arg(&name).cmd("INFO").arg("server");
        asked(&mut pipe);
        let replies: Vec<Value> = link.pipeline(&pipe).await.map_err(read_error)?;
        let run = self.runs.learn(name, replies.get(1));
        Ok((run.ok_or_else(|| broken("INFO server names no run_id"))?, replies))
    }

    /// Returns the process that answered for this shard last.
    fn guess(&self, names: &Names) -> Run {
        Run::from_bits(self.hints[names.hint].load(Ordering::Relaxed))
    }

    fn hint(&self, names: &Names, run: Run) {
        self.hints[names.hint].store(run.bits(), Ordering::Relaxed);
    }

    /// Returns the time since which a process is back; zero if it never was away.
    fn since(&self, run: Run) -> u64 {
        self.link.returned_at(run.bits()).unwrap_or(0)
    }

    /// Runs a script that only writes: no reader sees what it writes by a wrong guess.
    async fn write(&self, script: &Script, names: &Names, args: &[&[u8]]) -> Result<Vec<Value>, StoreError> {
        let guess = self.guess(names);
        let before = Before::new(guess, self.since(guess));
        let args = before.args(&self.channel, args, names);
        let reply: Vec<Value> =
            self.link_of(names).script(script, &[names.shard()], &args).await.map_err(write_error)?;
        if let Some(run) = reply.first().and_then(Run::of_reply) {
            self.hint(names, run);
        }
        Ok(reply)
    }

    /// Runs a script that answers what is there and must not be misled: Redis is asked for its process.
    async fn read_and_write(
        &self,
        script: &Script,
        names: &Names,
        args: &[&[u8]],
    ) -> Result<Vec<Value>, StoreError> {
        let mut since = self.since(self.guess(names));
        loop {
            let before = Before::new(Run::NONE, since);
            let args = before.args(&self.channel, args, names);
            let reply: Vec<Value> =
                self.link_of(names).script(script, &[names.shard()], &args).await.map_err(write_error)?;
            let run = reply.first().and_then(Run::of_reply).unwrap_or(Run::NONE);
            self.hint(names, run);
            // It went to a process that came back in this moment: once more, in a new epoch.
            let back = self.since(run);
            if back <= since {
                return Ok(reply);
            }
            since = back;
        }
    }

    /// Runs such a script without asking Redis, if its connection tells which process ran it. Returns `None` if that is
    /// not the process of the shard's state, or not known. The script may have run then: it must be one that can be
    /// repeated.
    async fn read_and_write_known(
        &self,
        script: &Script,
        names: &Names,
        args: &[&[u8]],
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let guess = self.guess(names);
        if guess == Run::NONE || self.shards.get() != Some(&1) {
            return Ok(None);
        }
        let since = self.since(guess);
        let before = Before::new(guess, since);
        let args = before.args(&self.channel, args, names);
        let (reply, process): (Vec<Value>, _) =
            self.link_of(names).script_by(script, &[names.shard()], &args).await.map_err(write_error)?;
        let made_in = reply.first().and_then(Run::of_reply);
        let process = process.map(Run::from_bits);
        let known = process == Some(guess) && made_in == process && self.since(guess) == since;
        Ok(known.then_some(reply))
    }
}

impl Names {
    /// Returns what the names of all keys of the shard begin with.
    fn shard(&self) -> &[u8] {
        &self.state[..self.state.len() - STATE.len()]
    }

    /// Returns the name of the entry without its shard.
    fn name(&self) -> &[u8] {
        &self.entry[self.shard().len() + ENTRY.len()..]
    }
}

/// The arguments before a script's own.
struct Before {
    guess: String,
    since: String,
    epoch: String,
}

impl Before {
    fn new(guess: Run, since: u64) -> Before {
        // 52 bits: a score is a double.
        let epoch = fastrand::u64(..) >> 12;
        Before { guess: guess.to_string(), since: since.to_string(), epoch: epoch.to_string() }
    }

    fn args<'a>(&'a self, channel: &'a str, own: &[&'a [u8]], names: &'a Names) -> Vec<&'a [u8]> {
        let before = [&self.guess, &self.since, &self.epoch, STATE_TTL_MS, channel];
        before.into_iter().map(str::as_bytes).chain(own.iter().copied()).chain([names.name()]).collect()
    }
}

/// Wakes those who wait for the leases whose end is published.
async fn listen(mut ends: Subscription, wakes: Arc<Wakes<Vec<u8>>>) {
    loop {
        match ends.recv().await {
            SubscriptionEvent::Message(lease) => wakes.wake(&lease),
            SubscriptionEvent::Reconnected => wakes.wake_all(),
        }
    }
}

/// Returns the shard's epoch, if it was taken in the process that answered, and after that came back if it was away.
fn epoch_of(state: Value, run: Run, since: Option<u64>) -> Option<f64> {
    let mut state = redis::from_redis_value::<Vec<Option<f64>>>(state).ok()?.into_iter();
    let (epoch, made_in, made_at) = (state.next()?, state.next()?, state.next());
    let fresh = since.is_none_or(|since| made_at.flatten().is_some_and(|made_at| made_at >= since as f64));
    epoch.filter(|_| fresh && made_in.map(Run::of_score) == Some(run))
}

fn record(frame: Frame) -> Record {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_micros() as f64);
    Record {
        body: frame.body,
        tags: frame.tags,
        // Two machines' clocks may differ: nothing is younger than now.
        age: micros(now - frame.built_at),
        expires_at: UNIX_EPOCH + micros(frame.expires_at),
    }
}

fn micros(us: f64) -> Duration {
    Duration::from_micros(us.max(0.0) as u64)
}

/// A lease as it is kept: the token (16 bytes), the epoch and the logical clock it was granted at (doubles).
struct Lease {
    token: Token,
    epoch: f64,
}

impl Lease {
    fn decode(value: Value) -> Option<Lease> {
        let Value::BulkString(bytes) = value else { return None };
        let epoch = bytes.get(16..24)?.first_chunk().copied()?;
        Some(Lease {
            token: Token::from_bytes(bytes.first_chunk().copied()?),
            epoch: f64::from_be_bytes(epoch),
        })
    }
}

/// Writes a duration in Redis' whole milliseconds; a shorter life than asked does no harm, none at all is an error.
fn millis(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

/// Hashes by FNV-1a, 64 bits: every clone and version must put a key into the same shard.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn broken(detail: &str) -> StoreError {
    StoreError::Broken { detail: detail.to_owned() }
}

/// Translates a failed read: one that was not answered changed nothing.
fn read_error(error: LinkError) -> StoreError {
    match write_error(error) {
        StoreError::Engine(error) => StoreError::Engine(error.of_read()),
        other => other,
    }
}

fn write_error(error: LinkError) -> StoreError {
    let engine = ENGINE;
    StoreError::Engine(match error {
        LinkError::Unavailable(detail) => EngineError::Unavailable { engine, detail },
        LinkError::Unknown(detail) => EngineError::Unknown { engine, detail },
        LinkError::Moving(detail) => EngineError::Moving { engine, detail },
        LinkError::Full(detail) => EngineError::Full {
            engine,
            detail,
            remedy: "raise its maxmemory, or set its maxmemory-policy to allkeys-lru if it is the cache's own",
        },
        LinkError::ReadOnly(detail) => EngineError::ReadOnly { engine, detail },
        LinkError::Denied(detail) => EngineError::Misconfigured { engine, detail },
        LinkError::Server { .. } | LinkError::Config(_) => return broken(&error.to_string()),
    })
}

fn flag(reply: &[Value]) -> Result<bool, StoreError> {
    match reply.get(1) {
        Some(Value::Int(done)) => Ok(*done == 1),
        other => Err(broken(&format!("a script answered {other:?}"))),
    }
}

impl Store for RedisStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        async move { Ok(self.read(key, false).await?.record) }.boxed()
    }

    fn find<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Found, StoreError>> {
        async move {
            let Read { record, lease } = self.read(key, true).await?;
            Ok(record.map_or(Found::Absent { lease }, Found::Record))
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        draft: Draft,
        only_if_absent: bool,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            let ttl = millis(draft.ttl);
            let (lead, tail) = frame::encode(&draft);
            let names = self.named(key).await?;
            let condition: &[u8] = if only_if_absent { b"1" } else { b"0" };
            let args: [&[u8]; 4] = [ttl.as_bytes(), &lead, &tail, condition];
            flag(&match only_if_absent {
                true => self.read_and_write(&PUT, &names, &args).await?,
                false => self.write(&PUT, &names, &args).await?,
            })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let names = self.named(key).await?;
            let args = [self.channel.as_bytes(), names.name()];
            self.link.script(&DELETE, &[names.shard()], &args).await.map_err(write_error)
        }
        .boxed()
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        async move {
            let limit = millis(limit);
            let args: [&[u8]; 2] = [&token.to_bytes(), limit.as_bytes()];
            let names = self.named(key).await?;
            let mut reply = match self.read_and_write_known(&ACQUIRE, &names, &args).await? {
                Some(reply) => reply,
                None => self.read_and_write(&ACQUIRE, &names, &args).await?,
            };
            match (reply.pop(), reply.pop()) {
                (Some(Value::Int(1)), _) => Ok(Acquired::Granted),
                (Some(Value::BulkString(entry)), _) => match Frame::decode(entry.into()) {
                    Some(frame) => Ok(Acquired::Record(record(frame))),
                    None => Err(broken("an entry of another version holds the key")),
                },
                (Some(Value::Int(left)), Some(by)) => Ok(Acquired::Held {
                    by: Lease::decode(by)
                        .map(|lease| lease.token)
                        .ok_or_else(|| broken("a lease without a token"))?,
                    // Negative: the left milliseconds, so that 1 stays free for `granted`.
                    left: Duration::from_millis(left.unsigned_abs()),
                }),
                (other, _) => Err(broken(&format!("cache.acquire answered {other:?}"))),
            }
        }
        .boxed()
    }

    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            let ttl = millis(draft.ttl);
            let (lead, tail) = frame::encode(&draft);
            let args: [&[u8]; 4] = [&token.to_bytes(), ttl.as_bytes(), &lead, &tail];
            let names = self.named(key).await?;
            flag(&self.write(&FILL, &names, &args).await?)
        }
        .boxed()
    }

    fn ended(&self, key: &Key) -> BoxFuture<'static, ()> {
        self.wakes.wait(self.names(key).lease)
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let names = self.named(key).await?;
            let keys: [&[u8]; 1] = [&names.lease];
            self.link
                .script(&RELEASE, &keys, &[&token.to_bytes(), self.channel.as_bytes()])
                .await
                .map_err(write_error)
        }
        .boxed()
    }
}

#[cfg(test)]
mod moving;
#[cfg(test)]
mod tests;
