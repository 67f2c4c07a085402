//! Guessing tokens costs the store nothing.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use shoal_testing::RedisServer;
use tonic::Code;

use super::mesh::{Clone, create, get, until};

const FORGED: usize = 100_000;
const CALLERS: usize = 64;
/// A clone notes its keys when it starts and then as often: a read, and a write for each of three purposes.
const NOTE_EVERY: Duration = Duration::from_secs(60);
const KEYS_NOTED: u64 = 3;

/// The n-th variation of a good token: one character of it changed, or all of it drawn anew.
fn forge(good: &str, n: usize) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = fastrand::Rng::with_seed(n as u64);
    let mut token = good.as_bytes().to_vec();
    let body = "shoal_".len()..token.len();
    if n.is_multiple_of(2) {
        let at = random.usize(body);
        let others: Vec<u8> = DIGITS.iter().copied().filter(|digit| *digit != token[at]).collect();
        token[at] = others[random.usize(..others.len())];
    } else {
        token[body].fill_with(|| DIGITS[random.usize(..DIGITS.len())]);
    }
    String::from_utf8(token).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_never_reach_redis() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let toml = format!("redis = '{}'\n[session]\nsweep_interval = '1h'", redis.url());
    let started = Instant::now();
    let clone = Clone::start(&toml).await;
    let good = until("a session", || async { create(&clone.client, "u").await.ok() }).await.token;
    until("the first note", || async { redis.command_counts().contains_key("hgetall").then_some(()) }).await;
    // The clone's keys, the store's name and the session: what a start writes is written.
    until("the start", || async { (redis.command_counts().get("set") == Some(&3)).then_some(()) }).await;
    let before = redis.command_counts();
    stream::iter(0..FORGED)
        .map(|n| {
            let (client, forged) = (clone.client.clone(), forge(&good, n));
            async move { assert_eq!(get(&client, &forged).await.unwrap_err().code(), Code::NotFound, "{n}") }
        })
        .buffer_unordered(CALLERS)
        .count()
        .await;
    let mut after = redis.command_counts();
    after.retain(|command, count| before.get(command) != Some(count));
    // The watchdog's, and this test's own.
    after.retain(|command, _| !["ping", "info", "hello"].contains(&command.as_str()));
    let mut more = |command: &str| after.remove(command).map_or(0, |count| count - before[command]);
    let (written, notes) = (more("hset"), more("hgetall"));
    assert!(notes <= started.elapsed().as_secs() / NOTE_EVERY.as_secs(), "{notes} notes");
    assert_eq!(written, notes * KEYS_NOTED, "{notes} notes");
    // The watchdog asks now and then whether a write would be taken.
    let (probes, seconds) = (more("evalsha"), started.elapsed().as_secs());
    assert!(probes <= seconds / 5 + 2, "{probes} scripts in {seconds} s");
    assert!(after.is_empty(), "{after:?}");
    get(&clone.client, &good).await.unwrap();
    assert_ne!(redis.command_counts().get("get"), before.get("get"), "the count counts");
    clone.stop().await;
}
