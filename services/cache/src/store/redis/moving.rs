//! A shard whose slot moves to another node of a Cluster: an entry of it is a hit or a miss, and never older than the last
//! change that was acknowledged.

use std::sync::Arc;

use shoal_testing::Cluster;

use super::*;
use crate::store::conformance::{Case, LONG, draft};

async fn store(cluster: &Cluster, finish_moves: bool) -> Arc<RedisStore> {
    let link = LinkConfig { finish_moves, ..LinkConfig::new(cluster.url(), "cache") };
    let store = RedisStore::open(link, "cache:".to_owned(), Bulk::default()).expect("valid");
    store.ready(Duration::from_secs(20)).await.expect("redis answers");
    Arc::new(store)
}

fn shard_of(store: &RedisStore, key: &Key) -> Shard {
    store.clock.shard_now(key.namespace().as_str(), key.route())
}

/// Asserts that a change was made, or was refused for the slot.
#[track_caller]
fn made<T: std::fmt::Debug>(answer: &Result<T, StoreError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(StoreError::Engine(EngineError::Moving { .. })) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// Each kind of change once on a key; what it holds then, if anything.
async fn changed(case: &Case, key: &Key, was: Option<&str>, round: &str) -> Option<String> {
    let mut holds = was.map(str::to_owned);
    let hit = async |holds: &Option<String>| {
        let found = case.value(key).await;
        assert!(found.is_none() || found == *holds, "{found:?}, not {holds:?}");
    };
    hit(&holds).await;
    let value = format!("put {round}");
    if made(&case.store.put(key, draft(&value), false).await) {
        holds = Some(value);
    }
    hit(&holds).await;
    if made(&case.store.delete_key(key).await) {
        holds = None;
    }
    hit(&holds).await;
    let token = Token::random();
    let acquired = case.store.acquire(key, token, LONG, false).await;
    if made(&acquired) && matches!(acquired, Ok(Acquired::Granted { .. })) {
        let value = format!("fill {round}");
        if matches!(case.store.fill(key, token, draft(&value)).await, Ok(Filled::Stored)) {
            holds = Some(value);
        }
    }
    made(&case.store.release(key, token).await);
    hit(&holds).await;
    holds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_shard_never_reads_older() {
    let Some(cluster) = Cluster::start().await else { return };
    let store = store(&cluster, false).await;
    let case = Case::new(Arc::clone(&store) as Arc<dyn Store>);
    let first = case.key("first");
    let shard = |key: &Key| String::from_utf8(shard_of(&store, key).state()).expect("text");
    let same = |name: &String| shard(&case.key(name)) == shard(&first);
    let second = (0..).map(|n| format!("k{n}")).find(same).expect("two keys of one shard");
    let keys = [first.clone(), case.key(&second)];
    let mut holds = Vec::new();
    for key in &keys {
        case.put(key, "before").await;
        holds.push(Some("before".to_owned()));
    }
    let slot = cluster.begin_move(&shard(&first)).await;
    for round in ["none has gone", "half has gone", "all have gone"] {
        for (key, holds) in keys.iter().zip(&mut holds) {
            *holds = changed(&case, key, holds.as_deref(), round).await;
        }
        match round {
            "none has gone" => slot.carry_half().await,
            _ => slot.carry_all().await,
        }
    }
    slot.finish().await;
    for (key, holds) in keys.iter().zip(&mut holds) {
        *holds = changed(&case, key, holds.as_deref(), "the slot has gone").await;
        case.put(key, "after").await;
        assert_eq!(case.value(key).await.as_deref(), Some("after"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_finish_their_half_moved_shard() {
    let Some(cluster) = Cluster::start().await else { return };
    let store = store(&cluster, true).await;
    let case = Case::new(Arc::clone(&store) as Arc<dyn Store>);
    let key = case.key("first");
    for half in [false, true] {
        case.put(&key, "before").await;
        let shard = String::from_utf8(shard_of(&store, &key).name().to_vec()).expect("text");
        let slot = cluster.begin_move(&shard).await;
        assert_eq!(slot.left().await, 2, "the shard's state and the entry");
        if half {
            slot.carry_half().await;
        } else {
            assert_eq!(case.value(&key).await.as_deref(), Some("before"), "no key has moved");
        }
        case.put(&key, "meanwhile").await;
        assert_eq!(slot.left().await, 0, "every key is on the new node");
        assert_eq!(case.value(&key).await.as_deref(), Some("meanwhile"));
        assert_eq!(changed(&case, &key, Some("meanwhile"), "now").await.as_deref(), Some("fill now"));
        case.delete(&key).await;
        assert_eq!(case.value(&key).await, None);
        slot.finish().await;
        assert_eq!(case.value(&key).await, None, "deleted stays deleted");
        assert!(!cluster.has(&shard).await, "by this key scripts are refused while the slot moves");
    }
}
