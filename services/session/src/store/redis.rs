//! Sessions in Redis or Redis Cluster: reads are one pipelined round trip, changes are one script, and Redis' own clock
//! says what has run out. `redis/prelude.lua` describes the keys.

mod clock;
mod field;
mod hub;
mod keys;
#[cfg(test)]
mod moving;
mod script;
mod sweep;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use redis::Value as Reply;
use shoal_kit::EngineError;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script};
use tokio::time::{Instant, timeout};

use self::clock::RedisClock;
use self::field::{answer, answered_id, answered_record, answered_time, broken};
use self::hub::{Hub, Listener};
pub(crate) use self::keys::RedisKeys;
use self::sweep::Sweep;
use super::{Ends, History, ListPlace, Store, report_reuse};
use crate::clock::{Time, millis};
use crate::config::Config;
use crate::error::Error;
use crate::event::{BUCKETS, Place};
use crate::id::{SessionId, hex, push_hex};
use crate::keys::keyring::{Hash, Keyring};
use crate::session::attribute::{Change, Passed};
use crate::session::rotation::TokenState;
use crate::session::{AtLimit, Created, NewSession, Policy, Record, Session};

const ENGINE: &str = "redis";
/// The least time between two passes over the ends of all buckets: watchers that begin together share one.
const ENDS_INTERVAL: Duration = Duration::from_millis(200);
/// The number of buckets asked at once in such a pass.
const ENDS_CONCURRENCY: usize = 32;
/// The store of sessions at one clone on Redis.
#[derive(Debug, Clone)]
pub(crate) struct RedisStore {
    link: Link,
    names: Arc<Names>,
    keys: RedisKeys,
    policy: Policy,
    /// The longest wait of a get for its use to be recorded.
    touch_patience: Duration,
    sweep: Sweep,
    hub: Hub,
    clock: Arc<RedisClock>,
    /// The last pass over the buckets' ends.
    ends: Arc<tokio::sync::Mutex<Option<Pass>>>,
}

/// A pass over the buckets: when it began, and what it found.
type Pass = (Instant, Arc<Ends>);

/// The names of keys.
#[derive(Debug)]
struct Names {
    prefix: String,
    /// The name of this clone's sweeper.
    sweeper: String,
}

impl Names {
    /// Returns the prefix of all keys of a bucket; its hash tag puts them on one slot.
    fn base(&self, bucket: u8) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 48);
        key.push_str(&self.prefix);
        key.push_str("{b");
        push_hex(&mut key, &[bucket]);
        key.push_str("}:");
        key
    }

    fn session(&self, id: SessionId) -> String {
        let mut key = self.base(id.bucket);
        key.push_str("s:");
        push_hex(&mut key, &id.unique);
        key
    }

    fn user(&self, bucket: u8, user: &str) -> String {
        format!("{}u:{user}", self.base(bucket))
    }

    fn events(&self, bucket: u8) -> String {
        format!("{}v", self.base(bucket))
    }

    fn store_name(&self) -> String {
        format!("{}store-id", self.prefix)
    }

    fn expiries(&self, bucket: u8) -> String {
        format!("{}e", self.base(bucket))
    }

    /// Returns the key of the sweeper's lease, on one slot with [`Names::soon`].
    fn lease(&self) -> String {
        format!("{}{{sweep}}:lease", self.prefix)
    }

    fn soon(&self) -> String {
        format!("{}{{sweep}}:soon", self.prefix)
    }
}

impl RedisStore {
    /// Opens the store and connects in the background: a Redis that is down now is used when it comes up. Without a
    /// keyring the keys are kept in Redis.
    pub(crate) fn open(
        link: LinkConfig,
        config: &Config,
        keyring: Option<Arc<Keyring>>,
    ) -> Result<Self, LinkError> {
        let link = Link::open(LinkConfig { scripts: script::all(), ..link })?;
        let names =
            Arc::new(Names { prefix: config.key_prefix.clone(), sweeper: uuid::Uuid::new_v4().to_string() });
        let clock = Arc::<RedisClock>::default();
        let keys = RedisKeys::new(link.clone(), &config.key_prefix, Arc::clone(&clock), keyring);
        Ok(Self {
            hub: Hub::new(link.clone(), Arc::clone(&names)),
            clock,
            ends: Arc::default(),
            link,
            names,
            keys,
            policy: config.policy(),
            touch_patience: config.redis_deadline,
            sweep: Sweep::new(config.sweep_interval, config.redis_deadline),
        })
    }

