//! A primary that Sentinels know: the link follows it through a planned fail-over and through its death.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use shoal_redis_link::{Link, LinkConfig, LinkError};

use crate::server::{Server, eventually, open};

/// A Sentinel of a test's own; it ends with this.
struct Sentinel {
    port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// Starts one that watches `primary` and decides together with as many others as `quorum` says.
    async fn start(primary: u16, quorum: usize) -> Option<Sentinel> {
        let binary =
            PathBuf::from(std::env::var_os("SHOAL_TEST_REDIS_SERVER").unwrap_or("redis-server".into()));
        loop {
            let free = std::net::TcpListener::bind("127.0.0.1:0").ok()?;
            let port = free.local_addr().ok()?.port();
            drop(free);
            let folder = tempfile::tempdir().ok()?;
            let file = folder.path().join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster 127.0.0.1 {primary} {quorum}\n\
                 sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 5000\n",
                folder.path().display()
            );
            std::fs::write(&file, text).ok()?;
            let child =
                Command::new(&binary).arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn().ok()?;
            let mut sentinel = Sentinel { port, child, _folder: folder };
            let mut up = false;
            eventually("the sentinel answers or ends", async || {
                up = sentinel.ask::<String>(&["PING"]).await.is_ok();
                up || sentinel.child.try_wait().is_ok_and(|ended| ended.is_some())
            })
            .await;
            if up {
                return Some(sentinel);
            }
        }
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A primary, its replica, and three Sentinels that know both.
struct Watched {
    primary: Server,
    replica: Server,
    sentinels: Vec<Sentinel>,
}

impl Watched {
    async fn start() -> Option<Watched> {
        let (primary, replica) = (Server::start().await?, Server::start().await?);
        let _: String = replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
        eventually("the replica is in step", async || {
            replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(primary.port, 2).await?);
        }
        for sentinel in &sentinels {
            eventually("the sentinels know each other and the replica", async || {
                let knows = async |what: &str| {
                    let found: Vec<redis::Value> =
                        sentinel.ask(&["SENTINEL", what, "mymaster"]).await.unwrap_or_default();
                    found.len()
                };
                knows("SENTINELS").await == 2 && knows("REPLICAS").await == 1
            })
            .await;
        }
        Some(Watched { primary, replica, sentinels })
    }

    fn url(&self) -> String {
        let places: Vec<_> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/mymaster", places.join(","))
    }
}

/// Adds a number until one is taken; the numbers that were acknowledged.
async fn add(link: &Link, number: u64) -> Result<u64, LinkError> {
    link.query::<u64>(redis::cmd("SADD").arg("numbers").arg(number)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_follows_primary_of_sentinels() {
    let Some(mut watched) = Watched::start().await else { return };
    let link = open(LinkConfig::new(watched.url(), "test")).await;
    let (mut acknowledged, mut next) = (BTreeSet::new(), 0);

    // A planned fail-over: nothing that was acknowledged before it is lost.
    for _ in 0..100 {
        next += 1;
        if add(&link, next).await.is_ok() {
            acknowledged.insert(next);
        }
    }
    assert!(acknowledged.len() > 50, "{} of 100 were taken", acknowledged.len());
    let replicated = watched.primary.ask::<u64>(&["WAIT", "1", "5000"]).await;
    assert_eq!(replicated, 1);
    let held = async |server: &Server| -> BTreeSet<u64> { server.ask(&["SMEMBERS", "numbers"]).await };
    eventually("the replica has all of them", async || {
        held(&watched.replica).await.is_superset(&acknowledged)
    })
    .await;
    watched.sentinels[0].ask::<String>(&["SENTINEL", "FAILOVER", "mymaster"]).await.unwrap();
    let role = async |server: &Server| server.ask::<String>(&["INFO", "replication"]).await;
    eventually("the new primary takes writes", async || {
        next += 1;
        let taken = match add(&link, next).await {
            Ok(_) => true,
            Err(LinkError::Unavailable(_) | LinkError::Unknown(_) | LinkError::ReadOnly(_)) => false,
            Err(error) => panic!("{error:?}"),
        };
        taken && held(&watched.replica).await.contains(&next)
    })
    .await;
    assert!(held(&watched.replica).await.is_superset(&acknowledged));
    eventually("the old primary follows", async || role(&watched.primary).await.contains("link_status:up"))
        .await;

    // The new primary dies: the old one is promoted.
    eventually("every sentinel knows the new primary", async || {
        let mut all = true;
        for sentinel in &watched.sentinels {
            let place: (String, u16) =
                sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]).await.unwrap();
            all &= place.1 == watched.replica.port;
        }
        all
    })
    .await;
    watched.replica.stop();
    eventually("the promoted one takes writes", async || {
        next += 1;
        match add(&link, next).await {
            Ok(_) => true,
            Err(LinkError::Unavailable(_) | LinkError::Unknown(_) | LinkError::ReadOnly(_)) => false,
            Err(error) => panic!("{error:?}"),
        }
    })
    .await;
    assert!(held(&watched.primary).await.contains(&next));
    assert!(held(&watched.primary).await.is_superset(&acknowledged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_living_sentinel_is_enough() {
    let Some(mut watched) = Watched::start().await else { return };
    for sentinel in &mut watched.sentinels[..2] {
        sentinel.child.kill().unwrap();
    }
    let link = open(LinkConfig::new(watched.url(), "test")).await;
    assert_eq!(add(&link, 1).await, Ok(1));
    let unknown = watched.url().replace("mymaster", "nobody");
    let link = Link::open(LinkConfig::new(unknown, "test")).unwrap();
    let error = link.ready(std::time::Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&error, LinkError::Unavailable(text) if text.contains("nobody")), "{error:?}");
}
