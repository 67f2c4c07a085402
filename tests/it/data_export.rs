//! `shoal data export`, `import` and `lint` through a gateway, and what a kill in the middle leaves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use shoal_proto::data::v1::{
    BlobEnd, BlobStart, ChangeFeed, CreateTableRequest, DropTableRequest, GetBlobRequest, MutateRequest,
    Mutation, PutBlobRequest, SortKeyType, Table, WriteMode, get_blob_response, mutation, put_blob_request,
};
use shoal_proto::r#type::v1::{Value, value::Kind};
use tokio::process::Command;

use crate::harness::eventually;
use crate::harness::process::{Process, shoal_binary};
use crate::harness::up::Up;

const PATIENCE: Duration = Duration::from_secs(60);

struct Mesh {
    up: Up,
    dir: tempfile::TempDir,
}

impl Mesh {
    async fn start() -> Mesh {
        let up = Up::start(&["--ephemeral", "--clones", "session=1,cache=1,data=2,jobs=1"]).await;
        Mesh { up, dir: tempfile::tempdir().expect("a folder") }
    }

    /// Makes a table of so many partitions of a hundred rows.
    async fn filled(&self, name: &str, mode: WriteMode, partitions: i64) {
        let table = Table {
            name: name.to_owned(),
            sort_key_type: SortKeyType::Int64.into(),
            write_mode: mode.into(),
            ..Table::default()
        };
        let mut client = shoal_client::data(self.up.channel());
        client.create_table(CreateTableRequest { table: Some(table) }).await.expect("a table");
        for partition in 0..partitions {
            let put = |row: i64| {
                let attributes = [
                    ("n", Kind::IntValue(row)),
                    ("d", Kind::DoubleValue(0.1)),
                    ("t", Kind::StringValue("x".repeat(200))),
                ];
                let attributes =
                    attributes.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) })).into();
                let ttl = (row % 10 == 0).then_some(prost_types::Duration { seconds: 3600, nanos: 0 });
                let sort_key = Some(Value { kind: Some(Kind::IntValue(row)) });
                Mutation { kind: Some(mutation::Kind::Put(mutation::Put { sort_key, attributes, ttl })) }
            };
            let request = MutateRequest {
                table: name.to_owned(),
                partition_key: format!("p{partition}"),
                mutations: (0..100).map(put).collect(),
                idempotency_token: String::new(),
            };
            client.mutate(request).await.expect("a write");
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(shoal_binary());
        command.arg("data").args(arguments).env("SHOAL_ADDR", &self.up.gateway);
        command
    }

    /// Runs a command that succeeds, and returns what it printed.
    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().await.expect("the command runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Returns the error of a command.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().await.expect("the command runs");
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Kills a command once its checkpoint says that some rows are done.
    async fn killed_midway(&self, arguments: &[&str], checkpoint: &Path) {
        let mut process = Process::spawn(self.command(arguments));
        eventually("a checkpoint with rows", PATIENCE, async || {
            let state: Json = serde_json::from_slice(&std::fs::read(checkpoint).ok()?).ok()?;
            // An export has written more than that by then, which is half a line at its end.
            let behind = state["bytes"].as_u64().is_none_or(|bytes| {
                let file = checkpoint.with_extension("");
                file.metadata().is_ok_and(|file| file.len() > bytes)
            });
            (state["rows"].as_u64()? > 0 && behind).then_some(())
        })
        .await;
        process.kill().await;
        assert!(checkpoint.exists(), "it was not complete");
    }
}

