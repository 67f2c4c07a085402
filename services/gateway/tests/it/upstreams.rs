//! GatewayService: what it says of the upstreams, at once and as it changes.

use std::time::Duration;

use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{
    Endpoint, EndpointState, ListUpstreamsRequest, Upstream as Listed, WatchUpstreamsRequest,
};
use tonic::Code;

use crate::harness::caller::{message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session};
use crate::harness::{SOON, within};

/// A server stream.
const STREAMING: &str = "/shoal.session.v1.SessionService/WatchSessions";

async fn listed(mesh: &Mesh) -> Listed {
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let list = client.list_upstreams(ListUpstreamsRequest {}).await.expect("answered").into_inner();
    list.upstreams.into_iter().next().expect("an upstream")
}

fn of<'l>(listed: &'l Listed, upstream: &Upstream) -> &'l Endpoint {
    let address = upstream.address.to_string();
    listed.endpoints.iter().find(|endpoint| endpoint.address == address).expect("listed")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_by_code() {
    let fast = Upstream::start(|call| async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        call.answer(b"ok").await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&fast])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    for _ in 0..20 {
        assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    }
    assert_eq!(caller.call(UNSAFE, &[("grpc-timeout", "5m")], b"").await.code(), 4);
    let listed = listed(&mesh).await;
    assert_eq!((listed.calls_by_code["OK"], listed.calls_by_code["DEADLINE_EXCEEDED"]), (20, 1));
    assert!(listed.retry_budget > 0.0);
    assert_eq!((listed.concurrency_limit, listed.shed, listed.hedges), (None, 0, 0));
    let endpoint = of(&listed, &fast);
    assert_eq!((endpoint.calls, endpoint.successes), (21, 20));
    assert_eq!((endpoint.ready_cores, endpoint.cores, endpoint.weight), (2, 2, 1));
    let p50 = Duration::try_from(endpoint.p50.expect("calls were made")).expect("positive");
    let p99 = Duration::try_from(endpoint.p99.expect("calls were made")).expect("positive");
    assert!(p50 >= Duration::from_millis(30) && p50 <= p99 && p99 < SOON, "{p50:?} {p99:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_stream_is_counted_apart() {
    let upstream = Upstream::start(|mut call| async move {
        let mut stream = call.begin();
        stream.send_data(message(b"first"), false).expect("open");
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(UNSAFE, &[]), true).await;
    let _response = within("the head", response).await.expect("begun");
    within("the call to count as a stream", async {
        loop {
            let listed = listed(&mesh).await;
            let endpoint = of(&listed, &upstream);
            match (endpoint.in_flight, endpoint.streams) {
                (0, 1) => return,
                (1, 0) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headerless_stream_is_counted_apart() {
    let upstream = Upstream::start(|call| async move {
        let _held = call;
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let (_response, _stream) = caller.begin(request(STREAMING, &[]), true).await;
    within("the call to count as a stream", async {
        loop {
            let listed = listed(&mesh).await;
            let endpoint = of(&listed, &upstream);
            match (endpoint.in_flight, endpoint.streams) {
                (0, 1) => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ejected_endpoint_is_listed_with_reason() {
    for enabled in [true, false] {
        let good = Upstream::start(|call| call.answer(b"ok")).await;
        let bad = Upstream::start(|call| call.refuse(13)).await;
        let configuration = format!(
            "{}\n[gateway.ejection]\nenabled = {enabled}\nbase_ejection_time = '30s'",
            as_session(&[&good, &bad])
        );
        let mesh = Mesh::with_cores(1, &configuration).await;
        mesh.ready("session", 2).await;
        let caller = mesh.caller().await;
        let mut failed = 0;
        for _ in 0..100 {
            failed += usize::from(caller.call(UNSAFE, &[], b"").await.code() == 13);
        }
        assert_eq!(failed, bad.calls());
        let listed = listed(&mesh).await;
        let endpoint = of(&listed, &bad);
        assert_eq!(endpoint.failures, i64::try_from(failed).expect("few"));
        if enabled {
            assert_eq!((endpoint.state(), endpoint.ready_cores), (EndpointState::Ejected, 0), "{endpoint:?}");
            assert!(failed < 30 && !endpoint.reason.is_empty(), "{failed} {endpoint:?}");
            let probe =
                std::time::SystemTime::try_from(endpoint.next_probe_time.expect("a time")).expect("a time");
            let left = probe.duration_since(std::time::SystemTime::now()).expect("to come");
            assert!(left <= Duration::from_secs(30), "{left:?}");
        } else {
            assert_eq!((endpoint.state(), endpoint.next_probe_time), (EndpointState::Ready, None));
        }
        assert_eq!(of(&listed, &good).state(), EndpointState::Ready);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn core_connects_only_to_its_subset() {
    let upstreams = [
        Upstream::start(|call| call.answer(b"ok")).await,
        Upstream::start(|call| call.answer(b"ok")).await,
        Upstream::start(|call| call.answer(b"ok")).await,
    ];
    let configuration =
        format!("gateway.balance.subset = 1\n{}", as_session(&upstreams.iter().collect::<Vec<_>>()));
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    for _ in 0..30 {
        assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    }
    let busy = upstreams.iter().filter(|upstream| upstream.calls() > 0).count();
    assert_eq!((busy, listed(&mesh).await.endpoints.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_sends_state_then_changes() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let interval = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    let watch = client.watch_upstreams(WatchUpstreamsRequest { interval: Some(interval) });
    let mut stream = watch.await.expect("watched").into_inner();
    let mut next = async || {
        let response = within("a response", stream.message()).await?.expect("not the end");
        Ok::<_, tonic::Status>(response.upstreams.into_iter().next().expect("an upstream"))
    };
    let first = next().await.expect("OK");
    assert_eq!(of(&first, &upstream).state(), EndpointState::Ready);
    assert_eq!(of(&first, &upstream).calls, 0);

    // Nothing happens, and nothing is said: the next response is of the call.
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    let mut then = next().await.expect("OK");
    assert_eq!(of(&then, &upstream).calls, 1, "{then:?}");

    upstream.kill().await;
    while of(&then, &upstream).state() == EndpointState::Ready {
        then = next().await.expect("OK");
    }
    assert_eq!(of(&then, &upstream).state(), EndpointState::Connecting);
    assert!(!of(&then, &upstream).reason.is_empty());
    mesh.shut_down();
    let end = loop {
        if let Err(end) = next().await {
            break end;
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    drop(client);
    mesh.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_bounded() {
    let mesh = Mesh::start("").await;
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let interval = prost_types::Duration { seconds: 0, nanos: 1 };
    let hasty = client.watch_upstreams(WatchUpstreamsRequest { interval: Some(interval) }).await;
    assert_eq!(hasty.expect_err("too often").code(), Code::InvalidArgument);
    let mut open = Vec::new();
    let refused = loop {
        match client.watch_upstreams(WatchUpstreamsRequest::default()).await {
            Ok(stream) => {
                // Read, because a client that leaves many small frames unread takes its server for hostile.
                let mut stream = stream.into_inner();
                assert!(stream.message().await.expect("OK").is_some());
                open.push(stream);
            }
            Err(status) => break status,
        }
    };
    assert_eq!((open.len(), refused.code()), (64, Code::ResourceExhausted), "{refused:?}");
    open.pop();
    within("room", async {
        while client.watch_upstreams(WatchUpstreamsRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
