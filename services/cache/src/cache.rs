//! Entries that callers set: policies, limits, packing and counting around the store.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::try_join_all;
use shoal_kit::reason;
use shoal_kit::{EngineError, Invalid};
use tokio::time::{Instant, timeout, timeout_at};

use crate::body::Body;
use crate::config::Policy;
use crate::error::Error;
use crate::gate::{Gates, Turn};
use crate::key::{Key, NamespaceName, Tags};
use crate::limit::{TTL_MAX, TTL_MIN};
use crate::namespace::{Event, Namespace, Namespaces};
use crate::store::{
    Acquired, Draft, Filled, Found, Incremented, MissReason, Record, Store, StoreError, Token,
};

/// The longest wait for news of another's lease: a notice may be lost, so the key is then looked at again.
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The way in which a caller looks a key up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lookup {
    /// The time since its expiry at which a value is accepted.
    pub(crate) max_stale: Duration,
    /// Asks for the lease on a key that is a miss.
    pub(crate) want_lease: bool,
    /// Waits so long for another's load.
    pub(crate) wait: Duration,
}

/// The outcome of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The value, and the lease if it was asked for and won.
    Value(Value, Option<Token>),
    /// A miss.
    Miss(Missed),
}

/// A found entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) value: Bytes,
    pub(crate) tags: Tags,
    pub(crate) age: Duration,
    pub(crate) expires_at: SystemTime,
    pub(crate) stale: bool,
}

/// A miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missed {
    pub(crate) why: MissReason,
    /// The lease, if it was asked for and won.
    pub(crate) lease: Option<Token>,
    /// The longest time for which another holds the lease.
    pub(crate) retry_after: Option<Duration>,
}

/// An entry to set.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) key: Key,
    pub(crate) value: Bytes,
    /// The time to live; `None`: the namespace's.
    pub(crate) ttl: Option<Duration>,
    pub(crate) tags: Tags,
    pub(crate) condition: Condition,
}

/// The condition under which a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Stores in any case.
    None,
    /// Stores if the key is absent.
    Absent,
    /// Stores if the lease still holds and nothing was invalidated since.
    Lease(Token),
}

/// The outcome of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetOutcome {
    /// The value is stored.
    Stored,
    /// The key is there.
    Exists,
    /// The lease has ended.
    LeaseEnded,
    /// A tag was invalidated since the lease was given.
    Invalidated,
}

/// The keys and tags of an invalidation, of which there is at least one.
#[derive(Debug, Clone)]
pub(crate) struct Covered {
    pub(crate) namespace: NamespaceName,
    pub(crate) keys: Vec<Key>,
    pub(crate) tags: Vec<String>,
}

/// The answer of the store to a caller who asks for a lease.
enum Asked {
    /// The lease is the caller's.
    Granted(Token),
    /// The entry is there.
    Settled(Outcome),
    /// Another has the lease, for so long at most.
    Held(Duration),
}

/// Entries of one clone.
pub(crate) struct Cache {
    store: Arc<dyn Store>,
    namespaces: Arc<Namespaces>,
    gates: Gates<Outcome>,
    waiters: metrics::Gauge,
    invalidations: metrics::Histogram,
}

/// A caller that waits, counted while it does.
struct Waiting<'a>(&'a metrics::Gauge);

