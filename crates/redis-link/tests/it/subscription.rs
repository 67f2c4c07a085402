//! Messages of a channel, and the word that some may be missing.

use shoal_redis_link::{Link, LinkConfig, Subscription, SubscriptionEvent};
use tokio::time::timeout;

use crate::load::until_served;
use crate::proxy::Proxy;
use crate::server::{PATIENCE, Server, open};

async fn next(subscription: &mut Subscription) -> SubscriptionEvent {
    timeout(PATIENCE, subscription.recv()).await.expect("an event in time")
}

async fn publish(link: &Link, message: &[u8]) {
    let _: u64 = link.query(redis::cmd("PUBLISH").arg("news").arg(message)).await.unwrap();
}

fn message(text: &[u8]) -> SubscriptionEvent {
    SubscriptionEvent::Message(text.to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_follow_establishment_in_order() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let mut subscription = link.subscribe("news");
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Reconnected);
    for text in [b"one".as_slice(), b"\xff\x00", b"three"] {
        publish(&link, text).await;
    }
    for text in [b"one".as_slice(), b"\xff\x00", b"three"] {
        assert_eq!(next(&mut subscription).await, message(text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscription_reports_survived_restart() {
    let Some(mut server) = Server::start().await else { return };
    let link = server.link().await;
    let mut subscription = link.subscribe("news");
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Reconnected);
    for round in [b"one", b"two"] {
        server.stop();
        server.restart().await;
        until_served(&link).await;
        assert_eq!(next(&mut subscription).await, SubscriptionEvent::Reconnected);
        publish(&link, round).await;
        assert_eq!(next(&mut subscription).await, message(round));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_dead_subscription_is_remade() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = open(LinkConfig::new(proxy.url(), "test")).await;
    let mut subscription = link.subscribe("news");
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Reconnected);
    proxy.swallow_established();
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Reconnected);
    let direct = server.link().await;
    publish(&direct, b"one").await;
    assert_eq!(next(&mut subscription).await, message(b"one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_subscription_closes_its_connection() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let mut subscription = link.subscribe("news");
    assert_eq!(next(&mut subscription).await, SubscriptionEvent::Reconnected);
    let subscribers = async || -> u64 {
        let counts: Vec<(String, u64)> =
            link.query(redis::cmd("PUBSUB").arg("NUMSUB").arg("news")).await.unwrap();
        counts[0].1
    };
    assert_eq!(subscribers().await, 1);
    drop(subscription);
    crate::server::eventually("nobody listens", async || subscribers().await == 0).await;
}
