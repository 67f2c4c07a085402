//! Seeded histories of a writer, readers that come and go, two clones, and a store that answers late, not at all, or only
//! after having done it. Whatever the interleaving, a read that begins after a write returned never gives an older value.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use shoal_kit::EngineError;
use shoal_tag_clock::TagClock;
use tokio::task::yield_now;

use super::tests::{clone_of, counted, memory};
use super::*;
use crate::body::Body;
use crate::key::NamespaceName;
use crate::key::Tags;
use crate::loader::{Lifetime, LoadError, Loaded, Loader, Loads, Wanted};
use crate::store::conformance::redis_from;
use crate::store::{Acquired, Draft, Filled, Incremented, Token};

const KIND: &str = "page";
const WRITES: u64 = 12;
const READERS: usize = 6;
const READS: usize = 12;

/// The defect that a store has on purpose: each must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Stores a refused fill all the same.
    FillsAnyway,
    /// Deletes an entry and leaves the lease.
    DeleteKeepsLease,
}

/// Yields to other tasks a random number of times.
#[derive(Clone)]
struct Chance(Arc<Mutex<fastrand::Rng>>);

impl Chance {
    fn below(&self, n: u32) -> u32 {
        self.0.lock().expect("no panic").u32(..n)
    }

    async fn pause(&self) {
        for _ in 0..self.below(12) {
            yield_now().await;
        }
    }
}

/// A store behind an unreliable network.
struct Remote {
    inner: Arc<dyn Store>,
    chance: Chance,
    flaw: Flaw,
}

impl Remote {
    /// Delays a step; now and then skips it, or does it and gives no answer.
    async fn over<T>(&self, step: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.chance.pause().await;
        let fate = self.chance.below(40);
        if fate == 0 {
            return Err(EngineError::Unavailable { engine: "remote", detail: "not sent".into() }.into());
        }
        let answer = step.await;
        self.chance.pause().await;
        if fate == 1 {
            return Err(EngineError::Unknown { engine: "remote", detail: "no answer".into() }.into());
        }
        answer
    }

    async fn delete_around_the_lease(&self, key: &Key) -> Result<(), StoreError> {
        let found = self.inner.find(key).await?;
        self.inner.delete_key(key).await?;
        if let Found::Absent { lease: Some(token), .. } = found {
            self.inner.acquire(key, token, Duration::from_secs(60), false).await?;
        }
        Ok(())
    }

    async fn fill_anyway(&self, key: &Key, token: Token, draft: Draft) -> Result<Filled, StoreError> {
        let filled = self.inner.fill(key, token, draft.clone()).await?;
        if filled != Filled::Stored {
            self.inner.put(key, draft, false).await?;
        }
        Ok(Filled::Stored)
    }
}

impl Store for Remote {
    fn look<'a>(&'a self, keys: &'a [Key], leases: bool) -> BoxFuture<'a, Result<Vec<Found>, StoreError>> {
        self.over(self.inner.look(keys, leases)).boxed()
    }
    fn put<'a>(&'a self, key: &'a Key, draft: Draft, only: bool) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.over(self.inner.put(key, draft, only)).boxed()
    }
    fn delete<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        match (self.flaw, keys) {
            (Flaw::DeleteKeepsLease, [key]) => self.over(self.delete_around_the_lease(key)).boxed(),
            _ => self.over(self.inner.delete(keys)).boxed(),
        }
    }
    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.over(self.inner.expire(keys)).boxed()
    }
    fn clock(&self) -> &TagClock {
        self.inner.clock()
    }
    fn touch<'a>(&'a self, key: &'a Key, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.over(self.inner.touch(key, ttl)).boxed()
    }
    fn increment<'a>(
        &'a self,
        key: &'a Key,
        delta: i64,
        initial: i64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Incremented, StoreError>> {
        self.over(self.inner.increment(key, delta, initial, ttl)).boxed()
    }
    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
        refresh: bool,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        self.over(self.inner.acquire(key, token, limit, refresh)).boxed()
    }
    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<Filled, StoreError>> {
        match self.flaw {
            Flaw::FillsAnyway => self.over(self.fill_anyway(key, token, draft)).boxed(),
            Flaw::None | Flaw::DeleteKeepsLease => self.over(self.inner.fill(key, token, draft)).boxed(),
        }
    }
    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.over(self.inner.renew(key, token, limit)).boxed()
    }
    fn ended(&self, key: &Key) -> BoxFuture<'static, ()> {
        self.inner.ended(key)
    }
    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>> {
        self.over(self.inner.release(key, token)).boxed()
    }
}