impl<'a> Waiting<'a> {
    fn new(waiters: &'a metrics::Gauge) -> Self {
        waiters.increment(1.0);
        Self(waiters)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Cache {
    pub(crate) fn new(store: Arc<dyn Store>, namespaces: Arc<Namespaces>) -> Self {
        Self {
            store,
            namespaces,
            gates: Gates::default(),
            waiters: metrics::gauge!("shoal_cache_waiters"),
            invalidations: metrics::histogram!("shoal_cache_invalidation_duration_seconds"),
        }
    }

    /// Returns the namespaces, with their counts.
    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Looks a key up. A negative result of a loader is a miss.
    pub(crate) async fn get(&self, key: &Key, lookup: Lookup) -> Result<Outcome, Error> {
        let namespace = self.namespaces.of(key.namespace());
        namespace.hot_keys.read(key);
        let outcome = self.look_up(key, lookup, &namespace).await;
        count(&namespace, &outcome);
        outcome
    }

    /// Looks keys of one namespace up, without their leases.
    pub(crate) async fn get_many(&self, keys: &[Key], max_stale: Duration) -> Result<Vec<Outcome>, Error> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let namespace = self.namespaces.of(first.namespace());
        let found = match self.store.look(keys, false).await {
            Ok(found) => found,
            Err(error) => {
                keys.iter().for_each(|_| namespace.counters.count_miss(&MissReason::StoreAway));
                return Err(error.into());
            }
        };
        let mut outcomes = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            namespace.hot_keys.read(key);
            let outcome = settled(found, max_stale, &namespace.policy).map(|settled| settled.outcome);
            count(&namespace, &outcome);
            outcomes.push(outcome?);
        }
        Ok(outcomes)
    }

    async fn look_up(&self, key: &Key, lookup: Lookup, namespace: &Namespace) -> Result<Outcome, Error> {
        let found = self.store.get(key).await?;
        let Settled { outcome, refresh } = settled(found, lookup.max_stale, &namespace.policy)?;
        let fresh = matches!(outcome, Outcome::Value(Value { stale: false, .. }, _));
        if !lookup.want_lease || (fresh && !refresh) {
            return Ok(outcome);
        }
        if lookup.wait.is_zero() || matches!(outcome, Outcome::Value(..)) {
            return match self.acquire(key, Token::random(), lookup, namespace, refresh).await? {
                Asked::Settled(settled) => Ok(settled),
                Asked::Granted(token) => Ok(outcome.given(token)),
                Asked::Held(left) => Ok(outcome.held(left)),
            };
        }
        self.wait(key, lookup, namespace, outcome).await
    }

    /// Waits for the value or for the lease, together with others at this clone.
    async fn wait(
        &self,
        key: &Key,
        lookup: Lookup,
        namespace: &Namespace,
        outcome: Outcome,
    ) -> Result<Outcome, Error> {
        let ends = Instant::now() + lookup.wait;
        let caller = self.gates.join(key);
        let _waiting = Waiting::new(&self.waiters);
        let _turn = match timeout_at(ends, caller.turn()).await {
            Err(_) => return Ok(outcome.held(namespace.policy.load_timeout)),
            Ok(Turn::Found(found)) => {
                namespace.counters.count(Event::Coalesced);
                return Ok(found);
            }
            Ok(Turn::Ask(turn)) => turn,
        };
        let token = Token::random();
        loop {
            // It listens before it asks, so that no end of a lease comes between.
            let ended = self.store.ended(key);
            let at = caller.begin_look();
            let left = match self.acquire(key, token, lookup, namespace, false).await? {
                Asked::Granted(token) => return Ok(outcome.given(token)),
                Asked::Settled(found) => {
                    if matches!(found, Outcome::Value(..)) {
                        caller.share(at, found.clone());
                    }
                    return Ok(found);
                }
                Asked::Held(left) => left,
            };
            let now = Instant::now();
            if now >= ends {
                return Ok(outcome.held(left));
            }
            let pause = WAIT_PAUSE_MAX.mul_f64(0.75 + fastrand::f64() / 4.0);
            // Told or not, it asks again.
            let _ = timeout(pause.min(ends - now).min(left + TTL_MIN), ended).await;
        }
    }

    async fn acquire(
        &self,
        key: &Key,
        token: Token,
        lookup: Lookup,
        namespace: &Namespace,
        refresh: bool,
    ) -> Result<Asked, Error> {
        let policy = &namespace.policy;
        let ask = || self.store.acquire(key, token, policy.load_timeout, refresh);
        let answer = match ask().await {
            // It may have been granted: the same token is granted again.
            Err(StoreError::Engine(EngineError::Unknown { .. })) => ask().await,
            answer => answer,
        };
        let acquired = match answer {
            Ok(acquired) => acquired,
            Err(error) => {
                // Others would wait for a lease that nobody knows of.
                let _ = self.store.release(key, token).await;
                return Err(error.of_read().into());
            }
        };
        Ok(match acquired {
            Acquired::Granted { .. } => Asked::Granted(token),
            // Another has filled it meanwhile, with a value or with a negative result.
            Acquired::Record(record) => {
                Asked::Settled(settled(Found::Record(record), lookup.max_stale, policy)?.outcome)
            }
            Acquired::Held { left, .. } => Asked::Held(left),
        })
    }

