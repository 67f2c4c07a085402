//! A Python program with Cassandra's own driver reads the rows that the data service stores, and writes one that the service reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use shoal_client::Channel;
use shoal_proto::data::v1 as data;
use shoal_proto::data::v1::data_service_client::DataServiceClient;
use shoal_proto::r#type::v1::{Value, value::Kind};
use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::eventually;

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn put(key: &str, attributes: &[(&str, Kind)], ttl: Option<i64>) -> data::Mutation {
    let attributes =
        attributes.iter().map(|(name, kind)| ((*name).to_owned(), Value { kind: Some(kind.clone()) }));
    let put = data::mutation::Put {
        sort_key: Some(text(key)),
        attributes: attributes.collect(),
        ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    };
    data::Mutation { kind: Some(data::mutation::Kind::Put(put)) }
}

fn micros_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).expect("in range")
}

fn micros(at: &Option<prost_types::Timestamp>) -> i64 {
    at.as_ref().map_or(0, |at| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000)
}

/// The program, with its bindings in a temporary folder.
struct Foreign {
    python: String,
    points: String,
    bindings: tempfile::TempDir,
}

impl Foreign {
    async fn compile(python: String, points: String) -> Self {
        let bindings = tempfile::tempdir().expect("a folder");
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiled = Command::new(&python)
            .args(["-m", "grpc_tools.protoc", "-Iclients", "-I../proto", "--python_out"])
            .arg(bindings.path())
            .args(["foreign_rows.proto", "shoal/type/v1/value.proto"])
            .current_dir(tests)
            .status();
        assert!(compiled.await.expect("protoc of grpcio-tools").success());
        Self { python, points, bindings }
    }

    /// Runs the program. Returns what it printed.
    async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/foreign_rows.py");
        let output = Command::new(&self.python)
            .arg(program)
            .args([self.points.as_str(), "shoal"])
            .args(arguments)
            .env("PYTHONPATH", self.bindings.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .await
            .expect("python");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    async fn rows(&self, table: &str) -> BTreeMap<String, Json> {
        let printed = self.run(&["read", table]).await.expect("rows");
        let rows = printed.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
        rows.map(|row| (row["sort_key"].as_str().expect("text").to_owned(), row)).collect()
    }
}

/// A clone on the Cassandra, and tables of its own.
struct Service {
    client: DataServiceClient<Channel>,
    run: u32,
    _clone: Clone,
}

impl Service {
    async fn start(points: &str) -> Self {
        let clone = Clone::start("data", &["--cassandra", points]).await;
        Self { client: shoal_client::data(clone.channel()), run: fastrand::u32(..), _clone: clone }
    }

    async fn create(&mut self, name: &str, mode: data::WriteMode) -> String {
        let name = format!("foreign_{name}_{}", self.run);
        let table = data::Table { name: name.clone(), write_mode: mode.into(), ..Default::default() };
        let create = data::CreateTableRequest { table: Some(table) };
        eventually("a table", Duration::from_secs(60), async || {
            self.client.create_table(create.clone()).await.ok()
        })
        .await;
        name
    }

    async fn mutate(&mut self, table: &str, mutations: Vec<data::Mutation>, token: String) {
        let request = data::MutateRequest {
            table: table.to_owned(),
            partition_key: "p".to_owned(),
            mutations,
            idempotency_token: token,
        };
        self.client.mutate(request).await.expect("written");
    }

