//! Health for the mesh and for each service, asked and watched; and the view of GatewayService.

use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{EndpointState, ListUpstreamsRequest};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, Upstream, as_session};
use crate::harness::within;

const SESSION: &str = "shoal.session.v1.SessionService";

async fn check(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_covers_mesh_and_services() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let down = Upstream::start(|call| call.answer(b"ok")).await;
    down.kill().await;
    let mesh = Mesh::start(&format!("{}\npeer.cache = '{}'", as_session(&[&upstream]), down.address)).await;
    mesh.ready("session", 1).await;
    let mut client = HealthClient::new(mesh.channel().await);
    assert_eq!(check(&mut client, SESSION).await, Ok(ServingStatus::Serving));
    assert_eq!(check(&mut client, "shoal.gateway.v1.GatewayService").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&mut client, "shoal.cache.v1.CacheService").await, Ok(ServingStatus::NotServing));
    assert_eq!(check(&mut client, "").await, Ok(ServingStatus::Serving), "the gateway itself takes calls");
    assert_eq!(check(&mut client, "acme.Nothing").await, Err(Code::NotFound));
    assert_eq!(check(&mut client, &"x".repeat(2_000)).await, Err(Code::InvalidArgument));
    assert_eq!(mesh.readiness.check(), Ok(()));
    let why = mesh.readiness.roles().expect_err("the cache is down");
    assert!(why.contains("cache") && why.contains(&down.address.to_string()), "{why}");
    down.revive().await;
    within("readiness", mesh.readiness.ready()).await;
    assert_eq!(check(&mut client, "shoal.cache.v1.CacheService").await, Ok(ServingStatus::Serving));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_watch_reports_changes_and_drain() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let mut client = HealthClient::new(mesh.channel().await);
    let watch = HealthCheckRequest { service: SESSION.to_owned() };
    let mut watched = client.watch(watch).await.expect("open").into_inner();
    let unknown = HealthCheckRequest { service: "acme.Nothing".to_owned() };
    let mut unknown = client.watch(unknown).await.expect("open").into_inner();
    let unknown = within("a first answer", unknown.message()).await.expect("OK").expect("an answer");
    assert_eq!(unknown.status(), ServingStatus::ServiceUnknown);

    let mut next =
        async || within("a change", watched.message()).await.map(|said| said.map(|said| said.status()));
    assert_eq!(next().await.expect("OK"), Some(ServingStatus::Serving));
    upstream.kill().await;
    assert_eq!(next().await.expect("OK"), Some(ServingStatus::NotServing));
    upstream.revive().await;
    assert_eq!(next().await.expect("OK"), Some(ServingStatus::Serving));
    mesh.shut_down();
    assert_eq!(next().await.expect("OK"), Some(ServingStatus::NotServing));
    let end = next().await.expect_err("the drain ends endless streams");
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    drop(client);
    mesh.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_listed_with_state() {
    let up = Upstream::start(|call| call.answer(b"ok")).await;
    let down = Upstream::start(|call| call.answer(b"ok")).await;
    down.kill().await;
    let mesh = Mesh::start(&as_session(&[&up, &down])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    for _ in 0..10 {
        assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    }
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let list = client.list_upstreams(ListUpstreamsRequest {}).await.expect("answered").into_inner();
    let [upstream] = &list.upstreams[..] else { panic!("{list:?}") };
    assert_eq!((upstream.name.as_str(), &upstream.services[..]), ("session", &[SESSION.to_owned()][..]));
    let of = |address: std::net::SocketAddr| {
        upstream.endpoints.iter().find(|e| e.address == address.to_string()).expect("listed")
    };
    assert_eq!((of(up.address).state(), of(up.address).calls), (EndpointState::Ready, 10));
    assert_eq!(of(up.address).in_flight, 0);
    assert_eq!(of(down.address).state(), EndpointState::Connecting);
    assert!(of(down.address).reason.contains("refused"), "{}", of(down.address).reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_local_method_is_unimplemented() {
    let mesh = Mesh::start("").await;
    let answer = mesh.caller().await.call("/shoal.gateway.v1.GatewayService/Nothing", &[], b"").await;
    assert_eq!(answer.code(), 12);
    assert!(answer.grpc().message().contains("/Nothing"), "{:?}", answer.grpc());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_shoal_clones_are_watched() {
    for (health, expected) in [
        (None, &["/grpc.health.v1.Health/Check"][..]),
        (Some("check"), &["/grpc.health.v1.Health/Check"]),
        // It has none, and is checked then.
        (Some("watch"), &["/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check"]),
        (Some("none"), &[]),
    ] {
        let upstream = Upstream::start(|call| call.answer(b"ok")).await;
        let key = health.map_or(String::new(), |health| format!("\nhealth = '{health}'"));
        let configuration =
            format!("[gateway.upstream.a]\nendpoints = ['{}']\nservices = ['a.B']{key}", upstream.address);
        let mesh = Mesh::with_cores(1, &configuration).await;
        mesh.ready("a", 1).await;
        let asked = upstream.asked_about_itself();
        let health: Vec<_> = asked.iter().filter(|path| path.starts_with("/grpc.health.")).collect();
        assert_eq!(health, expected);
    }
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    assert_eq!(upstream.asked_about_itself()[0], "/grpc.health.v1.Health/Watch");
}
