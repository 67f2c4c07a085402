//! The store on Redis or a Redis Cluster.
//!
//! A namespace has shards (1 on one Redis, 16 on a Cluster), each with the hash tag `{NAMESPACE#SHARD}` and these keys:
//!
//! | key | holds |
//! |---|---|
//! | `{..}t`, `{..}w` | the state of the shard, and the writes that were announced (see `shoal_tag_clock`) |
//! | `{..}e:KEY` | string, an entry: header and payload (see `frame`) |
//! | `{..}l:KEY` | string, a lease: token, epoch, clock; one byte more once somebody waits for its end |
//!
//! The end of a lease that somebody waits for is published on the channel `PREFIXwake`, as the lease's key.
//!
//! An entry counts only while its epoch is the shard's, the shard's process is the one that answers, and no stamp of the shard covers
//! it (see `read`).

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use redis::Value;
use shoal_kit::EngineError;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script, Subscription, SubscriptionEvent};
use shoal_tag_clock::{RedisClock, RedisClockConfig, Shard, TagClock};
use tokio_util::task::AbortOnDropHandle;

use super::wake::Wakes;
use super::{Acquired, Draft, Filled, Found, Incremented, Record, Store, StoreError, Token};
use crate::key::Key;

mod bulk;
mod frame;
mod hints;
mod read;
mod run;

pub(crate) use bulk::Bulk;
use frame::{Encoded, Frame, millis};
use hints::Hints;
use run::Runs;

/// The kinds of keys, behind the name of their shard; as in `entry.lua`.
const ENTRY: &str = "e:";
const LEASE: &str = "l:";

static PUT: LazyLock<Script> = LazyLock::new(|| script("cache.put", include_str!("redis/put.lua")));
static ACQUIRE: LazyLock<Script> =
    LazyLock::new(|| script("cache.acquire", include_str!("redis/acquire.lua")));
static FILL: LazyLock<Script> = LazyLock::new(|| script("cache.fill", include_str!("redis/fill.lua")));
static TOUCH: LazyLock<Script> = LazyLock::new(|| script("cache.touch", include_str!("redis/touch.lua")));
static INCREMENT: LazyLock<Script> =
    LazyLock::new(|| script("cache.increment", include_str!("redis/increment.lua")));
static DELETE: LazyLock<Script> =
    LazyLock::new(|| Script::new("cache.delete", include_str!("redis/delete.lua")));
static EXPIRE: LazyLock<Script> =
    LazyLock::new(|| Script::new("cache.expire", include_str!("redis/expire.lua")));
static RENEW: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("cache.renew", include_str!("redis/renew.lua")));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("cache.release", include_str!("redis/release.lua")));

fn script(name: &'static str, body: &str) -> Script {
    RedisClock::script(name, &[include_str!("redis/entry.lua"), body])
}

/// Entries in Redis.
pub(crate) struct RedisStore {
    link: Link,
    /// The link for entries of `bulk`.
    bulk_link: Link,
    bulk: Bulk,
    prefix: String,
    clock: RedisClock,
    tag_clock: TagClock,
    runs: Runs,
    hints: Hints,
    channel: String,
    wakes: Arc<Wakes<Vec<u8>>>,
    _listener: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// Opens the store and connects in the background. Every key begins with `prefix`, and entries of the `bulk`
    /// namespaces may be big.
    pub(crate) fn open(link: LinkConfig, prefix: String, bulk: Bulk) -> Result<Self, LinkError> {
        let own = [&PUT, &ACQUIRE, &FILL, &TOUCH, &INCREMENT, &DELETE, &EXPIRE, &RENEW, &RELEASE];
        let scripts = own.map(|script| Script::clone(script)).into_iter().chain(RedisClock::scripts());
        let role = link.role;
        let link = Link::open(LinkConfig { scripts: scripts.collect(), ..link })?;
        let channel = format!("{prefix}wake");
        let wakes = Wakes::new();
        let listener = tokio::spawn(listen(link.subscribe(&channel), wakes.clone()));
        let clock = RedisClock::new(link.clone(), RedisClockConfig::new(prefix.clone()));
        Ok(Self {
            channel,
            wakes,
            _listener: AbortOnDropHandle::new(listener),
            bulk_link: link.bulk(),
            bulk,
            link,
            prefix,
            tag_clock: TagClock::Redis(clock.clone()),
            clock,
            runs: Runs::new(role),
            hints: Hints::default(),
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

    async fn shard(&self, key: &Key) -> Result<Shard, StoreError> {
        self.clock.shard(key.namespace().as_str(), key.route()).await.map_err(read_error)
    }

    fn link_of(&self, key: &Key) -> &Link {
        if self.bulk.contains(key.namespace()) { &self.bulk_link } else { &self.link }
    }

    /// Runs a script that only writes one entry.
    async fn write(&self, script: &Script, key: &Key, own: &[&[u8]]) -> Result<Vec<Value>, StoreError> {
        let shard = self.shard(key).await?;
        let args = self.args(own, key);
        Ok(self.clock.write(self.link_of(key), script, &shard, &args).await?)
    }

    /// Runs a script that answers what is there, or depends on it.
    async fn read_and_write(
        &self,
        script: &Script,
        key: &Key,
        own: &[&[u8]],
        repeats: bool,
    ) -> Result<Vec<Value>, StoreError> {
        let shard = self.shard(key).await?;
        let args = self.args(own, key);
        Ok(self.clock.read_and_write(self.link_of(key), script, &shard, &args, repeats).await?)
    }

    fn args<'a>(&'a self, own: &[&'a [u8]], key: &'a Key) -> Vec<&'a [u8]> {
        let channel = self.channel.as_bytes();
        [channel].into_iter().chain(own.iter().copied()).chain([key.name().as_bytes()]).collect()
    }

    /// Runs a script of names once for each shard that has some of the keys.
    async fn of_names(&self, script: &Script, keys: &[Key]) -> Result<(), StoreError> {
        let each = self.by_shard(keys).await?.into_iter().map(|(shard, indexes)| async move {
            let names = indexes.iter().map(|index| keys[*index].name().as_bytes());
            let args: Vec<&[u8]> = [self.channel.as_bytes()].into_iter().chain(names).collect();
            self.link.script::<()>(script, &[shard.name()], &args).await
        });
        try_join_all(each).await?;
        Ok(())
    }

    /// Groups keys by their shard, each by its index.
    async fn by_shard(&self, keys: &[Key]) -> Result<Vec<(Shard, Vec<usize>)>, StoreError> {
        let mut shards: Vec<(Shard, Vec<usize>)> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let shard = self.shard(key).await?;
            match shards.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, indexes)) => indexes.push(index),
                None => shards.push((shard, vec![index])),
            }
        }
        Ok(shards)
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

