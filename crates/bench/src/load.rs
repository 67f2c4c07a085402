//! A closed loop of unary gRPC calls on threads of its own: so many calls in flight, each followed by the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;

/// Windows wide enough that the generator is never what holds a server back.
const WINDOW: u32 = 8 << 20;

/// What is called, over and over.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    /// The request, framed as gRPC does.
    pub(crate) framed: Bytes,
}

impl Call {
    pub(crate) fn new(path: &'static str, message: &impl prost::Message) -> Self {
        let bytes = message.encode_to_vec();
        let mut framed = BytesMut::with_capacity(bytes.len() + 5);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        framed.put_slice(&bytes);
        Self { path, framed: framed.freeze() }
    }
}

/// What a load did.
pub(crate) struct Done {
    pub(crate) calls: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Keeps `in_flight` calls going for `time`, over one connection per 64 of them, from one thread.
///
/// # Errors
/// When a connection fails or a call is not OK.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    call: Call,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<Done> {
    // A thread and runtime of its own: the benchmark's other work must not stand in its way.
    let handle = std::thread::spawn(move || -> anyhow::Result<Done> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(address, call, in_flight, time))
    });
    tokio::task::spawn_blocking(move || handle.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the load generator panicked"))?
}

async fn run(address: SocketAddr, call: Call, in_flight: usize, time: Duration) -> anyhow::Result<Done> {
    let mut connections = Vec::new();
    for _ in 0..in_flight.div_ceil(64) {
        connections.push(connect(address).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let loops: Vec<_> = (0..in_flight)
        .map(|i| {
            let sender = connections[i % connections.len()].clone();
            let (call, stop) = (call.clone(), stop.clone());
            tokio::spawn(one_after_another(sender, address, call, stop))
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let elapsed = begun.elapsed();
    let mut latency = Histogram::new(3)?;
    for each in loops {
        latency.add(each.await??)?;
    }
    Ok(Done { calls: latency.len(), elapsed, latency })
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn one_after_another(
    mut sender: SendRequest<Bytes>,
    address: SocketAddr,
    call: Call,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = Histogram::new(3)?;
    let uri: http::Uri = format!("http://{address}{}", call.path).parse()?;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let request = http::Request::post(uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        sender = sender.ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(call.framed.clone(), true)?;
        let response = response.await?;
        let mut status = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
        }
        if let Some(trailers) = body.trailers().await? {
            status = trailers.get("grpc-status").cloned();
        }
        ensure!(status.as_ref().is_some_and(|s| s == "0"), "{}: grpc-status {status:?}", call.path);
        latency.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))?;
    }
    Ok(latency)
}
