//! Callers who load values themselves, over several clones on one store.

use tokio::task::JoinSet;

use super::*;
use crate::config::Config;
use crate::store::MemoryStore;
use crate::store::conformance::{Case, eventually, redis_from};

const CLONES: usize = 4;
const CALLERS: usize = 10_000;
/// Callers that come at once: more first looks than a development build answers in time are no part of this.
const ARRIVALS: usize = 250;
const LONG: Duration = Duration::from_secs(60);

fn clone_on(store: Arc<dyn Store>) -> Arc<Cache> {
    let config: Config = toml::from_str("default.load_timeout = '60s'").expect("valid");
    Arc::new(Cache::new(store, Arc::new(Namespaces::new("1", &config).expect("valid"))))
}

fn set(key: &Key, condition: Condition) -> Set {
    let value = Bytes::from_static(b"v");
    Set { key: key.clone(), value, ttl: None, tags: Tags::default(), condition }
}

async fn misses_are_one_load(stores: Vec<Arc<dyn Store>>) {
    let case = Case::new(stores[0].clone());
    let key = case.key("hot");
    let clones: Vec<_> = stores.into_iter().map(clone_on).collect();
    let mut calls = JoinSet::new();
    let mut lease = None;
    let lookup = Lookup { want_lease: true, wait: LONG, ..Lookup::default() };
    let mut begun = 0;
    while begun < CALLERS {
        for _ in 0..ARRIVALS {
            let (cache, key) = (clones[begun % CLONES].clone(), key.clone());
            calls.spawn(async move { cache.get(&key, lookup).await.expect("answered") });
            begun += 1;
        }
        if lease.is_none() {
            let won = calls.join_next().await.expect("a call").expect("no panic");
            let Outcome::Miss(Missed { lease: Some(token), .. }) = won else { panic!("{won:?}") };
            lease = Some(token);
        }
        let waiting = || clones.iter().map(|cache| cache.gates.callers(&key)).sum::<usize>();
        eventually("all wait", async || waiting() == begun - 1).await;
    }
    let filled = clones[0].set(set(&key, Condition::Lease(lease.expect("won")))).await;
    assert!(matches!(filled, Ok(SetOutcome::Stored)));
    let mut values = 0;
    while let Some(outcome) = calls.join_next().await {
        match outcome.expect("no panic") {
            Outcome::Value(value, None) => assert_eq!(value.value.as_ref(), b"v"),
            outcome => panic!("another was told to load: {outcome:?}"),
        }
        values += 1;
    }
    assert_eq!(values, CALLERS - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_misses_are_one_load() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(64 << 20, 1 << 20));
    misses_are_one_load(vec![store; CLONES]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_on_redis_load_once() {
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for _ in 0..CLONES {
        let Some(store) = redis_from("SHOAL_TEST_REDIS").await else { return };
        stores.push(store);
    }
    misses_are_one_load(stores).await;
}

/// A waiter may take the value of another only if that looked after the waiter had begun.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_never_get_what_was_deleted() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(64 << 20, 1 << 20));
    let cache = clone_on(store.clone());
    let key = Case::new(store).key("k");
    let lookup = Lookup { want_lease: true, wait: LONG, ..Lookup::default() };
    for _ in 0..200 {
        let Outcome::Miss(Missed { lease: Some(_), .. }) = cache.get(&key, lookup).await.expect("answered")
        else {
            panic!("no lease")
        };
        let mut waits = JoinSet::new();
        for _ in 0..4 {
            let (cache, key) = (cache.clone(), key.clone());
            waits.spawn(async move { cache.get(&key, lookup).await.expect("answered") });
        }
        cache.set(set(&key, Condition::None)).await.expect("set");
        cache.delete(&key).await.expect("deleted");
        let after = cache.get(&key, Lookup::default()).await.expect("answered");
        assert!(matches!(after, Outcome::Miss(_)), "{after:?}");
        // Who waits gets the value, or is told to load; each of those lets the next one know.
        while let Some(outcome) = waits.join_next().await {
            if let Outcome::Miss(Missed { lease, .. }) = outcome.expect("no panic") {
                assert!(lease.is_some());
                cache.delete(&key).await.expect("deleted");
            }
        }
    }
}
