//! A slot that somebody has begun to move: the link carries its keys to the new node, and overwrites none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script};
use shoal_testing::Cluster;
use tokio::time::sleep;

use crate::moving::{BASE, is_refused, run};
use crate::server::{open, patient};

/// Keys of the slot beside those that the script counts in: several batches.
const OTHERS: usize = 500;

async fn link(cluster: &Cluster) -> Link {
    open(patient(LinkConfig::new(cluster.url(), "test"))).await
}

async fn fill(link: &Link) {
    let mut set = redis::pipe();
    for n in 0..OTHERS {
        set.cmd("SET").arg(format!("{BASE}other:{n}")).arg(n).ignore();
    }
    link.pipeline::<()>(&set).await.expect("they are set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_finish_half_moved_slot() {
    let Some(cluster) = Cluster::start().await else { return };
    let link = link(&cluster).await;
    fill(&link).await;
    assert_eq!(run(&link).await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    assert_eq!(run(&link).await, Ok(4), "no key had moved");
    assert_eq!(slot.left().await, 0);
    slot.finish().await;
    assert_eq!(run(&link).await, Ok(6));
    // And back.
    let slot = cluster.begin_move(BASE).await;
    slot.carry_half().await;
    assert_eq!(run(&link).await, Ok(8), "half of the keys had moved");
    slot.finish().await;
    assert_eq!(run(&link).await, Ok(10));
    assert!(!cluster.has(BASE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_of_declared_keys_finish_slot() {
    let Some(cluster) = Cluster::start().await else { return };
    let link = link(&cluster).await;
    let both =
        Script::of_declared_keys("both", "return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])");
    let keys: Vec<String> = ["a", "b"].iter().map(|name| format!("{BASE}{name}")).collect();
    let both = || async { link.script::<u64>(&both, &[keys[0].as_bytes(), keys[1].as_bytes()], &[]).await };
    assert_eq!(both().await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    slot.carry(1).await;
    assert_eq!(both().await, Ok(4), "one key was on each node");
    assert_eq!(slot.left().await, 0);
    slot.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_on_both_nodes_is_kept() {
    let Some(cluster) = Cluster::start().await else { return };
    let link = link(&cluster).await;
    assert_eq!(run(&link).await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    let key = format!("{BASE}a");
    slot.put_ahead(&key, "9").await;
    for _ in 0..3 {
        let answer = run(&link).await;
        assert!(is_refused(&answer), "{answer:?}");
    }
    assert_eq!(slot.values(&key).await, [Some("1".to_owned()), Some("9".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn links_and_resharding_carry_together() {
    let Some(cluster) = Cluster::start().await else { return };
    let links = [link(&cluster).await, link(&cluster).await];
    fill(&links[0]).await;
    let done = Arc::new(AtomicBool::new(false));
    let callers = links.iter().flat_map(|link| [link.clone(), link.clone()]).map(|link| {
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut acknowledged = 0;
            while !done.load(Ordering::Relaxed) {
                match run(&link).await {
                    Ok(sum) => {
                        assert_eq!(sum % 2, 0, "it ran on all keys");
                        acknowledged += 1;
                    }
                    Err(LinkError::Moving(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            acknowledged
        })
    });
    let callers: Vec<_> = callers.collect();
    for _ in 0..6 {
        // Nobody moves a slot back before the nodes have told each other that it has moved.
        sleep(Duration::from_millis(100)).await;
        let slot = cluster.begin_move(BASE).await;
        // As many as redis-cli moves at once by default.
        while slot.carry(10).await > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        slot.finish().await;
    }
    done.store(true, Ordering::Relaxed);
    let acknowledged: u64 = join_all(callers).await.into_iter().map(|caller| caller.expect("it ends")).sum();
    assert_eq!(run(&links[0]).await, Ok(2 * (acknowledged + 1)), "what was acknowledged, and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_is_given_to_other_node() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.tell(&["CONFIG", "SET", "requirepass", "hunter2"]).await;
    cluster.tell(&["ACL", "SETUSER", "app", "on", ">pass,word", "~*", "&*", "+@all"]).await;
    for login in [":hunter2", "app:pass,word"] {
        let url = cluster.url().replace("redis://", &format!("redis://{login}@"));
        let link = open(patient(LinkConfig::new(url, "test"))).await;
        let before = run(&link).await.expect("it runs");
        let slot = cluster.begin_move(BASE).await;
        assert_eq!(run(&link).await, Ok(before + 2), "{login}");
        slot.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_without_permission_is_refused() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.tell(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-migrate"]).await;
    let url = cluster.url().replace("redis://", "redis://app:secret@");
    let link = open(patient(LinkConfig::new(url, "test"))).await;
    assert_eq!(run(&link).await, Ok(2));
    let slot = cluster.begin_move(BASE).await;
    let answer = run(&link).await;
    assert!(is_refused(&answer), "{answer:?}");
    assert_eq!(slot.left().await, 2);
    slot.finish().await;
    assert_eq!(run(&link).await, Ok(4));
}