    /// Returns the keys of the clones on this Redis.
    pub(crate) fn keys(&self) -> RedisKeys {
        self.keys.clone()
    }

    /// Returns the link to Redis.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Returns the key under which the store has its name.
    pub(crate) fn name_key(&self) -> String {
        self.names.store_name()
    }

    /// Runs a script on a bucket.
    async fn run<T: redis::FromRedisValue>(
        &self,
        script: &Script,
        bucket: u8,
        args: &[&[u8]],
    ) -> Result<T, LinkError> {
        let kept = self.policy.events_kept.to_string();
        let args: Vec<&[u8]> = [kept.as_bytes()].into_iter().chain(args.iter().copied()).collect();
        self.link.script(script, &[self.names.base(bucket).as_bytes()], &args).await
    }

    /// Runs the short script of an operation, then the whole one if the short one asks for it, which did nothing then.
    async fn change_shortly(
        &self,
        short: &Script,
        whole: &Script,
        id: SessionId,
        args: &[&[u8]],
    ) -> Result<Answer, Error> {
        match self.change(short, id, args).await? {
            Answer::More => self.change(whole, id, args).await,
            answer => Ok(answer),
        }
    }

    /// Runs a script that answers with a word and perhaps a record.
    async fn change(&self, script: &Script, id: SessionId, args: &[&[u8]]) -> Result<Answer, Error> {
        let reply: Vec<Reply> = self.run(script, id.bucket, args).await.map_err(from_write)?;
        let (word, mut parts) = answer(reply)?;
        let limits = self.policy.attributes;
        Ok(match word.as_str() {
            "ok" => {
                let (read, now) = answered_record(&mut parts)?;
                self.clock.told(now);
                Answer::Done(field::record(id, read)?.ok_or(Error::NotFound)?)
            }
            "new" => {
                let now = answered_time(&mut parts)?;
                self.clock.told(now);
                Answer::New(now)
            }
            "repeat" => {
                let (read, now) = answered_record(&mut parts)?;
                self.clock.told(now);
                let made = answered_id(id.bucket, &mut parts)?;
                Answer::Repeat(field::record(made, read)?.ok_or(Error::RequestSpent)?)
            }
            "crowded" | "other" => Answer::More,
            "absent" => return Err(Error::NotFound),
            "reused" => {
                report_reuse(id);
                return Err(Error::NotFound);
            }
            "differs" => return Err(Error::RequestDiffers),
            "full" => return Err(Error::UserFull { max: self.policy.sessions_per_user_max }),
            "count" => {
                return Err(Error::AttributesFull { passed: Passed::Count, max: limits.count_max });
            }
            "bytes" => {
                return Err(Error::AttributesFull { passed: Passed::Bytes, max: limits.bytes_max });
            }
            "version" => match parts.next() {
                Some(Reply::BulkString(version)) => Answer::Version(
                    String::from_utf8_lossy(&version).parse().map_err(|_| broken("a version"))?,
                ),
                _ => return Err(broken("an answer without a version")),
            },
            _ => return Err(broken("an unknown answer")),
        })
    }

    /// Presents a token in Redis: the part of a get that writes.
    async fn present(&self, id: SessionId, presented: &[Hash], touch: bool) -> Result<Session, Error> {
        let (name, grace) = (id.unique_hex(), self.grace());
        let touch: &[u8] = if touch { b"1" } else { b"0" };
        let args = [name.as_bytes(), presented.as_flattened(), grace.as_bytes(), touch];
        Ok(self.change(&script::USE, id, &args).await?.record()?.session)
    }

