//! A clone of the cache in this process, on a socket of its own.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use shoal_client::Channel;
use shoal_kit::Settings;
use shoal_kit::cli::{CommonArgs, serve_defaults};
use shoal_kit::serve::{Drain, serve};
use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::cache_service_client::CacheServiceClient;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::service::Routes;
use tonic_types::StatusExt as _;

/// The longest time of anything that is not itself measured.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running clone and a client of it.
pub(crate) struct Clone {
    pub(crate) client: CacheServiceClient<Channel>,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
    _connections: DropGuard,
}

impl Clone {
    /// Starts a clone with this configuration file.
    pub(crate) async fn start(toml: &str) -> Self {
        let settings = settings(toml);
        let engine = shoal_cache::Engine::open(&settings).await.expect("an engine");
        Self::on(&settings, engine).await
    }

    /// Starts a clone on an engine.
    pub(crate) async fn on(settings: &Settings, engine: shoal_cache::Engine) -> Self {
        let service = shoal_cache::service(settings, engine, "1".to_owned()).await.expect("a service");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let drain = Drain { notice: Duration::ZERO, grace: Duration::from_secs(5) };
        let served = tokio::spawn(serve(service, listener, drain, shutdown.clone()));
        let connections = CancellationToken::new();
        let channel =
            shoal_client::connect(&address.to_string(), "cache", "test", &connections).expect("an address");
        Self {
            client: shoal_client::cache(channel),
            shutdown,
            served,
            _connections: connections.drop_guard(),
        }
    }

    pub(crate) async fn get_object(&self, kind: &str, id: &str) -> Result<pb::GetObjectResponse, Status> {
        self.explain_object(kind, id, None).await
    }

    /// Returns an object, the reason of its miss included.
    pub(crate) async fn explain_object(
        &self,
        kind: &str,
        id: &str,
        max_stale: Option<Duration>,
    ) -> Result<pb::GetObjectResponse, Status> {
        let max_stale = max_stale.map(|max| prost_types::Duration::try_from(max).expect("in range"));
        let (kind, id) = (kind.to_owned(), id.to_owned());
        let request = pb::GetObjectRequest { kind, id, max_stale, explain: true };
        Ok(self.client.clone().get_object(request).await?.into_inner())
    }

    /// Returns the results of a batch: the value of each object, or the reason of its error.
    pub(crate) async fn get_objects(
        &self,
        kind: &str,
        ids: &[&str],
    ) -> Result<Vec<Result<pb::GetObjectResponse, pb::ObjectError>>, Status> {
        let ids = ids.iter().map(ToString::to_string).collect();
        let request = pb::BatchGetObjectsRequest { kind: kind.to_owned(), ids, ..Default::default() };
        let results = self.client.clone().batch_get_objects(request).await?.into_inner().results;
        let outcome = |result: pb::BatchGetObjectsResult| match result.outcome.expect("an outcome") {
            pb::batch_get_objects_result::Outcome::Object(object) => Ok(object),
            pb::batch_get_objects_result::Outcome::Error(error) => Err(error),
        };
        Ok(results.into_iter().map(outcome).collect())
    }

    pub(crate) async fn set(&self, request: pb::SetRequest) -> Result<pb::SetResponse, Status> {
        Ok(self.client.clone().set(request).await?.into_inner())
    }

    /// Returns the entry of a key, if it is there.
    pub(crate) async fn get(&self, namespace: &str, key: &str) -> Result<Option<pb::Entry>, Status> {
        let request =
            pb::GetRequest { namespace: namespace.to_owned(), key: key.to_owned(), ..Default::default() };
        match self.client.clone().get(request).await?.into_inner().outcome {
            Some(pb::get_response::Outcome::Entry(entry)) => Ok(Some(entry)),
            Some(pb::get_response::Outcome::Miss(_)) => Ok(None),
            None => panic!("neither entry nor miss"),
        }
    }

    pub(crate) async fn delete(&self, namespace: &str, key: &str) -> Result<(), Status> {
        let request = pb::DeleteRequest { namespace: namespace.to_owned(), key: key.to_owned() };
        self.client.clone().delete(request).await.map(|_| ())
    }

    /// Drains, and returns whether that went well.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.expect("no panic").expect("drained");
    }
}

/// Reads settings from a file.
pub(crate) fn settings(toml: &str) -> Settings {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(toml.as_bytes()).expect("written");
    let args = CommonArgs { config: Some(file.path().to_owned()), ephemeral: true, ..CommonArgs::default() };
    Settings::load(&args, serve_defaults()).expect("valid settings")
}

/// Returns the reason of an error, which must carry exactly one `ErrorInfo` of ours.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "shoal", "{status:?}");
    info.reason
}

/// A gRPC server of a test's own, that can be killed and come back at its address. It has a runtime to itself: that ends
/// with all its connections at once, as a process does.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Peer {
    pub(crate) async fn start(routes: Routes) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), routes).await
    }

    /// Starts it at an address that was its own before.
    pub(crate) async fn at(address: SocketAddr, routes: Routes) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        // The one that had the address before may be closing it still.
        let listener = until("the address is free", async || std::net::TcpListener::bind(address).ok()).await;
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a socket");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_routes(routes);
            server.serve_with_incoming(incoming).await.expect("serves");
        });
        Self { address, runtime: Some(runtime) }
    }

    /// Ends it with its connections.
    pub(crate) fn kill(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Asks until the answer is as wanted.
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
