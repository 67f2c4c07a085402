//! What a Redis may lose, and how: nothing of it may bring an older value back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::store::conformance::{Case, LONG, draft};

#[path = "../../../tests/it/redis_server.rs"]
mod redis_server;

use redis_server::{PATIENCE, RedisServer};

async fn case(server: &RedisServer) -> Case {
    let store =
        RedisStore::open(LinkConfig::new(server.url(), "cache"), "cache:".to_owned()).expect("a valid URL");
    store.ready(PATIENCE).await.expect("redis answers");
    Case::new(Arc::new(store))
}

/// The first answer of a step once the store is connected again.
async fn connected<T>(step: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match step().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "never reconnected: {error}"),
        }
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
    // The shard has a new epoch now, and what is left of the old one is still there.
    case.put(&case.key("another"), "v").await;
    assert_eq!(case.value(&entry).await, None);
    assert_eq!(case.store.find(&loading).await, Ok(Found::Absent { lease: None }));
    assert!(!case.fill(&loading, token, "old").await);
    case.granted(&loading).await;
    case.granted(&entry).await;
}

/// A snapshot remembers what was deleted after it. Whatever is asked first after the restart, while the store still takes
/// the process for the one before, gives nothing of it.
#[tokio::test]
async fn a_restart_from_a_snapshot_brings_nothing_back() {
    let Some(mut server) = RedisServer::start().await else { return };
    for first in ["get", "find", "acquire", "fill", "put"] {
        let case = case(&server).await;
        let (entry, loading) = (case.key("entry"), case.key("loading"));
        case.put(&entry, "old").await;
        let token = case.granted(&loading).await;
        assert_eq!(case.value(&entry).await.as_deref(), Some("old"));
        assert_eq!(server.command("SAVE").await, "+OK\r\n");
        case.store.delete(&entry).await.expect("deleted");
        case.store.delete(&loading).await.expect("deleted");
        server.kill();
        server.start_again().await;
        assert_eq!(server.command("DBSIZE").await, ":3\r\n", "the snapshot has what was deleted");
        let store = &case.store;
        match first {
            "get" => assert_eq!(connected(async || store.get(&entry).await).await, None),
            "find" => {
                let found = connected(async || store.find(&loading).await).await;
                assert_eq!(found, Found::Absent { lease: None });
            }
            "acquire" => {
                let acquired = connected(async || store.acquire(&entry, Token::random(), LONG).await).await;
                assert_eq!(acquired, Acquired::Granted);
                case.store.delete(&entry).await.expect("deleted");
            }
            // It may take the lease for good, but then nobody sees what it stored.
            "fill" => drop(connected(async || store.fill(&loading, token, draft("old")).await).await),
            _ => assert!(
                connected(async || store.put(&entry, draft("new"), true).await).await,
                "a miss is absent"
            ),
        }
        assert_eq!(case.value(&loading).await, None, "{first}");
        assert!(!case.fill(&loading, token, "old").await, "{first}");
        let wanted = (first == "put").then_some("new");
        assert_eq!(case.value(&entry).await.as_deref(), wanted, "{first}");
        case.put(&entry, "newest").await;
        assert_eq!(case.value(&entry).await.as_deref(), Some("newest"), "{first}");
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
        assert!(matches!(error, StoreError::Engine(EngineError::Unavailable { .. })), "{error}");
        let took = began.elapsed();
        // A machine that is busy with other tests adds to each, but not to the fastest.
        assert!(took < Duration::from_secs(1), "{took:?}");
        fastest = fastest.min(took);
    }
    assert!(fastest < Duration::from_millis(250), "{fastest:?}");
    server.thaw();
    let record = connected(async || case.store.get(&key).await).await;
    assert!(record.is_some(), "the process is the same");
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
