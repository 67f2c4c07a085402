//! The end of a gateway: nothing in flight is lost, and nothing holds it up for ever.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::harness::caller::{Answer, answer, message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session, held, payload};
use crate::harness::{eventually, within};

fn reason(answer: &Answer) -> String {
    answer.grpc().get_details_error_info().expect("ErrorInfo").reason
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_finishes_calls_in_flight() {
    let (upstream, release) = held().await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let idle = mesh.caller().await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    eventually("the call", || (upstream.calls() == 1).then_some(())).await;
    mesh.shut_down();
    // GOAWAY on every connection; the one with a call stays open for it.
    idle.closed().await.expect("closed in order");
    within("the port to close", async {
        while TcpStream::connect(mesh.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert!(mesh.runs());
    release.send(true).expect("watched");
    let answer = answer(within("the answer", response).await.expect("an answer")).await.expect("whole");
    assert_eq!((answer.code(), payload(&answer)), (0, &b"ok"[..]));
    caller.closed().await.expect("closed in order");
    mesh.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_call_ends_after_grace() {
    let (upstream, _release) = held().await;
    let mesh = Mesh::start(&format!("drain = '300ms'\n{}", as_session(&[&upstream]))).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    eventually("the call", || (upstream.calls() == 1).then_some(())).await;
    let begun = Instant::now();
    mesh.shut_down();
    let answer = answer(within("the end", response).await.expect("an answer")).await.expect("whole");
    assert_eq!((answer.code(), reason(&answer).as_str()), (14, "DRAINING"));
    caller.closed().await.expect("closed in order");
    mesh.drained().await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_stream_gets_trailers_after_grace() {
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut call| {
        let told = told.clone();
        async move {
            let mut stream = call.begin();
            stream.send_data(message(b"one"), false).expect("open");
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            let _ = told.send(reset);
        }
    })
    .await;
    let mesh = Mesh::start(&format!("drain = '300ms'\n{}", as_session(&[&upstream]))).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(UNSAFE, &[]), true).await;
    let response = within("the head", response).await.expect("begun");
    mesh.shut_down();
    let answer = within("the end", answer(response)).await.expect("whole, not reset");
    assert_eq!((payload(&answer), answer.code(), reason(&answer).as_str()), (&b"one"[..], 14, "DRAINING"));
    // Its clone is told as well.
    let reset = within("the reset", ended.recv()).await.expect("told");
    assert_eq!(reset.expect("a reset"), h2::Reason::CANCEL);
    caller.closed().await.expect("closed in order");
    mesh.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_delay_drain() {
    let mesh = Mesh::start("drain = '60s'").await;
    let silent = TcpStream::connect(mesh.address).await.expect("connected");
    let idle = mesh.caller().await;
    // A call answered means that the connections before it were accepted too.
    assert_eq!(mesh.caller().await.call("/x.Y/Z", &[], b"").await.code(), 12);
    mesh.shut_down();
    mesh.drained().await;
    drop((silent, idle));
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_without_upstreams_serves() {
    let mesh = Mesh::start("drain = '60s'").await;
    let mut health = HealthClient::new(mesh.channel().await);
    let answer = health.check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    assert!(mesh.runs());
    mesh.shut_down();
    mesh.drained().await;
}
