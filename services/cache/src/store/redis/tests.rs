//! Tests of what a Redis may lose, and how: no older value comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_testing::RedisServer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::store::MissReason;
use crate::store::conformance::{Case, LONG, draft, record, tagged};

/// The longest time of anything that is not itself measured.
const PATIENCE: Duration = Duration::from_secs(20);

async fn case(server: &RedisServer) -> Case {
    let store =
        RedisStore::open(LinkConfig::new(server.url(), "cache"), "cache:".to_owned(), Bulk::default())
            .expect("a valid URL");
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
async fn flush_causes_misses_only() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let (entry, loading) = (case.key("entry"), case.key("loading"));
    case.put(&entry, "v").await;
    let token = case.granted(&loading).await;
    assert_eq!(server.ask("FLUSHALL"), "OK");
    assert_eq!(case.value(&entry).await, None);
    assert!(!case.fill(&loading, token, "old").await);
    let token = case.granted(&loading).await;
    assert!(case.fill(&loading, token, "new").await);
    case.put(&entry, "w").await;
    assert_eq!(case.value(&entry).await.as_deref(), Some("w"));
}

#[tokio::test]
async fn stateless_shard_has_no_entries() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let (entry, loading) = (case.key("entry"), case.key("loading"));
    case.put(&entry, "v").await;
    let token = case.granted(&loading).await;
    let state = server.ask("KEYS cache:*}t");
    assert_eq!(server.ask(&format!("DEL {state}")), "1");
    assert_eq!(case.value(&entry).await, None, "without its epoch nothing says that it is not old");
    assert!(matches!(case.store.find(&loading).await, Ok(Found::Absent { lease: None, .. })));
    assert!(!case.fill(&loading, token, "old").await);
    // The shard has a new epoch now, and what is left of the old one is still there.
    case.put(&case.key("another"), "v").await;
    assert_eq!(case.value(&entry).await, None);
    assert!(matches!(case.store.find(&loading).await, Ok(Found::Absent { lease: None, .. })));
    assert!(!case.fill(&loading, token, "old").await);
    case.granted(&loading).await;
    case.granted(&entry).await;
}

/// The stamp of a tag is lost with the state of its shard; the entry that it covered stays a miss.
#[tokio::test]
async fn lost_stamps_bring_nothing_back() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let (key, loading) = (case.key("k"), case.key("loading"));
    for writes_first in [false, true] {
        case.put_draft(&key, tagged("old", &["t"])).await;
        assert_eq!(case.value(&key).await.as_deref(), Some("old"));
        let token = case.granted(&loading).await;
        case.invalidate("t").await;
        let state = server.ask("KEYS cache:*}t");
        assert_eq!(server.ask(&format!("DEL {state}")), "1");
        if writes_first {
            case.put(&case.key("another"), "v").await;
        }
        assert_eq!(case.miss(&key).await, (MissReason::Epoch, None));
        let filled = case.store.fill(&loading, token, tagged("old", &["t"])).await;
        assert_eq!(filled, Ok(Filled::LeaseEnded));
        assert_eq!(case.miss(&key).await, (MissReason::Epoch, None));
        case.delete(&loading).await;
    }
    server.ask("CLIENT KILL TYPE normal");
    assert_eq!(record(connected(async || case.store.get(&key).await).await), None);
}

/// Asks `first` of a store whose Redis remembers what it must not give, then the rest: nothing of it is seen, and new values are.
async fn nothing_comes_back(case: &Case, first: &str, entry: &Key, loading: &Key, token: Token) {
    let store = &case.store;
    match first {
        "get" => assert_eq!(record(connected(async || store.get(entry).await).await), None),
        "find" => {
            let found = connected(async || store.find(loading).await).await;
            assert!(matches!(found, Found::Absent { lease: None, stale: None, .. }), "{found:?}");
        }
        "acquire" => {
            let acquired = connected(async || store.acquire(entry, Token::random(), LONG, false).await).await;
            assert_eq!(acquired, Acquired::Granted { previous: None });
            case.delete(entry).await;
        }
        // It may go out before the link knows who answers, but then nobody sees what it stored.
        "fill" => drop(connected(async || store.fill(loading, token, draft("old")).await).await),
        _ => {
            assert!(connected(async || store.put(entry, draft("new"), true).await).await, "a miss is absent");
        }
    }
    assert_eq!(case.value(loading).await, None, "{first}");
    assert!(!case.fill(loading, token, "old").await, "{first}");
    let wanted = (first == "put").then_some("new");
    assert_eq!(case.value(entry).await.as_deref(), wanted, "{first}");
    case.put(entry, "newest").await;
    assert_eq!(case.value(entry).await.as_deref(), Some("newest"), "{first}");
}

