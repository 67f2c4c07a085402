//! `shoal bench pace`: a process in front of a clone that makes of it a machine of known capacity: K workers, each of which
//! takes at least T for a call. All clones of an experiment share this machine's CPUs; their bounds do not.
//!
//! It forwards every call to its clone as it is. Those of the paced methods wait for a worker, and their answer is held back
//! until the worker's time is over. All others pass, so that health checks and reflection say what the clone says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::pacing::clock::Clock;
use crate::pacing::workers::Workers;

/// Settings of the machine.
#[derive(Debug, Args)]
pub(crate) struct PaceArgs {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the clone
    #[arg(long)]
    target: SocketAddr,
    /// Workers: calls in service at once
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    workers: u16,
    /// Milliseconds that a worker takes for a call, at least
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    time_ms: u64,
    /// Path of a method that the workers serve, `/package.Service/Method`; may be repeated
    #[arg(long, required = true)]
    method: Vec<String>,
}

/// Windows wide enough that nothing is held back here.
const WINDOW: u32 = 8 << 20;
/// Streams of a connection, as the gateway's default.
const STREAMS_MAX: u32 = 1_000;
/// The largest answer of a paced method, which is kept until it is due.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// The clone, its methods and workers, which all connections share.
struct Machine {
    target: SocketAddr,
    methods: Vec<String>,
    workers: Workers,
}

/// Forwards until killed.
pub(crate) async fn run(args: PaceArgs) -> anyhow::Result<()> {
    let workers =
        Workers::new(Clock::start()?, usize::from(args.workers), Duration::from_millis(args.time_ms));
    let machine = Arc::new(Machine { target: args.target, methods: args.method, workers });
    let listener = TcpListener::bind(args.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, Arc::clone(&machine)));
    }
}

/// Serves a connection by one to the clone. When either breaks so does the other: a caller sees what the clone does.
async fn connection(stream: TcpStream, machine: Arc<Machine>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut downstream = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .handshake(stream)
        .await?;
    let stream = TcpStream::connect(machine.target).await?;
    stream.set_nodelay(true)?;
    let (upstream, driver) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let mut driver = tokio::spawn(driver);
    loop {
        tokio::select! {
            accepted = downstream.accept() => {
                let Some(accepted) = accepted else { break };
                let (request, respond) = accepted?;
                tokio::spawn(call(request, respond, upstream.clone(), Arc::clone(&machine)));
            }
            _ = &mut driver => break,
        }
    }
    driver.abort();
    Ok(())
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    machine: Arc<Machine>,
) {
    let forwarded = async {
        if machine.methods.iter().any(|method| method == request.uri().path()) {
            paced(request, &mut respond, upstream, &machine.workers).await
        } else {
            passed(request, &mut respond, upstream).await
        }
    };
    if forwarded.await.is_err() {
        respond.send_reset(Reason::INTERNAL_ERROR);
    }
}

/// Waits for a worker, and holds the answer back until its time is over.
async fn paced(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    workers: &Workers,
) -> anyhow::Result<()> {
    let serving = workers.serve().await.context("the workers are gone")?;
    let (answer, pump) = send(request, upstream).await?;
    let (head, mut body) = answer.await?.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        ensure!(
            bytes.len() + chunk.len() <= ANSWER_BYTES_MAX,
            "the answer is larger than {ANSWER_BYTES_MAX} bytes"
        );
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?;
    pump.await??;
    serving.finish().await;
    let end = bytes.is_empty() && trailers.is_none();
    let mut stream = respond.send_response(Response::from_parts(head, ()), end)?;
    if end {
        return Ok(());
    }
    write(&mut stream, bytes.freeze()).await?;
    finish(&mut stream, trailers)
}

/// Forwards a call as it comes, in both directions.
async fn passed(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) -> anyhow::Result<()> {
    let (answer, pump) = send(request, upstream).await?;
    let (head, body) = answer.await?.into_parts();
    let end = body.is_end_stream();
    let stream = respond.send_response(Response::from_parts(head, ()), end)?;
    if !end {
        copy(body, stream).await?;
    }
    pump.await?
}

type Pump = tokio::task::JoinHandle<anyhow::Result<()>>;

/// Sends a request on, its body in a task of its own.
async fn send(
    request: Request<RecvStream>,
    upstream: SendRequest<Bytes>,
) -> anyhow::Result<(h2::client::ResponseFuture, Pump)> {
    let (head, body) = request.into_parts();
    let end = body.is_end_stream();
    let mut upstream = upstream.ready().await?;
    let (answer, stream) = upstream.send_request(Request::from_parts(head, ()), end)?;
    let pump = tokio::spawn(async move { if end { Ok(()) } else { copy(body, stream).await } });
    Ok((answer, pump))
}