/// Makes a record of an entry that Redis keeps for `left` more milliseconds, if that was asked, and that a SOFT stamp covers, if that is
/// not zero.
fn record(frame: Frame, left: Option<u64>, soft_stamp: u64) -> Record {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let window = frame.window.unwrap_or(frame::Window { refresh: 0, stale: 0 });
    // Redis' own time, as its answer tells it.
    let then = left.map(|left| (frame.expires_at + window.stale).saturating_sub(left));
    let expired = then.filter(|then| *then >= frame.expires_at).map(|then| then - frame.expires_at);
    let softened = (soft_stamp > 0).then(|| then.map_or(0, |then| then.saturating_sub(soft_stamp / 1000)));
    Record {
        body: frame.body,
        tags: frame.tags,
        // Two machines' clocks may differ: nothing is younger than now.
        age: Duration::from_micros(now.saturating_sub(frame.built_at)),
        expires_at: UNIX_EPOCH + Duration::from_millis(frame.expires_at),
        version: frame.version,
        soft: then.is_some_and(|then| then + window.refresh > frame.expires_at),
        stale: expired.max(softened).map(Duration::from_millis),
    }
}

/// A lease as it is kept: the token (16 bytes), the epoch and the logical clock it was granted at (doubles).
struct Lease {
    token: Token,
    epoch: u64,
}

impl Lease {
    fn decode(value: &Value) -> Option<Lease> {
        let Value::BulkString(bytes) = value else { return None };
        let epoch = bytes.get(16..24)?.first_chunk().copied()?;
        let token = Token::from_bytes(bytes.first_chunk().copied()?);
        Some(Lease { token, epoch: f64::from_be_bytes(epoch) as u64 })
    }
}

fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::Broken { detail: detail.into() }
}

/// Translates a failed read: one that was not answered changed nothing.
fn read_error(error: LinkError) -> StoreError {
    StoreError::from(error).of_read()
}

/// Names the engine in errors of a store in Redis.
const REDIS: &str = "redis";

impl From<LinkError> for StoreError {
    fn from(error: LinkError) -> Self {
        let engine = REDIS;
        Self::Engine(match error {
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
            LinkError::Server { .. } | LinkError::Config(_) => {
                return Self::Broken { detail: error.to_string() };
            }
        })
    }
}

/// Reads the number that stands behind the process in the answer of a script.
fn outcome(reply: &[Value]) -> Result<i64, StoreError> {
    match reply.get(1) {
        Some(Value::Int(outcome)) => Ok(*outcome),
        other => Err(broken(format!("a script answered {other:?}"))),
    }
}

