//! Cached objects: read through on a miss, loaded once for all who wait.
//!
//! A caller looks into the store and, on a miss, joins a flight (see [`flight`]). The flights that the ids of one call begin
//! are a task of the clone ([`load`]), so a caller that goes away takes nothing with it. It asks the store for the leases on
//! the objects, loads them in one call, and fills under those leases. A write or delete that came meanwhile has ended the
//! lease, and the fill is refused: what was loaded then reaches only those who began before the lease was asked for.
//!
//! When the store is not reachable, flights load without a lease and store nothing. They take turns for each object, and
//! are joined only by callers who began before the load did, so what they return is never older than the call.

mod breaker;
pub(crate) mod flight;
pub(crate) mod kind;
mod load;
mod meter;
mod throttle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use shoal_kit::Invalid;
use shoal_kit::reason;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use self::flight::{Flights, Join, Sequence, answer_of};
use self::kind::{Kind, Kinds};
use self::load::{Batch, LoadMode, Member};
use self::throttle::Throttle;
use crate::body::Body;
use crate::error::Error;
use crate::key::Key;
use crate::limit::BATCH_IDS_MAX;
use crate::namespace::{Event, Namespace, Namespaces};
use crate::store::{Found, MissReason, Record, Store, StoreError, Token};

/// A found object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) value: Bytes,
    /// The time since it was loaded.
    pub(crate) age: Duration,
    pub(crate) from_cache: bool,
    /// The loader's version of it; may be empty.
    pub(crate) version: Bytes,
    /// Set if it has expired and is served because the loader did not answer.
    pub(crate) stale: bool,
    /// The reason for which it was not in the cache; `None`: it was.
    pub(crate) why: Option<MissReason>,
}

/// The answer for all who wait for a flight; `None` is a negative result.
type Answer = Result<Option<Object>, Error>;

/// The end of a flight.
#[derive(Debug, Clone)]
pub(crate) struct Landing {
    answer: Answer,
    /// The number that a caller must have begun before to take the answer, which was not stored; the others look again.
    only_before: Option<Sequence>,
}

