//! A primary that became a replica, behind one address and behind a name with two: nobody stays with it, and what was refused
//! there is done at the new primary.

use std::net::ToSocketAddrs;

use shoal_redis_link::{Link, LinkConfig, LinkError, SubscriptionEvent, TailEvent};
use tokio::time::timeout;

use crate::proxy::Proxy;
use crate::server::{PATIENCE, Server, eventually, open, patient};

/// A primary and its replica, which has all of it.
async fn pair() -> Option<(Server, Server)> {
    let (one, two) = (Server::start().await?, Server::start().await?);
    follow(&two, &one).await;
    Some((one, two))
}

async fn follow(replica: &Server, primary: &Server) {
    let () = replica.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
    let () = primary.ask(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
    let () = replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    eventually("it follows", async || {
        replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
    })
    .await;
}

/// The second of them takes the first one's place.
async fn swap(old: &Server, new: &Server) {
    let () = new.ask(&["REPLICAOF", "NO", "ONE"]).await;
    follow(old, new).await;
}

async fn clients(server: &Server) -> usize {
    let list: String = server.ask(&["CLIENT", "LIST"]).await;
    list.lines().filter(|line| line.contains("name=shoal-test") || line.contains("flags=P")).count()
}

async fn set(link: &Link) -> Result<(), LinkError> {
    link.query(redis::cmd("SET").arg("k").arg("v")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_write_repeats_at_new_primary() {
    let Some((old, new)) = pair().await else { return };
    let proxy = Proxy::to(old.port).await;
    let link = open(patient(LinkConfig::new(proxy.url(), "test"))).await;
    set(&link).await.unwrap();
    swap(&old, &new).await;
    proxy.lead_new_to(new.port);
    // The connections still lead to the old one.
    set(&link).await.unwrap();
    assert_eq!(new.ask::<String>(&["GET", "k"]).await, "v");
    assert_eq!(link.ready_now(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demoted_redis_keeps_no_clients() {
    let Some((old, new)) = pair().await else { return };
    let proxy = Proxy::to(old.port).await;
    let link = open(patient(LinkConfig::new(proxy.url(), "test"))).await;
    let mut news = link.subscribe("news");
    let mut tail = link.tail(vec![(b"s".to_vec(), "$".to_owned())]);
    let _reads_nothing = link.tail(Vec::new());
    eventually("all are connected", async || clients(&old).await == 5).await;
    assert_eq!(timeout(PATIENCE, news.recv()).await.unwrap(), SubscriptionEvent::Reconnected);
    swap(&old, &new).await;
    proxy.lead_new_to(new.port);
    // Nobody calls: the watchdog finds out.
    eventually("nobody stays", async || clients(&old).await == 0).await;
    eventually("all have moved", async || clients(&new).await == 5).await;
    assert_eq!(timeout(PATIENCE, news.recv()).await.unwrap(), SubscriptionEvent::Reconnected);
    let event = timeout(PATIENCE, tail.recv()).await.unwrap();
    assert_eq!(event, TailEvent::RestartedOrFailedOver);
    eventually("it is well", async || link.ready_now().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_without_primary_answers_reads() {
    let Some((primary, replica)) = pair().await else { return };
    let () = primary.ask(&["SET", "k", "v"]).await;
    eventually("it has the key", async || replica.ask::<Option<String>>(&["GET", "k"]).await.is_some()).await;
    let link = replica.link().await;
    let error = set(&link).await.unwrap_err();
    assert!(matches!(error, LinkError::ReadOnly(_)), "{error:?}");
    let value: String = link.query(redis::cmd("GET").arg("k")).await.unwrap();
    assert_eq!(value, "v");
    assert!(link.ready_now().is_err());
    let () = replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
    set(&link).await.unwrap();
    eventually("it is well", async || link.ready_now().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primary_among_two_addresses_is_found() {
    let addresses: Vec<_> = ("localhost", 1).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    if !["127.0.0.1:1", "[::1]:1"].iter().all(|address| addresses.contains(&address.parse().unwrap())) {
        eprintln!("\n*** SKIPPED: localhost is not both 127.0.0.1 and ::1 here ***\n");
        return;
    }
    let Some(one) = Server::start().await else { return };
    let Some(two) = Server::start_at("::1", Some(one.port), &[]).await else { return };
    let link = open(patient(LinkConfig::new(format!("redis://localhost:{}", one.port), "test"))).await;
    for (old, new, host) in [(&one, &two, "::1"), (&two, &one, "127.0.0.1")] {
        let () = new.ask(&["REPLICAOF", "NO", "ONE"]).await;
        let () = old.ask(&["REPLICAOF", host, &one.port.to_string()]).await;
        set(&link).await.unwrap();
        eventually("nobody stays", async || clients(old).await == 0).await;
        eventually("all have moved", async || clients(new).await == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_never_used_together() {
    let (Some(one), Some(two)) = (Server::start().await, Server::start().await) else { return };
    let proxy = Proxy::to(one.port).await;
    let link = open(patient(LinkConfig::new(proxy.url(), "test"))).await;
    eventually("both connections", async || clients(&one).await == 2).await;
    // Both are primaries; the endpoint has another one behind it, and one of the two connections is lost.
    proxy.lead_new_to(two.port);
    let list: String = one.ask(&["CLIENT", "LIST"]).await;
    let first = list.lines().find(|line| line.contains("name=shoal-test")).unwrap();
    let id = first.split_once("id=").unwrap().1.split(' ').next().unwrap();
    let _: u64 = one.ask(&["CLIENT", "KILL", "ID", id]).await;
    eventually("both have moved", async || clients(&two).await == 2).await;
    assert_eq!(clients(&one).await, 0);
    set(&link).await.unwrap();
}
