//! Limits of callers and of upstreams, as their callers meet them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{ListUpstreamsRequest, Upstream as Listed};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::caller::{message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session, held};
use crate::harness::{eventually, within};

async fn listed(mesh: &Mesh) -> Listed {
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let list = client.list_upstreams(ListUpstreamsRequest {}).await.expect("answered").into_inner();
    list.upstreams.into_iter().next().expect("an upstream")
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_names_itself_and_delay() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    // One in a thousand seconds is never had again within a test.
    let configuration = format!(
        "{}\n[gateway.callers]\nheader = 'x-api-key'\nper_second = 0.001\nburst = 3",
        as_session(&[&upstream])
    );
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", 1).await;
    // Several connections, and so several cores: a caller is one all the same.
    for _ in 0..3 {
        assert_eq!(mesh.caller().await.call(SAFE, &[("x-api-key", "lovelace")], b"").await.code(), 0);
    }
    let caller = mesh.caller().await;
    let refused = caller.call(SAFE, &[("x-api-key", "lovelace")], b"").await;
    assert_eq!(refused.code(), 8);
    let pushback_ms: u64 =
        refused.headers["grpc-retry-pushback-ms"].to_str().expect("ascii").parse().expect("a number");
    assert!(pushback_ms > 900_000, "{pushback_ms}");
    let status = refused.grpc();
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!(
        (info.reason.as_str(), info.metadata["limit"].as_str()),
        ("CALLER_RATE", "0.001 calls a second")
    );
    assert!(status.get_details_retry_info().is_some() && !format!("{status:?}").contains("lovelace"));
    assert_eq!(upstream.calls(), 3, "nothing of it was forwarded");
    // Another caller, on the same connection too, is another one; and health is nobody's.
    assert_eq!(caller.call(SAFE, &[("x-api-key", "bob")], b"").await.code(), 0);
    for _ in 0..10 {
        assert_eq!(
            caller.call("/grpc.health.v1.Health/Check", &[("x-api-key", "lovelace")], b"").await.code(),
            0
        );
    }
    assert_eq!(listed(&mesh).await.calls_by_code["RESOURCE_EXHAUSTED"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_in_flight_limit_refuses() {
    let (upstream, release) = held().await;
    let configuration = format!("gateway.callers.in_flight = 2\n{}", as_session(&[&upstream]));
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", 1).await;
    let (one, two) = (mesh.caller().await, mesh.caller().await);
    let _first = one.begin(request(SAFE, &[]), true).await;
    let (_, mut second) = two.begin(request(SAFE, &[]), true).await;
    eventually("two calls", || (upstream.calls() == 2).then_some(())).await;
    let refused = one.call(UNSAFE, &[], b"").await.grpc();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().expect("ErrorInfo").reason, "CALLER_IN_FLIGHT");
    release.send(true).expect("watched");
    second.send_reset(h2::Reason::CANCEL);
    within("room", async { while one.call(SAFE, &[], b"").await.code() != 0 {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_queues_few_and_refuses_rest() {
    let (upstream, release) = held().await;
    let configuration = format!(
        "{}\n[gateway.overload]\nupstreams = ['session']\nmin = 2\nmax = 2\nqueue = 1\nqueue_wait = '60s'",
        as_session(&[&upstream])
    );
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(caller.begin(request(SAFE, &[]), true).await);
    }
    within("a call in the queue", async {
        while listed(&mesh).await.queued != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    eventually("the two let through", || (upstream.calls() >= 2).then_some(())).await;
    assert_eq!(upstream.calls(), 2);
    let refused = caller.call(SAFE, &[], b"").await;
    assert!(refused.headers.contains_key("grpc-retry-pushback-ms"));
    let status = refused.grpc();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().expect("ErrorInfo").reason, "UPSTREAM_OVERLOADED");
    let seen = listed(&mesh).await;
    assert_eq!((seen.shed, seen.concurrency_limit), (1, Some(2)));
    // Whoever was held back is answered in its turn.
    release.send(true).expect("watched");
    for (response, _) in open {
        let answer = within("an answer", response).await.expect("an answer");
        assert_eq!(crate::harness::caller::answer(answer).await.expect("whole").code(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_streams_spare_the_limit() {
    let streams = Arc::new(AtomicUsize::new(0));
    let upstream = {
        let streams = streams.clone();
        Upstream::start(move |mut call| {
            let streams = streams.clone();
            async move {
                if call.request.uri().path() == SAFE {
                    return call.answer(b"ok").await;
                }
                let mut stream = call.begin();
                stream.send_data(message(b"first"), false).expect("open");
                streams.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        })
        .await
    };
    let configuration = format!(
        "{}\n[gateway.overload]\nupstreams = ['*']\nmin = 2\nmax = 2\nqueue = 0",
        as_session(&[&upstream])
    );
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let mut open = Vec::new();
    for path in [UNSAFE, "/shoal.session.v1.SessionService/WatchSessions"] {
        for _ in 0..5 {
            let (response, stream) = caller.begin(request(path, &[]), true).await;
            open.push((within("the head", response).await.expect("begun"), stream));
        }
    }
    assert_eq!(streams.load(Ordering::SeqCst), 10);
    assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
}