/// A snapshot remembers what was deleted after it. Whatever is asked first after the restart, while the store still takes
/// the process for the one before, gives nothing of it.
#[tokio::test]
async fn snapshot_restart_revives_nothing() {
    let Some(mut server) = RedisServer::start().await else { return };
    for first in ["get", "find", "acquire", "fill", "put"] {
        let case = case(&server).await;
        let (entry, loading) = (case.key("entry"), case.key("loading"));
        case.put(&entry, "old").await;
        let token = case.granted(&loading).await;
        assert_eq!(case.value(&entry).await.as_deref(), Some("old"));
        assert_eq!(server.ask("SAVE"), "OK");
        case.delete(&entry).await;
        case.delete(&loading).await;
        server.kill();
        server.restart().await;
        assert_eq!(server.ask("DBSIZE"), "3", "the snapshot has what was deleted");
        nothing_comes_back(&case, first, &entry, &loading, token).await;
        assert_eq!(server.ask("FLUSHALL"), "OK");
    }
}

/// An address that leads to whichever Redis is named; connections end when that changes.
async fn address_of(mut named: watch::Receiver<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let url = named.borrow_and_update().clone();
            let mut moved = named.clone();
            connections.spawn(async move {
                let server = url.strip_prefix("redis://").expect("a URL");
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = moved.changed() => {}
                }
            });
        }
    });
    url
}

/// Two processes live on and take over from each other, neither a copy of the other: what the first one remembers when it is back
/// lacks all that was told to the second, be that no more than a delete.
#[tokio::test]
async fn returned_process_is_not_trusted() {
    let (Some(a), Some(b)) = (RedisServer::start().await, RedisServer::start().await) else { return };
    for first in ["get", "find", "acquire", "fill", "put"] {
        for server in [&a, &b] {
            assert_eq!(server.ask("FLUSHALL"), "OK");
        }
        let (lead, leads_to) = watch::channel(a.url());
        let config = LinkConfig::new(address_of(leads_to).await, "cache");
        let store = RedisStore::open(config, "cache:".to_owned(), Bulk::default()).expect("a valid URL");
        store.ready(PATIENCE).await.expect("redis answers");
        let case = Case::new(Arc::new(store));
        let (entry, loading) = (case.key("entry"), case.key("loading"));
        case.put(&entry, "old").await;
        let token = case.granted(&loading).await;
        assert_eq!(case.value(&entry).await.as_deref(), Some("old"));
        let leads_to = async |server: &RedisServer| {
            lead.send_replace(server.url());
            while !server.ask("CLIENT LIST").contains("name=shoal-cache") {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        leads_to(&b).await;
        for deleted in [&entry, &loading] {
            connected(async || case.store.delete_key(deleted).await).await;
        }
        leads_to(&a).await;
        nothing_comes_back(&case, first, &entry, &loading, token).await;
        // Another clone, which was not there for that, agrees from here on.
        let other = self::case(&a).await;
        assert_eq!(other.body(&entry).await, case.body(&entry).await);
    }
}

/// A change here is a change of what Redis can carry: docs/redis.md has the figures.
#[tokio::test]
async fn operations_cost_redis_few_commands() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let commands = async || -> u64 {
        let info = server.ask("INFO commandstats");
        let beside = ["ping", "info", "hello", "script", "config", "client|setname", "subscribe", "time"];
        info.lines()
            .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="))
            .filter(|(name, _)| !beside.contains(name))
            .map(|(_, rest)| rest.split(',').next().expect("a count").parse::<u64>().expect("a number"))
            .sum()
    };
    // Both connections are named by then.
    for _ in 0..10 {
        case.value(&case.key("k")).await;
    }
    let mut fewest = [u64::MAX; 4];
    for turn in 0..5 {
        let key = case.key(&format!("k{turn}"));
        let before = commands().await;
        let token = case.granted(&key).await;
        let acquired = commands().await;
        assert!(case.fill(&key, token, "v").await);
        let filled = commands().await;
        assert_eq!(case.value(&key).await.as_deref(), Some("v"));
        let read = commands().await;
        case.put(&key, "w").await;
        let put = commands().await;
        let costs = [acquired - before, filled - acquired, read - filled, put - read];
        fewest = std::array::from_fn(|step| fewest[step].min(costs[step]));
    }
    // Acquire, fill, hit, put; TIME aside, which the watchdog asks as well.
    for (step, (fewest, most)) in fewest.iter().zip([6, 6, 2, 5]).enumerate() {
        assert!(*fewest <= most, "step {step}: {fewest} commands");
    }
}

/// Returns the commands that a step costs beside those that Redis is asked all the time.
async fn cost_of(server: &RedisServer, step: impl Future<Output = ()>) -> BTreeMap<String, u64> {
    let before = server.command_counts();
    step.await;
    let mut after = server.command_counts();
    for (name, count) in &mut after {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    after.retain(|name, count| *count > 0 && !["info", "ping", "time"].contains(&name.as_str()));
    after
}

#[tokio::test]
async fn tag_costs_the_same_over_many_entries() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let mut costs = Vec::new();
    for (tag, entries) in [("warm", 1), ("one", 1), ("many", 2000)] {
        for index in 0..entries {
            case.put_draft(&case.key(&format!("{tag}{index}")), tagged("v", &[tag])).await;
        }
        costs.push(cost_of(&server, case.invalidate(tag)).await);
        for index in [0, entries - 1] {
            assert_eq!(case.value(&case.key(&format!("{tag}{index}"))).await, None);
        }
    }
    assert_eq!(costs[1], costs[2]);
    assert_eq!(costs[2].get("evalsha"), Some(&1), "{costs:?}");
}

/// A tagged hit asks for the stamps together with the entry, once the clone knows its tags.
#[tokio::test]
async fn tagged_hit_takes_one_round_trip() {
    let Some(server) = RedisServer::start().await else { return };
    let (one, two) = (case(&server).await, case(&server).await);
    let two = Case { store: two.store, namespace: one.namespace.clone() };
    let key = one.key("k");
    one.put_draft(&key, Draft { stale: LONG, ..tagged("v", &["a", "b"]) }).await;
    let hit = async |case: &Case| assert_eq!(case.value(&key).await.as_deref(), Some("v"));
    hit(&one).await;
    hit(&two).await;
    for case in [&one, &two] {
        let cost = cost_of(&server, hit(case)).await;
        let wanted = [("get", 1), ("pttl", 1), ("zmscore", 1)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(cost, BTreeMap::from(wanted));
    }
}

/// The memory of an entry is a promise of docs/redis.md.
#[tokio::test]
async fn entry_overhead_is_small() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    case.put(&case.key("12345678"), &"x".repeat(100)).await;
    let name = server.ask("KEYS cache:*}e:12345678");
    let used: usize = server.ask(&format!("MEMORY USAGE {name}")).parse().expect("a number");
    let value: usize = server.ask(&format!("STRLEN {name}")).parse().expect("a number");
    assert_eq!(value, 121);
    assert!(used <= 240, "{used}");
}

#[tokio::test]
async fn hung_redis_is_unavailable_soon() {
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
    let found = connected(async || case.store.get(&key).await).await;
    assert!(record(found).is_some(), "the process is the same");
}

#[tokio::test]
async fn a_connection_tells_its_process_once() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let key = case.key("k");
    for _ in 0..20 {
        assert_eq!(case.value(&key).await, None);
    }
    let info = server.ask("INFO commandstats");
    let count = |command: &str| {
        let line =
            info.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:"))).unwrap_or_default();
        line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u32>().ok()).unwrap_or(0)
    };
    // Each of the two is asked when it is made, for its memory as well, and no read asks.
    assert!((1..=4).contains(&count("info")), "each connection asks once: {info}");
    assert_eq!(count("client|getname"), 0, "{info}");
}