    async fn read(&self, id: SessionId) -> Result<Option<Record>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(self.names.session(id));
        field::record(id, self.link.query(&get).await.map_err(from_read)?)
    }

    fn grace(&self) -> String {
        millis(self.policy.rotation_grace).to_string()
    }

    /// Returns the arguments from which `change.lua` reads.
    fn change_args(&self, change: &Change) -> Vec<Vec<u8>> {
        let limits = self.policy.attributes;
        let number = |n: usize| n.to_string().into_bytes();
        let mut args = vec![number(limits.count_max), number(limits.bytes_max), number(change.set.len())];
        args.extend(change.set.iter().flat_map(|(name, value)| [name.clone().into_bytes(), value.encode()]));
        args.push(number(change.remove.len()));
        args.extend(change.remove.iter().map(|name| name.clone().into_bytes()));
        args
    }

    /// Counts the entries of all expiry indexes and of these users' own.
    #[cfg(test)]
    pub(crate) async fn index_entries(&self, users: &[(u8, String)]) -> usize {
        let expiries = (0..=u8::MAX).map(|bucket| self.names.expiries(bucket));
        let keys = expiries.chain(users.iter().map(|(bucket, user)| self.names.user(*bucket, user)));
        let mut entries = 0;
        for key in keys {
            let mut count = redis::cmd("ZCARD");
            count.arg(key);
            entries += self.link.query::<usize>(&count).await.expect("redis answers");
        }
        entries
    }

    #[cfg(test)]
    pub(crate) async fn holds(&self, id: SessionId) -> bool {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.names.session(id));
        self.link.query(&exists).await.expect("redis answers")
    }

    /// Records a use, due or not.
    #[cfg(test)]
    pub(crate) async fn touch_now(&self, id: SessionId, presented: &[Hash]) -> Result<(), Error> {
        self.present(id, presented, true).await.map(drop)
    }

    /// Returns the place of a bucket's latest event.
    async fn end(&self, bucket: u8) -> Result<Place, Error> {
        let mut latest = redis::cmd("XREVRANGE");
        latest.arg(self.names.events(bucket)).arg("+").arg("-").arg("COUNT").arg(1);
        let latest: Vec<(String, Vec<Vec<u8>>)> = self.link.query(&latest).await.map_err(from_read)?;
        match latest.first() {
            Some((id, _)) => field::place(id).ok_or_else(|| broken("a place")),
            None => Ok(Place::default()),
        }
    }
}

/// The answer of a change that was not refused.
enum Answer {
    Done(Record),
    /// A session was made at this time.
    New(Time),
    Repeat(Record),
    Version(i64),
    /// A request for the whole script: nothing was done.
    More,
}

impl Answer {
    fn record(self) -> Result<Record, Error> {
        match self {
            Answer::Done(record) => Ok(record),
            Answer::New(_) | Answer::Repeat(_) | Answer::Version(_) | Answer::More => Err(misplaced()),
        }
    }
}

fn misplaced() -> Error {
    broken("an answer to another question")
}

impl Store for RedisStore {
    type Listener = Listener;

    async fn create(&self, new: NewSession) -> Result<Created, Error> {
        if let Some(policy) = self.link.loses() {
            return Err(Error::Evicts { policy });
        }
        let policy: &[u8] = match self.policy.at_limit {
            AtLimit::Reject => b"reject",
            AtLimit::RevokeOldest => b"revoke_oldest",
        };
        let (idle, absolute) = (millis(new.idle_ttl).to_string(), millis(new.absolute_ttl).to_string());
        let most = self.policy.sessions_per_user_max.to_string();
        let (name, (head, tail)) = (new.id.unique_hex(), field::new_record(&new, &idle));
        let mut args: Vec<&[u8]> = vec![
            name.as_bytes(),
            new.user.as_bytes(),
            idle.as_bytes(),
            absolute.as_bytes(),
            most.as_bytes(),
            policy,
            &head,
            &tail,
        ];
        let request = new.request.as_ref().map(|request| {
            let kept = millis(self.policy.request_kept).to_string();
            [hex(&request.key), hex(&request.fingerprint), kept]
        });
        args.extend(request.iter().flatten().map(String::as_bytes));
        let lives = new.idle_ttl.min(new.absolute_ttl);
        let (made, ()) = futures::join!(
            self.change_shortly(&script::CREATE, &script::CREATE_CROWDED, new.id, &args),
            self.announce_end(new.id.bucket, lives)
        );
        match made? {
            Answer::New(now) => Ok(Created::New(new.begin(now))),
            Answer::Repeat(record) => Ok(Created::Repeat(record)),
            Answer::Done(_) | Answer::Version(_) | Answer::More => Err(misplaced()),
        }
    }

