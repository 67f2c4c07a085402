//! Cached objects: read through on a miss, loaded once for all who wait.
//!
//! A caller looks into the store and, on a miss, joins a flight (see [`flight`]). The flight is a task of the clone, so a
//! caller that goes away takes nothing with it. It asks the store for the lease on the object, loads, and fills under
//! that lease. A write or delete that came meanwhile has ended the lease, and the fill is refused: what was loaded then
//! reaches only those who joined the flight, all of whom began before that write returned.
//!
//! When the store is not reachable, flights load without a lease and store nothing. They take turns for each object, and
//! are joined only by callers who began before the load did, so what they return is never older than the call.

pub(crate) mod flight;
pub(crate) mod kind;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use self::flight::{Flight, Flights, Join, answer_of};
use self::kind::{Kind, Kinds};
use crate::body::Body;
use crate::error::Error;
use crate::key::{Key, Tags};
use crate::limit::{TTL_MAX, TTL_MIN};
use crate::loader::{Lifetime, LoadError, Loaded};
use crate::namespace::{Event, Namespace, Namespaces};
use crate::store::{Acquired, Draft, Found, Record, Store, StoreError};

/// The time by which a lease outlives the load: for the fill, and for the clocks of two machines.
const LEASE_MARGIN: Duration = Duration::from_secs(1);
/// The longest wait for news of another clone's lease: a notice may be lost, so the flight then looks again.
const FOLLOW_PAUSE_MAX: Duration = Duration::from_millis(250);

/// A found object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) value: Bytes,
    /// The time since it was loaded.
    pub(crate) age: Duration,
    pub(crate) from_cache: bool,
}

/// The answer for all who wait for a flight; `None` is a negative result.
type Answer = Result<Option<Object>, Error>;

/// Cached objects of one clone.
pub(crate) struct Objects {
    store: Arc<dyn Store>,
    namespaces: Arc<Namespaces>,
    kinds: Kinds,
    flights: Flights<Answer>,
    flights_max: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The way in which a flight loads.
enum LoadMode {
    /// Under a lease of the store, with a fill.
    Leased,
    /// Uncoordinated: it takes no lease and fills nothing, because the store did not answer.
    Uncoordinated,
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
        let namespace = self.namespaces.of(&kind.namespace);
        let found =
            |answer: Option<Object>| answer.ok_or_else(|| Error::ObjectNotFound { kind: kind.name.clone() });

        let since = self.flights.next_sequence();
        let (seen, mode) = match self.store.find(&key).await {
            Ok(Found::Record(record)) => {
                namespace.counters.count(Event::Hit);
                return found(object_of(record)?);
            }
            Ok(Found::Absent { lease }) => (lease, LoadMode::Leased),
            Err(error) => {
                tracing::debug!(%error, "loading without the store");
                (None, LoadMode::Uncoordinated)
            }
        };
        namespace.counters.count(Event::Miss);
        let waiter = match self.flights.join(&key, since, seen) {
            Join::Joined(waiter) => {
                namespace.counters.count(Event::Coalesced);
                waiter
            }
            Join::New(flight, waiter) => {
                self.start(
                    LoadTask { objects: self.clone(), kind: kind.clone(), namespace, key, flight },
                    mode,
                );
                waiter
            }
            Join::Full => return Err(Error::Busy { kind: kind.name.clone(), loads_max: self.flights_max }),
        };
        found(answer_of(waiter).await.unwrap_or(Err(Error::Interrupted))?)
    }

    fn start(&self, task: LoadTask, mode: LoadMode) {
        let stop = self.stop.clone();
        // The first caller's trace shows the load; the task is the clone's own.
        let running = async move {
            let mut guard = CompletionGuard { task: &task, answer: None };
            guard.answer = tokio::select! {
                () = stop.cancelled() => None,
                answer = task.run(mode) => Some(answer),
            };
            let failed = matches!(guard.answer, Some(Err(_)) | None);
            drop(guard);
            if failed {
                task.release_lease().await;
            }
        };
        self.tasks.spawn(running.in_current_span());
    }