/// The origin, a version that only grows. Every fourth does not exist.
struct Origin {
    version: AtomicU64,
    chance: Chance,
}

fn exists(version: u64) -> bool {
    version % 4 != 3
}

struct Reads(Arc<Origin>);

impl Loader for Reads {
    fn load(&self, _kind: &str, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Loads, LoadError>> {
        let origin = self.0.clone();
        async move {
            origin.chance.pause().await;
            let version = origin.version.load(Ordering::SeqCst);
            origin.chance.pause().await;
            if origin.chance.below(20) == 0 {
                return Err(LoadError::Unreachable { detail: "by chance".into() });
            }
            if !exists(version) {
                return Ok(vec![Ok(Loaded::Missing { tags: Tags::default() }); wanted.len()]);
            }
            let (value, tags) = (Bytes::from(version.to_string()), Tags::default());
            let page = Loaded::Object { value, tags, lifetime: Lifetime::OfKind, version: Bytes::new() };
            Ok(vec![Ok(page); wanted.len()])
        }
        .boxed()
    }
}

/// Counts of what happened in some histories, to see that they had something in them.
#[derive(Debug, Default)]
struct Tally {
    reads: u64,
    hits: u64,
    coalesced: u64,
    refused: u64,
    bypassed: u64,
}

struct History {
    stores: Vec<Arc<dyn Store>>,
    origin: Arc<Origin>,
    chance: Chance,
    /// The last version whose write returned.
    settled: AtomicU64,
    key: Key,
}

impl History {
    /// Writes: at each version it deletes or replaces the object, until that returns.
    async fn write(&self) {
        for _ in 0..WRITES {
            for _ in 0..self.chance.below(8) {
                self.chance.pause().await;
            }
            let version = self.origin.version.fetch_add(1, Ordering::SeqCst) + 1;
            let replace = exists(version) && self.chance.below(3) == 0;
            loop {
                let store = &self.stores[self.chance.below(self.stores.len() as u32) as usize];
                let done = if replace {
                    let body = Body::Plain(Bytes::from(version.to_string()));
                    let draft = Draft::new(body, Tags::default(), Duration::from_secs(60));
                    store.put(&self.key, draft, false).await.map(|_| ())
                } else {
                    store.delete_key(&self.key).await
                };
                if done.is_ok() {
                    break;
                }
            }
            self.settled.store(version, Ordering::SeqCst);
        }
    }