/// Cached objects of one clone.
pub(crate) struct Objects {
    store: Arc<dyn Store>,
    namespaces: Arc<Namespaces>,
    kinds: Kinds,
    flights: Flights<Landing>,
    flights_max: usize,
    throttle: Throttle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A call for objects of one kind.
struct Call {
    kind: Arc<Kind>,
    namespace: Arc<Namespace>,
    /// The time after its expiry for which an object may be served if its loader fails.
    stale_max: Duration,
    began: Instant,
    /// The time at which the caller gives up.
    ends: Instant,
}

/// The state of an object for a caller.
enum Looked {
    /// The answer is known.
    Known(Answer),
    /// The object is being loaded.
    Loading(Loading),
}

/// The absence of an object, as a caller saw it.
struct Missed {
    /// The number at which the caller began.
    since: Sequence,
    lease: Option<Token>,
    why: MissReason,
    /// The expired object, if the caller may have it.
    stale: Option<Record>,
}

/// A load that a caller waits for.
struct Loading {
    /// The number at which the caller began.
    since: Sequence,
    waiter: watch::Receiver<Option<Landing>>,
    why: MissReason,
    /// The expired object, if the caller may have it.
    stale: Option<Record>,
}

impl Objects {
    /// Makes the objects of one clone. Their flights are tracked by `tasks` and cut by `stop`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        namespaces: Arc<Namespaces>,
        kinds: Kinds,
        flights_max: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            namespaces,
            kinds,
            flights: Flights::new(flights_max),
            flights_max,
            throttle: Throttle::default(),
            tasks,
            stop,
        })
    }

    /// Returns an object, from the cache or loaded.
    pub(crate) async fn get(
        self: &Arc<Self>,
        kind: &str,
        id: &str,
        max_stale: Option<Duration>,
    ) -> Result<Object, Error> {
        let kind = self.kinds.of(kind)?;
        let key = Key::of_object(kind.namespace.clone(), id)?;
        let answer = self.answers(kind.clone(), std::slice::from_ref(&key), max_stale).await.pop();
        answer.unwrap_or(Err(Error::Interrupted))?.ok_or_else(|| kind.not_found())
    }

    /// Returns objects in the order of their ids. Those that are not in the cache are loaded together.
    ///
    /// # Errors
    /// Returns an error if the kind or an id is not valid; what becomes of each valid id is in the results.
    pub(crate) async fn get_many(
        self: &Arc<Self>,
        kind: &str,
        ids: &[String],
        max_stale: Option<Duration>,
    ) -> Result<Vec<Result<Object, Error>>, Error> {
        if ids.is_empty() || ids.len() > BATCH_IDS_MAX {
            let problem = format!("must have 1 to {BATCH_IDS_MAX} entries, has {}", ids.len());
            return Err(Invalid::new(reason::INVALID_KEYS, "ids", problem).into());
        }
        let kind = self.kinds.of(kind)?;
        let key = |(at, id): (usize, &String)| {
            Key::of_object(kind.namespace.clone(), id).map_err(|invalid| invalid.at(format!("ids[{at}]")))
        };
        let keys = ids.iter().enumerate().map(key).collect::<Result<Vec<_>, _>>()?;
        // Sorted, so that two batches take the turns of their objects in the same order.
        let mut distinct = keys.clone();
        distinct.sort_by(|one, other| one.name().cmp(other.name()));
        distinct.dedup();
        let answers = self.answers(kind.clone(), &distinct, max_stale).await;
        let answers: HashMap<_, _> = distinct.iter().zip(answers).collect();
        let of = |key| answers.get(key).cloned().unwrap_or(Err(Error::Interrupted));
        Ok(keys.iter().map(|key| of(key)?.ok_or_else(|| kind.not_found())).collect())
    }

    /// Returns the answers for some objects of a kind, none of which is named twice.
    async fn answers(
        self: &Arc<Self>,
        kind: Arc<Kind>,
        keys: &[Key],
        max_stale: Option<Duration>,
    ) -> Vec<Answer> {
        let namespace = self.namespaces.of(&kind.namespace);
        let began = Instant::now();
        let ends = began + kind.policy.load_timeout;
        let policy = kind.policy.stale_if_error;
        let stale_max = max_stale.map_or(policy, |caller| caller.min(policy));
        let call = Call { kind, namespace, stale_max, began, ends };
        let looked = self.look(&call, keys, true).await;
        join_all(keys.iter().zip(looked).map(|(key, looked)| self.settle(&call, key, looked))).await
    }

    /// Looks into the store, and joins or begins a flight for each object that is not there.
    async fn look(self: &Arc<Self>, call: &Call, keys: &[Key], counted: bool) -> Vec<Looked> {
        let since = self.flights.next_sequence();
        let (mode, found) = match self.store.look(keys, true).await {
            Ok(found) => (LoadMode::Leased, found),
            Err(error) => {
                tracing::debug!(%error, "loading without the store");
                let away = || Found::Absent { lease: None, why: MissReason::StoreAway, stale: None };
                (LoadMode::Uncoordinated, keys.iter().map(|_| away()).collect())
            }
        };
        let (mut members, mut refreshes) = (Vec::new(), Vec::new());
        let mut looked = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            if counted {
                call.namespace.hot_keys.read(key);
                match &found {
                    Found::Record(_) => call.namespace.counters.count(Event::Hit),
                    Found::Absent { why, .. } => call.namespace.counters.count_miss(why),
                }
            }
            looked.push(match found {
                Found::Record(record) => {
                    if record.soft {
                        refreshes.extend(self.refresh(call, key, since));
                    }
                    Looked::Known(object_of(record))
                }
                Found::Absent { lease, why, stale } => {
                    let (why, stale) = call.allowed(why, stale);
                    self.load(call, key, &mut members, Missed { since, lease, why, stale })
                }
            });
        }
        self.start(call, members, mode);
        self.start(call, refreshes, LoadMode::Refresh);
        looked
    }

    /// Joins or begins a flight for an object that is not there, unless its loader is to be left alone.
    fn load(self: &Arc<Self>, call: &Call, key: &Key, members: &mut Vec<Member>, missed: Missed) -> Looked {
        let Missed { since, lease, why, stale } = missed;
        let now = Instant::now();
        let stale = match stale {
            Some(stale) if self.throttle.has(key, now) => return Looked::Known(call.serve_stale(stale, why)),
            stale => stale,
        };
        if let Some(paused) = call.kind.running.breaker.paused(now) {
            return Looked::Known(match stale {
                Some(stale) => call.serve_stale(stale, why),
                None => Err(call.kind.paused(paused)),
            });
        }
        let waiter = match self.flights.join(key, since, lease) {
            Join::Joined(waiter) => {
                call.namespace.counters.count(Event::Coalesced);
                waiter
            }
            Join::New(flight, waiter) => {
                members.push(Member::new(self.clone(), key.clone(), flight));
                waiter
            }
            Join::Full => {
                let kind = call.kind.name.clone();
                return Looked::Known(match stale {
                    Some(stale) => call.serve_stale(stale, why),
                    None => Err(Error::Busy { kind, loads_max: self.flights_max }),
                });
            }
        };
        Looked::Loading(Loading { since, waiter, why, stale })
    }

    /// Begins a flight for an object that is there and is to be loaded anew, unless there is one.
    fn refresh(self: &Arc<Self>, call: &Call, key: &Key, since: Sequence) -> Option<Member> {
        let now = Instant::now();
        if self.throttle.has(key, now) || call.kind.running.breaker.paused(now).is_some() {
            return None;
        }
        match self.flights.join(key, since, None) {
            Join::New(flight, _) => Some(Member::new(self.clone(), key.clone(), flight)),
            Join::Joined(_) | Join::Full => None,
        }
    }

    /// Waits for an object until it is known, and no longer than the call.
    async fn settle(self: &Arc<Self>, call: &Call, key: &Key, looked: Looked) -> Answer {
        let mut looked = looked;
        loop {
            let Loading { since, waiter, why, stale } = match looked {
                Looked::Known(answer) => return answer,
                Looked::Loading(loading) => loading,
            };
            let soft = call.kind.policy.load_soft_timeout.filter(|_| stale.is_some());
            let ends = soft.map_or(call.ends, |soft| call.ends.min(call.began + soft));
            let Ok(landing) = timeout_at(ends, answer_of(waiter)).await else {
                return match stale {
                    // The load goes on.
                    Some(stale) => call.serve_stale(stale, why),
                    None => Err(call.kind.timed_out()),
                };
            };
            let landing = landing.unwrap_or(Landing::of(Err(Error::Interrupted)));
            if landing.is_for(since) {
                return match (landing.answer, stale) {
                    (Err(error), Some(stale)) if error.is_outage() => {
                        tracing::debug!(%error, "serving an expired object");
                        self.throttle.add(key, call.kind.policy.stale_throttle, Instant::now());
                        call.serve_stale(stale, why)
                    }
                    (answer, _) => {
                        answer.map(|object| object.map(|object| Object { why: Some(why), ..object }))
                    }
                };
            }
            let again = self.look(call, std::slice::from_ref(key), false).await.pop();
            looked = again.unwrap_or(Looked::Known(Err(Error::Interrupted)));
        }
    }

    /// Starts flights, as many together as one call of the loader may ask for.
    fn start(self: &Arc<Self>, call: &Call, members: Vec<Member>, mode: LoadMode) {
        let mut members = members.into_iter().peekable();
        while members.peek().is_some() {
            let batch = Batch {
                objects: self.clone(),
                kind: call.kind.clone(),
                namespace: call.namespace.clone(),
                members: members.by_ref().take(call.kind.policy.batch_max).collect(),
                ends: call.ends,
            };
            let stop = self.stop.clone();
            // The first caller's trace shows the load; the task is the clone's own.
            let running = async move {
                tokio::select! {
                    () = stop.cancelled() => batch.interrupt().await,
                    () = batch.run(mode) => {}
                }
            };
            self.tasks.spawn(running.in_current_span());
        }
    }

    /// Returns the number of flights.
    #[cfg(test)]
    pub(crate) fn flights(&self) -> usize {
        self.flights.len()
    }
}

