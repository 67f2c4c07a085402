//! Ejection of failing endpoints, and their return by one probe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shoal_balance::EndpointState::{Connecting, Ejected, Ready};
use shoal_balance::{Channel, ChannelOptions, Ejection, EndpointSnapshot, Options, Outcome};
use tonic::{Code, Request};

use crate::peer::{Peer, SOON, Upstream, answer, answer_status};
use crate::raw;

/// A time longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// A server that answers INTERNAL until it is repaired, and counts its calls.
struct Broken {
    peer: Peer,
    mended: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
}

fn broken() -> Broken {
    let (mended, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (is_mended, count) = (mended.clone(), calls.clone());
    let peer = Peer::h2(move |_request, mut respond| {
        count.fetch_add(1, Ordering::SeqCst);
        let code = if is_mended.load(Ordering::SeqCst) { Code::Ok } else { Code::Internal };
        async move { answer_status(&mut respond, code) }
    });
    Broken { peer, mended, calls }
}

fn answering(code: Code) -> Peer {
    Peer::h2(move |_request, mut respond| async move { answer_status(&mut respond, code) })
}

async fn ready(peers: &[SocketAddr], change: impl FnOnce(&mut Options)) -> Upstream {
    let upstream = Upstream::with(peers, change);
    for peer in peers {
        upstream.until(*peer, Ready).await;
    }
    upstream
}

/// Returns rules that eject for longer than any test.
fn for_good(options: &mut Options) {
    options.ejection = Some(Ejection { base_ejection_time: LONG, max: LONG, ..Ejection::default() });
}

fn channel(upstream: &Upstream) -> Channel {
    Channel::new(upstream.balancer.clone(), ChannelOptions::default())
}

async fn call(channel: &Channel) {
    let _ = raw::unary(channel, Request::new(vec![])).await;
}

fn seen(upstream: &Upstream, address: SocketAddr) -> EndpointSnapshot {
    upstream.balancer.snapshot().into_iter().find(|endpoint| endpoint.address == address).unwrap()
}

/// Makes five calls at `bad` that fail, by excluding the others: picks follow latencies, which vary on a busy machine.
fn eject(upstream: &Upstream, bad: SocketAddr) {
    let others: Vec<SocketAddr> =
        upstream.balancer.snapshot().iter().map(|e| e.address).filter(|address| *address != bad).collect();
    for _ in 0..5 {
        assert_eq!(seen(upstream, bad).state, Ready);
        let mut pick = upstream.balancer.pick(None, &others).unwrap();
        pick.first_response();
        pick.outcome(Outcome::ServerError);
    }
    assert_eq!(seen(upstream, bad).state, Ejected);
}

fn ejected(upstream: &Upstream) -> usize {
    upstream.balancer.snapshot().iter().filter(|endpoint| endpoint.state == Ejected).count()
}

#[tokio::test]
async fn failing_endpoint_is_ejected_with_reason() {
    let (bad, good) = (broken(), answering(Code::Ok));
    let upstream = ready(&[bad.peer.address, good.address], for_good).await;
    let mut changed = upstream.balancer.changed();
    changed.mark_unchanged();
    eject(&upstream, bad.peer.address);
    let channel = channel(&upstream);
    for _ in 0..200 {
        call(&channel).await;
    }
    assert_eq!(bad.calls.load(Ordering::SeqCst), 0);
    let endpoint = seen(&upstream, bad.peer.address);
    let ejection = endpoint.ejection.unwrap();
    assert_eq!((endpoint.state, endpoint.reason.as_str()), (Ejected, "5 failures in a row"));
    assert_eq!((ejection.times, ejection.reason.as_str()), (1, "5 failures in a row"));
    assert!(ejection.next_probe > LONG - SOON && ejection.since < SOON, "{ejection:?}");
    assert!(changed.has_changed().unwrap(), "watchers are told");
    assert_eq!((seen(&upstream, good.address).state, upstream.balancer.pickable()), (Ready, 1));
    let refusal = upstream.balancer.pick(None, &[good.address]).unwrap_err().to_string();
    assert!(refusal.contains("ejected (5 failures in a row)"), "{refusal}");
}

#[tokio::test]
async fn successful_probe_readmits() {
    let (bad, good) = (broken(), answering(Code::Ok));
    let upstream = ready(&[bad.peer.address, good.address], |options| {
        let short = Duration::from_millis(10);
        options.ejection = Some(Ejection { base_ejection_time: short, max: short, ..Ejection::default() });
    })
    .await;
    eject(&upstream, bad.peer.address);
    let channel = channel(&upstream);
    let times = || seen(&upstream, bad.peer.address).ejection.map_or(0, |ejection| ejection.times);
    tokio::time::timeout(SOON, async {
        while times() < 4 {
            call(&channel).await;
        }
    })
    .await
    .unwrap();
    // One a probe; nothing else reached it.
    assert_eq!(bad.calls.load(Ordering::SeqCst) + 1, u64::from(times()));

    bad.mended.store(true, Ordering::SeqCst);
    let mut changed = upstream.balancer.changed();
    changed.mark_unchanged();
    tokio::time::timeout(SOON, async {
        while seen(&upstream, bad.peer.address).state == Ejected {
            call(&channel).await;
        }
    })
    .await
    .unwrap();
    assert!(changed.has_changed().unwrap(), "watchers are told");
    assert_eq!(seen(&upstream, bad.peer.address).ejection, None);
}

#[tokio::test]
async fn started_stream_readmits() {
    let peer = || {
        Peer::h2(|_request, mut respond| async move {
            let _held = answer(&mut respond);
            std::future::pending::<()>().await;
        })
    };
    let (one, other) = (peer(), peer());
    let upstream = ready(&[one.address, other.address], |options| {
        let short = Duration::from_millis(10);
        options.ejection = Some(Ejection { base_ejection_time: short, max: short, ..Ejection::default() });
    })
    .await;
    eject(&upstream, one.address);
    let channel = channel(&upstream);
    let mut streams = Vec::new();
    tokio::time::timeout(SOON, async {
        while seen(&upstream, one.address).state == Ejected {
            // Nobody reads on, so that none of them shows to be a long stream.
            streams.push(raw::bidi(&channel, tokio_stream::pending()).await.unwrap());
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn at_most_half_are_ejected() {
    let peers: Vec<Broken> = (0..5).map(|_| broken()).collect();
    let addresses: Vec<SocketAddr> = peers.iter().map(|broken| broken.peer.address).collect();
    let upstream = ready(&addresses, for_good).await;
    let channel = channel(&upstream);
    let mut changed = upstream.balancer.changed();
    tokio::time::timeout(SOON, async {
        while ejected(&upstream) < 2 {
            call(&channel).await;
        }
    })
    .await
    .unwrap();
    changed.mark_unchanged();
    for _ in 0..200 {
        call(&channel).await;
    }
    assert_eq!((ejected(&upstream), upstream.balancer.pickable()), (2, 3));
    assert!(!changed.has_changed().unwrap());
}

#[tokio::test]
async fn only_endpoint_is_never_ejected() {
    let only = broken();
    let upstream = ready(&[only.peer.address], for_good).await;
    let channel = channel(&upstream);
    for _ in 0..50 {
        call(&channel).await;
    }
    assert_eq!(only.calls.load(Ordering::SeqCst), 50);
    assert_eq!(ejected(&upstream), 0);
}

#[tokio::test]
async fn panic_uses_ejected_endpoints() {
    let (bad, good) = (broken(), answering(Code::Ok));
    let (bad_address, good_address) = (bad.peer.address, good.address);
    let upstream = ready(&[bad_address, good_address], for_good).await;
    eject(&upstream, bad_address);
    good.kill();
    upstream.until(good_address, Connecting).await;
    assert_eq!(upstream.balancer.pick(None, &[]).unwrap().address(), bad_address);
    // It is still shown as what it is.
    assert_eq!((seen(&upstream, bad_address).state, upstream.balancer.pickable()), (Ejected, 1));
}

#[tokio::test]
async fn caller_errors_eject_nobody() {
    let (one, other) = (answering(Code::NotFound), answering(Code::NotFound));
    let upstream = ready(&[one.address, other.address], for_good).await;
    let channel = channel(&upstream);
    for _ in 0..100 {
        call(&channel).await;
        let mut pick = upstream.balancer.pick(None, &[]).unwrap();
        pick.outcome(Outcome::CallerGone);
    }
    assert_eq!(ejected(&upstream), 0);
    for endpoint in upstream.balancer.snapshot() {
        assert_eq!(endpoint.failures, 0);
    }
    assert_eq!(upstream.balancer.snapshot().iter().map(|endpoint| endpoint.successes).sum::<u64>(), 100);
}

/// Lets calls with a deadline of `hurry` time out at one of two endpoints that never answer. Returns whether it was ejected.
async fn stalled(hurry: Duration, answers_others: bool) -> bool {
    let (one, other) = (answering(Code::Ok), answering(Code::Ok));
    let upstream = ready(&[one.address, other.address], for_good).await;
    let at_one = || upstream.balancer.pick(None, &[other.address]).unwrap();
    let mut picks: Vec<_> = (0..10).map(|_| at_one()).collect();
    tokio::time::sleep(hurry).await;
    if answers_others {
        at_one().first_response();
    }
    for pick in &mut picks {
        pick.outcome(Outcome::TimedOut);
    }
    ejected(&upstream) == 1
}

#[tokio::test]
async fn timing_out_endpoint_is_ejected() {
    assert!(stalled(Duration::from_millis(110), false).await);
}

#[tokio::test]
async fn endpoint_answering_others_is_not_ejected() {
    assert!(!stalled(Duration::from_millis(110), true).await);
}

#[tokio::test]
async fn short_deadlines_eject_nobody() {
    // Nothing takes less than no time, however busy the machine: they give up at once.
    assert!(!stalled(Duration::ZERO, false).await);
}

#[tokio::test]
async fn disabled_ejection_keeps_calling() {
    let (bad, good) = (broken(), answering(Code::Ok));
    let upstream = ready(&[bad.peer.address, good.address], |options| options.ejection = None).await;
    for _ in 0..100 {
        upstream.balancer.pick(None, &[good.address]).unwrap().outcome(Outcome::ServerError);
    }
    assert_eq!((ejected(&upstream), upstream.balancer.pickable()), (0, 2));
}