    async fn get(&mut self, table: &str, key: &str) -> data::Row {
        let get = data::GetRequest {
            table: table.to_owned(),
            partition_key: "p".to_owned(),
            sort_key: Some(text(key)),
            ..Default::default()
        };
        self.client.get(get).await.expect("a row").into_inner().row.expect("a row")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_driver_reads_stored_rows() {
    let (python, points) = (need!("SHOAL_TEST_PYTHON"), need!("SHOAL_TEST_CASSANDRA"));
    let foreign = Foreign::compile(python, points.clone()).await;
    let mut service = Service::start(&points).await;
    let table = service.create("last", data::WriteMode::LastWriteWins).await;
    let all = [
        ("text", Kind::StringValue("schön".to_owned())),
        ("int", Kind::IntValue(-5)),
        ("double", Kind::DoubleValue(0.5)),
        ("bool", Kind::BoolValue(false)),
        ("bytes", Kind::BytesValue(vec![0, 255].into())),
        ("time", Kind::TimeValue(prost_types::Timestamp { seconds: -1, nanos: 5 })),
    ];
    let at = micros_now();
    let puts = vec![put("all", &all, None), put("ends", &all[..1], Some(3600)), put("none", &[], None)];
    service.mutate(&table, puts, format!("{at}-a")).await;
    service.mutate(&table, vec![put("gone", &[], Some(1))], format!("{}-b", at - 10_000_000)).await;
    let rows = foreign.rows(&table).await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["all", "ends", "none"], "a row that ended is not there");
    let expected = json!({
        "partition_key": "p", "sort_key": "all", "write_time": at, "expire_time": 0,
        "attributes": {
            "text": {"string_value": "schön"}, "int": {"int_value": -5}, "double": {"double_value": 0.5},
            "bool": {"bool_value": false}, "bytes": {"bytes_value": "00ff"}, "time": {"time_value": -999_999_995},
        },
    });
    assert_eq!(rows["all"], expected);
    let end = rows["ends"]["expire_time"].as_i64();
    assert_eq!(end, Some(micros(&service.get(&table, "ends").await.expire_time)));
    assert_eq!(rows["none"]["attributes"], json!({}));

    // A conditional table keeps other rows beside these.
    let table = service.create("conditional", data::WriteMode::Conditional).await;
    let request = data::CheckAndMutateRequest {
        table: table.clone(),
        partition_key: "p".to_owned(),
        mutations: vec![put("a", &all[1..2], None)],
        ..Default::default()
    };
    let written = service.client.check_and_mutate(request).await.expect("written").into_inner().write_time;
    let rows = foreign.rows(&table).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows["a"]["attributes"], json!({"int": {"int_value": -5}}));
    assert_eq!(rows["a"]["write_time"], micros(&written));
}

#[tokio::test(flavor = "multi_thread")]
async fn service_reads_foreign_driver_rows() {
    let (python, points) = (need!("SHOAL_TEST_PYTHON"), need!("SHOAL_TEST_CASSANDRA"));
    let foreign = Foreign::compile(python, points.clone()).await;
    let mut service = Service::start(&points).await;
    let table = service.create("written", data::WriteMode::LastWriteWins).await;
    let at = micros_now();
    let row = ["write", &table, "p", "a", &at.to_string(), "3600", "from=driver", "name=x"];
    foreign.run(&row).await.expect("written");
    let found = service.get(&table, "a").await;
    assert_eq!(
        found.attributes,
        [("from", "driver"), ("name", "x")].map(|(n, v)| (n.to_owned(), text(v))).into()
    );
    assert_eq!(micros(&found.write_time), at);
    assert_eq!(micros(&found.expire_time), at + 3_600_000_000);

    // The last write wins, whoever wrote it.
    let ours = put("a", &[("from", Kind::StringValue("service".to_owned()))], None);
    service.mutate(&table, vec![ours], format!("{}-c", at + 2)).await;
    for (micros, from) in [(at + 1, "service"), (at + 3, "again")] {
        let row = ["write", &table, "p", "a", &micros.to_string(), "0", "from=again"];
        foreign.run(&row).await.expect("written");
        assert_eq!(service.get(&table, "a").await.attributes["from"], text(from));
    }

    let table = service.create("refused", data::WriteMode::Conditional).await;
    let refused = foreign.run(&["write", &table, "p", "a", "1", "0", "v=1"]).await.expect_err("conditional");
    assert!(refused.contains("by the service alone"), "{refused}");
}
