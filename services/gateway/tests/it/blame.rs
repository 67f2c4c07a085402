//! Whose failure it is: what a caller malformed, or asked for what cannot be, takes no endpoint away from others.

use http::Response;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{EndpointState, ListUpstreamsRequest};
use tonic_types::StatusExt as _;

use crate::harness::caller::{Answer, Caller, answer, message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{Call, SAFE, UNSAFE, Upstream, as_session, end, head, payload};
use crate::harness::within;

/// Failures in a row, more than eject an endpoint.
const MANY: usize = 12;

/// Sends `body` as it is.
async fn send(caller: &Caller, path: &str, headers: &[(&str, &str)], body: &'static [u8]) -> Answer {
    let (response, mut stream) = caller.begin(request(path, headers), body.is_empty()).await;
    if !body.is_empty() {
        // It may have been answered already.
        let _ = stream.send_data(body.into(), true);
    }
    let whole = async { answer(response.await?).await };
    within("the answer", whole).await.expect("an answer")
}

/// Returns how many endpoints are ejected, and how many failures are counted.
pub(crate) async fn failures(mesh: &Mesh) -> (usize, i64) {
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let list = client.list_upstreams(ListUpstreamsRequest {}).await.expect("answered").into_inner();
    let endpoints = list.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
    let ejected = endpoints.clone().filter(|endpoint| endpoint.state() == EndpointState::Ejected).count();
    (ejected, endpoints.map(|endpoint| endpoint.failures).sum())
}

/// Two clones of a service of a foreign framework: one that answers INTERNAL to what it cannot read, and OK to `ok`.
async fn picky() -> (Mesh, [Upstream; 2]) {
    let picky = |mut call: Call| async move {
        match call.body().await {
            Ok(body) if body == message(b"ok") => call.answer(b"ok").await,
            _ => end(&mut call.respond, 13),
        }
    };
    let upstreams = [Upstream::start(picky).await, Upstream::start(picky).await];
    let mesh = Mesh::with_cores(1, &as_session(&[&upstreams[0], &upstreams[1]])).await;
    mesh.ready("session", 2).await;
    (mesh, upstreams)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_malformed_ejects_nobody() {
    let (mesh, _upstreams) = picky().await;
    let caller = mesh.caller().await;
    for body in [
        &b"\x07\0\0\0\0"[..],
        b"\x01\0\0\0\x01a",
        b"\0\0\0\0\x09ab",
        b"\0\0",
        b"",
        b"\0\0\0\0\x01a\0\0\0\0\x01b",
    ] {
        for _ in 0..MANY {
            assert_eq!(send(&caller, UNSAFE, &[], body).await.code(), 13);
        }
        assert_eq!(failures(&mesh).await, (0, 0), "{body:?}");
    }
    assert_eq!(payload(&caller.call(UNSAFE, &[], b"ok").await), b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_lone_failures_eject() {
    // Well formed, for all that a gateway can see.
    let (mesh, _upstreams) = picky().await;
    let (bad, good) = (mesh.caller().await, mesh.caller().await);
    for n in 0..10 * MANY {
        assert_eq!(bad.call(UNSAFE, &[], b"no message of yours").await.code(), 13);
        if n % 10 == 0 {
            assert_eq!(payload(&good.call(UNSAFE, &[], b"ok").await), b"ok");
        }
    }
    assert_eq!(failures(&mesh).await.0, 0);
    let broken = Upstream::start(|call| call.refuse(13)).await;
    let fine = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::with_cores(1, &as_session(&[&broken, &fine])).await;
    mesh.ready("session", 2).await;
    let caller = mesh.caller().await;
    for _ in 0..4 * MANY {
        caller.call(UNSAFE, &[], b"ok").await;
    }
    let (ejected, failures) = failures(&mesh).await;
    assert!(ejected == 1 && (5..20).contains(&failures), "{ejected} ejected, {failures} failures");
}

/// An upstream that answers with this HTTP status and no gRPC one.
async fn plain(status: u16) -> Upstream {
    Upstream::start(move |mut call| async move {
        let _ = call.body().await;
        let response = Response::builder().status(status).header("content-type", "text/html");
        let sent = call.respond.send_response(response.body(()).expect("valid"), false);
        let _ = sent.expect("the caller is there").send_data("<h1>no</h1>".into(), true);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_refusal_is_no_failure() {
    for (status, counts) in [(400, false), (404, false), (431, false), (500, true), (502, true), (429, true)]
    {
        let upstream = plain(status).await;
        let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
        mesh.ready("session", 1).await;
        let caller = mesh.caller().await;
        let answer = caller.call(UNSAFE, &[], b"").await;
        assert_eq!(answer.status.as_u16(), status, "handed on as it is");
        assert_eq!(failures(&mesh).await.1 > 0, counts, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_outage_is_retried_elsewhere() {
    let (broken, good) = (plain(503).await, Upstream::start(|call| call.answer(b"ok")).await);
    let configuration = format!("gateway.ejection.enabled = false\n{}", as_session(&[&broken, &good]));
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 2).await;
    let caller = mesh.caller().await;
    for _ in 0..MANY {
        assert_eq!(payload(&caller.call(SAFE, &[], b"").await), b"ok");
    }
    // Without another one the caller is told in gRPC.
    let mesh = Mesh::with_cores(1, &as_session(&[&broken])).await;
    let answer = mesh.caller().await.call(SAFE, &[], b"").await;
    let info = answer.grpc().get_details_error_info().expect("ErrorInfo");
    assert_eq!((answer.code(), info.reason.as_str()), (14, "UPSTREAM_NOT_GRPC"));
    assert_eq!(info.metadata["http_status"], "503");
}

#[tokio::test(flavor = "multi_thread")]
async fn blaming_endpoint_is_not_ejected() {
    let blames = |mut call: Call| async move {
        let _ = call.body().await;
        let response = head(&[("grpc-status", "14"), ("shoal-fault-of", "backend")]);
        let _ = call.respond.send_response(response, true);
    };
    let upstreams = [Upstream::start(blames).await, Upstream::start(blames).await];
    let mesh = Mesh::with_cores(1, &as_session(&[&upstreams[0], &upstreams[1]])).await;
    mesh.ready("session", 2).await;
    let caller = mesh.caller().await;
    for _ in 0..MANY {
        assert_eq!(caller.call(SAFE, &[], b"").await.code(), 14);
    }
    assert_eq!(upstreams.iter().map(Upstream::calls).sum::<usize>(), MANY);
    assert_eq!(failures(&mesh).await, (0, 0));
}
