//! gRPC fidelity: clients and servers in other languages meet through the gateway and notice nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::eventually;
use crate::harness::grpcurl::grpcurl;
use crate::harness::process::{Process, free_port};

/// Cases of gRPC's own interop client; each a process of its own.
const INTEROP: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A gateway with these lines of configuration.
async fn gateway(configuration: &str) -> (Clone, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    file.write_all(configuration.as_bytes()).expect("written");
    let path = file.path().to_str().expect("utf-8").to_owned();
    (Clone::start("gateway", &["--config", &path]).await, file)
}

/// The Python Echo service, with its bindings compiled into a temporary folder.
struct Echo {
    process: Process,
    address: String,
    dir: tempfile::TempDir,
}

impl Echo {
    async fn start(python: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().to_str().expect("utf-8");
        let compiled = Command::new(python)
            .args(["-m", "grpc_tools.protoc", "-I."])
            .args([&format!("--python_out={out}"), &format!("--grpc_python_out={out}"), "echo.proto"])
            .current_dir(sources())
            .status()
            .await
            .expect("protoc of grpcio-tools");
        assert!(compiled.success());
        let mut process = Process::spawn(python_program(python, "echo_server.py", &dir));
        process.printed("listening on ", Duration::from_secs(20)).await;
        let output = process.output();
        let address = output.split("listening on ").nth(1).and_then(|rest| rest.split(';').next());
        let address = address.expect("an address").to_owned();
        Self { process, address, dir }
    }
}

fn python_program(python: &str, program: &str, bindings: &tempfile::TempDir) -> Command {
    let mut command = Command::new(python);
    command
        .arg(sources().join(program))
        .env("PYTHONPATH", bindings.path())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_and_server_notice_nothing() {
    let (python, binary) = (need!("SHOAL_TEST_PYTHON"), need!("SHOAL_TEST_GRPCURL"));
    let echo = Echo::start(&python).await;
    let (gateway, _file) =
        gateway(&format!("[gateway.upstream.echo]\nendpoints = ['{}']\n", echo.address)).await;
    wait_until_listed(&gateway, &binary).await;
    let mut client = python_program(&python, "echo_client.py", &echo.dir);
    client.arg(&gateway.address);
    let mut client = Process::spawn(client);
    let status = client.ended(Duration::from_secs(120)).await;
    assert!(status.success(), "{}\n{}", client.output(), gateway.process.output());
    // The deadline and the cancellation both reached the server.
    eventually("two callers gone", Duration::from_secs(5), async || {
        (echo.process.output().matches("caller gone").count() >= 2).then_some(())
    })
    .await;
}

/// A foreign service appears once the gateway has read its reflection.
async fn wait_until_listed(gateway: &Clone, grpcurl_binary: &str) {
    eventually("the foreign service is listed", Duration::from_secs(10), async || {
        let answer = grpcurl(grpcurl_binary, &["-plaintext", &gateway.address, "list"]).await;
        answer.stdout.contains("acme.echo.v1.Echo").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_lists_describes_and_calls_a_service_nobody_described() {
    let (python, binary) = (need!("SHOAL_TEST_PYTHON"), need!("SHOAL_TEST_GRPCURL"));
    let echo = Echo::start(&python).await;
    let (gateway, _file) =
        gateway(&format!("[gateway.upstream.echo]\nendpoints = ['{}']\n", echo.address)).await;
    wait_until_listed(&gateway, &binary).await;
    let described =
        grpcurl(&binary, &["-plaintext", &gateway.address, "describe", "acme.echo.v1.Echo"]).await;
    assert!(described.stdout.contains("rpc Bidi"), "{}{}", described.stdout, described.stderr);
    let called = grpcurl(
        &binary,
        &["-plaintext", "-d", r#"{"payload":"aGk="}"#, &gateway.address, "acme.echo.v1.Echo/Unary"],
    )
    .await;
    assert_eq!(called.json()["payload"], "aGk=");
    let unknown = grpcurl(&binary, &["-plaintext", &gateway.address, "acme.nothing.v1.Nothing/Do"]).await;
    assert!(!unknown.ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_interop_client_passes_through_the_gateway() {
    let (client, server) = (need!("SHOAL_TEST_GO_INTEROP_CLIENT"), need!("SHOAL_TEST_GO_INTEROP_SERVER"));
    let port = free_port();
    let mut command = Command::new(server);
    command.arg(format!("--port={port}"));
    let _server = Process::spawn(command);
    let (gateway, _file) = gateway(&format!(
        "[gateway.upstream.interop]\nendpoints = ['127.0.0.1:{port}']\nservices = ['grpc.testing.TestService']\n"
    ))
    .await;
    let (host, port) = gateway.address.split_once(':').expect("HOST:PORT");
    let run = async |case: &str| {
        let mut command = Command::new(&client);
        command.args([
            format!("--server_host={host}"),
            format!("--server_port={port}"),
            format!("--test_case={case}"),
        ]);
        let mut process = Process::spawn(command);
        let status = process.ended(Duration::from_secs(60)).await;
        status.success().then_some(()).ok_or(process.output())
    };
    eventually("the interop server behind the gateway", Duration::from_secs(15), async || {
        run("empty_unary").await.ok()
    })
    .await;
    for case in INTEROP {
        if let Err(output) = run(case).await {
            panic!("{case}:\n{output}");
        }
    }
}
