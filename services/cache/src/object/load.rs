//! The work of flights: who leads a load, who follows another clone's, and what becomes of the results.
//!
//! Flights that began together, for the ids of one call, share one [`Batch`] and one call of the loader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join, join_all, join3};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::flight::{Flight, Flights, answer_of};
use super::kind::Kind;
use super::{Landing, Object, Objects, object_of};
use crate::body::Body;
use crate::error::Error;
use crate::key::{Key, Tags};
use crate::limit::{TTL_MAX, TTL_MIN};
use crate::loader::{Lifetime, LoadError, Loaded, Previous, Wanted};
use crate::namespace::{Event, Namespace};
use crate::store::{Acquired, Draft, Filled, Record, StoreError, Token};

/// The time of a lease. It is renewed while the load goes on, so that a holder that died costs this, however long a load may
/// take.
const LEASE_TIME: Duration = Duration::from_secs(1);
/// The pause between two renewals: three may fail.
const RENEWAL_PAUSE: Duration = LEASE_TIME.checked_div(4).expect("not zero");
/// The longest wait for news of another clone's lease: a notice may be lost, so the flight then looks again.
const FOLLOW_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The way in which flights load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadMode {
    /// Under leases of the store, with fills.
    Leased,
    /// Uncoordinated: without leases and fills, because the store did not answer.
    Uncoordinated,
    /// Under leases for entries that are there and fresh. Nobody waits for it, and it waits for nobody.
    Refresh,
}

/// Flights of one kind that began together.
pub(super) struct Batch {
    pub(super) objects: Arc<Objects>,
    pub(super) kind: Arc<Kind>,
    pub(super) namespace: Arc<Namespace>,
    pub(super) members: Vec<Member>,
    /// The time at which the last of those who wait gives up.
    pub(super) ends: Instant,
}

/// A flight of a batch.
pub(super) struct Member {
    objects: Arc<Objects>,
    key: Key,
    flight: Arc<Flight<Landing>>,
    landed: AtomicBool,
    leased: AtomicBool,
    /// The entry that the load replaces.
    previous: Mutex<Option<Record>>,
}

/// The result of asking for the lease of a member.
struct Asked {
    answer: Result<Acquired, StoreError>,
    /// Completes when a lease that another holds has ended.
    ended: BoxFuture<'static, ()>,
}

impl Batch {
    /// Runs the flights to their end.
    pub(super) async fn run(&self, mode: LoadMode) {
        let members: Vec<&Member> = self.members.iter().collect();
        match mode {
            LoadMode::Leased => self.load_leased(members).await,
            LoadMode::Uncoordinated => self.load_uncoordinated(members).await,
            LoadMode::Refresh => self.refresh(members).await,
        }
    }

    /// Answers those who wait that the clone stops, and releases the leases, so that others may load. If that fails, they
    /// expire.
    pub(super) async fn interrupt(&self) {
        land_all(&self.members.iter().collect::<Vec<_>>(), &Error::Interrupted);
        join_all(self.members.iter().map(Member::release)).await;
    }

