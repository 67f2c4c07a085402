//! Who is in and who is out, and how soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use shoal_balance::EndpointState::{Connecting, NotServing, Ready};
use shoal_balance::Target;
use tokio::time::Instant;
use tonic_health::ServingStatus;

use crate::peer::{Peer, Upstream, answer, answer_status, message, trailers_ok};

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
        assert_eq!(upstream.balancer.pick(None, &[]).unwrap().address(), alive);
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
    let refusal = upstream.balancer.pick(None, &[]).unwrap_err().to_string();
    assert!(refusal.contains("`fish`") && refusal.contains("NOT_SERVING"), "{refusal}");

    reporter.set_service_status("", ServingStatus::Serving).await;
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn a_service_the_server_does_not_know_is_not_served() {
    let (peer, reporter) = Peer::tonic(None);
    let upstream =
        Upstream::with(&[peer.address], |options| options.health_service = Some("fish.v1.Fish".into()));
    upstream.until(peer.address, NotServing).await;
    reporter.set_service_status("fish.v1.Fish", ServingStatus::Serving).await;
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn a_server_without_health_serves_while_it_is_connected() {
    let peer = Peer::h2(|_, _| async {});
    let upstream = Upstream::of(&[peer.address]);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn health_that_is_not_wanted_is_not_asked_for() {
    let (peer, reporter) = Peer::tonic(None);
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let upstream = Upstream::with(&[peer.address], |options| options.health_service = None);
    upstream.until(peer.address, Ready).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_watched_is_checked() {
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
async fn a_server_whose_health_fails_is_out_and_is_asked_again() {
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
async fn nothing_there_is_said_within_the_bound() {
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
async fn no_target_at_all_is_said_too() {
    let upstream = Upstream::of(&[]);
    let refusal = upstream.balancer.pick(None, &[]).unwrap_err().to_string();
    assert_eq!(refusal, "no endpoint of `fish` can take a call: discovery has found none");
}

#[tokio::test]
async fn a_pick_waits_for_the_first_endpoint_to_be_ready() {
    let (peer, _reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    assert!(upstream.balancer.pick(None, &[]).is_err());
    let pick = upstream.balancer.pick_wait(None, &[], Instant::now() + crate::peer::SOON).await.unwrap();
    assert_eq!(pick.address(), peer.address);
}

#[tokio::test]
async fn targets_come_and_go_with_discovery() {
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
async fn the_excluded_are_not_picked() {
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
async fn cancelled_it_ends_every_task_and_every_connection() {
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
