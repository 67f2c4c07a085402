//! The lifetime of client connections.

use tokio::sync::watch;
use tonic_types::StatusExt as _;

use crate::harness::caller::{Caller, answer, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, Upstream, as_session, payload};
use crate::harness::{eventually, within};

/// An upstream that takes calls and never answers.
async fn silent() -> Upstream {
    Upstream::start(|call| async move {
        let _call = call;
        std::future::pending::<()>().await;
    })
    .await
}

/// Waits until the gateway takes no more calls on a connection.
async fn goaway(caller: &Caller) {
    within("GOAWAY", async {
        while caller.lives().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_connection_ends_after_its_calls() {
    let (release, released) = watch::channel(false);
    let upstream = Upstream::start(move |call| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            call.answer(b"ok").await;
        }
    })
    .await;
    let configuration = format!("gateway.connection.max_age = '300ms'\n{}", as_session(&[&upstream]));
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    goaway(&caller).await;
    release.send(true).expect("watched");
    let answer = answer(within("the answer", response).await.expect("an answer")).await.expect("whole");
    assert_eq!((answer.code(), payload(&answer)), (0, &b"ok"[..]));
    caller.closed().await.expect("closed in order");
    // And whoever comes again is served.
    assert_eq!(mesh.caller().await.call(SAFE, &[], b"").await.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn aged_connection_ends_its_calls() {
    let upstream = silent().await;
    let configuration = format!(
        "gateway.connection.max_age = '100ms'\ngateway.connection.max_age_grace = '100ms'\n{}",
        as_session(&[&upstream])
    );
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    eventually("the call", || (upstream.calls() == 1).then_some(())).await;
    let answer = answer(within("the end", response).await.expect("an answer")).await.expect("whole");
    let info = answer.grpc().get_details_error_info().expect("ErrorInfo");
    assert_eq!((answer.code(), info.reason.as_str()), (14, "CONNECTION_AGED"));
    caller.closed().await.expect("closed in order");
    assert!(mesh.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_idle_connections_are_ended() {
    let upstream = silent().await;
    let configuration = format!("gateway.connection.max_idle = '100ms'\n{}", as_session(&[&upstream]));
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", 1).await;
    let busy = mesh.caller().await;
    let (_response, _stream) = busy.begin(request(SAFE, &[]), true).await;
    eventually("the call", || (upstream.calls() == 1).then_some(())).await;
    // Each lives for one to two of the idle times: the third outlives what a call in flight would if it were nothing.
    for _ in 0..3 {
        goaway(&mesh.caller().await).await;
    }
    assert!(busy.lives().await);
}
