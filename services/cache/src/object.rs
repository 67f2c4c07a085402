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
use crate::error::Error;
use crate::key::Key;
use crate::limit::BATCH_IDS_MAX;
use crate::namespace::{Event, Namespace, Namespaces};
use crate::store::{Found, Record, Store, StoreError};

/// A found object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) value: Bytes,
    /// The time since it was loaded.
    pub(crate) age: Duration,
    pub(crate) from_cache: bool,
    /// The loader's version of it; may be empty.
    pub(crate) version: Bytes,
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
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A call for objects of one kind.
struct Call {
    kind: Arc<Kind>,
    namespace: Arc<Namespace>,
    /// The time at which the caller gives up.
    ends: Instant,
}

/// The state of an object for a caller.
enum Looked {
    /// The answer is known.
    Known(Answer),
    /// The object is being loaded, for a caller that began at `since`.
    Loading { since: Sequence, waiter: watch::Receiver<Option<Landing>> },
}

/// The absence of an object, as a caller that began at `since` saw it.
struct Missed {
    since: Sequence,
    found: Result<Found, StoreError>,
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
            tasks,
            stop,
        })
    }

    /// Returns an object, from the cache or loaded.
    pub(crate) async fn get(self: &Arc<Self>, kind: &str, id: &str) -> Result<Object, Error> {
        let kind = self.kinds.of(kind)?;
        let key = Key::of_object(kind.namespace.clone(), id)?;
        let answer = self.answers(kind.clone(), std::slice::from_ref(&key)).await.pop();
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
        let answers = self.answers(kind.clone(), &distinct).await;
        let answers: HashMap<_, _> = distinct.iter().zip(answers).collect();
        let of = |key| answers.get(key).cloned().unwrap_or(Err(Error::Interrupted));
        Ok(keys.iter().map(|key| of(key)?.ok_or_else(|| kind.not_found())).collect())
    }

    /// Returns the answers for some objects of a kind, none of which is named twice.
    async fn answers(self: &Arc<Self>, kind: Arc<Kind>, keys: &[Key]) -> Vec<Answer> {
        let namespace = self.namespaces.of(&kind.namespace);
        let ends = Instant::now() + kind.policy.load_timeout;
        let call = Call { kind, namespace, ends };
        let looked = self.look(&call, keys, true).await;
        join_all(keys.iter().zip(looked).map(|(key, looked)| self.settle(&call, key, looked))).await
    }

    /// Looks into the store, and joins or begins a flight for each object that is not there.
    async fn look(self: &Arc<Self>, call: &Call, keys: &[Key], counted: bool) -> Vec<Looked> {
        let find = async |key: &Key| {
            let since = self.flights.next_sequence();
            Missed { since, found: self.store.find(key).await }
        };
        let found = join_all(keys.iter().map(find)).await;
        let (mut leased, mut uncoordinated) = (Vec::new(), Vec::new());
        let mut looked = Vec::with_capacity(keys.len());
        for (key, Missed { since, found }) in keys.iter().zip(found) {
            let event = if matches!(found, Ok(Found::Record(_))) { Event::Hit } else { Event::Miss };
            if counted {
                call.namespace.counters.count(event);
            }
            let (seen, members) = match found {
                Ok(Found::Record(record)) => {
                    looked.push(Looked::Known(object_of(record)));
                    continue;
                }
                Ok(Found::Absent { lease, .. }) => (lease, &mut leased),
                Err(error) => {
                    tracing::debug!(%error, "loading without the store");
                    (None, &mut uncoordinated)
                }
            };
            if let Some(paused) = call.kind.running.breaker.paused(Instant::now()) {
                looked.push(Looked::Known(Err(call.kind.paused(paused))));
                continue;
            }
            looked.push(match self.flights.join(key, since, seen) {
                Join::Joined(waiter) => {
                    call.namespace.counters.count(Event::Coalesced);
                    Looked::Loading { since, waiter }
                }
                Join::New(flight, waiter) => {
                    members.push(Member::new(self.clone(), key.clone(), flight));
                    Looked::Loading { since, waiter }
                }
                Join::Full => Looked::Known(Err(Error::Busy {
                    kind: call.kind.name.clone(),
                    loads_max: self.flights_max,
                })),
            });
        }
        self.start(call, leased, LoadMode::Leased);
        self.start(call, uncoordinated, LoadMode::Uncoordinated);
        looked
    }

    /// Waits for an object until it is known, and no longer than the call.
    async fn settle(self: &Arc<Self>, call: &Call, key: &Key, looked: Looked) -> Answer {
        let mut looked = looked;
        loop {
            let (since, waiter) = match looked {
                Looked::Known(answer) => return answer,
                Looked::Loading { since, waiter } => (since, waiter),
            };
            let Ok(landing) = timeout_at(call.ends, answer_of(waiter)).await else {
                return Err(call.kind.timed_out());
            };
            let landing = landing.unwrap_or(Landing::of(Err(Error::Interrupted)));
            if landing.is_for(since) {
                return landing.answer;
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

impl Landing {
    /// Makes the end of a flight that is good for all who joined it.
    fn of(answer: Answer) -> Self {
        Self { answer, only_before: None }
    }

    /// Returns whether a caller that began at `since` may take it.
    fn is_for(&self, since: Sequence) -> bool {
        self.only_before.is_none_or(|before| since < before)
    }
}

impl Object {
    fn fresh(value: Bytes, version: Bytes) -> Self {
        Self { value, age: Duration::ZERO, from_cache: false, version }
    }
}

fn object_of(record: Record) -> Answer {
    let age = record.age;
    let value = record.body.unpack().map_err(|error| StoreError::Broken { detail: error.to_string() })?;
    Ok(value.map(|value| Object { value, age, from_cache: true, version: Bytes::new() }))
}

#[cfg(test)]
mod history;
#[cfg(test)]
mod tests;