    async fn get(&self, id: SessionId, presented: Vec<Hash>, touch: bool) -> Result<Session, Error> {
        let Record { session, secrets } = self.read(id).await?.ok_or(Error::NotFound)?;
        let now = self.clock.now();
        let touch = touch && session.touch_due(now);
        match secrets.state(&presented, now) {
            TokenState::Current { outdated: false } if !touch => Ok(session),
            // The session was read; that this use is not recorded is no reason to refuse it, nor to wait for a slot that moves.
            TokenState::Current { outdated: false } => {
                match timeout(self.touch_patience, self.present(id, &presented, true)).await {
                    Err(_) | Ok(Err(Error::Engine(_))) => Ok(session),
                    Ok(used) => used,
                }
            }
            // Redis' clock decides for how long an old token is good.
            TokenState::Current { outdated: true }
            | TokenState::Next
            | TokenState::Grace
            | TokenState::Reused => self.present(id, &presented, touch).await,
            TokenState::Unknown => Err(Error::NotFound),
        }
    }

    async fn update(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        change: Change,
        expected_version: Option<i64>,
    ) -> Result<Session, Error> {
        let (name, grace) = (id.unique_hex(), self.grace());
        let expected = expected_version.map(|version| version.to_string()).unwrap_or_default();
        let change = self.change_args(&change);
        let mut args = vec![name.as_bytes(), presented.as_flattened(), grace.as_bytes(), expected.as_bytes()];
        args.extend(change.iter().map(Vec::as_slice));
        let answer = self.change_shortly(&script::UPDATE, &script::UPDATE_PRESENTED, id, &args).await?;
        match (answer, expected_version) {
            (Answer::Version(current), Some(expected)) => Err(Error::VersionMismatch { expected, current }),
            (answer, _) => Ok(answer.record()?.session),
        }
    }

    async fn rotate(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        successors: Vec<Hash>,
        change: Change,
    ) -> Result<Record, Error> {
        let (name, grace) = (id.unique_hex(), self.grace());
        let change = self.change_args(&change);
        let mut args =
            vec![name.as_bytes(), presented.as_flattened(), grace.as_bytes(), successors.as_flattened()];
        args.extend(change.iter().map(Vec::as_slice));
        self.change(&script::ROTATE, id, &args).await?.record()
    }

    async fn revoke(&self, id: SessionId, presented: Option<Vec<Hash>>) -> Result<(), Error> {
        let (name, grace) = (id.unique_hex(), self.grace());
        let presented = presented.unwrap_or_default();
        let args = [name.as_bytes(), presented.as_flattened(), grace.as_bytes()];
        let word: String = self.run(&script::REVOKE, id.bucket, &args).await.map_err(from_write)?;
        if word == "reused" {
            report_reuse(id);
        }
        Ok(())
    }

    async fn list(
        &self,
        bucket: u8,
        user: String,
        after: Option<ListPlace>,
        limit: usize,
    ) -> Result<Vec<Session>, Error> {
        // No longer than the limit of sessions per user.
        let mut index = redis::cmd("ZRANGE");
        index.arg(self.names.user(bucket, &user)).arg(0).arg(-1).arg("REV").arg("WITHSCORES");
        let index: Vec<(Vec<u8>, i64)> = self.link.query(&index).await.map_err(from_read)?;
        let mut ids = Vec::with_capacity(index.len());
        for (id, created) in index {
            let id = SessionId::from_unique_hex(bucket, &id).ok_or_else(|| broken("an index entry"))?;
            if after.is_none_or(|after| (created, id) < (after.created_millis, after.id)) {
                ids.push(id);
            }
        }
        let mut sessions = Vec::new();
        // Those that ran out are skipped, so one round trip may not fill the page.
        for batch in ids.chunks(limit.max(1)) {
            let mut reads = redis::pipe();
            for id in batch {
                reads.cmd("GET").arg(self.names.session(*id));
            }
            let mut replies = self.link.pipeline::<Vec<Reply>>(&reads).await.map_err(from_read)?.into_iter();
            for id in batch {
                let read = replies.next().unwrap_or(Reply::Nil);
                let read = redis::from_redis_value(read).map_err(|_| broken("a record"))?;
                sessions.extend(field::record(*id, read)?.map(|record| record.session));
            }
            if sessions.len() >= limit {
                break;
            }
        }
        sessions.truncate(limit);
        Ok(sessions)
    }