fn unsigned(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

fn acquired(mut reply: Vec<Value>) -> Result<Acquired, StoreError> {
    let outcome = outcome(&reply)?;
    let left = unsigned(reply.get(3));
    let soft_stamp = unsigned(reply.get(4)).unwrap_or(0);
    let held = reply.get(2).and_then(Lease::decode).map(|lease| lease.token);
    let entry = if reply.len() > 2 { reply.swap_remove(2) } else { Value::Nil };
    let record = match entry {
        Value::BulkString(entry) => {
            Frame::decode(Bytes::from(entry)).map(|frame| record(frame, left, soft_stamp))
        }
        _ => None,
    };
    match (outcome, record, held, left) {
        (0, Some(record), ..) => Ok(Acquired::Record(record)),
        (0, None, ..) => Err(broken("an entry of another version holds the key")),
        (1, previous, ..) => Ok(Acquired::Granted { previous }),
        (2, _, Some(by), Some(left)) => Ok(Acquired::Held { by, left: Duration::from_millis(left) }),
        _ => Err(broken("cache.acquire answered a lease without a token")),
    }
}

impl Store for RedisStore {
    fn look<'a>(&'a self, keys: &'a [Key], leases: bool) -> BoxFuture<'a, Result<Vec<Found>, StoreError>> {
        self.read(keys, leases).boxed()
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        draft: Draft,
        only_if_absent: bool,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            let Encoded { lead, tail, ttl, kept } = frame::encode(&draft);
            let condition: &[u8] = if only_if_absent { b"1" } else { b"0" };
            let args: [&[u8]; 5] = [ttl.as_bytes(), kept.as_bytes(), &lead, &tail, condition];
            let reply = match only_if_absent {
                true => self.read_and_write(&PUT, key, &args, false).await?,
                false => self.write(&PUT, key, &args).await?,
            };
            self.hints.note(key, &draft.tags);
            Ok(outcome(&reply)? == 1)
        }
        .boxed()
    }

    fn delete<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.of_names(&DELETE, keys).boxed()
    }

    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.of_names(&EXPIRE, keys).boxed()
    }

    fn clock(&self) -> &TagClock {
        &self.tag_clock
    }

    fn touch<'a>(&'a self, key: &'a Key, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            let ttl = millis(ttl).to_string();
            Ok(outcome(&self.read_and_write(&TOUCH, key, &[ttl.as_bytes()], true).await?)? == 1)
        }
        .boxed()
    }

    fn increment<'a>(
        &'a self,
        key: &'a Key,
        delta: i64,
        initial: i64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Incremented, StoreError>> {
        async move {
            let own = [delta.to_string(), initial.to_string(), millis(ttl).to_string()];
            let args: Vec<&[u8]> = own.iter().map(String::as_bytes).collect();
            let reply = self.read_and_write(&INCREMENT, key, &args, false).await?;
            let value = match reply.get(2) {
                Some(Value::BulkString(digits)) => std::str::from_utf8(digits).ok(),
                _ => None,
            };
            match (outcome(&reply)?, value.and_then(|digits| digits.parse().ok())) {
                (1, Some(value)) => Ok(Incremented::Done(value)),
                (0, _) => Ok(Incremented::NoInteger),
                (2, _) => Ok(Incremented::Overflow),
                (other, _) => Err(broken(format!("cache.increment answered {other}"))),
            }
        }
        .boxed()
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
        refresh: bool,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        async move {
            let limit = millis(limit).to_string();
            let refresh: &[u8] = if refresh { b"1" } else { b"0" };
            let args: [&[u8]; 3] = [&token.to_bytes(), limit.as_bytes(), refresh];
            acquired(self.read_and_write(&ACQUIRE, key, &args, true).await?)
        }
        .boxed()
    }

    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        async move {
            let lease = self.shard(key).await?.key(LEASE, key.name());
            let limit = millis(limit).to_string();
            let args: [&[u8]; 2] = [&token.to_bytes(), limit.as_bytes()];
            let held: i64 = self.link.script(&RENEW, &[&lease], &args).await?;
            Ok(held == 1)
        }
        .boxed()
    }

    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<Filled, StoreError>> {
        async move {
            let Encoded { lead, tail, ttl, kept } = frame::encode(&draft);
            let token = token.to_bytes();
            let head: [&[u8]; 5] = [&token, ttl.as_bytes(), kept.as_bytes(), &lead, &tail];
            let tags = draft.tags.as_slice().iter().map(String::as_bytes);
            let args: Vec<&[u8]> = head.into_iter().chain(tags).collect();
            let reply = self.write(&FILL, key, &args).await?;
            self.hints.note(key, &draft.tags);
            match outcome(&reply)? {
                1 => Ok(Filled::Stored),
                0 => Ok(Filled::LeaseEnded),
                _ => Ok(Filled::Invalidated),
            }
        }
        .boxed()
    }

    fn ended(&self, key: &Key) -> BoxFuture<'static, ()> {
        let shard = self.clock.shard_now(key.namespace().as_str(), key.route());
        self.wakes.wait(shard.key(LEASE, key.name()))
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let lease = self.shard(key).await?.key(LEASE, key.name());
            let args: [&[u8]; 2] = [&token.to_bytes(), self.channel.as_bytes()];
            Ok(self.link.script(&RELEASE, &[&lease], &args).await?)
        }
        .boxed()
    }
}

#[cfg(test)]
mod moving;
#[cfg(test)]
mod tests;
