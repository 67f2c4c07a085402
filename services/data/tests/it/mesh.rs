//! The harness: clones of the service on loopback ports, and a client of each.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_data::Engine;
use shoal_kit::Settings;
use shoal_kit::cli::{CommonArgs, serve_defaults};
use shoal_kit::serve::{Drain, bind, serve};
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::data::v1::{
    CreateTableRequest, GetRequest, MutateRequest, Mutation, Row, SortKeyType, Table, mutation,
};
use shoal_proto::r#type::v1::{Value, value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Client = DataServiceClient<Channel>;

/// A clone under test. It is cut off when dropped, and drained by [`TestClone::stop`].
pub(crate) struct TestClone {
    pub(crate) client: Client,
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

/// Settings of a TOML file with these lines; without `data_dir` or `cassandra` the embedded engine keeps nothing.
pub(crate) fn settings(toml: &str) -> Settings {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    let args = CommonArgs {
        config: Some(file.path().to_owned()),
        ephemeral: !toml.contains("data_dir") && !toml.contains("cassandra"),
        ..CommonArgs::default()
    };
    Settings::load(&args, serve_defaults()).unwrap()
}

impl TestClone {
    /// Starts a clone of a process of its own.
    pub(crate) async fn start(toml: &str) -> TestClone {
        let settings = settings(toml);
        let engine = Engine::open(&settings).await.unwrap();
        Self::on(&settings, engine).await
    }

    pub(crate) async fn on(settings: &Settings, engine: Engine) -> TestClone {
        let service = shoal_data::service(settings, engine, "test".to_owned()).await.unwrap();
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let drain = Drain { notice: Duration::ZERO, grace: Duration::from_secs(5) };
        let served = tokio::spawn(serve(service, listener, drain, stop.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        TestClone { client: DataServiceClient::new(channel), address, stop, served }
    }

    /// A client on a connection of its own, whose streams take this many bytes before they are read.
    pub(crate) fn client_with_window(&self, bytes: u32) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(bytes).initial_connection_window_size(128 * bytes);
        DataServiceClient::new(endpoint.connect_lazy())
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("drained in time").unwrap().unwrap();
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.to_owned())) }
}

pub(crate) fn number(number: i64) -> Value {
    Value { kind: Some(value::Kind::IntValue(number)) }
}

pub(crate) fn put(sort_key: &str, value: &str) -> Mutation {
    let put = mutation::Put {
        sort_key: Some(text(sort_key)),
        attributes: [("v".to_owned(), text(value))].into(),
        ttl: None,
    };
    Mutation { kind: Some(mutation::Kind::Put(put)) }
}

pub(crate) async fn create(client: &Client, name: &str, of: SortKeyType) -> Table {
    let table = Table { name: name.to_owned(), sort_key_type: of.into(), ..Table::default() };
    let request = CreateTableRequest { table: Some(table) };
    client.clone().create_table(request).await.unwrap().into_inner().table.unwrap()
}

pub(crate) async fn mutate(client: &Client, table: &str, mutations: Vec<Mutation>) -> Result<(), Status> {
    let request = MutateRequest {
        table: table.to_owned(),
        partition_key: "p".to_owned(),
        mutations,
        idempotency_token: String::new(),
    };
    client.clone().mutate(request).await.map(drop)
}

pub(crate) async fn get(client: &Client, table: &str, sort_key: &str) -> Result<Row, Status> {
    let request = GetRequest {
        table: table.to_owned(),
        partition_key: "p".to_owned(),
        sort_key: Some(text(sort_key)),
        ..GetRequest::default()
    };
    Ok(client.clone().get(request).await?.into_inner().row.unwrap())
}

/// The code, reason and first field of an error, which must be one of ours.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String, String) {
    let status = outcome.unwrap_err();
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "shoal");
    let field = status.get_details_bad_request().map(|bad| bad.field_violations[0].field.clone());
    assert_eq!(field.is_some(), status.code() == Code::InvalidArgument, "{status:?}");
    (status.code(), info.reason, field.unwrap_or_default())
}
