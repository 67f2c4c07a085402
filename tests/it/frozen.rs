//! A clone that is frozen (SIGSTOP) behind the gateway: its kernel still accepts connections, and nothing answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shoal_client::Channel;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{EndpointState, ListUpstreamsRequest};
use shoal_proto::session::v1 as session;
use shoal_testing::RedisServer;

use crate::harness::clone::Clone;
use crate::harness::eventually;

/// The number of concurrent callers.
const CALLERS: usize = 8;
/// The longest time a frozen clone may hold a call: 4 s as docs/gateway.md says, doubled for a busy machine. A call that hangs
/// with the clone hangs for as long as it is frozen.
const HELD_MAX: Duration = Duration::from_secs(8);

/// Calls until `stop` and asserts that no call fails or is held for longer than [`HELD_MAX`].
async fn call(channel: Channel, token: String, stop: Arc<AtomicBool>) {
    let mut client = shoal_client::session(channel);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let request = session::GetSessionRequest { token: token.clone(), no_touch: true };
        let answer = tokio::time::timeout(HELD_MAX, client.get_session(request)).await;
        answer.expect("a call moves on").expect("another clone answers");
        longest = longest.max(begun.elapsed());
    }
    eprintln!("held for {longest:?} at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_leave_a_frozen_clone() {
    let Some(redis) = RedisServer::start().await else { return };
    let frozen = Clone::start("session", &["--redis", &redis.url()]).await;
    let other = Clone::start("session", &["--redis", &redis.url()]).await;
    let peers = format!("session={},{}", frozen.address, other.address);
    let gateway = Clone::start("gateway", &["--peer", &peers]).await;
    let channel = gateway.channel();
    let token = eventually("a first session", Duration::from_secs(10), async || {
        let request = session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() };
        Some(shoal_client::session(channel.clone()).create_session(request).await.ok()?.into_inner().token)
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> =
        (0..CALLERS).map(|_| tokio::spawn(call(channel.clone(), token.clone(), stop.clone()))).collect();
    let out = async || {
        let mut client = GatewayServiceClient::new(channel.clone());
        let list = client.list_upstreams(ListUpstreamsRequest {}).await;
        let upstreams = list.expect("upstreams").into_inner().upstreams;
        let mut endpoints = upstreams.into_iter().flat_map(|upstream| upstream.endpoints);
        let endpoint = endpoints.find(|endpoint| endpoint.address == frozen.address).expect("listed");
        (endpoint.state() != EndpointState::Ready).then_some(())
    };
    frozen.process.signal("STOP");
    eventually("the frozen clone is out", Duration::from_secs(30), out).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no call fails or hangs");
    }
    frozen.process.signal("CONT");
}
