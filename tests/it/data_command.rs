//! `shoal data` as people and scripts use it, through a gateway.

use serde_json::Value as Json;
use shoal_proto::data::v1::{CreateTableRequest, SortKeyType, Table, WriteMode};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::process::shoal_binary;
use crate::harness::up::Up;

/// Output of a command, and whether it succeeded.
struct Said {
    ok: bool,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn lines(&self) -> Vec<Json> {
        assert!(self.ok, "{}", self.err);
        self.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

struct Mesh(Up);

impl Mesh {
    async fn start() -> Mesh {
        let up = Up::start(&["--ephemeral", "--clones", "session=1,cache=1,data=2,jobs=1"]).await;
        let mesh = Mesh(up);
        mesh.create("texts", SortKeyType::String, WriteMode::LastWriteWins).await;
        mesh.create("numbers", SortKeyType::Int64, WriteMode::LastWriteWins).await;
        mesh.create("single", SortKeyType::None, WriteMode::LastWriteWins).await;
        mesh.create("checked", SortKeyType::String, WriteMode::Conditional).await;
        mesh
    }

    async fn create(&self, name: &str, of: SortKeyType, mode: WriteMode) {
        let (name, sort_key_type, write_mode) = (name.to_owned(), of.into(), mode.into());
        let table = Table { name, sort_key_type, write_mode, ..Table::default() };
        let request = CreateTableRequest { table: Some(table) };
        shoal_client::data(self.0.channel()).create_table(request).await.expect("a table");
    }

    async fn data(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(shoal_binary());
        command.arg("data").args(arguments).env("SHOAL_ADDR", &self.0.gateway);
        let output = command.output().await.expect("the command runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_rows_are_put_and_read() {
    let mesh = Mesh::start().await;
    let tables = mesh.data(&["tables", "--output", "json"]).await.lines();
    let names: Vec<_> = tables.iter().map(|table| table["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["checked", "numbers", "single", "texts"]);
    assert_eq!(
        mesh.data(&["tables", "numbers", "--output", "json"]).await.lines()[0]["sort_key_type"],
        "int64"
    );

    let written = mesh
        .data(&[
            "put",
            "texts",
            "p",
            "a",
            "s=x=y",
            "i:int=-7",
            "d:double=1",
            "b:bool=true",
            "raw:bytes=AAE=",
            "at:time=2026-03-01T10:00:00.500Z",
            "--json",
            r#"{"=:": 5}"#,
            "--ttl",
            "1h",
            "--output",
            "json",
        ])
        .await
        .lines();
    let row = &mesh.data(&["get", "texts", "p", "a", "--output", "json"]).await.lines()[0];
    assert_eq!(row["write_time"], written[0]["write_time"]);
    assert_eq!(
        row["attributes"].to_string(),
        r#"{"=:":5,"at":{"time":"2026-03-01T10:00:00.500Z"},"b":true,"d":1.0,"i":-7,"raw":{"bytes":"AAE="},"s":"x=y"}"#
    );
    assert!(row["expire_time"].is_string());

    for number in ["-5", "30", "7", "8"] {
        assert!(mesh.data(&["put", "numbers", "p", number, "v=x"]).await.ok);
    }
    let keys = async |more: &[&str]| {
        let rows = mesh.data(&[&["query", "numbers", "p", "--output", "json"], more].concat()).await.lines();
        rows.iter().map(|row| row["sort_key"].as_i64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(keys(&[]).await, [-5, 7, 8, 30]);
    assert_eq!(keys(&["--start", "-5", "--end", "8"]).await, [-5, 7]);
    assert_eq!(keys(&["--descending", "--limit", "3"]).await, [30, 8, 7]);
    let cut = mesh.data(&["query", "numbers", "p", "--limit", "2"]).await;
    assert!(
        cut.out.starts_with("SORT KEY  ATTRIBUTE  VALUE") && cut.err.contains("--limit 0"),
        "{}",
        cut.out
    );

    assert!(mesh.data(&["put", "single", "p", "v=1"]).await.ok);
    assert_eq!(
        mesh.data(&["get", "single", "p", "--output", "json"]).await.lines()[0]["attributes"]["v"],
        "1"
    );

    assert!(mesh.data(&["put", "checked", "p", "k", "v=1", "--if-absent"]).await.ok);
    let refused = mesh.data(&["put", "checked", "p", "k", "v=2", "--if-absent"]).await;
    assert!(!refused.ok && refused.err.contains("nothing was written: the row exists"), "{}", refused.err);
    assert!(mesh.data(&["put", "checked", "p", "k", "v=3"]).await.ok);
    assert_eq!(
        mesh.data(&["get", "checked", "p", "k", "--output", "json"]).await.lines()[0]["attributes"]["v"],
        "3"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let mesh = Mesh::start().await;
    for (arguments, parts) in [
        (&["get", "texts", "p", "none"][..], &["NOT_FOUND (ROW_NOT_FOUND)"][..]),
        (&["get", "nothing", "p", "k"], &["TABLE_NOT_FOUND", "create it with CreateTable"]),
        (&["get", "texts", "p"], &["rows of texts have sort keys"]),
        (&["get", "numbers", "p", "x"], &["sort keys of numbers are integers, and `x` is none"]),
        (&["get", "single", "p", "x"], &["single has no sort keys"]),
        (&["put", "texts", "p", "k", "v:int=x"], &["v: `x` is not a 64-bit integer"]),
        (&["put", "texts", "p", "v=1"], &["`v=1` is the sort key", "--json '{}'"]),
        (&["put", "texts", "p", "k", "v=1", "--if-exists"], &["takes no conditional writes"]),
        (&["put", "texts", "p", "k", "v=1", "--token", "5-a"], &["TOKEN_IN_THE_PAST", "microseconds"]),
        (
            &["get", "texts", "p", "k", "--addr", "127.0.0.1:1"],
            &["cannot connect to 127.0.0.1:1", "--listen"],
        ),
    ] {
        let said = mesh.data(arguments).await;
        assert!(!said.ok && said.out.is_empty(), "{arguments:?}: {}", said.out);
        for part in parts {
            assert!(said.err.contains(part), "{arguments:?}: {}", said.err);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_server_is_told_from_none() {
    // It speaks HTTP/2 and answers nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("bound").to_string();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            let _ = stream.write_all(&settings).await;
            held.push(stream);
        }
    });
    let mut command = Command::new(shoal_binary());
    command.args(["data", "tables", "--timeout", "500ms", "--addr", &addr]);
    let output = command.output().await.expect("the command runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no answer within 500ms; allow more with --timeout"), "{said}");
    silent.abort();
}
