//! The stores of clones: what clones report, and what a gateway does when they see different ones.

use std::time::Duration;

use serde_json::Value;
use shoal_proto::gateway::v1 as gateway;
use shoal_proto::gateway::v1::EndpointState;
use shoal_proto::session::v1 as session;
use shoal_testing::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::eventually;
use crate::harness::http::http_get;
use crate::harness::process::free_port;

const SOON: Duration = Duration::from_secs(20);
const SESSION: &str = "shoal.session.v1.SessionService";

async fn plain(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("connected")
}

async fn health(address: &str, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(plain(address).await).check(request).await;
    answer.expect("an answer").into_inner().status()
}

/// Starts a gateway before these session clones.
async fn gateway_of(clones: &[&Clone]) -> Clone {
    let addresses: Vec<&str> = clones.iter().map(|clone| clone.address.as_str()).collect();
    Clone::start("gateway", &["--peer", &format!("session={}", addresses.join(","))]).await
}

async fn listed(gateway: &Clone) -> Vec<gateway::Endpoint> {
    let mut client =
        gateway::gateway_service_client::GatewayServiceClient::new(plain(&gateway.address).await);
    let list = client.list_upstreams(gateway::ListUpstreamsRequest {}).await.expect("answered").into_inner();
    list.upstreams.into_iter().next().expect("an upstream").endpoints
}

/// Waits until each clone has the given state.
async fn until(gateway: &Clone, states: &[(&Clone, EndpointState)]) -> Vec<gateway::Endpoint> {
    eventually("the states", SOON, async || {
        let endpoints = listed(gateway).await;
        let is = |(clone, state): &(&Clone, EndpointState)| {
            let found = endpoints.iter().find(|endpoint| endpoint.address == clone.address);
            found.is_some_and(|endpoint| endpoint.state() == *state)
        };
        states.iter().all(is).then_some(endpoints)
    })
    .await
}

