//! The memory that idle, non-reading and greedy clients cost a gateway: its resident memory stays within the bounds named here,
//! whatever they are sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::clone::Clone;
use crate::harness::{eventually, number_of};

/// The variable for the number of idle connections; 10 000 for a report.
const CONNECTIONS: &str = "SHOAL_TEST_CONNECTIONS";
const CONNECTIONS_DEFAULT: u64 = 1_000;

/// The variable for the number of readers that do not read; 1 000 for a report.
const READERS: &str = "SHOAL_TEST_READERS";
const READERS_DEFAULT: u64 = 100;

/// The memory of an idle connection: the tables of HPACK, and a task.
const CONNECTION_KIB_MAX: u64 = 28;

/// The memory of a reader that has stopped: `answer_window` and `send_buffer` of `[gateway.limits]` (256 and 64 KiB), the bytes
/// read past them (a frame of 16 KiB each way), and the connection.
const READER_KIB_MAX: u64 = 256 + 64 + 2 * 16 + CONNECTION_KIB_MAX;

/// The variable for the number of greedy connections; 10 for a report.
const HOSTILE: &str = "SHOAL_TEST_HOSTILE";
const HOSTILE_DEFAULT: u64 = 1;

/// The memory of one greedy connection, and of ten.
const HOSTILE_KIB_MAX: u64 = 64 << 10;
const TEN_HOSTILE_KIB_MAX: u64 = 256 << 10;

/// The calls of each greedy connection: as many as a connection may have.
const HOSTILE_CALLS: usize = 1_000;

/// The growth of the gateway's memory that other causes may add.
const SLACK_KIB: u64 = 8 << 10;

/// The size of an answer that nobody reads.
const ANSWER_BYTES: u64 = 1 << 30;

/// The sockets that this process and the gateway need for other things.
const SOCKETS_KEPT: u64 = 200;

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the number in `variable`, or what the limit on open files allows.
fn sockets(variable: &str, default: u64) -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let soft = line.split_whitespace().nth(3).and_then(|word| word.parse::<u64>().ok()).unwrap_or(u64::MAX);
    let (asked, most) = (number_of(variable, default), soft.saturating_sub(SOCKETS_KEPT));
    if asked > most {
        eprintln!("{most} instead of {asked}: ulimit -n is {soft}");
    }
    asked.min(most)
}

/// Returns the resident memory of the gateway's process.
fn resident_kib(gateway: &Clone) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("KiB")
}

/// A server whose answers never end. Counts the bytes that it could send.
struct Endless {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    _serving: AbortOnDropHandle<()>,
}

impl Endless {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, counter.clone()));
            }
        });
        Self { address, sent, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Waits until no answer makes progress.
    async fn stalled(&self) {
        let mut last = 0;
        eventually("every answer to stall", PATIENCE, async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.sent.load(Ordering::Relaxed);
            (std::mem::replace(&mut last, now) == now && now > 0).then_some(())
        })
        .await;
    }
}

async fn serve(socket: TcpStream, sent: Arc<AtomicU64>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let mut answers = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let mut head = Response::new(());
        head.headers_mut().insert("content-type", "application/grpc".parse().expect("ascii"));
        if request.uri().path() == SILENT {
            // Reads what there is, and never answers.
            answers.spawn(async move {
                let _respond = respond;
                let mut body = request.into_body();
                while let Some(Ok(chunk)) = body.data().await {
                    let _ = body.flow_control().release_capacity(chunk.len());
                }
                std::future::pending::<()>().await;
            });
            continue;
        }
        if request.uri().path() != ENDLESS {
            // Health and reflection: it has neither. Anything else is answered OK.
            let code = if request.uri().path().starts_with("/grpc.") { 12 } else { 0 };
            head.headers_mut().insert("grpc-status", code.into());
            let _ = respond.send_response(head, true);
            continue;
        }
        let Ok(mut stream) = respond.send_response(head, false) else { continue };
        let sent = sent.clone();
        answers.spawn(async move {
            let chunk = Bytes::from(vec![7; 64 << 10]);
            let mut left = ANSWER_BYTES;
            while left > 0 {
                stream.reserve_capacity(chunk.len());
                let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let part = chunk.slice(..capacity.min(chunk.len()));
                left = left.saturating_sub(part.len() as u64);
                sent.fetch_add(part.len() as u64, Ordering::Relaxed);
                if stream.send_data(part, false).is_err() {
                    return;
                }
            }
            let _ = stream.send_trailers(HeaderMap::new());
        });
    }
}

