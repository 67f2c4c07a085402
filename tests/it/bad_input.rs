//! Bad input: a clear error, and the process stays up.

use std::time::Duration;

use shoal_proto::cache::v1 as cache;
use shoal_proto::data::v1 as data;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::up::Up;

/// Asserts that the error has the code, one `ErrorInfo` of ours and, for a bad argument, the field.
fn check<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, code: Code) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), code, "{what}: {status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{what}: no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "shoal", "{what}");
    assert!(
        info.reason.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'),
        "{what}: {info:?}"
    );
    assert!(!status.message().is_empty(), "{what}");
    if code == Code::InvalidArgument {
        assert!(
            details.bad_request().is_some_and(|bad| !bad.field_violations.is_empty()),
            "{what}: {status:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_are_named() {
    let up = Up::start(&["--ephemeral"]).await;
    let channel = up.channel();
    let mut sessions = shoal_client::session(channel.clone());
    let create = |user: &str| session::CreateSessionRequest { user_id: user.into(), ..Default::default() };
    check("empty user", sessions.create_session(create("")).await, Code::InvalidArgument);
    check("long user", sessions.create_session(create(&"u".repeat(300))).await, Code::InvalidArgument);
    for token in ["", "x", "shoal_", "shoal_AAAA", &format!("shoal_{}", "A".repeat(76))] {
        let get = session::GetSessionRequest { token: token.into(), no_touch: false };
        let code = if token.is_empty() { Code::InvalidArgument } else { Code::NotFound };
        check(&format!("token `{token}`"), sessions.get_session(get).await, code);
    }
    check(
        "no target",
        sessions.revoke_session(session::RevokeSessionRequest::default()).await,
        Code::InvalidArgument,
    );

    let mut rows = shoal_client::data(channel.clone());
    for name in ["", "9a", "has space", "drop;table", &"x".repeat(100)] {
        let table = data::Table { name: name.into(), ..Default::default() };
        let request = data::CreateTableRequest { table: Some(table) };
        check(&format!("table `{name}`"), rows.create_table(request).await, Code::InvalidArgument);
    }
    let get = data::GetRequest { table: "missing".into(), partition_key: "p".into(), ..Default::default() };
    check("unknown table", rows.get(get).await, Code::NotFound);
    let query = data::QueryRequest {
        table: "missing".into(),
        partition_key: "p".into(),
        page_token: "garbage".into(),
        ..Default::default()
    };
    assert!(rows.query(query).await.is_err());

    let mut entries = shoal_client::cache(channel.clone());
    let get = cache::GetRequest { namespace: "a b".into(), key: "k".into(), ..Default::default() };
    check("namespace", entries.get(get).await, Code::InvalidArgument);
    let set = cache::SetRequest {
        namespace: "n".into(),
        key: "k".into(),
        value: vec![0; (1 << 20) + 1].into(),
        ..Default::default()
    };
    let over = entries.set(set).await.expect_err("over the limit");
    assert!(matches!(over.code(), Code::ResourceExhausted | Code::InvalidArgument), "{over:?}");

    let mut queue = shoal_client::jobs(channel.clone());
    let enqueue = jobs::EnqueueRequest { queue: "".into(), kind: "k".into(), ..Default::default() };
    check("empty queue", queue.enqueue(enqueue).await, Code::InvalidArgument);
    check("unknown job", queue.get_job(jobs::GetJobRequest { id: "nonsense".into() }).await, Code::NotFound);
    let fail = jobs::FailJobRequest { id: "nonsense".into(), fencing_token: 1, ..Default::default() };
    check("unknown job", shoal_client::worker(channel).fail_job(fail).await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_bytes_leave_every_port_serving() {
    let up = Up::start(&["--ephemeral"]).await;
    let mut addresses = vec![up.gateway.clone()];
    for role in ["session", "cache", "data", "jobs"] {
        addresses.extend(up.clones(role));
    }
    for address in &addresses {
        let answer = say(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 4") && text.contains("gRPC"), "{address}: {text}");
        let garbage: Vec<u8> = (0..4096).map(|_| fastrand::u8(..)).collect();
        say(address, &garbage).await;
        say(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
            .await;
        say(address, b"").await;
    }
    // A known method, a body that is no message.
    let mut raw = tonic::client::Grpc::new(up.channel());
    raw.ready().await.expect("ready");
    let path = http::uri::PathAndQuery::from_static("/shoal.session.v1.SessionService/GetSession");
    let codec = crate::harness::raw_codec::RawCodec;
    let answer = raw.unary(tonic::Request::new(vec![0xff; 32]), path, codec).await;
    check("garbage message", answer, Code::InvalidArgument);
    // Fields that nobody knows are passed over, as protobuf asks.
    let path = http::uri::PathAndQuery::from_static("/shoal.session.v1.SessionService/CreateSession");
    raw.ready().await.expect("ready");
    let unknown_field = [b"\x0a\x03ada".as_slice(), b"\x9a\x06\x02hi"].concat();
    raw.unary(tonic::Request::new(unknown_field), path, codec).await.expect("created");
    for address in &addresses {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = channel.connect().await.unwrap_or_else(|error| panic!("{address} is gone: {error}"));
        let request = tonic_health::pb::HealthCheckRequest::default();
        tonic_health::pb::health_client::HealthClient::new(channel)
            .check(request)
            .await
            .expect("still serving");
    }
}

/// Sends bytes. Returns the answer until the peer closes or is silent for a while.
async fn say(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut answer)).await;
    answer
}
