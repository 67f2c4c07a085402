//! `--access-log`: a line for each call, at the gateway and at the clone, with nothing in it that is the caller's secret.

use std::time::Duration;

use serde_json::Value;
use shoal_proto::session::v1::GetSessionRequest;
use shoal_proto::session::v1::session_service_client::SessionServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::clone::Clone;
use crate::harness::eventually;
use crate::harness::process::Process;
use crate::harness::up::Up;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("connected")
}

fn named<T>(message: T, id: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().expect("ascii"));
    request
}

/// The access lines of a call, by its request id, in the order they were written.
fn lines(process: &Process, id: &str) -> Vec<Value> {
    let output = process.output();
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "shoal::access" && line["request_id"] == id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_its_access_line() {
    let flags = ["--ephemeral", "--clones", "1", "--access-log", "--log", "debug", "--log-format", "json"];
    let up = Up::start(&flags).await;
    let channel = channel(&up.gateway).await;

    let mut request = named(GetSessionRequest { token: "made-up-token".into(), no_touch: true }, "r-1");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-00").parse().expect("ascii"));
    metadata.insert("authorization", "Bearer made-up-secret".parse().expect("ascii"));
    let status =
        SessionServiceClient::new(channel.clone()).get_session(request).await.expect_err("no session");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let check = named(HealthCheckRequest::default(), "r-2");
    HealthClient::new(channel).check(check).await.expect("serving");

    let both = eventually("both lines", Duration::from_secs(10), async || {
        let lines = lines(&up.process, "r-1");
        (lines.len() >= 2 && self::lines(&up.process, "r-2").len() == 1).then_some(lines)
    })
    .await;
    assert_eq!(both.len(), 2, "one of the gateway and one of the clone: {both:?}");
    for line in &both {
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(line["method"], "shoal.session.v1.SessionService/GetSession", "{line}");
        assert_eq!(line["code"], "NOT_FOUND", "{line}");
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
        let duration = line["duration_ms"].as_str().and_then(|ms| ms.parse::<f64>().ok());
        assert!(duration.is_some_and(|ms| ms > 0.0), "{line}");
    }
    let of = |role: &str| both.iter().find(|line| line["role"] == role).expect("its line");
    let (gateway, session) = (of("gateway"), of("session"));
    assert_eq!((&gateway["upstream"], &gateway["attempts"]), (&"session".into(), &"1".into()), "{gateway}");
    assert_eq!(gateway["endpoint"], up.clones("session")[0].as_str(), "{gateway}");
    assert!(session["clone"].is_string() && session["endpoint"].is_null(), "{session}");
    let own = &lines(&up.process, "r-2")[0];
    assert_eq!((&own["role"], &own["code"]), (&"gateway".into(), &"OK".into()), "{own}");

    let output = up.process.output();
    assert!(!output.contains("made-up-"), "a secret was logged");
    let frames =
        |line: &&str| ["\"target\":\"h2", "\"target\":\"hyper"].iter().any(|target| line.contains(target));
    assert_eq!(output.lines().find(frames), None, "debug lines of single frames");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_access_line_unless_asked() {
    let mut clone = Clone::start("jobs", &["--ephemeral", "--log", "debug"]).await;
    let mut health = HealthClient::new(channel(&clone.address).await);
    health.check(named(HealthCheckRequest::default(), "r-3")).await.expect("serving");
    clone.process.signal("TERM");
    clone.process.ended(Duration::from_secs(20)).await;
    assert!(!clone.process.output().contains("shoal::access"), "{}", clone.process.output());
}