    /// Stores a value.
    pub(crate) async fn set(&self, set: Set) -> Result<SetOutcome, Error> {
        let namespace = self.namespaces.of(set.key.namespace());
        let policy = &namespace.policy;
        let bytes = set.value.len();
        if bytes > policy.value_bytes_max {
            return Err(Error::ValueTooLarge {
                namespace: set.key.namespace().as_str().to_owned(),
                bytes,
                bytes_max: policy.value_bytes_max,
            });
        }
        let ttl = match set.ttl {
            None => policy.jittered(policy.ttl),
            Some(ttl) => ttl,
        };
        let body = Body::pack(set.value, policy.compress_above).await;
        let draft = policy.windowed(Draft::new(body, set.tags, ttl));
        let outcome = match set.condition {
            Condition::Lease(token) => match self.store.fill(&set.key, token, draft).await? {
                Filled::Stored => SetOutcome::Stored,
                Filled::LeaseEnded => SetOutcome::LeaseEnded,
                Filled::Invalidated => SetOutcome::Invalidated,
            },
            condition => match self.store.put(&set.key, draft, condition == Condition::Absent).await? {
                true => SetOutcome::Stored,
                false => SetOutcome::Exists,
            },
        };
        match outcome {
            SetOutcome::Stored => namespace.counters.add_stored(bytes),
            SetOutcome::LeaseEnded | SetOutcome::Invalidated => namespace.counters.count(Event::RefusedFill),
            SetOutcome::Exists => {}
        }
        Ok(outcome)
    }

    /// Stores values; those before one that fails may be stored.
    pub(crate) async fn set_many(&self, sets: Vec<Set>) -> Result<Vec<SetOutcome>, Error> {
        try_join_all(sets.into_iter().map(|set| self.set(set))).await
    }

    /// Removes a key, and refuses every load of it that began before.
    pub(crate) async fn delete(&self, key: &Key) -> Result<(), Error> {
        Ok(self.store.delete_key(key).await?)
    }

    /// Gives an entry a new time to live. Returns false if it is absent.
    pub(crate) async fn touch(&self, key: &Key, ttl: Option<Duration>) -> Result<bool, Error> {
        let policy = &self.namespaces.of(key.namespace()).policy;
        let ttl = ttl.unwrap_or_else(|| policy.jittered(policy.ttl));
        Ok(self.store.touch(key, ttl).await?)
    }

    /// Adds to the integer of an entry.
    pub(crate) async fn increment(
        &self,
        key: &Key,
        delta: i64,
        initial: i64,
        ttl: Option<Duration>,
    ) -> Result<i64, Error> {
        let policy = &self.namespaces.of(key.namespace()).policy;
        let ttl = ttl.unwrap_or_else(|| policy.jittered(policy.ttl));
        match self.store.increment(key, delta, initial, ttl).await? {
            Incremented::Done(value) => Ok(value),
            Incremented::NoInteger => Err(Error::NotIncremented { overflow: false }),
            Incremented::Overflow => Err(Error::NotIncremented { overflow: true }),
        }
    }

