//! A clone on an embedded engine whose disk takes no more: what it answers, and that it goes on once there is room.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use shoal_client::Channel;
use shoal_proto::data::v1::{
    CreateTableRequest, GetRequest, MutateRequest, Mutation, SortKeyType, Table, mutation,
};
use shoal_proto::r#type::v1::{Value, value::Kind};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::eventually;
use crate::harness::http::http_get;
use crate::harness::process::{Process, free_port, shoal_binary};

const PATIENCE: Duration = Duration::from_secs(30);

/// A clone of the data service that may write files of so many bytes only, as on a disk that is full.
struct Limited {
    process: Process,
    channel: Channel,
    admin: String,
    cancel: CancellationToken,
}

impl Limited {
    async fn start(dir: &Path) -> Limited {
        let (address, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        // The signal would end it; the refusal of the write is what is wanted.
        let mut command = Command::new("env");
        command.arg("--ignore-signal=XFSZ").arg(shoal_binary());
        command.args(["serve", "data", "--listen", &address, "--admin", &admin, "--data"]).arg(dir);
        let mut process = Process::spawn(command);
        process.printed("address", Duration::from_secs(20)).await;
        let cancel = CancellationToken::new();
        let channel = shoal_client::connect(&address, "clone", "test", &cancel).expect("an address");
        Limited { process, channel, admin, cancel }
    }

    async fn limit(&self, bytes: &str) {
        let limit = format!("--fsize={bytes}:unlimited");
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.process.pid().to_string(), &limit]);
        assert!(command.status().await.expect("prlimit runs").success());
    }

    async fn put(&self, key: u32) -> Result<(), Status> {
        let attributes = [("v".to_owned(), text(&"x".repeat(2000)))].into();
        let put = mutation::Put { sort_key: Some(text(&key.to_string())), attributes, ttl: None };
        let request = MutateRequest {
            table: "t".to_owned(),
            partition_key: "p".to_owned(),
            mutations: vec![Mutation { kind: Some(mutation::Kind::Put(put)) }],
            ..MutateRequest::default()
        };
        shoal_client::data(self.channel.clone()).mutate(request).await.map(drop)
    }

    async fn has(&self, key: u32) -> bool {
        let request = GetRequest {
            table: "t".to_owned(),
            partition_key: "p".to_owned(),
            sort_key: Some(text(&key.to_string())),
            ..GetRequest::default()
        };
        match shoal_client::data(self.channel.clone()).get(request).await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                false
            }
        }
    }

    async fn ready(&self) -> bool {
        http_get(&self.admin, "/readyz").await.lines().next().is_some_and(|line| line.contains(" 200 "))
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_and_recovers() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut clone = Limited::start(dir.path()).await;
    let table = Table { name: "t".into(), sort_key_type: SortKeyType::String.into(), ..Table::default() };
    let create = CreateTableRequest { table: Some(table) };
    shoal_client::data(clone.channel.clone()).create_table(create).await.expect("a table");
    let mut acknowledged = BTreeSet::new();
    for key in 0..20 {
        clone.put(key).await.expect("a write");
        acknowledged.insert(key);
    }
    assert!(clone.ready().await);

    clone.limit("1000").await;
    let mut refused = BTreeSet::new();
    for key in 100..130 {
        let status = clone.put(key).await.expect_err("the disk is full");
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        match reason.as_str() {
            "ENGINE_FULL" => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused.insert(key);
            }
            // Tried: first, and when the files were opened again meanwhile.
            "OUTCOME_UNKNOWN" | "ENGINE_UNAVAILABLE" => assert_eq!(status.code(), Code::Unavailable),
            other => panic!("{other}: {status}"),
        }
    }
    assert!(refused.len() >= 20, "what is not tried is not unknown: {refused:?}");
    assert!(!clone.ready().await, "/readyz tells the truth");
    for key in &acknowledged {
        assert!(clone.has(*key).await, "reads go on: {key}");
    }

    clone.limit("unlimited").await;
    eventually("a write succeeds again", PATIENCE, async || clone.put(200).await.ok()).await;
    acknowledged.insert(200);
    eventually("it is ready again", PATIENCE, async || clone.ready().await.then_some(())).await;
    clone.process.kill().await;
    clone.cancel.cancel();

    let clone = Limited::start(dir.path()).await;
    for key in &acknowledged {
        assert!(clone.has(*key).await, "{key} was acknowledged");
    }
    for key in &refused {
        assert!(!clone.has(*key).await, "{key} was refused");
    }
}