/// Creates sessions through the gateway and asks for each several times. None may be missing.
async fn sessions_are_found(gateway: &Clone) {
    let mut client = shoal_client::session(gateway.channel());
    for user in 0..5 {
        let create = session::CreateSessionRequest { user_id: format!("u{user}"), ..Default::default() };
        let token = client.create_session(create).await.expect("created").into_inner().token;
        for _ in 0..4 {
            let get = session::GetSessionRequest { token: token.clone(), ..Default::default() };
            client.get_session(get).await.expect("found at whichever clone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn different_stores_are_not_mixed() {
    let mut first = Clone::start("session", &["--ephemeral"]).await;
    let second = Clone::start("session", &["--ephemeral"]).await;
    // The order of the addresses does not matter: who serves longest does.
    let mut gateway = gateway_of(&[&second, &first]).await;
    let endpoints =
        until(&gateway, &[(&first, EndpointState::Ready), (&second, EndpointState::OtherStore)]).await;
    sessions_are_found(&gateway).await;
    let of = |clone: &Clone| endpoints.iter().find(|e| e.address == clone.address).expect("listed");
    assert_eq!((of(&first).engine.as_str(), of(&second).engine.as_str()), ("memory", "memory"));
    assert!(of(&first).store != of(&second).store && !of(&first).store.is_empty(), "{endpoints:?}");
    assert!(of(&second).reason.contains(&first.address), "{endpoints:?}");
    gateway.process.printed("clones see different stores", SOON).await;
    let metrics = http_get(&gateway.admin, "/metrics").await;
    let gauge = metrics.lines().find(|line| line.contains("state=\"other_store\"")).expect("a gauge");
    assert!(gauge.ends_with(" 1"), "{gauge}");
    let status: Value = body(&http_get(&gateway.admin, "/status").await);
    let states = status["parts"][0]["upstreams"][0]["endpoints"].as_array().expect("a list");
    assert!(states.iter().any(|endpoint| endpoint["state"] == "on another store"), "{status}");

    // It is the only one left, and its store the one there is.
    first.process.signal("TERM");
    assert!(first.process.ended(SOON).await.success());
    until(&gateway, &[(&second, EndpointState::Ready)]).await;
    sessions_are_found(&gateway).await;
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_redis_keeps_clones_together() {
    let (Some(redis), Some(other)) = (RedisServer::start().await, RedisServer::start().await) else { return };
    let first = Clone::start("session", &["--redis", &redis.url()]).await;
    let second = Clone::start("session", &["--redis", &redis.url()]).await;
    let wrong = Clone::start("session", &["--redis", &other.url()]).await;
    let gateway = gateway_of(&[&wrong, &first, &second]).await;
    let expected = [
        (&first, EndpointState::Ready),
        (&second, EndpointState::Ready),
        (&wrong, EndpointState::OtherStore),
    ];
    let endpoints = until(&gateway, &expected).await;
    let address = format!("127.0.0.1:{}", redis.port());
    let named = endpoints.iter().filter(|e| e.engine == format!("redis {address}")).count();
    assert_eq!(named, 2, "{endpoints:?}");
    sessions_are_found(&gateway).await;

    let mut connection = tokio::net::TcpStream::connect(address).await.expect("connected");
    connection.write_all(b"FLUSHALL\r\n").await.expect("sent");
    assert_eq!(connection.read_u8().await.expect("an answer"), b'+');
    sessions_are_found(&gateway).await;
    // One that starts now finds a store without a name, and the others go on with it.
    let third = Clone::start("session", &["--redis", &redis.url()]).await;
    assert_eq!(health(&third.address, "").await, ServingStatus::Serving);
    until(&gateway, &expected).await;
    sessions_are_found(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clone_is_ready_with_its_engine() {
    need!("SHOAL_TEST_REDIS_SERVER");
    let port = free_port();
    let url = format!("redis://127.0.0.1:{port}");
    for role in ["session", "cache", "jobs"] {
        let clone = Clone::start(role, &["--redis", &url]).await;
        assert!(clone.process.output().contains(&format!("engine=redis 127.0.0.1:{port}")), "{role}");
        let probed = http_get(&clone.admin, "/readyz").await;
        assert!(probed.starts_with("HTTP/1.0 503"), "{role}: {probed}");
        assert!(probed.contains(&format!("redis 127.0.0.1:{port}: not reached since the start")), "{probed}");
        assert_eq!(health(&clone.address, "").await, ServingStatus::NotServing, "{role}");
        let status = body(&http_get(&clone.admin, "/status").await);
        assert_eq!(status["parts"][0]["engine"]["state"], "not reached", "{status}");
        assert!(http_get(&clone.admin, "/livez").await.starts_with("HTTP/1.0 200"), "{role}");

        let redis = RedisServer::start_at(port).await;
        eventually("it is ready", SOON, async || {
            let probed = http_get(&clone.admin, "/readyz").await;
            (probed.starts_with("HTTP/1.0 200") && health(&clone.address, "").await == ServingStatus::Serving)
                .then_some(())
        })
        .await;
        // What is lost later was reached: it answers that the engine is away, which a gateway without clones could not.
        drop(redis);
        let probed = eventually("it is said", SOON, async || {
            let probed = http_get(&clone.admin, "/readyz").await;
            probed.contains("; redis 127.0.0.1").then_some(probed)
        })
        .await;
        assert!(probed.starts_with("HTTP/1.0 200"), "{role}: {probed}");
        assert_eq!(health(&clone.address, "").await, ServingStatus::Serving, "{role}");
        let status = body(&http_get(&clone.admin, "/status").await);
        assert_eq!(status["parts"][0]["engine"]["state"], "unwell", "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_cassandra_never_becomes_ready() {
    let clone = Clone::start("data", &["--cassandra", &format!("127.0.0.1:{}", free_port())]).await;
    let gateway = Clone::start("gateway", &["--peer", &format!("data={}", clone.address)]).await;
    assert_eq!(health(&clone.address, "shoal.data.v1.DataService").await, ServingStatus::NotServing);
    let probed = eventually("the reason", SOON, async || {
        let probed = http_get(&clone.admin, "/readyz").await;
        (!probed.contains("connecting")).then_some(probed)
    })
    .await;
    assert!(probed.starts_with("HTTP/1.0 503") && probed.contains("cassandra 127.0.0.1:"), "{probed}");
    // Who calls is told that no clone serves, and not where its engine is.
    let list = shoal_proto::data::v1::ListTablesRequest::default();
    let status = shoal_client::data(gateway.channel()).list_tables(list).await.expect_err("nobody serves");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("engine was not reached"), "{status:?}");
    assert!(!status.message().contains("cassandra"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_is_ready_without_a_role() {
    let clone = Clone::start("session", &["--ephemeral"]).await;
    let peers = format!("session={};cache=127.0.0.1:{}", clone.address, free_port());
    let gateway = Clone::start("gateway", &["--peer", &peers]).await;
    eventually("session serves", SOON, async || {
        (health(&gateway.address, SESSION).await == ServingStatus::Serving).then_some(())
    })
    .await;
    assert_eq!(health(&gateway.address, "").await, ServingStatus::Serving);
    assert_eq!(health(&gateway.address, "shoal.cache.v1.CacheService").await, ServingStatus::NotServing);
    let probed = http_get(&gateway.admin, "/readyz").await;
    assert!(
        probed.starts_with("HTTP/1.0 200") && probed.contains("gateway: ok; cache: 127.0.0.1:"),
        "{probed}"
    );
    let status = body(&http_get(&gateway.admin, "/status").await);
    let upstreams = status["parts"][0]["upstreams"].as_array().expect("a list");
    let takes = |name: &str| {
        upstreams.iter().find(|upstream| upstream["name"] == name).expect("listed")["takes_calls"].clone()
    };
    assert_eq!((takes("session"), takes("cache")), (Value::Bool(true), Value::Bool(false)), "{status}");
}
