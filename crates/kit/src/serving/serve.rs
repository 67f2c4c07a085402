//! Serves one clone on a listener: health, reflection, connections, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding;

use crate::serving::connection;
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

    let connections = Connections::default();
    accept_until(&listener, &rpc, &connections, async {
        shutdown.cancelled().await;
        // From here on new calls go to other clones; those already on their way are still taken.
        health.drain();
        tokio::time::sleep(drain.notice).await;
    })
    .await?;
    drop(listener);
    background.draining.cancel();
    if tokio::time::timeout(drain.grace, connections.drain()).await.is_err() {
        tracing::warn!(clone = rpc.clone, grace = ?drain.grace, "calls were still in flight after the drain");
    }
    background.stop.cancel();
    background.tasks.close();
    if tokio::time::timeout(drain.grace, background.tasks.wait()).await.is_err() {
        tracing::warn!(clone = rpc.clone, "background tasks did not stop in time");
    }
    Ok(())
}

/// The connections of a clone.
#[derive(Default)]
struct Connections {
    tasks: TaskTracker,
    drain: CancellationToken,
}

impl Connections {
    /// Tells all clients to go elsewhere, and waits until their calls have ended.
    async fn drain(&self) {
        self.drain.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept_until(
    listener: &TcpListener,
    rpc: &Arc<Rpc>,
    connections: &Connections,
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
        let drain = connections.drain.clone();
        connections.tasks.spawn(async move {
            serve_stream(stream, peer, rpc, drain).await;
            drop(permit);
        });
    }
}

async fn serve_stream(mut stream: TcpStream, peer: SocketAddr, rpc: Arc<Rpc>, drain: CancellationToken) {
    match read_preface(&mut stream).await {
        (Preface::Http2, first) => connection::serve(Rewound::new(first, stream), peer, rpc, drain).await,
        (other, _) => refuse(stream, other).await,
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
