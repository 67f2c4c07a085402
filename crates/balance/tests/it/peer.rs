//! Servers to balance over. Each has its own runtime, so that killing one cuts its sockets as a killed process does.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use shoal_balance::{Balancer, EndpointState, Options, Target};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

/// A time-out for tests: longer than anything takes.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A running server; killed when dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Peer {
    /// A tonic server with the standard health service.
    pub(crate) fn tonic(address: Option<SocketAddr>) -> (Peer, HealthReporter) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let peer = Peer::start(address, |listener| async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let _ =
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        (peer, reporter)
    }

    /// An HTTP/2 server without a health service, which answers each call by `handler`.
    pub(crate) fn h2<H, F>(handler: H) -> Peer
    where
        H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        Peer::h2_with_health(move |request, mut respond| {
            let handler = handler.clone();
            async move {
                if request.uri().path().starts_with("/grpc.health.") {
                    answer_status(&mut respond, tonic::Code::Unimplemented);
                } else {
                    handler(request, respond).await;
                }
            }
        })
    }

    /// Starts a server like [`Peer::h2`] whose `handler` also answers for health.
    pub(crate) fn h2_with_health<H, F>(handler: H) -> Peer
    where
        H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        Peer::start(None, move |listener| async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let handler = handler.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(handler(request, respond));
                    }
                });
            }
        })
    }

    /// Starts a server: `serve` gets the listener, on the peer's own runtime.
    pub(crate) fn start<S, F>(address: Option<SocketAddr>, serve: S) -> Peer
    where
        S: FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = address.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
        let socket = if address.port() == 0 { TcpListener::bind(address).unwrap() } else { rebind(address) };
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        runtime.spawn(async move { serve(tokio::net::TcpListener::from_std(socket).unwrap()).await });
        Peer { address, runtime: Some(runtime) }
    }

    /// Cuts every connection and stops listening, at once.
    pub(crate) fn kill(mut self) -> SocketAddr {
        self.shut();
        self.address
    }

    fn shut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shut();
    }
}

/// Binds the port of a server just killed, which is free as soon as its runtime has dropped the listener.
fn rebind(address: SocketAddr) -> TcpListener {
    let until = std::time::Instant::now() + SOON;
    loop {
        match TcpListener::bind(address) {
            Ok(socket) => return socket,
            Err(error) if std::time::Instant::now() > until => panic!("{address}: {error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// A balancer under test, which ends on drop.
pub(crate) struct Upstream {
    pub(crate) balancer: Balancer,
    pub(crate) targets: watch::Sender<Arc<[Target]>>,
    cancel: CancellationToken,
}

impl Upstream {
    pub(crate) fn of(peers: &[SocketAddr]) -> Upstream {
        Upstream::with(peers, |_| {})
    }

    pub(crate) fn with(peers: &[SocketAddr], change: impl FnOnce(&mut Options)) -> Upstream {
        let mut options = Options::new("fish", "test");
        options.seed = Some(11);
        change(&mut options);
        let (targets, receiver) = watch::channel(peers.iter().copied().map(Target::new).collect());
        let cancel = CancellationToken::new();
        let balancer = Balancer::start(options, receiver, cancel.clone());
        Upstream { balancer, targets, cancel }
    }

    /// Waits until `address` is in `state`.
    pub(crate) async fn until(&self, address: SocketAddr, state: EndpointState) -> Duration {
        let started = Instant::now();
        let mut changed = self.balancer.changed();
        let reached = async {
            loop {
                changed.mark_unchanged();
                if self.state(address) == Some(state) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(SOON, reached).await.is_err() {
            panic!("{address} did not become {state}: {:?}", self.balancer.snapshot());
        }
        started.elapsed()
    }

    pub(crate) fn state(&self, address: SocketAddr) -> Option<EndpointState> {
        self.balancer.snapshot().into_iter().find(|e| e.address == address).map(|e| e.state)
    }

    pub(crate) fn reason(&self, address: SocketAddr) -> String {
        self.balancer
            .snapshot()
            .into_iter()
            .find(|e| e.address == address)
            .map(|e| e.reason)
            .unwrap_or_default()
    }

    pub(crate) async fn stop(&self) {
        self.cancel.cancel();
        tokio::time::timeout(SOON, self.balancer.stopped()).await.unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Returns an answer without a body, whose headers carry the status.
pub(crate) fn answer_status(respond: &mut SendResponse<Bytes>, code: tonic::Code) {
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", code as i32)
        .body(())
        .unwrap();
    let _ = respond.send_response(response, true);
}

/// Returns the headers of an answer that goes on.
pub(crate) fn answer(respond: &mut SendResponse<Bytes>) -> Option<h2::SendStream<Bytes>> {
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    respond.send_response(response, false).ok()
}

/// Returns the trailers of a successful call.
pub(crate) fn trailers_ok() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )])
}

/// Encodes a gRPC message of `bytes`.
pub(crate) fn message(bytes: &[u8]) -> Bytes {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    message.extend_from_slice(bytes);
    message.into()
}