/// The rows of an export, each once.
#[track_caller]
fn rows(file: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file).expect("the file");
    let lines: Vec<_> = text.lines().collect();
    let (last, lines) = lines.split_last().expect("an end");
    let set: BTreeSet<_> = lines[1..].iter().map(ToString::to_string).collect();
    assert_eq!(set.len(), lines.len() - 1, "no row is there twice");
    assert_eq!(*last, format!("{{\"shoal_export_rows\":{}}}", set.len()));
    set
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_table_equals_the_exported_one() {
    let mesh = Mesh::start().await;
    mesh.filled("orders", WriteMode::LastWriteWins, 12).await;
    let (one, two) = (mesh.file("one.jsonl"), mesh.file("two.jsonl"));
    let (first, second) = (one.to_str().expect("a path"), two.to_str().expect("a path"));
    let said = mesh.run(&["export", "orders", first, "--verify"]).await;
    assert!(said.contains("1200 rows of orders") && said.contains("1200 rows are as in"), "{said}");
    assert!(mesh.refused(&["export", "orders", first]).await.contains("exists"));
    for _ in 0..2 {
        let said = mesh.run(&["import", first, "--table", "copy", "--create", "--verify"]).await;
        assert!(said.contains("1200 rows are in copy") && said.contains("1200 rows are as in"), "{said}");
    }
    mesh.run(&["export", "copy", second]).await;
    assert!(rows(&one) == rows(&two), "attributes, write times and ends are the same");
    let few = mesh.file("few.jsonl");
    mesh.run(&["export", "orders", few.to_str().expect("a path"), "--prefix", "p1"]).await;
    assert_eq!(rows(&few).len(), 300, "p1, p10 and p11");

    mesh.run(&["put", "copy", "p0", "1", "n=other"]).await;
    let said = mesh.run(&["import", first, "--table", "copy", "--verify"]).await;
    assert!(said.contains("1199 rows are as in") && said.contains("1 were written since"), "{said}");

    mesh.filled("checked", WriteMode::Conditional, 0).await;
    let said = mesh.run(&["import", first, "--table", "checked", "--verify"]).await;
    assert!(said.contains("1200 rows are as in"), "{said}");

    let cut = mesh.file("cut.jsonl");
    let whole = std::fs::read_to_string(&one).expect("the file");
    let middle = whole[..whole.len() / 2].rfind('\n').expect("a line") + 1;
    for end in [middle, middle + 5] {
        std::fs::write(&cut, &whole[..end]).expect("a cut file");
        let said = mesh.refused(&["import", cut.to_str().expect("a path"), "--table", "copy"]).await;
        assert!(said.contains("cut"), "{said}");
    }

    let said = mesh.run(&["lint", "orders", "--partition-rows", "100"]).await;
    assert!(said.contains("orders: 1200 rows in 12 partitions"), "{said}");
    assert_eq!(said.matches("has 100 rows").count(), 10, "{said}");
}

/// Puts a blob of so many bytes, in messages of 300 kB.
async fn put_blob(mesh: &Mesh, table: &str, partition: &str, bytes: &[u8]) {
    let start = BlobStart {
        table: table.to_owned(),
        partition_key: partition.to_owned(),
        sort_key: Some(Value { kind: Some(Kind::IntValue(1)) }),
        content_type: "image/png".to_owned(),
        ..BlobStart::default()
    };
    let mut parts = vec![put_blob_request::Part::Start(start)];
    parts.extend(bytes.chunks(300_000).map(|part| put_blob_request::Part::Chunk(part.to_vec().into())));
    parts.push(put_blob_request::Part::End(BlobEnd {}));
    let messages = parts.into_iter().map(|part| PutBlobRequest { part: Some(part) });
    let mut client = shoal_client::data(mesh.up.channel());
    client.put_blob(futures::stream::iter(messages.collect::<Vec<_>>())).await.expect("a blob");
}