    async fn revoke_user(&self, bucket: u8, user: String, except: Option<SessionId>) -> Result<u64, Error> {
        let except = except.filter(|id| id.bucket == bucket).map(|id| id.unique_hex()).unwrap_or_default();
        let args = [user.as_bytes(), except.as_bytes()];
        self.run(&script::REVOKE_USER, bucket, &args).await.map_err(from_write)
    }

    async fn sweep(&self) -> Result<u64, Error> {
        self.sweep_due().await
    }

    async fn history(&self, bucket: u8, after: Place, limit: usize) -> Result<History, Error> {
        let (after, limit) = (field::place_id(after), limit.to_string());
        type Entries = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;
        let (gap, last, entries): (bool, String, Entries) = self
            .run(&script::HISTORY, bucket, &[after.as_bytes(), limit.as_bytes()])
            .await
            .map_err(from_read)?;
        let events = entries.iter().map(|(id, fields)| field::event(bucket, id, fields));
        Ok(History {
            gap,
            last: field::place(&last).ok_or_else(|| broken("a place"))?,
            events: events.collect::<Option<_>>().ok_or_else(|| broken("an event"))?,
        })
    }

    async fn ends(&self) -> Result<Arc<Ends>, Error> {
        let asked = Instant::now();
        let mut last = self.ends.lock().await;
        if let Some((begun, ends)) = last.as_ref() {
            if *begun >= asked {
                return Ok(Arc::clone(ends));
            }
            // Those who ask meanwhile share the next pass.
            tokio::time::sleep_until(*begun + ENDS_INTERVAL).await;
        }
        let begun = Instant::now();
        let ends: Vec<(u8, Place)> = stream::iter(0..=u8::MAX)
            .map(|bucket| async move { Ok::<_, Error>((bucket, self.end(bucket).await?)) })
            .buffer_unordered(ENDS_CONCURRENCY)
            .try_collect()
            .await?;
        let mut places = [Place::default(); BUCKETS];
        ends.into_iter().for_each(|(bucket, place)| places[usize::from(bucket)] = place);
        let ends = Arc::new(places);
        *last = Some((begun, Arc::clone(&ends)));
        Ok(ends)
    }

    fn listen(&self) -> Listener {
        self.hub.listen()
    }

    fn ready(&self) -> Result<(), String> {
        self.link.ready_now()
    }
}

/// Translates a failed read: one that was not answered changed nothing.
fn from_read(error: LinkError) -> Error {
    match from_write(error) {
        Error::Engine(error) => Error::Engine(error.of_read()),
        other => other,
    }
}

/// Translates a failed change: after [`EngineError::Unknown`] it may have been made. Scripts and pipelines here do not
/// write before what may be refused.
fn from_write(error: LinkError) -> Error {
    let engine = ENGINE;
    Error::Engine(match error {
        LinkError::Unavailable(detail) => EngineError::Unavailable { engine, detail },
        LinkError::Unknown(detail) => EngineError::Unknown { engine, detail },
        LinkError::Moving(detail) => EngineError::Moving { engine, detail },
        LinkError::Full(detail) => EngineError::Full { engine, detail, remedy: "raise its maxmemory" },
        LinkError::ReadOnly(detail) => EngineError::ReadOnly { engine, detail },
        LinkError::Denied(detail) => EngineError::Misconfigured { engine, detail },
        LinkError::Server { code, message } => {
            return Error::Internal(format!("redis refused: {code} {message}"));
        }
        LinkError::Config(text) => return Error::Internal(text),
    })
}
