//! `shoal serve ROLE`: the behaviour that all clones share.

use std::time::{Duration, Instant};

use prost::Message as _;
use shoal_proto::jobs::v1 as jobs;
use tokio::process::Command;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::harness::clone::Clone;
use crate::harness::process::{Process, free_port, shoal_binary};

/// Returns a lease request that waits: nothing is ever enqueued in its queue.
fn waits(wait: Duration) -> jobs::LeaseJobsRequest {
    let wait = prost_types::Duration { seconds: wait.as_secs() as i64, nanos: 0 };
    jobs::LeaseJobsRequest { queue: "nothing".into(), wait: Some(wait), ..Default::default() }
}

async fn plain(address: &str) -> tonic::transport::Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect()
        .await
        .expect("connected")
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_is_not_reported_as_cancelled() {
    let clone = Clone::start("jobs", &["--ephemeral"]).await;
    // Over h2 itself: a tonic client would cut the call before the server's answer came.
    let begun = Instant::now();
    let status = raw_lease(&clone.address, "200m").await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(status.get_details_error_info().expect("ErrorInfo").reason, "DEADLINE_EXCEEDED");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let status = raw_lease(&clone.address, "soon").await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

/// Calls LeaseJobs with a wait of 20 s and this `grpc-timeout`. Returns the status.
async fn raw_lease(address: &str, timeout: &str) -> Status {
    let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/shoal.jobs.v1.WorkerService/LeaseJobs"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .expect("a request");
    let (response, mut body) =
        sender.ready().await.expect("ready").send_request(request, false).expect("sent");
    let message = waits(Duration::from_secs(20)).encode_to_vec();
    let framed = [&[0u8][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    body.send_data(framed.into(), true).expect("sent");
    let response = response.await.expect("headers");
    connection.abort();
    Status::from_header_map(response.headers()).expect("a trailers-only status")
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_finishes_running_calls_only() {
    let mut clone = Clone::start("jobs", &["--ephemeral", "--drain", "8s"]).await;
    let channel = plain(&clone.address).await;
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("watched").into_inner();
    let first = watch.message().await.expect("a status").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);

    let mut worker = jobs::worker_service_client::WorkerServiceClient::new(channel);
    let in_flight = tokio::spawn(async move { worker.lease_jobs(waits(Duration::from_secs(2))).await });
    // The call is known to be there once a later one on the same connection was answered.
    health.check(HealthCheckRequest::default()).await.expect("an answer");
    clone.process.signal("TERM");
    let next = watch.message().await.expect("a status").expect("a status");
    assert_eq!(next.status(), ServingStatus::NotServing);
    let answer = in_flight.await.expect("joined").expect("the call in flight was finished");
    assert!(answer.into_inner().jobs.is_empty());
    assert!(clone.process.ended(Duration::from_secs(15)).await.success(), "{}", clone.process.output());
    assert!(tokio::net::TcpStream::connect(&clone.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_terminal_drains_the_process() {
    let mut clone = Clone::start("jobs", &["--ephemeral", "--drain", "8s"]).await;
    let channel = plain(&clone.address).await;
    let mut health = HealthClient::new(channel.clone());
    let mut worker = jobs::worker_service_client::WorkerServiceClient::new(channel);
    let in_flight = tokio::spawn(async move { worker.lease_jobs(waits(Duration::from_secs(2))).await });
    // The call is known to be there once a later one on the same connection was answered.
    health.check(HealthCheckRequest::default()).await.expect("an answer");
    clone.process.signal("HUP");
    clone.process.signal("HUP");
    in_flight.await.expect("joined").expect("the call in flight was finished");
    assert!(clone.process.ended(Duration::from_secs(15)).await.success(), "{}", clone.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_hangup_stays_ignored() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(shoal_binary()).args([
        "serve",
        "session",
        "--ephemeral",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let mut process = Process::spawn(command);
    process.printed("serving", Duration::from_secs(20)).await;
    let output = process.output();
    let (_, rest) = output.split_once("address=").expect("its address");
    let address = rest.split_whitespace().next().expect("an address");
    process.signal("HUP");
    // A drain would say NOT_SERVING on this stream and end it; the next call comes after the signal was handled.
    let mut health = HealthClient::new(plain(address).await);
    for _ in 0..20 {
        let answer = health.check(HealthCheckRequest::default()).await.expect("it goes on").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.signal("TERM");
    assert!(process.ended(Duration::from_secs(15)).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_override_environment_and_file() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    let text = format!("listen = '127.0.0.1:{}'\nadmin = '127.0.0.1:0'\nephemeral = true\n", ports[0]);
    std::fs::write(file.path(), text).expect("written");
    let serves_at = async |flag: Option<u16>, variable: Option<u16>| {
        let mut command = Command::new(shoal_binary());
        command.args(["serve", "session", "--config"]).arg(file.path());
        if let Some(port) = flag {
            command.args(["--listen", &format!("127.0.0.1:{port}")]);
        }
        if let Some(port) = variable {
            command.env("SHOAL_LISTEN", format!("127.0.0.1:{port}"));
        }
        let mut process = Process::spawn(command);
        process.printed("serving", Duration::from_secs(10)).await;
        process.output()
    };
    for (flag, variable, port) in
        [(None, None, ports[0]), (None, Some(ports[1]), ports[1]), (Some(ports[2]), Some(ports[1]), ports[2])]
    {
        let output = serves_at(flag, variable).await;
        assert!(output.contains(&format!("127.0.0.1:{port}")), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_sets_its_exit_code() {
    let clone = Clone::start("session", &["--ephemeral"]).await;
    let ask = async |arguments: &[&str]| {
        let output = Command::new(shoal_binary()).args(["health", "--addr"]).args(arguments).output();
        let output = output.await.expect("it runs");
        (output.status.code().expect("an exit code"), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(ask(&[&clone.address]).await.0, 0);
    assert_eq!(ask(&[&format!("http://{}", clone.address)]).await.0, 0);
    assert_eq!(ask(&[&clone.address, "--service", "shoal.session.v1.SessionService"]).await.0, 0);

    // Whatever else it is, it says what was tried and what to look at.
    let output = clone.process.output();
    let (_, admin) = output.split_once("admin=").expect("it says its admin port");
    let admin = admin.split_whitespace().next().expect("an address");
    let nobody = format!("127.0.0.1:{}", free_port());
    for (arguments, said) in [
        (&[clone.address.as_str(), "--service", "shoal.nothing.v1.Nothing"][..], "SessionService"),
        (&[&nobody], "does it listen there"),
        (&[&format!("https://{}", clone.address)], "without a scheme"),
        (&[admin], "is an admin port"),
    ] {
        let (code, text) = ask(arguments).await;
        assert!(code == 2 && text.contains(said) && !text.contains("transport"), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_can_be_json() {
    let clone = Clone::start("session", &["--ephemeral", "--log-format", "json"]).await;
    let output = clone.process.output();
    let line = output.lines().find(|line| line.contains("serving")).expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "serving");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_warns_of_unintended_configuration() {
    const SOON: Duration = Duration::from_secs(20);
    let routes = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    std::fs::write(routes.path(), "").expect("written");
    let mut command = Command::new(shoal_binary());
    command
        .args(["serve", "gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env("SHOAL_GATEWAY__ROUTES", routes.path());
    let mut process = Process::spawn(command);
    process.printed("this gateway has no upstreams: give addresses of clones with --peer", SOON).await;
    drop(process);

    let route = |method: &str| {
        format!("[[route]]\nmethod = 'shoal.session.v1.SessionService/{method}'\nhedge = {{}}\n")
    };
    std::fs::write(routes.path(), route("CreateSession")).expect("written");
    let mut command = Command::new(shoal_binary());
    command
        .args(["serve", "gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--peer", "session=127.0.0.1:1"])
        .env("SHOAL_GATEWAY__ROUTES", routes.path());
    let mut process = Process::spawn(command);
    process.printed("gateway.routes, line 1: hedge has no effect", SOON).await;
    // The file is read once more when it begins to be followed: what was told is not told again.
    process.printed("routes read", SOON).await;
    std::fs::write(routes.path(), format!("# one more line\n{}", route("NoSuchMethod"))).expect("written");
    process.printed("gateway.routes, line 2: unreachable", SOON).await;
    let output = process.output();
    assert!(!output.contains("has no upstreams"), "{output}");
    assert_eq!(output.matches("hedge has no effect").count(), 1, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_clone_list_error_names_previous() {
    const SOON: Duration = Duration::from_secs(20);
    let dir = tempfile::tempdir().expect("a folder");
    let list = dir.path().join("session.targets");
    let mut command = Command::new(shoal_binary());
    command
        .args(["serve", "gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--peer", &format!("session=file:{}", list.display())]);
    let mut process = Process::spawn(command);
    process.printed("no target is known until it is valid", SOON).await;
    std::fs::write(&list, "127.0.0.1:1\n").expect("written");
    process.printed("targets read", SOON).await;
    std::fs::remove_file(&list).expect("removed");
    process.printed("the last valid list is kept", SOON).await;
}
