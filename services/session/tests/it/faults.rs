//! Redis stopped, frozen and cut off: UNAVAILABLE in time, never NOT_FOUND, and soon well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shoal_proto::session::v1::GetSessionRequest;
use shoal_testing::RedisServer;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::mesh::{Client, Clone, create, get, until};
use super::proxy::Proxy;

const CALLERS: usize = 16;
/// Each caller calls this often, whatever the last call did.
const PACE: Duration = Duration::from_millis(10);
/// The length of a fault.
const FAULT: Duration = Duration::from_secs(3);
const P99_MAX: Duration = Duration::from_millis(250);
const BACK_MAX: Duration = Duration::from_secs(1);

struct Called {
    at: Instant,
    took: Duration,
    code: Code,
    reason: String,
}

/// Gets and creates at a steady pace until told to stop.
async fn load(client: Client, token: String, stop: Arc<AtomicBool>) -> Vec<Called> {
    let mut called = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    for n in 0.. {
        pace.tick().await;
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let at = Instant::now();
        let result = if n % 4 == 0 {
            create(&client, &format!("user {n}")).await.map(drop)
        } else {
            get(&client, &token).await.map(drop)
        };
        let (code, reason) = match result {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => {
                (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
            }
        };
        called.push(Called { at, took: at.elapsed(), code, reason });
    }
    called
}

/// Runs a load through a fault and holds what was seen against the promises.
async fn check(url: &str, fault: impl AsyncFnOnce() -> Instant) {
    let clone = Clone::start(&format!("redis = '{url}'\n[session]\nsessions_per_user_max = 1000")).await;
    let token = until("a session", || async { create(&clone.client, "u").await.ok() }).await.token;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(load(clone.client.clone(), token.clone(), Arc::clone(&stop))))
        .collect();
    until("calls under way", || async { get(&clone.client, &token).await.ok() }).await;

    let begun = Instant::now();
    let healed = fault().await;
    let request = || GetSessionRequest { token: token.clone(), no_touch: true };
    let back = until("Redis' return", || async {
        clone.client.clone().get_session(request()).await.ok().map(|_| healed.elapsed())
    })
    .await;
    // What follows the return must be well too.
    tokio::time::sleep(PACE * 20).await;
    stop.store(true, Ordering::SeqCst);
    let mut called = Vec::new();
    for caller in callers {
        called.extend(caller.await.unwrap());
    }

    let during: Vec<_> = called.iter().filter(|call| call.at > begun && call.at < healed).collect();
    let failed = called.iter().filter(|call| call.code != Code::Ok).count();
    let mut took: Vec<_> = during.iter().map(|call| call.took).collect();
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    eprintln!(
        "{} calls during the fault, {failed} failed, p50 {:?}, p99 {p99:?}, back after {back:?}",
        during.len(),
        took[took.len() / 2]
    );
    for call in &called {
        match call.code {
            Code::Ok => {}
            Code::Unavailable => assert!(
                ["ENGINE_UNAVAILABLE", "OUTCOME_UNKNOWN"].contains(&call.reason.as_str()),
                "{}",
                call.reason
            ),
            code => panic!("{code:?} {}", call.reason),
        }
    }
    assert!(failed > during.len() / 2, "the fault was none: {failed} of {}", during.len());
    assert!(p99 <= P99_MAX, "p99 {p99:?}");
    assert!(back <= BACK_MAX, "back after {back:?}");
    assert!(called.iter().filter(|call| call.at > healed + back).all(|call| call.code == Code::Ok));
    clone.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_stopped_and_started_again() {
    let Some(mut redis) = RedisServer::start_durable().await else { return };
    let url = redis.url();
    check(&url, async || {
        redis.kill();
        tokio::time::sleep(FAULT).await;
        redis.restart().await;
        Instant::now()
    })
    .await;
    let connections = redis.info("stats", "total_connections_received");
    assert!(connections < 20, "a storm of {connections} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_frozen_and_thawed() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    check(&redis.url(), async || {
        redis.freeze();
        tokio::time::sleep(FAULT).await;
        redis.thaw();
        Instant::now()
    })
    .await;
    let connections = redis.info("stats", "total_connections_received");
    assert!(connections < 60, "a storm of {connections} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn black_holed_connections_are_replaced() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let proxy = Proxy::start(redis.port()).await;
    check(&format!("redis://127.0.0.1:{}", proxy.port), async || {
        proxy.cut();
        tokio::time::sleep(FAULT).await;
        proxy.heal();
        Instant::now()
    })
    .await;
    assert!(proxy.accepted() < 60, "a storm of {} connections", proxy.accepted());
}

#[tokio::test]
async fn clone_starts_before_redis() {
    let Some(mut redis) = RedisServer::start_durable().await else { return };
    redis.kill();
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    for status in [create(&clone.client, "u").await.err(), get(&clone.client, "shoal_x").await.err()] {
        assert_eq!(status.unwrap().code(), Code::Unavailable);
    }
    redis.restart().await;
    let made = until("Redis' return", || async { create(&clone.client, "u").await.ok() }).await;
    get(&clone.client, &made.token).await.unwrap();
    clone.stop().await;
}