    async fn load_leased(&self, members: Vec<&Member>) {
        // The permit comes first: a lease is not held by one that waits.
        let permit = match self.permit().await {
            Ok(permit) => permit,
            Err(error) => return land_all(&members, &error),
        };
        let asked = join_all(members.iter().map(|member| self.ask(member, false))).await;
        let (mut leading, mut waiting, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for (member, asked) in members.into_iter().zip(asked) {
            match asked.answer {
                Ok(Acquired::Granted { .. }) => leading.push(member),
                Ok(Acquired::Record(record)) => member.land(Landing::of(object_of(record))),
                Ok(Acquired::Held { by, left }) => waiting.push(self.follow(member, by, left, asked.ended)),
                Err(error) => {
                    tracing::debug!(%error, "loading without a lease");
                    alone.push(member);
                }
            }
        }
        // It may have been granted without our knowing, and others would wait for it.
        let uncoordinated = async {
            if !alone.is_empty() {
                let release = join_all(alone.iter().map(|member| member.release_anyway()));
                join(self.load_uncoordinated(alone.clone()), release).await;
            }
        };
        let lead = async {
            if leading.is_empty() {
                drop(permit);
            } else {
                self.load_and_fill(leading, permit).await;
            }
        };
        join3(lead, join_all(waiting), uncoordinated).await;
    }

    /// Loads entries anew that are there, as far as no other flight does.
    async fn refresh(&self, members: Vec<&Member>) {
        let Ok(permit) = self.permit().await else { return };
        let asked = join_all(members.iter().map(|member| self.ask(member, true))).await;
        let mut leading = Vec::new();
        for (member, asked) in members.into_iter().zip(asked) {
            match asked.answer {
                Ok(Acquired::Granted { .. }) => leading.push(member),
                Ok(_) | Err(_) => member.land(Landing::nothing()),
            }
        }
        if !leading.is_empty() {
            self.load_and_fill(leading, permit).await;
        }
    }

    /// Asks for the lease of a member; with `refresh` also while a fresh entry is there.
    async fn ask(&self, member: &Member, refresh: bool) -> Asked {
        let Objects { store, flights, .. } = &*self.objects;
        let ended = store.ended(&member.key);
        flights.mark_asked(&member.flight);
        let answer = store.acquire(&member.key, member.flight.token, LEASE_TIME, refresh).await;
        if let Ok(Acquired::Granted { previous }) = &answer {
            member.leased.store(true, Ordering::Relaxed);
            *member.previous() = previous.clone();
        }
        Asked { answer, ended }
    }

    /// Waits for the load of another flight, which has the lease; loads if that ends without a result.
    async fn follow(&self, member: &Member, by: Token, left: Duration, ended: BoxFuture<'static, ()>) {
        let (mut by, mut left, mut ended) = (by, left, ended);
        let began = Instant::now();
        loop {
            if let Some(waiter) = self.objects.flights.holder(&member.key, by) {
                let landing = answer_of(waiter).await;
                return member.land(landing.unwrap_or(Landing::of(Err(Error::Interrupted))));
            }
            member.flight.follow(by);
            let lease_ends = Instant::now() + left;
            let pause = FOLLOW_PAUSE_MAX.mul_f64(0.75 + fastrand::f64() / 4.0).min(left + TTL_MIN);
            // Told or not, it asks again.
            let _ = timeout(pause, ended).await;
            if Instant::now() >= self.ends || !Flights::is_wanted(&member.flight) {
                return member.land(Landing::of(Err(self.timed_out())));
            }
            let permit = match self.permit().await {
                Ok(permit) => permit,
                Err(error) => return member.land(Landing::of(Err(error))),
            };
            let asked = self.ask(member, false).await;
            match asked.answer {
                Ok(Acquired::Granted { .. }) => {
                    // A holder that died lets its lease expire; one whose load took too long gives it back.
                    if Instant::now() < lease_ends && self.is_late(began) {
                        drop(permit);
                        member.release().await;
                        return member.land(Landing::of(Err(self.timed_out())));
                    }
                    return self.load_and_fill(vec![member], permit).await;
                }
                Ok(Acquired::Record(record)) => return member.land(Landing::of(object_of(record))),
                Ok(Acquired::Held { by: other, left: other_left }) => {
                    (by, left, ended) = (other, other_left, asked.ended);
                }
                Err(error) => {
                    tracing::debug!(%error, "loading without a lease");
                    drop(permit);
                    join(self.load_uncoordinated(vec![member]), member.release_anyway()).await;
                    return;
                }
            }
        }
    }

    /// Returns whether most of the time that its callers wait is over for a flight that began then: a load that begins now
    /// would come too late for them, and one that was just given up ran into the same limit.
    fn is_late(&self, began: Instant) -> bool {
        began.elapsed() >= self.kind.policy.load_timeout.mul_f64(0.75)
    }

    /// Loads and stores nothing.
    async fn load_uncoordinated(&self, members: Vec<&Member>) {
        // Members are in the order of their keys: two batches never wait for each other's turns.
        let mut turns = Vec::with_capacity(members.len());
        for member in &members {
            match timeout_at(self.ends, member.flight.take_turn()).await {
                Ok(turn) => turns.push(turn),
                Err(_) => return land_all(&members, &self.timed_out()),
            }
        }
        let _permit = match self.permit().await {
            Ok(permit) => permit,
            Err(error) => return land_all(&members, &error),
        };
        for member in &members {
            self.objects.flights.mark_asked(&member.flight);
            self.namespace.counters.count(Event::Bypass);
        }
        let loads = match self.load(&members).await {
            Ok(loads) => loads,
            Err(error) => return land_all(&members, &error),
        };
        for (member, load) in members.into_iter().zip(loads) {
            let answer = load.map_err(|error| self.failed(error)).map(|loaded| match loaded {
                Loaded::Object { value, version, .. } => Some(Object::fresh(value, version)),
                Loaded::Unstorable { value } => Some(Object::fresh(value, Bytes::new())),
                Loaded::Missing { .. } | Loaded::NotModified { .. } => None,
            });
            member.land(Landing::of(answer));
        }
    }

    async fn load_and_fill(&self, members: Vec<&Member>, permit: OwnedSemaphorePermit) {
        let loads = tokio::select! {
            loads = self.load(&members) => loads,
            () = self.renew(&members) => return,
        };
        match loads {
            Ok(loads) => {
                let fills = members.into_iter().zip(loads).map(|(member, load)| self.fill(member, load));
                join_all(fills).await;
            }
            Err(error) => {
                self.throttle_refreshes(&members, &error);
                land_all(&members, &error);
                join_all(members.into_iter().map(Member::release)).await;
            }
        }
        drop(permit);
    }

    /// Keeps the leases while the load goes on. Never returns.
    async fn renew(&self, members: &[&Member]) {
        loop {
            sleep(RENEWAL_PAUSE).await;
            let held = members.iter().filter(|member| member.leased.load(Ordering::Relaxed));
            join_all(held.map(|member| member.renew())).await;
        }
    }

    /// Leaves the loader alone about entries that are still there: their readers do not wait for it.
    fn throttle_refreshes(&self, members: &[&Member], error: &Error) {
        if error.is_outage() {
            let (now, time) = (Instant::now(), self.kind.policy.stale_throttle);
            for member in members.iter().filter(|member| member.previous().is_some()) {
                self.objects.throttle.add(&member.key, time, now);
            }
        }
    }

    /// Stores what was loaded for a member, if it can be stored, and answers those who wait.
    async fn fill(&self, member: &Member, load: Result<Loaded, LoadError>) {
        let loaded = match load {
            Ok(loaded) => loaded,
            Err(error) => {
                let error = self.failed(error);
                self.throttle_refreshes(&[member], &error);
                member.land(Landing::of(Err(error)));
                return member.release().await;
            }
        };
        let (draft, answer) = match self.outcome(member, loaded).await {
            Ok(outcome) => outcome,
            Err(error) => {
                member.land(Landing::of(Err(error)));
                return member.release().await;
            }
        };
        let stored = match draft {
            None => {
                member.discard().await;
                false
            }
            Some(draft) => match self.objects.store.fill(&member.key, member.flight.token, draft).await {
                Ok(Filled::Stored) => {
                    member.leased.store(false, Ordering::Relaxed);
                    true
                }
                Ok(Filled::LeaseEnded | Filled::Invalidated) => {
                    self.namespace.counters.count(Event::RefusedFill);
                    false
                }
                Err(error) => {
                    tracing::debug!(%error, "a loaded object was not stored");
                    false
                }
            },
        };
        if stored {
            return member.land(Landing::of(Ok(answer)));
        }
        // Nothing says whether it is newer than what has changed since the lease was asked for.
        let asked = member.flight.asked();
        member.land(Landing { answer: Ok(answer), only_before: Some(asked) });
        member.release().await;
    }

    /// Returns the entry to store for what was loaded, if it can be stored, and the answer for those who wait.
    async fn outcome(
        &self,
        member: &Member,
        loaded: Loaded,
    ) -> Result<(Option<Draft>, Option<Object>), Error> {
        Ok(match loaded {
            Loaded::Missing { tags } => {
                let ttl = self.namespace.policy.jittered(self.kind.policy.negative_ttl);
                (Some(Draft::new(Body::Absent, tags, ttl)), None)
            }
            Loaded::Object { value, tags, lifetime, version } => {
                let object = Object::fresh(value.clone(), version.clone());
                let draft = if value.len() > self.namespace.policy.value_bytes_max {
                    self.namespace.counters.count(Event::Oversized);
                    None
                } else {
                    let body = Body::pack(value, self.namespace.policy.compress_above).await;
                    self.draft(body, tags, lifetime, version)
                };
                (draft, Some(object))
            }
            Loaded::Unstorable { value } => (None, Some(Object::fresh(value, Bytes::new()))),
            Loaded::NotModified { lifetime } => {
                let previous = member.previous().clone();
                let Some(Record { body, tags, version, .. }) = previous else {
                    return Err(self.failed(LoadError::Protocol { detail: "not_modified of nothing".into() }));
                };
                let value = body.clone().unpack();
                let value = value.map_err(|error| StoreError::Broken { detail: error.to_string() })?;
                let object = value.map(|value| Object::fresh(value, version.clone()));
                (self.draft(body, tags, lifetime, version), object)
            }
        })
    }

    /// Returns the entry to store, if its lifetime allows.
    fn draft(&self, body: Body, tags: Tags, lifetime: Lifetime, version: Bytes) -> Option<Draft> {
        let (policy, kind) = (&self.namespace.policy, &self.kind.policy);
        let ttl = match lifetime {
            Lifetime::OfKind => policy.jittered(policy.ttl),
            Lifetime::Own(ttl) => policy.jittered(ttl.min(TTL_MAX)).min(ttl),
            Lifetime::AtMost(ttl) => policy.jittered(policy.ttl).min(ttl),
        };
        if ttl < TTL_MIN {
            return None;
        }
        let soft = kind.soft_ttl.map(|soft| policy.jittered(soft)).filter(|soft| *soft < ttl);
        // What ends at a time of its own is not served after it.
        let stale = match lifetime {
            Lifetime::AtMost(_) => Duration::ZERO,
            Lifetime::OfKind | Lifetime::Own(_) => kind.stale_if_error,
        };
        Some(Draft { soft, stale, version, ..Draft::new(body, tags, ttl) })
    }

    /// Calls the loader once for all members. An error is one of the call as a whole.
    async fn load(&self, members: &[&Member]) -> Result<Vec<Result<Loaded, LoadError>>, Error> {
        let Kind { name, policy, loader, running, .. } = &*self.kind;
        let count = |event| (0..members.len()).for_each(|_| self.namespace.counters.count(event));
        let admission = running.breaker.admit(Instant::now()).map_err(|paused| self.kind.paused(paused))?;
        count(Event::Load);
        let wanted = members.iter().map(|member| member.wanted()).collect();
        let began = Instant::now();
        let after = policy.load_timeout;
        let loads = match timeout(after, loader.load(name, wanted)).await {
            Ok(Ok(loads)) if loads.len() == members.len() => Ok(loads),
            Ok(Ok(_)) => Err(LoadError::Protocol { detail: "as many results as ids".to_owned() }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(LoadError::TimedOut { after }),
        };
        running.meter.record(began.elapsed(), &loads);
        match &loads {
            Err(error) if error.is_outage() => admission.failed(error, Instant::now()),
            Ok(_) | Err(_) => admission.succeeded(),
        }
        loads.map_err(|error| {
            count(Event::LoadFailure);
            self.failed(error)
        })
    }

    fn failed(&self, error: LoadError) -> Error {
        self.kind.failed(error)
    }

    fn timed_out(&self) -> Error {
        self.kind.timed_out()
    }

    /// Waits for a permit among the loads of the kind, so long that half the time is left for the load.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let kind = &self.kind;
        match timeout(kind.policy.load_timeout / 2, kind.running.loads.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                Err(Error::Busy { kind: kind.name.clone(), loads_max: kind.policy.loads_max })
            }
        }
    }
}

