//! Resets and cancellations cross the gateway in both directions, in time and with their reason.

use h2::Reason;
use tokio::sync::mpsc;

use crate::harness::caller::{answer, message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session};
use crate::harness::within;

/// An upstream that reports how each call's request ended, and begins its answer if `begins`.
async fn observed(begins: bool) -> (Upstream, mpsc::UnboundedReceiver<Option<Reason>>) {
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

/// The reset as the upstream saw it; how soon is measured in `stages`.
async fn told(told: &mut mpsc::UnboundedReceiver<Option<Reason>>) -> Option<Reason> {
    within("the reset at the upstream", told.recv()).await.expect("told")
}

#[tokio::test(flavor = "multi_thread")]
async fn early_reset_reaches_the_upstream() {
    let (upstream, mut reports) = observed(false).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    for (ended, reason) in [
        (true, Reason::CANCEL),
        (false, Reason::CANCEL),
        (true, Reason::INTERNAL_ERROR),
        (true, Reason::NO_ERROR),
    ] {
        let sent = upstream.calls() + 1;
        let (_response, mut stream) = caller.begin(request(UNSAFE, &[]), ended).await;
        crate::harness::eventually("the call", || (upstream.calls() == sent).then_some(())).await;
        stream.send_reset(reason);
        let expected = if reason == Reason::NO_ERROR { Reason::CANCEL } else { reason };
        assert_eq!(told(&mut reports).await, Some(expected));
    }
    assert!(caller.lives().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_reset_reaches_the_upstream() {
    let (upstream, mut reports) = observed(true).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (response, mut stream) = caller.begin(request(UNSAFE, &[]), false).await;
    let response = within("the answer", response).await.expect("an answer");
    stream.send_reset(Reason::CANCEL);
    drop(response);
    assert_eq!(told(&mut reports).await, Some(Reason::CANCEL));
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_connection_is_a_cancellation() {
    for begins in [false, true] {
        let (upstream, mut reports) = observed(begins).await;
        let mesh = Mesh::start(&as_session(&[&upstream])).await;
        let caller = mesh.caller().await;
        let open = caller.begin(request(SAFE, &[]), true).await;
        crate::harness::eventually("the call", || (upstream.calls() == 1).then_some(())).await;
        caller.drop_connection().await;
        assert_eq!(told(&mut reports).await, Some(Reason::CANCEL), "answer begun: {begins}");
        drop(open);
        // The upstream's connection is shared and lives.
        assert_eq!(upstream.calls(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_reset_reaches_the_caller() {
    for reason in
        [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::INADEQUATE_SECURITY]
    {
        for begins in [false, true] {
            let upstream = Upstream::start(move |mut call| async move {
                if begins {
                    let mut stream = call.begin();
                    stream.send_data(message(b"first"), false).expect("open");
                    // Sent before the reset, which would overtake it.
                    call.body().await.expect("the caller has seen it");
                    stream.send_reset(reason);
                } else {
                    call.respond.send_reset(reason);
                }
            })
            .await;
            let mesh = Mesh::start(&as_session(&[&upstream])).await;
            let caller = mesh.caller().await;
            let (response, mut stream) = caller.begin(request(SAFE, &[]), false).await;
            let error = if begins {
                let mut response = within("the head", response).await.expect("begun");
                let first =
                    within("the data", response.body_mut().data()).await.expect("data").expect("data");
                assert_eq!(first, message(b"first"));
                stream.send_data("".into(), true).expect("open");
                within("the reset", answer(response)).await.expect_err("a reset")
            } else {
                within("the reset", response).await.expect_err("a reset")
            };
            assert!(error.is_reset() && error.is_remote(), "{reason:?} {begins}: {error}");
            assert_eq!(error.reason(), Some(reason), "answer begun: {begins}");
            assert_eq!(upstream.calls(), 1, "a reset is no reason to repeat");
            assert!(caller.lives().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_upstream_ends_call_with_status() {
    let upstream = Upstream::start(|mut call| async move {
        let mut stream = call.begin();
        stream.send_data(message(b"first"), false).expect("open");
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    let response = within("the head", response).await.expect("begun");
    upstream.kill().await;
    let answer = within("the end", answer(response)).await.expect("trailers");
    assert_eq!(answer.code(), 14);
    assert!(answer.trailers.is_some());
    let message = answer.grpc().message().to_owned();
    for part in ["session", &upstream.address.to_string(), "its answer had begun"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}