async fn copy(mut from: RecvStream, mut to: SendStream<Bytes>) -> anyhow::Result<()> {
    while let Some(chunk) = from.data().await {
        let chunk = chunk?;
        from.flow_control().release_capacity(chunk.len())?;
        write(&mut to, chunk).await?;
    }
    let trailers = from.trailers().await?;
    finish(&mut to, trailers)
}

/// Writes as much at once as the receiver's window allows.
async fn write(to: &mut SendStream<Bytes>, mut chunk: Bytes) -> anyhow::Result<()> {
    while !chunk.is_empty() {
        to.reserve_capacity(chunk.len());
        let capacity =
            std::future::poll_fn(|cx| to.poll_capacity(cx)).await.context("the stream is closed")??;
        to.send_data(chunk.split_to(capacity.min(chunk.len())), false)?;
    }
    Ok(())
}

fn finish(to: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) -> anyhow::Result<()> {
    match trailers {
        Some(trailers) => to.send_trailers(trailers)?,
        None => to.send_data(Bytes::new(), true)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tonic::client::Grpc;
    use tonic::transport::{Channel, Endpoint};
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::echo::{self, ECHO, Series, Text};
    use crate::process::free_address;

    const TIME_MS: u64 = 20;

    /// Returns a channel to a machine of two workers in front of an echo.
    async fn machine() -> Channel {
        let (target, listen) = (free_address().expect("free"), free_address().expect("free"));
        tokio::spawn(echo::serve(target, Arc::new(|text| Box::pin(std::future::ready(Ok(text))))));
        let method = vec![ECHO.to_owned()];
        tokio::spawn(run(PaceArgs { listen, target, workers: 2, time_ms: TIME_MS, method }));
        let begun = Instant::now();
        for address in [target, listen] {
            while TcpStream::connect(address).await.is_err() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{address} does not listen");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Endpoint::from_shared(format!("http://{listen}")).expect("a URL").connect().await.expect("connected")
    }

    async fn echoed(channel: Channel, bytes: usize) {
        let mut client = Grpc::new(channel);
        client.ready().await.expect("ready");
        let text = Text { text: "a".to_owned(), value: vec![7; bytes] };
        let path = http::uri::PathAndQuery::from_static(ECHO);
        let codec = ProstCodec::<Text, Text>::default();
        let answer = client.unary(tonic::Request::new(text.clone()), path, codec).await.expect("answered");
        assert_eq!(answer.into_inner(), text);
    }

    #[tokio::test]
    async fn paced_calls_share_the_workers() {
        let channel = machine().await;
        let begun = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..20 {
            calls.spawn(echoed(channel.clone(), 100_000));
        }
        while let Some(call) = calls.join_next().await {
            call.expect("answered");
        }
        // Ten of a worker.
        assert!(begun.elapsed() >= Duration::from_millis(10 * TIME_MS - 1), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn other_methods_pass_at_once() {
        let channel = machine().await;
        let mut busy = tokio::task::JoinSet::new();
        for _ in 0..100 {
            busy.spawn(echoed(channel.clone(), 1));
        }
        let mut client = Grpc::new(channel);
        client.ready().await.expect("ready");
        let path = http::uri::PathAndQuery::from_static(echo::STREAM);
        let series = tonic::Request::new(Series { messages: 3, bytes: 10 });
        let stream = client.server_streaming(series, path, ProstCodec::<Series, Text>::default()).await;
        let mut stream = stream.expect("answered").into_inner();
        let mut messages = 0;
        while stream.message().await.expect("whole").is_some() {
            messages += 1;
        }
        assert_eq!(messages, 3);
        assert!(busy.try_join_next().is_none() || busy.len() > 50, "{} calls still wait", busy.len());
    }

    #[tokio::test]
    async fn statuses_come_back_unchanged() {
        let mut client = Grpc::new(machine().await);
        client.ready().await.expect("ready");
        let path = http::uri::PathAndQuery::from_static("/shoal.bench.Echo/Nowhere");
        let request = tonic::Request::new(Text::default());
        let status = client.unary(request, path, ProstCodec::<Text, Text>::default()).await;
        assert_eq!(status.expect_err("refused").code(), tonic::Code::Unimplemented);
    }
}
