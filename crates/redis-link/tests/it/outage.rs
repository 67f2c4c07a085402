//! Redis stopped, frozen, cut off, busy: bounded answers of the right kind, no storm, and back in a second.

use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig, LinkError};

use crate::load::{count_up, until_noticed, until_served};
use crate::proxy::Proxy;
use crate::server::{Server, eventually, open};

/// The time for which a test watches the calls at the begin of an outage, and the later ones.
const OUTAGE: Duration = Duration::from_secs(1);

/// When the breaker is open after calls have begun to fail: a time-out and a PING that is not answered.
const NOTICED: Duration = Duration::from_millis(500);

/// The time within which the link uses a Redis that has returned.
const BACK: Duration = Duration::from_secs(1);

/// The most attempts to connect in an outage of two seconds: one at a time, 20 to 500 ms apart, for all uses of the link
/// together.
const CONNECTS_MAX: usize = 15;

/// A link with the default deadlines, which outages are about.
async fn prompt(url: String) -> Link {
    open(LinkConfig::new(url, "test")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_redis_is_used_after_return() {
    let Some(mut server) = Server::start().await else { return };
    let link = prompt(server.url()).await;
    server.stop();
    let answers = count_up(&link, "n", OUTAGE).await;
    assert_eq!(answers.ok(), 0);
    answers.assert_an_outage_in_bounds();
    answers.assert_the_first_in_bounds();
    assert!(!link.healthy());
    count_up(&link, "n", OUTAGE).await.assert_all_refused_at_once();

    server.restart().await;
    let back = until_served(&link).await;
    assert!(back <= BACK, "served again after {back:?}");
    eventually("healthy", async || link.healthy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusing_redis_gets_few_connections() {
    let Some(mut server) = Server::start().await else { return };
    // The proxy accepts and closes: connecting fails as fast as it can.
    let proxy = Proxy::to(server.port).await;
    let link = prompt(proxy.url()).await;
    let (_subscription, _tail) = (link.subscribe("news"), link.tail(vec![(b"s".to_vec(), "$".to_owned())]));
    eventually("all are connected", async || proxy.accepted() == 4).await;
    let before = proxy.accepted();
    server.stop();
    count_up(&link, "n", 2 * OUTAGE).await.assert_an_outage_in_bounds();
    let connects = proxy.accepted() - before;
    assert!((1..=CONNECTS_MAX).contains(&connects), "{connects} connections in an outage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis_fails_calls_in_time() {
    let Some(server) = Server::start().await else { return };
    let link = prompt(server.url()).await;
    server.freeze();
    let counting = tokio::spawn({
        let link = link.clone();
        async move { count_up(&link, "n", OUTAGE).await }
    });
    let noticed = until_noticed(&link).await;
    assert!(noticed <= NOTICED, "noticed after {noticed:?}");
    let frozen = counting.await.unwrap();
    frozen.assert_an_outage_in_bounds();
    frozen.assert_the_first_in_bounds();
    assert_eq!(frozen.ok(), 0);
    assert!(frozen.unknown() > 0, "the first ones were sent");
    count_up(&link, "n", OUTAGE).await.assert_all_refused_at_once();

    server.thaw();
    let back = until_served(&link).await;
    assert!(back <= BACK, "served again after {back:?}");
    let well = count_up(&link, "n", OUTAGE / 4).await;
    let counted: u64 = link.query(redis::cmd("GET").arg("n")).await.unwrap();
    let (least, most) = (well.ok(), well.ok() + frozen.unknown() + well.unknown());
    assert!((least..=most).contains(&counted), "{counted} counted, {least} to {most} answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn black_hole_causes_no_connection_storm() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = prompt(proxy.url()).await;
    let (_subscription, _tail) = (link.subscribe("news"), link.tail(vec![(b"s".to_vec(), "$".to_owned())]));
    eventually("all are connected", async || proxy.accepted() == 4).await;
    let before = proxy.accepted();
    proxy.swallow();
    let answers = count_up(&link, "n", OUTAGE).await;
    answers.assert_an_outage_in_bounds();
    answers.assert_the_first_in_bounds();
    assert!(answers.unknown() > 0, "the first ones were sent");
    count_up(&link, "n", OUTAGE).await.assert_all_refused_at_once();
    let connects = proxy.accepted() - before;
    assert!((1..=CONNECTS_MAX).contains(&connects), "{connects} connections in an outage");

    proxy.pass();
    let back = until_served(&link).await;
    assert!(back <= BACK, "served again after {back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_dead_connections_are_replaced() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = prompt(proxy.url()).await;
    eventually("both connections", async || proxy.accepted() == 2).await;
    proxy.swallow_established();
    let answers = count_up(&link, "n", OUTAGE).await;
    answers.assert_an_outage_in_bounds();
    answers.assert_the_first_in_bounds();
    assert!(answers.ok() > 0, "new connections serve within it");
    eventually("all calls are served", async || {
        let answers = count_up(&link, "n", OUTAGE / 10).await;
        answers.ok() == answers.0.len() as u64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_dead_connection_is_replaced_early() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = prompt(proxy.url()).await;
    server.settled().await;
    proxy.swallow_established();
    eventually("replaced without a call", async || proxy.accepted() == 4 && link.healthy()).await;
    link.query::<u64>(redis::cmd("INCR").arg("n")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_connections_are_replaced_at_once() {
    let Some(server) = Server::start().await else { return };
    let link = prompt(server.url()).await;
    let other = server.link().await;
    server.settled().await;
    for round in 0..20 {
        let kill = other.query::<u64>(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await;
        assert!(kill.is_ok(), "{kill:?}");
        let back = until_served(&link).await;
        // Those that die as they are made wait longer and longer.
        let bound = if round == 0 { BACK / 4 } else { BACK };
        assert!(back <= bound, "served again after {back:?} in round {round}");
        until_served(&other).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_redis_does_nothing() {
    let Some(server) = Server::start_with(&["--busy-reply-threshold", "20"]).await else { return };
    let link = prompt(server.url()).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let endless = tokio::spawn(async move {
        redis::cmd("EVAL").arg("while true do end").arg(0).query_async::<()>(&mut other).await
    });
    eventually("busy", async || {
        matches!(link.query::<()>(&redis::cmd("PING")).await, Err(LinkError::Unavailable(text)) if text.contains("BUSY"))
    })
    .await;
    let answers = count_up(&link, "n", OUTAGE / 2).await;
    assert_eq!(answers.ok(), 0);
    answers.assert_an_outage_in_bounds();

    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("SCRIPT").arg("KILL").query_async(&mut connection).await.unwrap();
    let back = until_served(&link).await;
    assert!(back <= BACK, "served again after {back:?}");
    assert!(endless.await.unwrap().is_err(), "it was killed");
    assert_eq!(link.query::<Option<u64>>(redis::cmd("GET").arg("n")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_starts_later_is_used() {
    let Some(mut server) = Server::start().await else { return };
    server.stop();
    let link = Link::open(LinkConfig::new(server.url(), "test")).unwrap();
    let error = link.ready(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, LinkError::Unavailable(_)), "{error:?}");
    assert!(!link.healthy());
    server.restart().await;
    let back = until_served(&link).await;
    assert!(back <= BACK, "served after {back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_are_no_outage() {
    let Some(server) = Server::start_with(&["--enable-debug-command", "yes"]).await else { return };
    let mut config = LinkConfig::new(server.url(), "test");
    config.call_deadline = Duration::from_secs(2);
    let link = open(config).await;
    for _ in 0..4 {
        let () = link.query(redis::cmd("DEBUG").arg("SLEEP").arg("0.3")).await.unwrap();
    }
    assert!(link.healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_link_closes_its_connections() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let observer = redis::Client::open(server.url()).unwrap();
    let mut observer = observer.get_multiplexed_async_connection().await.unwrap();
    let mut clients = async || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut observer).await.unwrap();
        list.lines().filter(|line| line.contains("name=shoal-test")).count()
    };
    eventually("two connections", async || clients().await == 2).await;
    drop(link);
    eventually("no connection", async || clients().await == 0).await;
}
