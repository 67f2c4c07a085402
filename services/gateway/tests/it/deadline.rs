//! Deadlines: what remains is sent on, what is over is not, and both sides are told.

use std::time::{Duration, Instant};

use h2::Reason;
use shoal_balance::parse_timeout;
use tokio::sync::mpsc;

use crate::harness::caller::{answer, message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session};
use crate::harness::{SOON, within};

/// An upstream that holds each call until it is reset, begun or not.
async fn holding(begins: bool) -> (Upstream, mpsc::UnboundedReceiver<Option<Reason>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut call| {
        let tell = tell.clone();
        async move {
            let reset = if begins {
                let mut stream = call.begin();
                stream.send_data(message(b"first"), false).expect("open");
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await
            } else {
                std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await
            };
            let _ = tell.send(reset.ok());
        }
    })
    .await;
    (upstream, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_is_given_what_remains() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.caller().await.call(SAFE, &[("grpc-timeout", "5S")], b"").await;
    let left = parse_timeout(&upstream.head(0).headers["grpc-timeout"]).expect("a timeout");
    assert!(left < Duration::from_secs(5) && left > Duration::from_secs(3), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_call_ends_both_sides() {
    for begins in [false, true] {
        let (upstream, mut told) = holding(begins).await;
        let mesh = Mesh::start(&as_session(&[&upstream])).await;
        mesh.ready("session", 1).await;
        let caller = mesh.caller().await;
        let begun = Instant::now();
        let (response, _stream) = caller.begin(request(SAFE, &[("grpc-timeout", "200m")]), true).await;
        let response = within("the answer", response).await.expect("an answer");
        let answer = within("the end", answer(response)).await.expect("whole");
        let took = begun.elapsed();
        assert_eq!((answer.code(), answer.trailers.is_some()), (4, begins));
        assert!(took >= Duration::from_millis(200) && took < SOON, "{took:?}");
        assert_eq!(within("the reset", told.recv()).await, Some(Some(Reason::CANCEL)));
        assert_eq!(upstream.calls(), 1);
        assert!(answer.grpc().message().contains("session"), "{:?}", answer.grpc());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_deadline_is_never_forwarded() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    for timeout in ["0S", "0n", "0H", "1n", "900n"] {
        let answer = caller.call(UNSAFE, &[("grpc-timeout", timeout)], b"").await;
        assert_eq!(answer.code(), 4);
        assert!(answer.grpc().message().contains("no endpoint had it"), "{timeout}: {:?}", answer.grpc());
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_at_the_deadline() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    upstream.kill().await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let begun = Instant::now();
    let answer = mesh.caller().await.call(SAFE, &[("grpc-timeout", "150m")], b"").await;
    assert_eq!(answer.code(), 4);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_deadline_is_no_cancellation() {
    // What tonic's servers do: CANCELLED when their own clock says so.
    let upstream = Upstream::start(|call| async move {
        let left = parse_timeout(&call.request.headers()["grpc-timeout"]).expect("a timeout");
        tokio::time::sleep(left).await;
        call.refuse(1).await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    for _ in 0..20 {
        assert_eq!(caller.call(SAFE, &[("grpc-timeout", "20m")], b"").await.code(), 4);
    }
    // Before the deadline it is the upstream's own answer.
    let cancels = Upstream::start(|call| call.refuse(1)).await;
    let mesh = Mesh::start(&as_session(&[&cancels])).await;
    assert_eq!(mesh.caller().await.call(SAFE, &[("grpc-timeout", "9S")], b"").await.code(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_bounds_and_gives_deadlines() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let configuration =
        format!("gateway.deadline.default = '2s'\ngateway.deadline.max = '3s'\n{}", as_session(&[&upstream]));
    let mesh = Mesh::start(&configuration).await;
    let caller = mesh.caller().await;
    caller.call(SAFE, &[], b"").await;
    caller.call(SAFE, &[("grpc-timeout", "1H")], b"").await;
    let left = |number| parse_timeout(&upstream.head(number).headers["grpc-timeout"]).expect("a timeout");
    assert!(left(0) <= Duration::from_secs(2) && left(0) > Duration::from_secs(1), "{:?}", left(0));
    assert!(left(1) <= Duration::from_secs(3) && left(1) > Duration::from_secs(2), "{:?}", left(1));
}