    /// Returns the number of flights.
    #[cfg(test)]
    pub(crate) fn flights(&self) -> usize {
        self.flights.len()
    }
}

/// The work of one flight.
struct LoadTask {
    objects: Arc<Objects>,
    kind: Arc<Kind>,
    namespace: Arc<Namespace>,
    key: Key,
    flight: Arc<Flight<Answer>>,
}

/// Another clone's lease that a flight waits for.
#[derive(Clone, Copy)]
struct Followed {
    /// The time at which it expires.
    ends: Instant,
}

/// Answers those who wait, however the flight ends.
struct CompletionGuard<'a> {
    task: &'a LoadTask,
    answer: Option<Answer>,
}

impl Drop for CompletionGuard<'_> {
    fn drop(&mut self) {
        let LoadTask { objects, key, flight, .. } = self.task;
        let answer = self.answer.take().unwrap_or(Err(Error::Interrupted));
        objects.flights.complete(key, flight, answer);
    }
}

impl LoadTask {
    async fn run(&self, mode: LoadMode) -> Answer {
        match mode {
            LoadMode::Leased => self.load_leased().await,
            LoadMode::Uncoordinated => self.load_uncoordinated().await,
        }
    }

    async fn load_leased(&self) -> Answer {
        let LoadTask { objects, key, flight, .. } = self;
        // Another's lease ends within its time. Should others win it again and again, because the object is deleted again
        // and again, then loading without one is right too.
        let follow_until = Instant::now() + 2 * self.lease_time();
        let mut followed = None;
        loop {
            // The permit comes first: a lease is not held by one that waits.
            let permit = self.permit().await?;
            let ended = objects.store.ended(key);
            objects.flights.mark_asked(flight);
            match objects.store.acquire(key, flight.token, self.lease_time()).await {
                Ok(Acquired::Granted) if followed.is_some_and(|followed| self.has_timed_out(followed)) => {
                    let after = self.kind.policy.timeout;
                    return Err(self.failed(LoadError::TimedOut { after }));
                }
                Ok(Acquired::Granted) => return self.load_and_fill().await,
                Ok(Acquired::Record(record)) => return object_of(record),
                Ok(Acquired::Held { by, left }) => {
                    drop(permit);
                    if let Some(waiter) = objects.flights.holder(key, by) {
                        return answer_of(waiter).await.unwrap_or(Err(Error::Interrupted));
                    }
                    flight.follow(by);
                    followed = Some(Followed { ends: Instant::now() + left });
                    if Instant::now() >= follow_until {
                        return self.load_uncoordinated().await;
                    }
                    let pause = FOLLOW_PAUSE_MAX.mul_f64(0.75 + fastrand::f64() / 4.0).min(left + TTL_MIN);
                    // Told or not, it asks again.
                    let _ = timeout(pause, ended).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "loading without a lease");
                    drop(permit);
                    // It may have been granted without our knowing, and others would wait for it.
                    return tokio::join!(self.load_uncoordinated(), self.release_lease()).0;
                }
            }
        }
    }

    /// Loads and stores nothing.
    async fn load_uncoordinated(&self) -> Answer {
        let _turn = self.flight.take_turn().await;
        let _permit = self.permit().await?;
        self.objects.flights.mark_asked(&self.flight);
        self.namespace.counters.count(Event::Bypass);
        Ok(match self.load().await? {
            Loaded::Object { value, .. } => Some(fresh(value)),
            Loaded::Missing => None,
        })
    }

    async fn load_and_fill(&self) -> Answer {
        let LoadTask { objects, kind, namespace, key, flight } = self;
        let (draft, answer) = match self.load().await? {
            Loaded::Missing => {
                let ttl = namespace.policy.jittered(kind.policy.negative_ttl);
                (Some(Draft { body: Body::Absent, tags: Tags::default(), ttl }), None)
            }
            Loaded::Object { value, tags, lifetime } => {
                (self.draft(value.clone(), tags, lifetime).await, Some(value))
            }
        };
        match draft {
            None => self.release_lease().await,
            Some(draft) => match objects.store.fill(key, flight.token, draft).await {
                Ok(true) => {}
                Ok(false) => namespace.counters.count(Event::RefusedFill),
                Err(error) => {
                    tracing::debug!(%error, "a loaded object was not stored");
                    self.release_lease().await;
                }
            },
        }
        Ok(answer.map(fresh))
    }

    /// Returns the entry to store, if the object can be stored.
    async fn draft(&self, value: Bytes, tags: Tags, lifetime: Lifetime) -> Option<Draft> {
        let policy = &self.namespace.policy;
        if value.len() > policy.value_bytes_max {
            self.namespace.counters.count(Event::Oversized);
            return None;
        }
        let ttl = match lifetime {
            Lifetime::OfKind => policy.jittered(policy.ttl),
            Lifetime::Own(ttl) => policy.jittered(ttl.min(TTL_MAX)).min(ttl),
            Lifetime::AtMost(ttl) => policy.jittered(policy.ttl).min(ttl),
        };
        if ttl < TTL_MIN {
            return None;
        }
        Some(Draft { body: Body::pack(value, policy.compress_above).await, tags, ttl })
    }

    async fn load(&self) -> Result<Loaded, Error> {
        let LoadTask { kind, namespace, key, .. } = self;
        namespace.counters.count(Event::Load);
        let after = kind.policy.timeout;
        let loaded = match timeout(after, kind.loader.load(&kind.name, key.name())).await {
            Ok(loaded) => loaded,
            Err(_) => Err(LoadError::TimedOut { after }),
        };
        loaded.map_err(|error| {
            namespace.counters.count(Event::LoadFailure);
            self.failed(error)
        })
    }

    fn failed(&self, error: LoadError) -> Error {
        let kind = &self.kind;
        Error::Load { kind: kind.name.clone(), loader: kind.loader_name(), error: Box::new(error) }
    }

    /// Returns whether a lease that is over was released by a load that ran into the kind's timeout: a delete or a fill
    /// ends it sooner, and a holder that is gone keeps it for the margin longer.
    fn has_timed_out(&self, followed: Followed) -> bool {
        let left = followed.ends.saturating_duration_since(Instant::now());
        // What the end of a lease may seem early or late by: the way to the store, and its clock.
        let (late, early) = (LEASE_MARGIN / 10, (self.kind.policy.timeout / 10).min(LEASE_MARGIN / 10));
        left > late && left <= LEASE_MARGIN + early
    }

    /// Waits for a permit among the loads of the kind, at most as long as a load may take.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let kind = &self.kind;
        match timeout(kind.policy.timeout, kind.loads.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                Err(Error::Busy { kind: kind.name.clone(), loads_max: kind.policy.loads_max })
            }
        }
    }

    /// Releases the lease, so that others may load. If that fails, the lease expires.
    async fn release_lease(&self) {
        if let Err(error) = self.objects.store.release(&self.key, self.flight.token).await {
            tracing::debug!(%error, "a lease was not given back");
        }
    }

    fn lease_time(&self) -> Duration {
        self.kind.policy.timeout + LEASE_MARGIN
    }
}

fn fresh(value: Bytes) -> Object {
    Object { value, age: Duration::ZERO, from_cache: false }
}

fn object_of(record: Record) -> Answer {
    let age = record.age;
    let value = record.body.unpack().map_err(|error| StoreError::Broken { detail: error.to_string() })?;
    Ok(value.map(|value| Object { value, age, from_cache: true }))
}

#[cfg(test)]
mod history;
#[cfg(test)]
mod tests;