const ENDLESS: &str = "/acme.flood.v1.Flood/Endless";
const SILENT: &str = "/acme.flood.v1.Flood/Silent";
const ONCE: &str = "/acme.flood.v1.Flood/Once";

/// Starts a gateway in its own process before such a server, and waits until it is ready.
async fn gateway(server: &Endless) -> (Clone, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    let text = format!(
        "[gateway.upstream.flood]\nendpoints = ['{}']\nservices = ['acme.flood.v1.Flood']\n",
        server.address
    );
    std::fs::write(file.path(), text).expect("written");
    let gateway = Clone::start("gateway", &["--config", file.path().to_str().expect("utf-8")]).await;
    let address = gateway.address.clone();
    eventually("a first call", PATIENCE, async || {
        let client = Client::connect(&address, h2::client::Builder::new()).await;
        (client.call(ONCE).await.ok()?.headers().get("grpc-status")? == "0").then_some(())
    })
    .await;
    (gateway, file)
}

/// A connection to the gateway, which is read as long as it lives.
struct Client {
    sender: h2::client::SendRequest<Bytes>,
    driver: AbortOnDropHandle<()>,
}

impl Client {
    async fn connect(address: &str, builder: h2::client::Builder) -> Self {
        let socket = TcpStream::connect(address).await.expect("connected");
        let (sender, connection) = builder.handshake(socket).await.expect("HTTP/2");
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, driver: AbortOnDropHandle::new(driver) }
    }

    /// Starts a call and waits for the head of its answer.
    async fn call(&self, path: &str) -> Result<Response<h2::RecvStream>, h2::Error> {
        let request = Request::post(format!("http://mesh.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("valid");
        let (response, _) = self.sender.clone().ready().await?.send_request(request, true)?;
        tokio::time::timeout(PATIENCE, response).await.expect("an answer in time")
    }
}

/// Connects clients fifty at a time, so that no backlog overflows.
async fn clients<C>(count: u64, connect: impl AsyncFn() -> C) -> Vec<C> {
    futures::stream::iter(0..count).map(|_| connect()).buffer_unordered(50).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cost_little() {
    let server = Endless::start().await;
    let (gateway, _file) = gateway(&server).await;
    let count = sockets(CONNECTIONS, CONNECTIONS_DEFAULT);
    let before = resident_kib(&gateway);
    // Idle, but not fresh: each has made a call.
    let clients = clients(count, async || {
        let client = Client::connect(&gateway.address, h2::client::Builder::new()).await;
        client.call(ONCE).await.expect("an answer");
        client
    })
    .await;
    let cost = resident_kib(&gateway).saturating_sub(before);
    eprintln!("{count} idle connections: {cost} KiB, {:.1} KiB each", cost as f64 / count as f64);
    assert!(cost < count * CONNECTION_KIB_MAX + SLACK_KIB, "{cost} KiB for {count} connections");
    drop(clients);
}

/// The way a reader stops.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// The library takes no more than its window.
    AtTheWindow,
    /// The window is as wide as possible, and the process reads nothing from the socket.
    AtTheSocket,
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_readers_cost_only_their_windows() {
    let server = Endless::start().await;
    let (gateway, _file) = gateway(&server).await;
    let count = sockets(READERS, READERS_DEFAULT);
    let before = resident_kib(&gateway);
    let mut kept = Vec::new();
    for stop in [Stop::AtTheWindow, Stop::AtTheSocket] {
        let readers = clients(count / 2, async || {
            let mut builder = h2::client::Builder::new();
            if let Stop::AtTheSocket = stop {
                builder.initial_window_size((1 << 31) - 1).initial_connection_window_size((1 << 31) - 1);
            }
            let client = Client::connect(&gateway.address, builder).await;
            let answer = client.call(ENDLESS).await.expect("a head");
            if let Stop::AtTheSocket = stop {
                client.driver.abort();
            }
            (client, answer)
        })
        .await;
        kept.extend(readers);
    }
    server.stalled().await;
    let cost = resident_kib(&gateway).saturating_sub(before);
    eprintln!(
        "{count} readers that stopped: {cost} KiB, {:.1} KiB each; {} MiB were sent",
        cost as f64 / count as f64,
        server.sent.load(Ordering::Relaxed) >> 20
    );
    assert!(cost < count * READER_KIB_MAX + SLACK_KIB, "{cost} KiB for {count} readers");
    // And whoever reads is served.
    let beside = Client::connect(&gateway.address, h2::client::Builder::new()).await;
    beside.call(ONCE).await.expect("an answer");
    let answer = beside.call(ENDLESS).await.expect("a head").into_body();
    let read: Vec<Bytes> = Reading(answer).into_stream().take(100).try_collect().await.expect("data");
    assert_eq!(read.len(), 100);
    drop(kept);
}

/// The resource that a greedy connection takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// Calls whose requests never end.
    HalfOpenCalls,
    /// Calls with the longest allowed headers, of a field that is sent once and then referred to.
    Headers,
    /// Bodies that are forwarded and kept for a retry.
    KeptBodies,
    /// Answers that the client does not read.
    UnreadAnswers,
}

/// Makes as many calls as the connection may have, and sends all their requests.
async fn take(takes: Takes, client: &Client) -> Vec<(h2::client::ResponseFuture, h2::SendStream<Bytes>)> {
    const BODY_FRAMES: usize = 7;
    let mut calls = Vec::new();
    for _ in 0..HOSTILE_CALLS {
        let path = if let Takes::UnreadAnswers = takes { ENDLESS } else { SILENT };
        let mut request = Request::post(format!("http://mesh.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Takes::Headers = takes {
            for _ in 0..17 {
                request = request.header("x", "y".repeat(3_500));
            }
        }
        let request = request.body(()).expect("valid");
        let Ok(mut sender) = client.sender.clone().ready().await else { return calls };
        let end = matches!(takes, Takes::UnreadAnswers);
        let Ok((response, mut stream)) = sender.send_request(request, end) else { return calls };
        if let Takes::KeptBodies = takes {
            for _ in 0..BODY_FRAMES {
                let _ = stream.send_data(Bytes::from(vec![7; 9_000]), false);
            }
        }
        calls.push((response, stream));
    }
    calls
}

/// Returns the gateway's peak memory once it no longer grows.
async fn peak_kib(gateway: &Clone) -> u64 {
    let (mut peak, mut same) = (0, 0);
    eventually("the gateway to grow no more", PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = resident_kib(gateway);
        same = if now > peak + (1 << 10) { 0 } else { same + 1 };
        peak = peak.max(now);
        (same == 10).then_some(peak)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn greedy_connections_get_a_share() {
    for takes in [Takes::HalfOpenCalls, Takes::Headers, Takes::KeptBodies, Takes::UnreadAnswers] {
        let server = Endless::start().await;
        let (gateway, _file) = gateway(&server).await;
        let count = sockets(HOSTILE, HOSTILE_DEFAULT);
        let before = resident_kib(&gateway);
        let hostile = clients(count, async || {
            let mut builder = h2::client::Builder::new();
            // Frames of what the gateway resets are no flood.
            builder.max_concurrent_reset_streams(HOSTILE_CALLS).initial_max_send_streams(HOSTILE_CALLS);
            if let Takes::UnreadAnswers = takes {
                builder.initial_window_size(0);
            }
            let client = Client::connect(&gateway.address, builder).await;
            let calls = take(takes, &client).await;
            (client, calls)
        })
        .await;
        let cost = peak_kib(&gateway).await.saturating_sub(before);
        eprintln!("{count} connections that take {takes:?}: {} MiB", cost >> 10);
        let most = (count * HOSTILE_KIB_MAX).min(TEN_HOSTILE_KIB_MAX);
        assert!(count > 10 || cost < most, "{cost} KiB for {count} connections that take {takes:?}");
        // Another client is served meanwhile.
        let beside = Client::connect(&gateway.address, h2::client::Builder::new()).await;
        let answer = beside.call(ONCE).await.expect("an answer");
        assert_eq!(answer.headers().get("grpc-status").expect("a status"), "0", "{takes:?}");
        drop(hostile);
    }
}

/// An answer that is being read.
struct Reading(h2::RecvStream);

impl Reading {
    fn into_stream(self) -> impl futures::Stream<Item = Result<Bytes, h2::Error>> + Unpin {
        Box::pin(futures::stream::unfold(self.0, async |mut body| {
            let chunk = body.data().await?;
            if let Ok(chunk) = &chunk {
                let _ = body.flow_control().release_capacity(chunk.len());
            }
            Some((chunk, body))
        }))
    }
}
