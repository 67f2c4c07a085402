//! The harness: clones of the service on loopback ports, and a client of each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal_kit::Settings;
use shoal_kit::cli::{CommonArgs, serve_defaults};
use shoal_kit::serve::{Drain, bind, serve};
use shoal_proto::session::v1::session_service_client::SessionServiceClient;
use shoal_proto::session::v1::{
    CreateSessionRequest, CreateSessionResponse, GetSessionRequest, RevokeSessionRequest, Session,
    revoke_session_request::Target,
};
use shoal_session::Engine;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Whatever a test waits for happens within this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Client = SessionServiceClient<Channel>;

/// A clone, drained when stopped by [`Clone::stop`], cut off when dropped.
pub(crate) struct Clone {
    pub(crate) client: Client,
    stop: tokio_util::sync::CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

/// Settings of a TOML file with these lines; without `data_dir` engines keep nothing.
pub(crate) fn settings(toml: &str) -> Settings {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    let args = CommonArgs {
        config: Some(file.path().to_owned()),
        ephemeral: !toml.contains("data_dir"),
        ..CommonArgs::default()
    };
    Settings::load(&args, serve_defaults()).unwrap()
}

impl Clone {
    pub(crate) async fn start(toml: &str) -> Clone {
        let settings = settings(toml);
        let engine = Engine::open(&settings).await.unwrap();
        Self::on(&settings, engine).await
    }

    pub(crate) async fn on(settings: &Settings, engine: Engine) -> Clone {
        let service = shoal_session::service(settings, engine, "test".to_owned()).await.unwrap();
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let drain = Drain { notice: Duration::ZERO, grace: Duration::from_secs(5) };
        let served = tokio::spawn(serve(service, listener, drain, stop.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Clone { client: SessionServiceClient::new(channel), stop, served }
    }

    /// Drains the clone and waits for it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("drained in time").unwrap().unwrap();
    }
}

pub(crate) async fn create(client: &Client, user: &str) -> Result<CreateSessionResponse, Status> {
    let request = CreateSessionRequest { user_id: user.to_owned(), ..CreateSessionRequest::default() };
    Ok(client.clone().create_session(request).await?.into_inner())
}

pub(crate) async fn get(client: &Client, token: &str) -> Result<Session, Status> {
    let request = GetSessionRequest { token: token.to_owned(), no_touch: false };
    let response = client.clone().get_session(request).await?.into_inner();
    Ok(response.session.expect("a session"))
}

pub(crate) async fn revoke(client: &Client, token: &str) -> Result<(), Status> {
    let request = RevokeSessionRequest { target: Some(Target::Token(token.to_owned())) };
    client.clone().revoke_session(request).await.map(drop)
}

/// Polls until `done`.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut done: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = done().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