fn land_all(members: &[&Member], error: &Error) {
    for member in members {
        member.land(Landing::of(Err(error.clone())));
    }
}

impl Member {
    pub(super) fn new(objects: Arc<Objects>, key: Key, flight: Arc<Flight<Landing>>) -> Self {
        Self {
            objects,
            key,
            flight,
            landed: AtomicBool::new(false),
            leased: AtomicBool::new(false),
            previous: Mutex::default(),
        }
    }

    fn wanted(&self) -> Wanted {
        let previous = self
            .previous()
            .as_ref()
            .filter(|record| record.body != Body::Absent)
            .map(|record| Previous { version: record.version.clone(), age: record.age });
        Wanted { id: self.key.name().to_owned(), previous }
    }

    fn previous(&self) -> MutexGuard<'_, Option<Record>> {
        self.previous.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers all who wait. Only the first answer counts.
    fn land(&self, landing: Landing) {
        if !self.landed.swap(true, Ordering::Relaxed) {
            self.objects.flights.complete(&self.key, &self.flight, landing);
        }
    }

    /// Releases the lease, if it is held.
    async fn release(&self) {
        if self.leased.swap(false, Ordering::Relaxed) {
            self.release_anyway().await;
        }
    }

    /// Lets the lease hold for longer. One that has ended stays so, and its fill is refused.
    async fn renew(&self) {
        match self.objects.store.renew(&self.key, self.flight.token, LEASE_TIME).await {
            Ok(true) => {}
            Ok(false) => self.leased.store(false, Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "a lease was not renewed"),
        }
    }

    /// Removes the entry that was to be replaced, because what was loaded in its place is not to be stored.
    async fn discard(&self) {
        if self.previous().is_none() {
            return;
        }
        match self.objects.store.delete_key(&self.key).await {
            Ok(()) => self.leased.store(false, Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "an entry that was replaced is still there"),
        }
    }

    async fn release_anyway(&self) {
        if let Err(error) = self.objects.store.release(&self.key, self.flight.token).await {
            tracing::debug!(%error, "a lease was not given back");
        }
    }
}

/// Answers those who wait, however the flight ends.
impl Drop for Member {
    fn drop(&mut self) {
        self.land(Landing::of(Err(Error::Interrupted)));
    }
}