async fn blob(mesh: &Mesh, table: &str, partition: &str) -> Vec<u8> {
    let request = GetBlobRequest {
        table: table.to_owned(),
        partition_key: partition.to_owned(),
        sort_key: Some(Value { kind: Some(Kind::IntValue(1)) }),
        ..GetBlobRequest::default()
    };
    let mut client = shoal_client::data(mesh.up.channel());
    let mut stream = client.get_blob(request).await.expect("a blob").into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = stream.message().await.expect("whole") {
        if let Some(get_blob_response::Part::Chunk(chunk)) = message.part {
            bytes.extend(chunk.data);
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn import_restores_the_whole_table() {
    let mesh = Mesh::start().await;
    let table = Table {
        name: "pictures".to_owned(),
        sort_key_type: SortKeyType::Int64.into(),
        description: "of people".to_owned(),
        change_feed: Some(ChangeFeed { old_rows: true, ..ChangeFeed::default() }),
        ..Table::default()
    };
    let mut client = shoal_client::data(mesh.up.channel());
    client.create_table(CreateTableRequest { table: Some(table) }).await.expect("a table");
    let large: Vec<u8> = (0..1_500_000u32).map(|at| at.to_le_bytes()[usize::from(at % 7 == 0)]).collect();
    put_blob(&mesh, "pictures", "large", &large).await;
    put_blob(&mesh, "pictures", "small", b"x").await;
    put_blob(&mesh, "pictures", "empty", b"").await;
    mesh.run(&["put", "pictures", "row", "1", "d:double=nan"]).await;
    let file = mesh.file("pictures.jsonl");
    let path = file.to_str().expect("a path");
    let said = mesh.run(&["export", "pictures", path, "--verify"]).await;
    assert!(said.contains("4 rows are as in"), "{said}");

    client
        .drop_table(DropTableRequest { name: "pictures".to_owned(), ..DropTableRequest::default() })
        .await
        .expect("dropped");
    for (name, times) in [("pictures", 2), ("copy", 1)] {
        for _ in 0..times {
            let said = mesh.run(&["import", path, "--table", name, "--create", "--verify"]).await;
            assert!(said.contains("4 rows are as in"), "{said}");
        }
        assert!(blob(&mesh, name, "large").await == large, "{name}");
        assert_eq!(blob(&mesh, name, "small").await, b"x");
        assert_eq!(blob(&mesh, name, "empty").await, b"");
        let said = mesh.run(&["tables", name, "--output", "json"]).await;
        let table: Json = serde_json::from_str(&said).expect("JSON");
        assert_eq!(
            (&table["description"], &table["change_feed"]["old_rows"]),
            (&"of people".into(), &true.into())
        );
    }

    put_blob(&mesh, "copy", "small", b"y").await;
    let again = mesh.run(&["import", path, "--table", "copy", "--verify"]).await;
    assert!(again.contains("3 rows are as in") && again.contains("1 were written since"), "{again}");
    let text = std::fs::read_to_string(&file).expect("the file");
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("blob_chunk")).collect();
    std::fs::write(&file, lines.join("\n") + "\n").expect("a file");
    let said = mesh.refused(&["import", path, "--table", "copy"]).await;
    assert!(said.contains("fewer chunks"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_export_and_import_go_on() {
    let mesh = Mesh::start().await;
    mesh.filled("orders", WriteMode::LastWriteWins, 60).await;
    let (slow, whole) = (mesh.file("slow.jsonl"), mesh.file("whole.jsonl"));
    let (file, other) = (slow.to_str().expect("a path"), whole.to_str().expect("a path"));
    let checkpoint = mesh.file("slow.jsonl.export-checkpoint");
    mesh.killed_midway(&["export", "orders", file, "--rate", "1000"], &checkpoint).await;
    let changed = mesh.refused(&["export", "orders", file, "--prefix", "p"]).await;
    assert!(changed.contains("it is of an export with --prefix"), "{changed}");
    mesh.run(&["export", "orders", file, "--verify"]).await;
    assert!(!checkpoint.exists());
    mesh.run(&["export", "orders", other]).await;
    assert_eq!(rows(&slow).len(), 6000);
    assert!(rows(&slow) == rows(&whole));

    let checkpoint = mesh.file("whole.jsonl.import-checkpoint");
    let into = ["import", other, "--table", "copy", "--create"];
    mesh.killed_midway(&[&into[..], &["--rate", "1000"]].concat(), &checkpoint).await;
    let said = mesh.run(&[&into[..], &["--verify"]].concat()).await;
    assert!(said.contains("6000 rows are in copy") && said.contains("6000 rows are as in"), "{said}");
    assert!(!checkpoint.exists());
}
