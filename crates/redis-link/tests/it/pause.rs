//! Redis holds writes back for a while (`CLIENT PAUSE … WRITE`), and a reply that takes long: neither ends what else goes on.

use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig, LinkError, Script};
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::server::{Server, eventually, open};

/// Longer than a machine stalls, and short enough to be waited for.
const DEADLINE: Duration = Duration::from_millis(500);

async fn link(url: String) -> Link {
    open(LinkConfig { call_deadline: DEADLINE, ..LinkConfig::new(url, "test") }).await
}

async fn count(link: &Link) -> Result<u64, LinkError> {
    link.query(redis::cmd("INCR").arg("n")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_continue_while_writes_pause() {
    let Some(server) = Server::start().await else { return };
    let link = link(server.url()).await;
    // Both connections are there.
    server.settled().await;
    let first = Script::reading("first", "return redis.call('GET', KEYS[1])");
    let mut counted = count(&link).await.unwrap();
    let () = server.ask(&["CLIENT", "PAUSE", "600000", "WRITE"]).await;
    let writer = tokio::spawn({
        let link = link.clone();
        async move {
            let mut unknown = 0;
            loop {
                match count(&link).await {
                    Err(LinkError::Unknown(_)) => unknown += 1,
                    Err(LinkError::ReadOnly(text)) if text.contains("CLIENT PAUSE") => return unknown,
                    Err(LinkError::Unavailable(_)) => sleep(Duration::from_millis(5)).await,
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    while !writer.is_finished() {
        assert_eq!(link.query::<u64>(redis::cmd("GET").arg("n")).await, Ok(counted));
        assert_eq!(link.script::<u64>(&first, &[b"n"], &[]).await, Ok(counted));
    }
    let unknown = writer.await.unwrap();
    assert!(link.healthy());
    assert!(link.ready_now().unwrap_err().contains("CLIENT PAUSE"));
    // Refused at once, for as long as it takes.
    let begin = Instant::now();
    for _ in 0..100 {
        assert!(matches!(count(&link).await, Err(LinkError::ReadOnly(_))));
        assert_eq!(link.query::<u64>(redis::cmd("GET").arg("n")).await, Ok(counted));
    }
    assert!(begin.elapsed() < 100 * DEADLINE / 2, "they waited");

    let () = server.ask(&["CLIENT", "UNPAUSE"]).await;
    eventually("writes are taken again", async || {
        let now = count(&link).await;
        counted = *now.as_ref().unwrap_or(&counted);
        now.is_ok()
    })
    .await;
    assert!((2..=2 + unknown).contains(&counted), "{counted} counted, {unknown} unknown");
    eventually("it is well", async || link.ready_now().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_is_noticed_without_calls() {
    let Some(server) = Server::start().await else { return };
    let link = link(server.url()).await;
    let () = server.ask(&["CLIENT", "PAUSE", "600000", "WRITE"]).await;
    eventually("it is seen", async || link.ready_now().is_err_and(|why| why.contains("PAUSE"))).await;
    let () = server.ask(&["CLIENT", "UNPAUSE"]).await;
    eventually("it is well", async || link.ready_now().is_ok()).await;
    count(&link).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_with_long_reply_is_kept() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = link(proxy.url()).await;
    eventually("both connections", async || proxy.accepted() == 2).await;
    let () = server.ask(&["SET", "big", &"x".repeat(8 << 20)]).await;
    proxy.slow_down();
    let error = link.query::<String>(redis::cmd("GET").arg("big")).await.unwrap_err();
    assert!(matches!(error, LinkError::Unknown(_)), "{error:?}");
    eventually("what follows is answered", async || {
        link.query::<Option<u64>>(redis::cmd("GET").arg("n")).await.is_ok()
    })
    .await;
    assert_eq!(proxy.accepted(), 2, "no connection was made anew");
    assert!(link.healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_calls_pass_big_values() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = link(proxy.url()).await;
    eventually("both connections", async || proxy.accepted() == 2).await;
    let () = server.ask(&["SET", "big", &"x".repeat(1 << 20)]).await;
    proxy.slow_down();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let bulk = link.bulk();
            tokio::spawn(async move { bulk.query::<String>(redis::cmd("GET").arg("big")).await })
        })
        .collect();
    let mut passed = 0;
    while !readers.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(link.query::<Option<u64>>(redis::cmd("GET").arg("n")).await, Ok(None));
        passed += 1;
    }
    assert!(passed > 1, "the big values took no time");
    for reader in readers {
        // 1 MiB takes a third of a second: longer than the last of them may wait on a connection for small calls.
        assert_eq!(reader.await.unwrap().unwrap().len(), 1 << 20);
    }
    assert_eq!(proxy.accepted(), 3, "one connection for all big values");
}
