//! Who is in and who is out, and how soon.

use std::time::Duration;

use shoal_balance::EndpointState::{Connecting, NotServing, Ready};
use tokio::time::Instant;
use tonic_health::ServingStatus;

use crate::peer::{Peer, Upstream};

#[tokio::test]
async fn a_killed_server_is_out_at_once_and_comes_back_by_itself() {
    let (first, _first) = Peer::tonic(None);
    let (second, _second) = Peer::tonic(None);
    let (alive, address) = (first.address, second.address);
    let upstream = Upstream::of(&[alive, address]);
    upstream.until(alive, Ready).await;
    upstream.until(address, Ready).await;

    second.kill();
    let out = upstream.until(address, Connecting).await;
    assert!(out < Duration::from_millis(100), "took {out:?}");
    for _ in 0..100 {
        assert_eq!(upstream.balancer.pick(&[]).unwrap().address(), alive);
    }

    let (_second, _reporter) = Peer::tonic(Some(address));
    let back = upstream.until(address, Ready).await;
    // Slack for a busy machine; the backoff has grown to 80 ms at most by now.
    assert!(back < Duration::from_secs(1), "took {back:?}");
}

#[tokio::test]
async fn not_serving_takes_it_out_while_the_connection_stays() {
    let (peer, reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;

    reporter.set_service_status("", ServingStatus::NotServing).await;
    upstream.until(peer.address, NotServing).await;
    assert_eq!(upstream.reason(peer.address), "NOT_SERVING");
    let refusal = upstream.balancer.pick(&[]).unwrap_err().to_string();
    assert!(refusal.contains("`fish`") && refusal.contains("NOT_SERVING"), "{refusal}");

    reporter.set_service_status("", ServingStatus::Serving).await;
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn a_server_without_health_serves_while_it_is_connected() {
    let peer = Peer::h2(|_, _| async {});
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn nothing_there_is_said_within_the_bound() {
    let (gone, _) = Peer::tonic(None);
    let address = gone.kill();
    let upstream = Upstream::of(&[address]);
    let started = Instant::now();
    let refusal =
        upstream.balancer.picked(&[], started + Duration::from_millis(200)).await.unwrap_err().to_string();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_secs(1), "{waited:?}");
    assert!(refusal.contains("`fish`") && refusal.contains(&address.to_string()), "{refusal}");
    assert!(refusal.contains("refused"), "{refusal}");
}