    /// Reads through a clone; now and then gives up waiting.
    async fn read(&self, objects: &Arc<Objects>) -> Result<u64, String> {
        let mut reads = 0;
        for _ in 0..READS {
            self.chance.pause().await;
            let settled = self.settled.load(Ordering::SeqCst);
            let patience = if self.chance.below(6) == 0 { self.chance.below(40) } else { u32::MAX };
            let gives_up = async {
                for _ in 0..patience {
                    yield_now().await;
                }
            };
            let answer = tokio::select! {
                biased;
                answer = objects.get(KIND, self.key.name(), None) => answer,
                () = gives_up => continue,
            };
            reads += 1;
            let now = self.origin.version.load(Ordering::SeqCst);
            let right = match &answer {
                Ok(object) => {
                    let version: u64 = String::from_utf8_lossy(&object.value).parse().expect("a version");
                    (settled..=now).contains(&version)
                }
                Err(Error::ObjectNotFound { .. }) => (settled..=now).any(|version| !exists(version)),
                Err(_) => true,
            };
            if !right {
                return Err(format!(
                    "{settled} had been written, {now} is the newest, and a read gave {answer:?}"
                ));
            }
        }
        Ok(reads)
    }
}

async fn history(
    seed: u64,
    stores: Vec<Arc<dyn Store>>,
    flaw: Flaw,
    tally: &mut Tally,
) -> Result<(), String> {
    let chance = Chance(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
    let stores: Vec<Arc<dyn Store>> = stores
        .into_iter()
        .map(|inner| Arc::new(Remote { inner, chance: chance.clone(), flaw }) as Arc<dyn Store>)
        .collect();
    let origin = Arc::new(Origin { version: AtomicU64::new(0), chance: chance.clone() });
    let loader: Arc<dyn Loader> = Arc::new(Reads(origin.clone()));
    let clones: Vec<_> = stores.iter().map(|store| clone_of(store.clone(), &loader, "")).collect();
    // Redis is shared with other tests and other seeds.
    let id = format!("{seed}-{:x}", fastrand::u64(..));
    let key = Key::of_object(NamespaceName::of_kind(KIND).expect("valid"), &id).expect("valid");
    let history = Arc::new(History { stores, origin, chance, settled: AtomicU64::new(0), key });

    let mut tasks = Vec::new();
    for reader in 0..READERS {
        let (history, objects) = (history.clone(), clones[reader % clones.len()].clone());
        tasks.push(tokio::spawn(async move { history.read(&objects).await }));
    }
    let writer = history.clone();
    tasks.push(tokio::spawn(async move {
        writer.write().await;
        Ok(0)
    }));
    for task in join_all(tasks).await {
        tally.reads += task.map_err(|error| error.to_string())??;
    }
    for objects in &clones {
        objects.tasks.close();
        objects.tasks.wait().await;
        if objects.flights() != 0 {
            return Err(format!("{} flights never landed", objects.flights()));
        }
        tally.hits += counted(objects, Event::Hit);
        tally.coalesced += counted(objects, Event::Coalesced);
        tally.refused += counted(objects, Event::RefusedFill);
        tally.bypassed += counted(objects, Event::Bypass);
    }
    Ok(())
}

/// Runs histories of these seeds on stores that are the same for each clone of one seed; returns the first that goes
/// wrong.
async fn first_violation(
    seeds: std::ops::Range<u64>,
    clones: usize,
    flaw: Flaw,
    tally: &mut Tally,
) -> Option<String> {
    for seed in seeds {
        let store = memory();
        let stores = vec![store; clones];
        if let Err(problem) = history(seed, stores, flaw, tally).await {
            return Some(format!("seed {seed}: {problem}"));
        }
    }
    None
}

async fn holds(seeds: u64, clones: usize) {
    let mut tally = Tally::default();
    assert_eq!(first_violation(0..seeds, clones, Flaw::None, &mut tally).await, None);
    eprintln!("{seeds} seeds on {clones} clones: {tally:?}");
    let Tally { reads, hits, coalesced, refused, bypassed } = tally;
    let least = seeds / 10;
    assert!(
        [reads, hits, coalesced, refused, bypassed].into_iter().all(|count| count > least),
        "the histories have too little in them: {tally:?}"
    );
}

#[tokio::test]
async fn one_clone_never_reads_older_values() {
    holds(400, 1).await;
}

#[tokio::test]
async fn two_clones_never_read_older_values() {
    holds(100, 2).await;
}

#[tokio::test]
async fn redis_never_reads_older_values() {
    let mut tally = Tally::default();
    for seed in 0..20 {
        let (one, two) = (redis_from("SHOAL_TEST_REDIS").await, redis_from("SHOAL_TEST_REDIS").await);
        let (Some(one), Some(two)) = (one, two) else { return };
        let stores: Vec<Arc<dyn Store>> = vec![one, two];
        history(seed, stores, Flaw::None, &mut tally)
            .await
            .unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
    eprintln!("on redis: {tally:?}");
    assert!(tally.refused > 0 && tally.hits > 0 && tally.coalesced > 0, "{tally:?}");
}

#[tokio::test]
async fn histories_detect_faulty_stores() {
    for flaw in [Flaw::FillsAnyway, Flaw::DeleteKeepsLease] {
        for clones in [1, 2] {
            let found = first_violation(0..300, clones, flaw, &mut Tally::default()).await;
            eprintln!("{flaw:?}, {clones} clones: {found:?}");
            assert!(found.is_some(), "{flaw:?} went unnoticed on {clones} clones");
        }
    }
}
