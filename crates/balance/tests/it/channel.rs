//! What a tonic client sees through the channel.

use std::time::Duration;

use shoal_balance::{Channel, ChannelOptions};
use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::peer::{Peer, Upstream, answer, message, trailers_ok};
use crate::raw;

#[tokio::test]
async fn a_generated_client_works_on_it() {
    let (peer, _reporter) = Peer::tonic(None);
    let upstream = Upstream::of(&[peer.address]);
    let channel = Channel::new(upstream.balancer.clone(), ChannelOptions::default());
    let mut client = HealthClient::new(channel);
    let answer = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let snapshot = upstream.balancer.snapshot();
    assert_eq!((snapshot[0].calls, snapshot[0].in_flight, snapshot[0].failures), (1, 0, 0));
}

#[tokio::test]
async fn a_deadline_ends_the_call_with_deadline_exceeded() {
    let peer = Peer::h2(|_request, respond| async move {
        // Never answers; keeps the stream open.
        let _respond = respond;
        std::future::pending::<()>().await;
    });
    let upstream = Upstream::of(&[peer.address]);
    let channel = Channel::new(upstream.balancer.clone(), ChannelOptions::default());
    let mut request = Request::new(vec![1]);
    request.set_timeout(Duration::from_millis(150));
    let started = Instant::now();
    let status = raw::unary(&channel, request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("`fish`"), "{status}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn four_mebibytes_go_both_ways() {
    let peer = Peer::h2(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = answer(&mut respond).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        stream.send_trailers(trailers_ok()).unwrap();
    });
    let upstream = Upstream::of(&[peer.address]);
    let channel = Channel::new(upstream.balancer.clone(), ChannelOptions::default());
    let sent: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n / 7) as u8).collect();
    let back = raw::unary(&channel, Request::new(sent.clone())).await.unwrap().into_inner();
    assert!(back == sent);
    let _ = message(&[]);
}
