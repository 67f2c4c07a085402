//! The spread of calls over the endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_balance::EndpointState::Ready;
use shoal_balance::{Channel, ChannelOptions, Options, Target};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use crate::peer::{Peer, Upstream, answer_status};
use crate::raw;

/// Starts a server that answers `code` after `delay`.
fn answering(delay: Duration, code: Code) -> Peer {
    Peer::h2(move |_request, mut respond| async move {
        tokio::time::sleep(delay).await;
        answer_status(&mut respond, code);
    })
}

async fn ready(peers: &[&Peer]) -> Upstream {
    ready_with(peers, |_| {}).await
}

async fn ready_with(peers: &[&Peer], change: impl FnOnce(&mut Options)) -> Upstream {
    let upstream = Upstream::with(&peers.iter().map(|peer| peer.address).collect::<Vec<_>>(), change);
    for peer in peers {
        upstream.until(peer.address, Ready).await;
    }
    upstream
}

/// Makes `calls` calls, `at_once` at a time, and counts the picks of each endpoint.
async fn spread(upstream: &Upstream, calls: usize, at_once: usize) -> HashMap<SocketAddr, u64> {
    let channel = Channel::new(upstream.balancer.clone(), ChannelOptions::default());
    let mut running = JoinSet::new();
    for _ in 0..calls {
        if running.len() == at_once {
            running.join_next().await;
        }
        let channel = channel.clone();
        running.spawn(async move {
            let _ = raw::unary(&channel, Request::new(vec![])).await;
        });
    }
    running.join_all().await;
    upstream.balancer.snapshot().into_iter().map(|endpoint| (endpoint.address, endpoint.calls)).collect()
}

#[tokio::test]
async fn equal_endpoints_are_picked_evenly() {
    let peers: Vec<Peer> = (0..4).map(|_| answering(Duration::ZERO, Code::Ok)).collect();
    let upstream = ready(&peers.iter().collect::<Vec<_>>()).await;
    let mut counts: HashMap<SocketAddr, f64> = HashMap::new();
    for _ in 0..4_000 {
        *counts.entry(upstream.balancer.pick(None, &[]).unwrap().address()).or_default() += 1.0;
    }
    // Chi-square with 3 degrees of freedom, 99.9 %; the seed is fixed. None is sampled, so their latencies are
    // within the noise.
    let chi: f64 = counts.values().map(|n| (n - 1_000.0).powi(2) / 1_000.0).sum();
    assert!(counts.len() == 4 && chi < 16.27, "{counts:?} chi {chi}");
}

#[tokio::test]
async fn fast_endpoint_is_preferred() {
    let fast = answering(Duration::from_millis(1), Code::Ok);
    let slow = answering(Duration::from_millis(100), Code::Ok);
    let upstream = ready(&[&fast, &slow]).await;
    let counts = spread(&upstream, 400, 4).await;
    assert!(counts[&fast.address] > 10 * counts[&slow.address], "{counts:?}");
    assert!(counts[&slow.address] > 0, "{counts:?}");
}

#[tokio::test]
async fn weights_share_the_load() {
    let (one, three) =
        (answering(Duration::from_millis(5), Code::Ok), answering(Duration::from_millis(5), Code::Ok));
    let upstream = ready(&[&one, &three]).await;
    let targets = [Target::new(one.address), Target { address: three.address, weight: 3 }];
    upstream.targets.send_replace(Arc::from(targets));
    let mut changed = upstream.balancer.changed();
    let weighted = || upstream.balancer.snapshot().iter().any(|endpoint| endpoint.weight == 3);
    tokio::time::timeout(crate::peer::SOON, changed.wait_for(|_| weighted())).await.unwrap().unwrap();
    let counts = spread(&upstream, 400, 16).await;
    let ratio = counts[&three.address] as f64 / counts[&one.address] as f64;
    assert!((1.5..6.0).contains(&ratio), "{counts:?}");
}

#[tokio::test]
async fn fast_failure_does_not_attract_traffic() {
    let failing = answering(Duration::ZERO, Code::Unavailable);
    let working = answering(Duration::from_millis(5), Code::Ok);
    let upstream = ready(&[&failing, &working]).await;
    let counts = spread(&upstream, 300, 2).await;
    assert!(counts[&failing.address] < 15, "{counts:?}");
    let endpoint = upstream.balancer.snapshot().into_iter().find(|e| e.address == failing.address).unwrap();
    assert_eq!(endpoint.failures, endpoint.calls);
    assert!(endpoint.penalty > Duration::from_secs(1));
}

#[tokio::test]
async fn not_found_is_no_failure() {
    let peer = answering(Duration::ZERO, Code::NotFound);
    let upstream = ready(&[&peer]).await;
    spread(&upstream, 10, 1).await;
    let endpoint = &upstream.balancer.snapshot()[0];
    assert_eq!((endpoint.calls, endpoint.failures, endpoint.in_flight), (10, 0, 0));
    assert!(endpoint.penalty.is_zero());
}

#[tokio::test]
async fn silent_endpoint_gets_few_calls() {
    let stalled = Peer::h2(|_request, respond| async move {
        let _respond = respond;
        std::future::pending::<()>().await;
    });
    let working = answering(Duration::from_millis(1), Code::NotFound);
    let upstream = ready(&[&stalled, &working]).await;
    let channel = Channel::new(
        upstream.balancer.clone(),
        ChannelOptions { default_deadline: Some(Duration::from_millis(300)), ..ChannelOptions::default() },
    );
    // One call to the stalled endpoint is enough to know it: whichever is drawn first, it is asked early on.
    for _ in 0..200 {
        let _ = raw::unary(&channel, Request::new(vec![])).await;
    }
    let endpoint = upstream.balancer.snapshot().into_iter().find(|e| e.address == stalled.address).unwrap();
    assert!(endpoint.calls <= 20, "{} of 200 calls waited for the stalled endpoint", endpoint.calls);
}

#[tokio::test]
async fn newcomer_shares_at_once_without_ramp() {
    let old = answering(Duration::from_millis(1), Code::Ok);
    let new = answering(Duration::from_millis(1), Code::Ok);
    let upstream = ready_with(&[&old], |options| options.slow_start = Duration::ZERO).await;
    spread(&upstream, 50, 2).await;
    upstream.targets.send_replace([Target::new(old.address), Target::new(new.address)].into());
    upstream.until(new.address, Ready).await;
    let before = upstream.balancer.snapshot().iter().map(|e| e.calls).max().unwrap();
    let counts = spread(&upstream, 200, 4).await;
    let (old, new) = (counts[&old.address] - before, counts[&new.address]);
    assert!(new > 40, "the newcomer got {new}, the other {old}");
}
