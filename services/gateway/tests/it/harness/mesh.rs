//! A gateway in this process.

use std::io::Write as _;
use std::net::SocketAddr;

use shoal_gateway::{Gateway, Readiness};
use shoal_kit::Settings;
use shoal_kit::cli::{CommonArgs, serve_defaults};
use tempfile::NamedTempFile;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::caller::Caller;
use super::within;

/// A running gateway; stopped when dropped.
pub(crate) struct Mesh {
    pub(crate) address: SocketAddr,
    pub(crate) readiness: Readiness,
    stop: CancellationToken,
    run: JoinHandle<anyhow::Result<()>>,
    _file: NamedTempFile,
}

impl Mesh {
    /// Starts a gateway with two cores and these lines of configuration. Does not wait for upstreams.
    pub(crate) async fn start(configuration: &str) -> Mesh {
        Mesh::with_cores(2, configuration).await
    }

    pub(crate) async fn with_cores(cores: usize, configuration: &str) -> Mesh {
        let (settings, file) = settings(&format!("gateway.cores = {cores}\n{configuration}"));
        let gateway = Gateway::bind(&settings).expect("bound");
        let (address, readiness) = (gateway.address(), gateway.readiness());
        let stop = CancellationToken::new();
        let shutdown = stop.clone();
        let run = tokio::spawn(async move { gateway.run(&settings, shutdown).await });
        Mesh { address, readiness, stop, run, _file: file }
    }

    /// Why a gateway with these lines does not start.
    pub(crate) fn refused(configuration: &str) -> String {
        let (settings, _file) = settings(configuration);
        match Gateway::bind(&settings) {
            Ok(_) => panic!("it starts"),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Waits until `count` endpoints of `upstream` take calls on every core.
    pub(crate) async fn ready(&self, upstream: &str, count: usize) {
        let all = self.readiness.when(|readiness| readiness.endpoints(upstream) == count);
        within(&format!("{count} endpoints of {upstream}"), all).await;
    }

    /// Opens an HTTP/2 connection to the gateway.
    pub(crate) async fn caller(&self) -> Caller {
        Caller::connect(self.address).await
    }

    /// Opens a tonic connection to the gateway.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("connected")
    }

    /// Begins the drain.
    pub(crate) fn shut_down(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of the drain.
    pub(crate) async fn drained(mut self) {
        within("the drain", &mut self.run).await.expect("no panic").expect("drained");
    }

    /// Returns whether the gateway still runs.
    pub(crate) fn runs(&self) -> bool {
        !self.run.is_finished()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn settings(configuration: &str) -> (Settings, NamedTempFile) {
    let mut file = NamedTempFile::with_suffix(".toml").expect("a file");
    let text = format!("listen = '127.0.0.1:0'\n{configuration}");
    file.write_all(text.as_bytes()).expect("written");
    let args = CommonArgs { config: Some(file.path().to_owned()), ..CommonArgs::default() };
    (Settings::load(&args, serve_defaults()).expect("valid settings"), file)
}
