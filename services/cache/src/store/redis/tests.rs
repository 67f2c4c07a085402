//! What a Redis may lose, and how: nothing of it may bring an older value back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::store::conformance::Case;

#[path = "../../../tests/it/redis_server.rs"]
mod redis_server;

use redis_server::{PATIENCE, RedisServer};

async fn case(server: &RedisServer) -> Case {
    let store = RedisStore::open(&server.url(), "cache", "cache:".to_owned()).expect("a valid URL");
    store.ready(PATIENCE).await.expect("redis answers");
    Case::new(Arc::new(store))
}

/// Waits until the store is connected again, looking at a key that the test does not use.
async fn reconnected(case: &Case) {
    let deadline = Instant::now() + PATIENCE;
    while case.store.get(&case.key("unused")).await.is_err() {
        assert!(Instant::now() < deadline, "never reconnected");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_flush_is_misses_and_refused_fills() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let (entry, loading) = (case.key("entry"), case.key("loading"));
    case.put(&entry, "v").await;
    let token = case.granted(&loading).await;
    assert_eq!(server.command("FLUSHALL").await, "+OK\r\n");
    assert_eq!(case.value(&entry).await, None);
    assert!(!case.fill(&loading, token, "old").await);
    let token = case.granted(&loading).await;
    assert!(case.fill(&loading, token, "new").await);
    case.put(&entry, "w").await;
    assert_eq!(case.value(&entry).await.as_deref(), Some("w"));
}

#[tokio::test]
async fn a_shard_that_lost_its_state_has_lost_its_entries_and_leases() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let (entry, loading) = (case.key("entry"), case.key("loading"));
    case.put(&entry, "v").await;
    let token = case.granted(&loading).await;
    let state = server.command("KEYS cache:*}t").await;
    let state = state.lines().nth(2).expect("one state").to_owned();
    assert_eq!(server.command(&format!("DEL {state}")).await, ":1\r\n");
    assert_eq!(case.value(&entry).await, None, "without its epoch nothing says that it is not old");
    assert_eq!(case.store.find(&loading).await, Ok(Found::Absent { lease: None }));
    assert!(!case.fill(&loading, token, "old").await);
    case.granted(&loading).await;
}

/// A snapshot remembers what was deleted after it.
#[tokio::test]
async fn a_restart_from_a_snapshot_brings_nothing_back() {
    let Some(mut server) = RedisServer::start().await else { return };
    for look_first in [true, false] {
        let case = case(&server).await;
        let (entry, loading, conditional) = (case.key("entry"), case.key("loading"), case.key("conditional"));
        case.put(&entry, "old").await;
        case.put(&conditional, "old").await;
        let token = case.granted(&loading).await;
        assert_eq!(server.command("SAVE").await, "+OK\r\n");
        for key in [&entry, &loading, &conditional] {
            case.store.delete(key).await.expect("deleted");
        }
        server.kill();
        server.start_again().await;
        assert!(server.command("DBSIZE").await.trim() > ":3", "the snapshot has what was deleted");
        if look_first {
            reconnected(&case).await;
            assert_eq!(case.value(&entry).await, None);
            assert_eq!(case.store.find(&loading).await, Ok(Found::Absent { lease: None }));
        }
        // The first call after the restart meets a store that still takes Redis for the old process.
        let deadline = Instant::now() + PATIENCE;
        let filled = loop {
            match case.store.fill(&loading, token, super::super::conformance::draft("old")).await {
                Ok(filled) => break filled,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(!(look_first && filled));
        assert_eq!(case.value(&loading).await, None);
        case.granted(&entry).await;
        let draft = super::super::conformance::draft("new");
        assert!(case.store.put(&conditional, draft, true).await.expect("put"), "what misses is absent");
        assert_eq!(case.value(&conditional).await.as_deref(), Some("new"));
        assert_eq!(server.command("FLUSHALL").await, "+OK\r\n");
    }
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_unavailable_within_a_quarter_second() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let key = case.key("k");
    case.put(&key, "v").await;
    server.freeze();
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let error = case.store.get(&key).await.expect_err("frozen");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let took = began.elapsed();
        // A machine that is busy with other tests adds to each, but not to the fastest.
        assert!(took < Duration::from_secs(1), "{took:?}");
        fastest = fastest.min(took);
    }
    assert!(fastest < Duration::from_millis(250), "{fastest:?}");
    server.thaw();
    reconnected(&case).await;
    assert_eq!(case.value(&key).await.as_deref(), Some("v"), "the process is the same");
}

#[tokio::test]
async fn a_connection_is_named_once_and_tells_its_process() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let key = case.key("k");
    for _ in 0..20 {
        assert_eq!(case.value(&key).await, None);
    }
    let named = server.command("CLIENT LIST").await;
    assert!(named.contains("name=shoal-cache:"), "{named}");
    let info = server.command("INFO commandstats").await;
    let count = |command: &str| {
        let line =
            info.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:"))).unwrap_or_default();
        line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u32>().ok()).unwrap_or(0)
    };
    assert!((1..=4).contains(&count("info")), "each connection asks once: {info}");
}

#[tokio::test]
async fn redis_keeps_little_for_a_namespace_and_not_for_ever() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let key = case.key("k");
    case.put(&key, "v").await;
    let token = case.granted(&case.key("other")).await;
    assert!(case.fill(&case.key("other"), token, "v").await);
    let keys = server.command("KEYS *").await;
    assert_eq!(keys.lines().next(), Some("*3"), "two entries and the state: {keys}");
    for name in keys.lines().filter(|line| line.starts_with("cache:")) {
        let ttl = server.command(&format!("PTTL {name}")).await;
        assert!(ttl.starts_with(':') && !ttl.starts_with(":-"), "{name} stays for ever: {ttl}");
    }
}
