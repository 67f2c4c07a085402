//! gRPC fidelity: clients and servers in other languages call each other through the gateway without a difference.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::eventually;
use crate::harness::grpcurl::grpcurl;
use crate::harness::process::{Process, free_port};

/// Every case of Go's interop client, except those with Google's credentials, which need TLS and accounts, and
/// `pick_first_unary`, which needs a server name that Go's server does not send. Each runs in its own process. (The compressed
/// and the cacheable cases of the specification are not in this client.)
const INTEROP: [&str; 18] = [
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
    "rpc_soak",
    "channel_soak",
    "orca_per_rpc",
    "orca_oob",
];

/// The services of the interop server.
const INTEROP_SERVICES: &str = "['grpc.testing.TestService', 'xds.service.orca.v3.OpenRcaService']";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Starts a gateway with these lines of configuration.
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
        let address = process.announced("listening on ", Duration::from_secs(20)).await;
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
async fn python_client_and_server_interoperate() {
    let (python, binary) = (need!("SHOAL_TEST_PYTHON"), need!("SHOAL_TEST_GRPCURL"));
    let echo = Echo::start(&python).await;
    let (gateway, _file) =
        gateway(&format!("[gateway.upstream.echo]\nendpoints = ['{}']\n", echo.address)).await;
    wait_until_listed(&gateway, &binary, "acme.echo.v1.Echo").await;
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

/// Waits until a foreign service is listed, once the gateway has read its reflection. Returns all services.
async fn wait_until_listed(gateway: &Clone, grpcurl_binary: &str, service: &str) -> Vec<String> {
    eventually("the foreign service is listed", Duration::from_secs(20), async || {
        let answer = grpcurl(grpcurl_binary, &["-plaintext", &gateway.address, "list"]).await;
        let listed: Vec<String> = answer.stdout.lines().map(str::to_owned).collect();
        listed.iter().any(|listed| listed == service).then_some(listed)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_uses_undescribed_service() {
    let (python, binary) = (need!("SHOAL_TEST_PYTHON"), need!("SHOAL_TEST_GRPCURL"));
    let echo = Echo::start(&python).await;
    let (gateway, _file) =
        gateway(&format!("[gateway.upstream.echo]\nendpoints = ['{}']\n", echo.address)).await;
    wait_until_listed(&gateway, &binary, "acme.echo.v1.Echo").await;
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
async fn grpcurl_sees_merged_foreign_services() {
    let (server, binary) = (need!("SHOAL_TEST_GO_REFLECTING_SERVER"), need!("SHOAL_TEST_GRPCURL"));
    let echo = Echo::start(&need!("SHOAL_TEST_PYTHON")).await;
    let mut server = Process::spawn(Command::new(server));
    let go = server.announced("listening on ", Duration::from_secs(20)).await;
    let (gateway, _file) = gateway(&format!(
        "[gateway.upstream.go]\nendpoints = ['{go}']\n[gateway.upstream.echo]\nendpoints = ['{}']\n",
        echo.address
    ))
    .await;
    wait_until_listed(&gateway, &binary, "grpc.testing.TestService").await;
    let listed = wait_until_listed(&gateway, &binary, "acme.echo.v1.Echo").await;
    for service in ["grpc.testing.TestService", "shoal.gateway.v1.GatewayService", "grpc.health.v1.Health"] {
        assert_eq!(listed.iter().filter(|listed| *listed == service).count(), 1, "{service}: {listed:?}");
    }
    let ask = async |flags: &[&str], question: &[&str]| {
        grpcurl(&binary, &[&["-plaintext"], flags, &[&gateway.address], question].concat()).await
    };
    let call = async |body: &str, method: &str| ask(&["-d", body], &[method]).await;
    // A service, and messages that stand in other files than it.
    for (symbol, part) in [
        (
            "grpc.testing.TestService",
            "rpc FullDuplexCall ( stream .grpc.testing.StreamingOutputCallRequest )",
        ),
        ("grpc.testing.SimpleRequest", ".grpc.testing.EchoStatus response_status"),
        ("grpc.testing.Empty", "message Empty"),
        ("acme.echo.v1.EchoRequest", "double wait_seconds"),
    ] {
        let described = ask(&[], &["describe", symbol]).await;
        assert!(described.stdout.contains(part), "{symbol}: {}{}", described.stdout, described.stderr);
    }
    let called = call(r#"{"responseSize":3}"#, "grpc.testing.TestService/UnaryCall").await;
    assert_eq!(called.json()["payload"]["body"], "AAAA");
    let two = r#"{"responseParameters":[{"size":3},{"size":3}]}"#;
    let streamed = call(two, "grpc.testing.TestService/StreamingOutputCall").await;
    assert_eq!(streamed.stdout.matches("AAAA").count(), 2, "{}{}", streamed.stdout, streamed.stderr);
    let status = r#"{"responseStatus":{"code":9,"message":"not so"}}"#;
    let failed = call(status, "grpc.testing.TestService/UnaryCall").await;
    assert!(!failed.ok && failed.stderr.contains("FailedPrecondition"), "{}", failed.stderr);
    let called = call(r#"{"payload":"aGk="}"#, "acme.echo.v1.Echo/Unary").await;
    assert_eq!(called.json()["payload"], "aGk=");
}

#[tokio::test(flavor = "multi_thread")]
async fn go_interop_passes_through_gateway() {
    let (client, server) = (need!("SHOAL_TEST_GO_INTEROP_CLIENT"), need!("SHOAL_TEST_GO_INTEROP_SERVER"));
    let port = free_port();
    let mut command = Command::new(server);
    command.arg(format!("--port={port}"));
    let _server = Process::spawn(command);
    let (gateway, _file) = gateway(&format!(
        "[gateway.upstream.interop]\nendpoints = ['127.0.0.1:{port}']\nservices = {INTEROP_SERVICES}\n"
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
        if case.starts_with("orca") {
            // The client's own balancer, which these cases ask what the server reported.
            const METRICS: &str = r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;
            command.arg(format!("--service_config_json={METRICS}"));
        }
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
