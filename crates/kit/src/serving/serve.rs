//! Serves one clone on a listener: health, reflection, connections, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use shoal_coalesce::Coalesce;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;

use crate::serving::health::Health;
use crate::serving::message::SMALL_MESSAGE_BYTES_MAX;
use crate::serving::methods;
use crate::serving::preface::{Preface, read_preface, refuse};
use crate::serving::rewound::Rewound;
use crate::serving::routes::Routes;
use crate::serving::rpc::Rpc;
use crate::serving::service::Service;
use crate::telemetry::metrics::Methods;
use crate::telemetry::seldom::Seldom;

/// Connections one clone keeps open; past it new ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 10_000;
/// Receive windows. Fixed: adaptive windows cost more than they give on a small-message mesh.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A gateway's shared connection carries the resets of all its callers; the default of 20 would have this server send
/// GOAWAY to all of them when a few disconnect at once.
const PENDING_ACCEPT_RESETS_MAX: usize = 4096;
const CONCURRENT_STREAMS_MAX: u32 = 10_000;
/// The limit of a gateway on its callers' headers by default, and room for those that it adds: the time that remains, the
/// trace, the number of attempts, an authority. A list within the gateway's limit is within a clone's.
const HEADER_LIST_BYTES_MAX: u32 = (64 << 10) + ADDED_BYTES_MAX;
const ADDED_BYTES_MAX: u32 = 4 << 10;

/// The times of a clone's end.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Between NOT_SERVING and the end of accepting, so that watchers have turned away.
    pub notice: Duration,
    /// The time for calls in flight; those that are left then are cut off.
    pub grace: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { notice: Duration::from_millis(50), grace: Duration::from_secs(10) }
    }
}

/// Serves until `shutdown` is cancelled, then drains: NOT_SERVING, stop accepting, GOAWAY, finish what is in flight,
/// bounded by [`Drain`]. Background tasks are stopped and awaited last.
///
/// # Errors
/// When the descriptors are broken or the listener fails for good.
pub async fn serve(
    service: Service,
    listener: TcpListener,
    drain: Drain,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Service { role, clone, mut routes, descriptors, background, memory, backing, probe, .. } = service;
    let served: Vec<_> = routes.names().collect();
    let health = Health::new(served.clone(), probe.clone());
    if let Some(backing) = backing {
        background.spawn(probe.follow(backing, clone.clone()));
    }
    let descriptors = [
        descriptors,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        // What the details of errors are made of, so that clients without it can read them.
        tonic_types::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    add_health_and_reflection(&mut routes, &health, &served, &descriptors)?;
    let services: Vec<_> = routes.names().collect();
    let paths = methods::paths(&descriptors, &services)?;
    let rpc = Arc::new(Rpc {
        role,
        methods: Methods::new(role.name(), &clone, &services, paths),
        clone,
        routes,
        draining: background.draining.clone(),
        memory,
    });

    let connections = GracefulShutdown::new();
    accept_until(&listener, &rpc, &connections, async {
        shutdown.cancelled().await;
        // From here on new calls go to other clones; those already on their way are still taken.
        health.drain();
        tokio::time::sleep(drain.notice).await;
    })
    .await?;
    drop(listener);
    background.draining.cancel();
    if tokio::time::timeout(drain.grace, connections.shutdown()).await.is_err() {
        tracing::warn!(clone = rpc.clone, grace = ?drain.grace, "calls were still in flight after the drain");
    }
    background.stop.cancel();
    background.tasks.close();
    if tokio::time::timeout(drain.grace, background.tasks.wait()).await.is_err() {
        tracing::warn!(clone = rpc.clone, "background tasks did not stop in time");
    }
    Ok(())
}

async fn accept_until(
    listener: &TcpListener,
    rpc: &Arc<Rpc>,
    connections: &GracefulShutdown,
    end: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut failed = Seldom::default();
    tokio::pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => return Ok(()),
            accepted = async {
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        let (permit, stream, peer) = match accepted {
            (Ok(permit), Ok((stream, peer))) => (permit, stream, peer),
            (_, Err(error)) => {
                // Out of descriptors, or the peer is gone already: both pass.
                if let Some(times) = failed.happened() {
                    tracing::warn!(%error, times, "accept failed");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            (Err(_), _) => return Ok(()),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let rpc = rpc.clone();
        let watcher = connections.watcher();
        tokio::spawn(async move {
            connection(stream, peer, rpc, watcher).await;
            drop(permit);
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    rpc: Arc<Rpc>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    match read_preface(&mut stream).await {
        (Preface::Http2, first) => http2(Rewound::new(first, stream), peer, rpc, watcher).await,
        (other, _) => refuse(stream, other).await,
    }
}

/// Holders of the count of a connection's calls other than the calls: the connection and its reader.
const HOLDERS: usize = 2;

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    rpc: Arc<Rpc>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Held by every call until it has an answer, so that its count is theirs.
    let calls = Arc::new(());
    let busy = {
        let calls = Arc::clone(&calls);
        move || Arc::strong_count(&calls) > HOLDERS
    };
    let handler = hyper::service::service_fn(move |request| {
        let (rpc, call) = (rpc.clone(), Arc::clone(&calls));
        async move {
            let response = rpc.call(request, peer).await;
            drop(call);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), handler);
    // While other calls are under way their answers may be ready as well, and go out together.
    if let Err(error) = Coalesce::new(watcher.watch(connection), busy).await {
        tracing::debug!(%error, "connection ended");
    }
}

fn add_health_and_reflection(
    routes: &mut Routes,
    health: &Health,
    names: &[&'static str],
    descriptors: &[&'static [u8]],
) -> anyhow::Result<()> {
    let reflection = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .with_service_name("grpc.health.v1.Health")
            .with_service_name("grpc.reflection.v1.ServerReflection")
            .with_service_name("grpc.reflection.v1alpha.ServerReflection");
        for set in descriptors {
            builder = builder.register_encoded_file_descriptor_set(set);
        }
        for name in names {
            builder = builder.with_service_name(*name);
        }
        builder
    };
    const MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    const GZIP: CompressionEncoding = CompressionEncoding::Gzip;
    routes.add(health.clone(), MAX);
    let v1 = reflection().build_v1().context("reflection v1")?;
    routes.add(v1.max_decoding_message_size(MAX).accept_compressed(GZIP).send_compressed(GZIP), MAX);
    let v1alpha = reflection().build_v1alpha().context("reflection v1alpha")?;
    routes.add(v1alpha.max_decoding_message_size(MAX).accept_compressed(GZIP).send_compressed(GZIP), MAX);
    Ok(())
}

/// Binds a listener, or says what to do about it.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is in use by another process; stop it, or choose another address with --listen / --admin"
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })
}

#[cfg(test)]
mod tests;
