//! Notes that clones keep of their keys in Redis, when the record holds something else or Redis refuses it.

use shoal_testing::RedisServer;
use tracing_subscriber::fmt::format::FmtSpan;

use super::captured::Captured;
use super::mesh::{Clone, until};

/// A keyring without a pepper: the first keys of three purposes.
const KEYS_NOTED: u64 = 3;
const FAILURE: &str = "session keys cannot be compared";

#[tokio::test]
async fn foreign_key_logged_among_unreadable_notes() {
    let Some(redis) = RedisServer::start_durable().await else { return };
    let last = "9999999999999";
    for note in ["x y", &format!("\"\\xff\\xfe\" {last}"), "check:0000000000000001:damaged soon"] {
        assert_eq!(redis.ask(&format!("HSET session:marks {note}")), "1", "{note}");
    }
    assert_eq!(redis.ask(&format!("HSET session:marks check:0000000000000002:foreign {last}")), "1");
    let captured = Captured::default();
    let _capturing = captured.start(FmtSpan::NONE);
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    until("the warning", || async { captured.text().contains("`check` key `foreign`").then_some(()) }).await;
    let said = captured.text();
    assert!(!said.contains("damaged") && !said.contains(FAILURE), "{said}");
    clone.stop().await;
}

/// Notes that Redis refuses, as it was told to by `order`, are told once and not tried again soon.
async fn told_once(order: &str, code: &str) {
    let Some(redis) = RedisServer::start_durable().await else { return };
    assert_eq!(redis.ask(order), "OK");
    let captured = Captured::default();
    let _capturing = captured.start(FmtSpan::NONE);
    let clone = Clone::start(&format!("redis = '{}'", redis.url())).await;
    until("the failure", || async { captured.text().contains(FAILURE).then_some(()) }).await;
    // Each sweep, one a second, looks for the keys.
    let count = |command: &str| redis.command_counts().get(command).copied().unwrap_or_default();
    let sweeps = count("get");
    until("some sweeps", || async { (count("get") >= sweeps + 4).then_some(()) }).await;
    assert_eq!(count("hset"), KEYS_NOTED);
    let said = captured.text();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(FAILURE)).collect();
    assert!(lines.len() == 1 && lines[0].contains(code), "{lines:?}");
    clone.stop().await;
}

#[tokio::test]
async fn wrong_typed_notes_logged_once() {
    told_once("SET session:marks x", "WRONGTYPE").await;
}

#[tokio::test]
async fn denied_key_notes_are_logged_once() {
    told_once("ACL SETUSER default -hgetall", "NOPERM").await;
}
