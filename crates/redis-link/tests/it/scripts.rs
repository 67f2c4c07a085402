//! Scripts stay known to Redis, whatever happens to it.

use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig, Script};

use crate::load::until_served;
use crate::server::{Server, open, patient};

fn add() -> Script {
    Script::new("add", "return redis.call('INCRBY', KEYS[1], ARGV[1])")
}

/// Returns the number of NOSCRIPT answers since Redis started.
async fn unknown_scripts(link: &Link) -> u64 {
    let errors: String = link.query(redis::cmd("INFO").arg("errorstats")).await.unwrap();
    let line = errors.lines().find_map(|line| line.strip_prefix("errorstat_NOSCRIPT:count="));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_script_is_loaded_and_run() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    for expected in 1..=3u64 {
        let sum: u64 = link.script(&add(), &[b"n"], &[b"1"]).await.unwrap();
        assert_eq!(sum, expected, "run once");
        let () = link.query(redis::cmd("SCRIPT").arg("FLUSH")).await.unwrap();
    }
    let many = (0..50).map(|_| async { link.script::<u64>(&add(), &[b"n"], &[b"1"]).await.unwrap() });
    futures::future::join_all(many).await;
    let sum: u64 = link.query(redis::cmd("GET").arg("n")).await.unwrap();
    assert_eq!(sum, 53);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connections_load_all_scripts() {
    let Some(mut server) = Server::start().await else { return };
    let mut config = patient(LinkConfig::new(server.url(), "test"));
    config.scripts = vec![add()];
    let link = open(config).await;
    for _ in 0..2 {
        let sum: u64 = link.script(&add(), &[b"n"], &[b"2"]).await.unwrap();
        assert_eq!(sum, 2);
        assert_eq!(unknown_scripts(&link).await, 0, "it was there before its first call");
        server.stop();
        server.restart().await;
        until_served(&link).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_script_is_loaded_after_restart() {
    let Some(mut server) = Server::start().await else { return };
    let link = server.link().await;
    let _: u64 = link.script(&add(), &[b"n"], &[b"2"]).await.unwrap();
    assert_eq!(unknown_scripts(&link).await, 1, "the first use teaches it");
    server.stop();
    server.restart().await;
    until_served(&link).await;
    let sum: u64 = link.script(&add(), &[b"n"], &[b"2"]).await.unwrap();
    assert_eq!(sum, 2);
    assert_eq!(unknown_scripts(&link).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_data_harms_no_scripts() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let _: u64 = link.script(&add(), &[b"n"], &[b"2"]).await.unwrap();
    let () = link.query(&redis::cmd("FLUSHALL")).await.unwrap();
    let sum: u64 = link.script(&add(), &[b"n"], &[b"2"]).await.unwrap();
    assert_eq!(sum, 2);
    assert!(link.healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_id_changes_with_restart() {
    let Some(mut server) = Server::start().await else { return };
    let link = server.link().await;
    let before = link.run_id().await.unwrap();
    assert_eq!(link.run_id().await.unwrap(), before);
    server.stop();
    server.restart().await;
    link.ready(Duration::from_secs(5)).await.unwrap();
    assert_ne!(link.run_id().await.unwrap(), before);
}