impl Call {
    /// Returns the expired object if the caller may have it, and the reason of the miss as the caller sees it.
    fn allowed(&self, why: MissReason, stale: Option<Record>) -> (MissReason, Option<Record>) {
        // That an object did not exist says nothing about whether it does now.
        let Some(record) = stale.filter(|record| record.body != Body::Absent) else { return (why, None) };
        let expired_for = record.stale.unwrap_or_default();
        if expired_for <= self.stale_max && !self.stale_max.is_zero() {
            (why, Some(record))
        } else if expired_for <= self.kind.policy.stale_if_error {
            (MissReason::TooOldForCaller, None)
        } else {
            (why, None)
        }
    }

    /// Returns an expired object in place of one that was not loaded.
    fn serve_stale(&self, record: Record, why: MissReason) -> Answer {
        self.namespace.counters.count(Event::Stale);
        let object = object_of(record)?;
        Ok(object.map(|object| Object { stale: true, why: Some(why), ..object }))
    }
}

impl Landing {
    /// Makes the end of a flight that is good for all who joined it.
    fn of(answer: Answer) -> Self {
        Self { answer, only_before: None }
    }

    /// Makes the end of a flight that has no answer: all who joined it look again.
    fn nothing() -> Self {
        Self { answer: Err(Error::Interrupted), only_before: Some(Sequence::FIRST) }
    }

    /// Returns whether a caller that began at `since` may take it.
    fn is_for(&self, since: Sequence) -> bool {
        self.only_before.is_none_or(|before| since < before)
    }
}

impl Object {
    fn fresh(value: Bytes, version: Bytes) -> Self {
        Self { value, age: Duration::ZERO, from_cache: false, version, stale: false, why: None }
    }
}

fn object_of(record: Record) -> Answer {
    let Record { body, age, version, .. } = record;
    let value = body.unpack().map_err(|error| StoreError::Broken { detail: error.to_string() })?;
    let object = |value| Object { value, age, from_cache: true, version, stale: false, why: None };
    Ok(value.map(object))
}

#[cfg(test)]
mod history;
#[cfg(test)]
mod tests;