    /// Invalidates keys and tags: nothing that was stored or began to be loaded before is served again.
    pub(crate) async fn invalidate(&self, covered: &Covered) -> Result<(), Error> {
        let began = Instant::now();
        let clock = self.store.clock();
        let tags =
            async { Ok::<_, StoreError>(clock.invalidate(covered.namespace.as_str(), &covered.tags).await?) };
        tokio::try_join!(self.store.delete(&covered.keys), tags)?;
        self.invalidations.record(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Makes keys and tags expire.
    pub(crate) async fn expire(&self, covered: &Covered) -> Result<(), Error> {
        let began = Instant::now();
        let clock = self.store.clock();
        let tags =
            async { Ok::<_, StoreError>(clock.expire(covered.namespace.as_str(), &covered.tags).await?) };
        tokio::try_join!(self.store.expire(&covered.keys), tags)?;
        self.invalidations.record(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Invalidates a whole namespace.
    pub(crate) async fn clear(&self, namespace: &NamespaceName) -> Result<(), Error> {
        let began = Instant::now();
        self.store.clock().clear(namespace.as_str()).await.map_err(StoreError::from)?;
        self.invalidations.record(began.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Policy {
    /// Gives an entry the times around its expiry that the namespace has.
    pub(crate) fn windowed(&self, draft: Draft) -> Draft {
        let soft = self.soft_ttl.map(|soft| self.jittered(soft)).filter(|soft| *soft < draft.ttl);
        Draft { soft, stale: self.stale_if_error, ..draft }
    }
}

impl Outcome {
    /// Returns the outcome with the lease that was won.
    fn given(self, token: Token) -> Self {
        match self {
            Self::Value(value, _) => Self::Value(value, Some(token)),
            Self::Miss(missed) => Self::Miss(Missed { lease: Some(token), ..missed }),
        }
    }

    /// Returns the outcome with the time for which another has the lease.
    fn held(self, left: Duration) -> Self {
        match self {
            Self::Value(..) => self,
            Self::Miss(missed) => Self::Miss(Missed { retry_after: Some(left), ..missed }),
        }
    }
}

/// The outcome of one look.
struct Settled {
    outcome: Outcome,
    /// True if the entry is there, and a refresh is due.
    refresh: bool,
}

/// Decides what a caller gets of what was found.
fn settled(found: Found, max_stale: Duration, policy: &Policy) -> Result<Settled, Error> {
    let miss = |why| Outcome::Miss(Missed { why, lease: None, retry_after: None });
    match found {
        Found::Record(record) => {
            let refresh = record.soft;
            let outcome = value_of(record)?.unwrap_or_else(|| miss(MissReason::Absent));
            Ok(Settled { outcome, refresh })
        }
        Found::Absent { why, stale, .. } => {
            let since = stale.as_ref().and_then(|record| record.stale);
            let allowed = since.filter(|since| *since <= policy.stale_if_error);
            let outcome = match (stale, allowed) {
                (Some(record), Some(since)) if since <= max_stale => {
                    value_of(record)?.unwrap_or_else(|| miss(why))
                }
                (_, Some(_)) => miss(MissReason::TooOldForCaller),
                (_, None) => miss(why),
            };
            Ok(Settled { outcome, refresh: false })
        }
    }
}

/// Unpacks an entry; `None` if it is a negative result.
fn value_of(record: Record) -> Result<Option<Outcome>, Error> {
    let stale = record.stale.is_some();
    let value = record.body.unpack().map_err(|error| StoreError::Broken { detail: error.to_string() })?;
    let of =
        |value| Value { value, tags: record.tags, age: record.age, expires_at: record.expires_at, stale };
    Ok(value.map(|value| Outcome::Value(of(value), None)))
}

fn count(namespace: &Namespace, outcome: &Result<Outcome, Error>) {
    let counters = &namespace.counters;
    match outcome {
        Ok(Outcome::Value(value, _)) => {
            counters.count(Event::Hit);
            if value.stale {
                counters.count(Event::Stale);
            }
        }
        Ok(Outcome::Miss(missed)) => counters.count_miss(&missed.why),
        Err(Error::Store(StoreError::Engine(_))) => counters.count_miss(&MissReason::StoreAway),
        Err(_) => {}
    }
}

/// Parses a time to live.
///
/// # Errors
/// Returns an error if it is out of range.
pub(crate) fn ttl_of(ttl: Duration) -> Result<Duration, Invalid> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(ttl);
    }
    let problem = format!("must be 1 ms to 30 days, not {ttl:?}; leave it out for the namespace's");
    Err(Invalid::new(reason::INVALID_TTL, "ttl", problem))
}

#[cfg(test)]
mod tests;
