//! The memory of a clone whose peers never finish a message or take no answer is bounded, and honest callers go on.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use shoal_proto::cache::v1::{GetRequest, SetRequest, cache_service_client::CacheServiceClient};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::clone::Clone;
use crate::harness::eventually;

const CALLS: usize = 300;
const VALUE_BYTES: usize = 900 << 10;
/// The memory for either kind: twice what kit's `budget.rs` allows, since a growing buffer is copied.
const HELD_KIB_MAX: u64 = 2 * (32 << 10);
/// The memory of each call: its task, and a piece of an answer or the buffers of a request.
const CALL_KIB_MAX: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(30);

async fn cache() -> Clone {
    Clone::start("cache", &["--ephemeral"]).await
}

fn resident_kib(clone: &Clone) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", clone.process.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("KiB")
}

fn message(message: &impl prost::Message) -> Bytes {
    let content = message.encode_to_vec();
    [&[0][..], &(content.len() as u32).to_be_bytes(), &content].concat().into()
}

fn set(key: &str) -> SetRequest {
    let value = (0..VALUE_BYTES).map(|_| fastrand::u8(..)).collect::<Vec<_>>();
    SetRequest { namespace: "n".to_owned(), key: key.to_owned(), value: value.into(), ..Default::default() }
}

/// A connection that reads frames and takes as little of the answers as `window` says.
struct Peer {
    sender: h2::client::SendRequest<Bytes>,
    _driver: AbortOnDropHandle<()>,
}

impl Peer {
    async fn connect(clone: &Clone, window: u32) -> Self {
        let socket = TcpStream::connect(&clone.address).await.expect("connected");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_max_send_streams(CALLS);
        let (sender, connection) = builder.handshake(socket).await.expect("HTTP/2");
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, _driver: AbortOnDropHandle::new(driver) }
    }

    /// Starts a call with a body that may go on.
    async fn call(&self, method: &str, body: Bytes, end: bool) -> (Call, h2::SendStream<Bytes>) {
        let request = Request::post(format!("http://mesh.test/shoal.cache.v1.CacheService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("valid");
        let mut sender = self.sender.clone().ready().await.expect("connected");
        let (response, mut stream) = sender.send_request(request, false).expect("sent");
        stream.send_data(body, end).expect("sent");
        (response, stream)
    }
}

type Call = h2::client::ResponseFuture;

/// Makes honest calls, again and again.
async fn goes_on(clone: &Clone) {
    let mut client = CacheServiceClient::new(clone.channel()).max_decoding_message_size(4 << 20);
    for n in 0..20 {
        client.set(set(&format!("honest-{n}"))).await.expect("set");
        let get = GetRequest { namespace: "n".to_owned(), key: format!("honest-{n}"), ..Default::default() };
        client.get(get).await.expect("got");
    }
}

fn check(clone: &Clone, before: u64, what: &str) {
    let cost = resident_kib(clone).saturating_sub(before);
    eprintln!("{CALLS} {what}: {cost} KiB");
    assert!(cost < HELD_KIB_MAX + CALLS as u64 * CALL_KIB_MAX, "{cost} KiB for {CALLS} {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn untaken_answers_cost_bounded_memory() {
    let clone = cache().await;
    goes_on(&clone).await;
    CacheServiceClient::new(clone.channel()).set(set("big")).await.expect("set");
    let before = resident_kib(&clone);
    let peer = Peer::connect(&clone, 0).await;
    let body =
        message(&GetRequest { namespace: "n".to_owned(), key: "big".to_owned(), ..Default::default() });
    let calls = join_all((0..CALLS).map(|_| peer.call("Get", body.clone(), true))).await;
    let heads = join_all(calls.into_iter().map(|(response, _)| response));
    let answers = tokio::time::timeout(PATIENCE, heads).await.expect("heads come whatever the window");
    goes_on(&clone).await;
    check(&clone, before, "answers not taken");
    drop(answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_messages_cost_bounded_memory() {
    let clone = cache().await;
    goes_on(&clone).await;
    let before = resident_kib(&clone);
    let peer = Peer::connect(&clone, 1 << 20).await;
    let body = message(&set("unfinished"));
    let calls = join_all((0..CALLS).map(|_| peer.call("Set", body.slice(..body.len() - 1), false))).await;
    // Those that gave way are told so.
    let (calls, _streams): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    let mut calls: Vec<_> =
        calls.into_iter().map(|call| AbortOnDropHandle::new(tokio::spawn(call))).collect();
    let refused = eventually("some to give way", PATIENCE, async || {
        let ended = calls.iter().position(|call| call.is_finished())?;
        Some(calls.swap_remove(ended).await.expect("no panic").expect("a status"))
    })
    .await;
    assert_eq!(refused.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
    goes_on(&clone).await;
    check(&clone, before, "messages without their end");
}
