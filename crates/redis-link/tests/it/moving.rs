//! A slot that moves by hand: a script that touches keys it does not declare runs on all of them or not at all.

use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig, LinkError, Script};
use shoal_testing::Cluster;
use tokio::time::{Instant, sleep};

use crate::server::{open, patient};

/// The beginning of its keys; nothing has this key itself.
pub(crate) const BASE: &str = "{moves}:";

/// Adds to two keys and answers their sum, which is even while neither was missing.
fn add() -> Script {
    Script::new(
        "add",
        "return redis.call('INCR', KEYS[1] .. 'a') + redis.call('INCR', KEYS[1] .. 'b') + redis.call('STRLEN', KEYS[1] .. 'c')",
    )
}

pub(crate) async fn run(link: &Link) -> Result<u64, LinkError> {
    link.script(&add(), &[BASE.as_bytes()], &[]).await
}

/// A link that carries no keys of a moving slot.
async fn link(cluster: &Cluster) -> Link {
    open(patient(LinkConfig { finish_moves: false, ..LinkConfig::new(cluster.url(), "test") })).await
}

pub(crate) fn is_refused(answer: &Result<u64, LinkError>) -> bool {
    matches!(answer, Err(LinkError::Moving(text)) if text.contains("slot"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_script_runs_on_half_slot() {
    let Some(cluster) = Cluster::start().await else { return };
    let link = link(&cluster).await;
    assert_eq!(run(&link).await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    let begin = Instant::now();
    let answer = run(&link).await;
    assert!(is_refused(&answer) && begin.elapsed() < Duration::from_secs(5), "{answer:?}");
    slot.carry_half().await;
    for _ in 0..20 {
        let answer = run(&link).await;
        assert!(is_refused(&answer), "{answer:?}");
    }
    // By a plain EVAL as well, and in a transaction.
    let mut eval = redis::cmd("EVAL");
    eval.arg("return redis.call('INCR', KEYS[1] .. 'a')").arg(1).arg(BASE);
    let mut pipe = redis::pipe();
    pipe.atomic().add_command(eval.clone());
    let answers = [link.query::<u64>(&eval).await, link.pipeline::<(u64,)>(&pipe).await.map(|(sum,)| sum)];
    assert!(answers.iter().all(is_refused), "{answers:?}");
    // Every key has gone, and the slot has not: only the other node can have them.
    slot.carry_all().await;
    assert_eq!(run(&link).await, Ok(4), "nothing of what was refused was done");
    slot.finish().await;
    assert_eq!(run(&link).await, Ok(6));
    assert!(!cluster.has(BASE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_waits_for_its_slot() {
    let Some(cluster) = Cluster::start().await else { return };
    let link = link(&cluster).await;
    assert_eq!(run(&link).await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    slot.carry_half().await;
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { run(&link).await }
    });
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "it waits");
    slot.finish().await;
    assert_eq!(waiting.await.unwrap(), Ok(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_key_scripts_follow_keys() {
    let Some(cluster) = Cluster::start().await else { return };
    let link = link(&cluster).await;
    let both =
        Script::of_declared_keys("both", "return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])");
    let keys: Vec<String> = ["a", "b"].iter().map(|name| format!("{BASE}{name}")).collect();
    let both = || async { link.script::<u64>(&both, &[keys[0].as_bytes(), keys[1].as_bytes()], &[]).await };
    assert_eq!(both().await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    assert_eq!(both().await, Ok(4), "all are here");
    slot.carry(1).await;
    let answer = both().await;
    assert!(is_refused(&answer), "one is there: {answer:?}");
    slot.carry(1).await;
    assert_eq!(both().await, Ok(6), "all are there");
    slot.finish().await;
    assert_eq!(both().await, Ok(8));
}