#[tokio::test]
async fn idle_namespace_state_expires() {
    let Some(server) = RedisServer::start().await else { return };
    let case = case(&server).await;
    let key = case.key("k");
    case.put(&key, "v").await;
    let token = case.granted(&case.key("other")).await;
    assert!(case.fill(&case.key("other"), token, "v").await);
    let keys = server.ask("KEYS *");
    assert_eq!(keys.lines().count(), 3, "two entries and the state: {keys}");
    for name in keys.lines() {
        let ttl = server.ask(&format!("PTTL {name}"));
        assert!(!ttl.starts_with('-'), "{name} stays for ever: {ttl}");
    }
}

#[tokio::test]
async fn big_namespace_has_its_own_connection() {
    let Some(server) = RedisServer::start().await else { return };
    let config: crate::config::Config = toml::from_str("default.max_value = 1048577").expect("valid");
    let bulk = Bulk::of(&config).expect("valid");
    let link = LinkConfig { connections: 1, ..LinkConfig::new(server.url(), "cache") };
    let store = RedisStore::open(link, "cache:".to_owned(), bulk).expect("a valid URL");
    store.ready(PATIENCE).await.expect("redis answers");
    let client = redis::Client::open(server.url()).expect("a valid URL");
    let mut operator = client.get_multiplexed_async_connection().await.expect("redis answers");
    let mut connections = async || {
        let mut list = redis::cmd("CLIENT");
        list.arg("LIST").arg("TYPE").arg("NORMAL");
        let list: String = list.query_async(&mut operator).await.expect("redis answers");
        list.lines().filter(|line| line.contains(" name=shoal-cache")).count()
    };
    assert_eq!(connections().await, 1, "none before it is needed");
    let case = Case::new(Arc::new(store));
    let key = case.key("k");
    let value = "x".repeat(2 << 20);
    case.put(&key, &value).await;
    assert_eq!(case.value(&key).await, Some(value));
    assert_eq!(connections().await, 2);
}
