//! Endpoints becoming ready and being removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use shoal_balance::EndpointState::{Connecting, NotServing, Ready};
use shoal_balance::Target;
use tokio::time::Instant;
use tonic_health::ServingStatus;

use crate::peer::{Peer, Upstream, answer, answer_status, message, trailers_ok};

#[tokio::test]
async fn killed_server_is_removed_and_returns() {
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
        assert_eq!(upstream.balancer.pick(None, &[]).unwrap().address(), alive);
    }

    let (_second, _reporter) = Peer::tonic(Some(address));
    let back = upstream.until(address, Ready).await;
    // Slack for a busy machine; the backoff has grown to 80 ms at most by now.
    assert!(back < Duration::from_secs(1), "took {back:?}");
}

#[tokio::test]
async fn not_serving_keeps_connection() {
    let (peer, reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;

    reporter.set_service_status("", ServingStatus::NotServing).await;
    upstream.until(peer.address, NotServing).await;
    assert_eq!(upstream.reason(peer.address), "NOT_SERVING");
    let refusal = upstream.balancer.pick(None, &[]).unwrap_err().to_string();
    assert!(refusal.contains("`fish`") && refusal.contains("NOT_SERVING"), "{refusal}");

    reporter.set_service_status("", ServingStatus::Serving).await;
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn unknown_health_service_is_not_serving() {
    let (peer, reporter) = Peer::tonic(None);
    let upstream =
        Upstream::with(&[peer.address], |options| options.health_service = Some("fish.v1.Fish".into()));
    upstream.until(peer.address, NotServing).await;
    reporter.set_service_status("fish.v1.Fish", ServingStatus::Serving).await;
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn server_without_health_is_ready() {
    let peer = Peer::h2(|_, _| async {});
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn disabled_health_is_not_asked() {
    let (peer, reporter) = Peer::tonic(None);
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let upstream = Upstream::with(&[peer.address], |options| options.health_service = None);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn unwatchable_server_is_checked() {
    let status = Arc::new(AtomicU8::new(ServingStatus::Serving as u8));
    let said = status.clone();
    let peer = Peer::h2_with_health(move |request, mut respond| {
        let status = said.load(Ordering::Relaxed);
        async move {
            if request.uri().path().ends_with("/Watch") {
                return answer_status(&mut respond, tonic::Code::Unimplemented);
            }
            // HealthCheckResponse { status }: field 1, a varint.
            let mut stream = answer(&mut respond).unwrap();
            stream.send_data(message(&[8, status]), false).unwrap();
            stream.send_trailers(trailers_ok()).unwrap();
        }
    });
    let upstream =
        Upstream::with(&[peer.address], |options| options.health_interval = Duration::from_millis(20));
    upstream.until(peer.address, Ready).await;
    status.store(ServingStatus::NotServing as u8, Ordering::Relaxed);
    upstream.until(peer.address, NotServing).await;
    status.store(ServingStatus::Serving as u8, Ordering::Relaxed);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn failing_health_is_asked_again() {
    let healthy = Arc::new(AtomicU8::new(0));
    let said = healthy.clone();
    let peer = Peer::h2_with_health(move |_request, mut respond| {
        let healthy = said.load(Ordering::Relaxed) == 1;
        async move {
            if !healthy {
                return answer_status(&mut respond, tonic::Code::Internal);
            }
            let mut stream = answer(&mut respond).unwrap();
            stream.send_data(message(&[8, 1]), false).unwrap();
            std::future::pending::<()>().await;
        }
    });
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, NotServing).await;
    assert!(upstream.reason(peer.address).contains("Internal"), "{}", upstream.reason(peer.address));
    healthy.store(1, Ordering::Relaxed);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn unreachable_target_fails_within_bound() {
    let (gone, _) = Peer::tonic(None);
    let address = gone.kill();
    let upstream = Upstream::of(&[address]);
    let started = Instant::now();
    let refusal = upstream
        .balancer
        .pick_wait(None, &[], started + Duration::from_millis(200))
        .await
        .unwrap_err()
        .to_string();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_secs(1), "{waited:?}");
    assert!(refusal.contains("`fish`") && refusal.contains(&address.to_string()), "{refusal}");
    assert!(refusal.contains("refused"), "{refusal}");
}

#[tokio::test]
async fn empty_target_list_is_reported() {
    let upstream = Upstream::of(&[]);
    let refusal = upstream.balancer.pick(None, &[]).unwrap_err().to_string();
    assert_eq!(refusal, "no endpoint of `fish` can take a call: discovery has found no endpoint");
}

#[tokio::test]
async fn pick_waits_for_first_endpoint() {
    let (peer, _reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    assert!(upstream.balancer.pick(None, &[]).is_err());
    let pick = upstream.balancer.pick_wait(None, &[], Instant::now() + crate::peer::SOON).await.unwrap();
    assert_eq!(pick.address(), peer.address);
}

#[tokio::test]
async fn targets_follow_discovery() {
    let (first, _first) = Peer::tonic(None);
    let (second, _second) = Peer::tonic(None);
    let upstream = Upstream::of(&[first.address]);
    upstream.until(first.address, Ready).await;

    upstream.targets.send_replace([Target { address: second.address, weight: 7 }].into());
    upstream.until(second.address, Ready).await;
    assert_eq!(upstream.state(first.address), None);
    assert_eq!(upstream.balancer.pick(None, &[]).unwrap().address(), second.address);
    assert_eq!(upstream.balancer.snapshot()[0].weight, 7);

    upstream.targets.send_replace([].into());
    let mut changed = upstream.balancer.changed();
    let emptied = changed.wait_for(|_| upstream.balancer.pick(None, &[]).is_err());
    tokio::time::timeout(crate::peer::SOON, emptied).await.unwrap().unwrap();
}

#[tokio::test]
async fn excluded_endpoint_is_not_picked() {
    let (first, _first) = Peer::tonic(None);
    let (second, _second) = Peer::tonic(None);
    let upstream = Upstream::of(&[first.address, second.address]);
    upstream.until(first.address, Ready).await;
    upstream.until(second.address, Ready).await;
    for _ in 0..100 {
        assert_eq!(upstream.balancer.pick(None, &[first.address]).unwrap().address(), second.address);
    }
    let refusal = upstream.balancer.pick(None, &[first.address, second.address]).unwrap_err().to_string();
    assert!(refusal.contains("2 ready, 2 tried already"), "{refusal}");
}

#[tokio::test]
async fn cancel_ends_tasks_and_connections() {
    let (closed, mut all_closed) = tokio::sync::mpsc::channel(1);
    let peer = Peer::start(None, |listener| async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            answer_status(&mut respond, tonic::Code::Unimplemented);
        }
        let _ = closed.send(()).await;
    });
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
    upstream.stop().await;
    tokio::time::timeout(crate::peer::SOON, all_closed.recv()).await.unwrap().unwrap();
    assert!(upstream.balancer.snapshot().is_empty());
    let refusal = upstream.balancer.pick(None, &[]).unwrap_err().to_string();
    assert!(refusal.contains("shutting down"), "{refusal}");
    let late = upstream.balancer.pick_wait(None, &[], Instant::now() + crate::peer::SOON);
    assert!(tokio::time::timeout(Duration::from_secs(1), late).await.unwrap().is_err());
}
