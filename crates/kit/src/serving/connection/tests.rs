//! Clients that leave, are silent, or send too much, at a connection over a socket in memory.

use std::convert::Infallible;

use http_body_util::BodyExt as _;
use shoal_http2::{ClientConnection, SendRequest, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tonic::server::NamedService;

use super::*;
use crate::role::Role;
use crate::serving::routes::{Answer, RequestBody, Routes};
use crate::telemetry::metrics::Methods;

/// A service that reports each request's body and its end, and answers when the body has ended.
#[derive(Clone)]
struct Reported(mpsc::UnboundedSender<String>);

impl NamedService for Reported {
    const NAME: &'static str = "test.Reported";
}

/// Reports when the handler is dropped.
struct Dropped(mpsc::UnboundedSender<String>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped".to_owned());
    }
}

impl tower::Service<Request<RequestBody>> for Reported {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Answer {
        let reports = self.0.clone();
        Box::pin(async move {
            let _dropped = Dropped(reports.clone());
            let _ = reports.send("begun".to_owned());
            let collected = request.into_body().collect().await;
            let _ = reports.send(match collected {
                Ok(body) => format!("{} bytes", body.to_bytes().len()),
                Err(error) => error.to_string(),
            });
            Ok(Status::aborted("as said").into_http())
        })
    }
}

/// PINGs that a test can wait for.
const FAST: Keepalive = Keepalive { interval: Duration::from_millis(20), within: Duration::from_millis(200) };

/// Serves a connection. Returns the client's end of it, the reports, and what begins the drain.
fn served() -> (DuplexStream, mpsc::UnboundedReceiver<String>, CancellationToken) {
    let (reports, reported) = mpsc::unbounded_channel();
    let mut routes = Routes::default();
    routes.add(Reported(reports), 1 << 20);
    let rpc = Rpc {
        role: Role::Session,
        methods: Methods::new("session", "clone", &[Reported::NAME], Vec::new()),
        clone: "clone".to_owned(),
        routes,
        draining: CancellationToken::new(),
        memory: crate::Memory::default(),
    };
    let (near, far) = duplex(1 << 20);
    let drain = CancellationToken::new();
    let peer = ([127, 0, 0, 1], 1).into();
    tokio::spawn(serve_with(FAST, far, peer, Arc::new(rpc), drain.clone()));
    (near, reported, drain)
}

fn client(near: DuplexStream) -> (SendRequest, tokio::task::JoinHandle<Result<(), Error>>) {
    let (requests, _, connection): (_, _, ClientConnection<_>) = connect(near, Config::default());
    (requests, tokio::spawn(connection))
}

fn request() -> Request<()> {
    Request::post("http://clone.test/test.Reported/Call").body(()).expect("valid")
}

#[tokio::test]
async fn reset_call_drops_its_handler() {
    let (near, mut reported, _drain) = served();
    let (requests, _connection) = client(near);
    let (_response, mut body) = requests.send_request(&request(), false).expect("taken");
    assert_eq!(reported.recv().await.as_deref(), Some("begun"));
    body.send_reset(Reason::CANCEL);
    let mut last = String::new();
    while last != "dropped" {
        last = reported.recv().await.expect("the handler ends");
    }
}

#[tokio::test]
async fn draining_connection_serves_calls_to_end() {
    let (near, mut reported, drain) = served();
    let (requests, connection) = client(near);
    let (response, mut body) = requests.send_request(&request(), false).expect("taken");
    assert_eq!(reported.recv().await.as_deref(), Some("begun"));
    drain.cancel();
    body.send(Bytes::from_static(b"\0\0\0\0\x01x"), true).await.expect("open");
    let response = response.await.expect("answered");
    assert_eq!(response.headers()["grpc-status"], "10");
    drop((response, body, requests));
    connection.await.expect("no panic").expect("a good end");
}

#[tokio::test]
async fn silent_client_is_cut_off() {
    let (mut near, _reported, _drain) = served();
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("room");
    let mut all = Vec::new();
    near.read_to_end(&mut all).await.expect("an end");
    assert!(all.ends_with(b"alive???"), "it was asked");
}

#[tokio::test]
async fn answered_pings_keep_connection_open() {
    let (near, mut reported, _drain) = served();
    let (requests, connection) = client(near);
    // Longer than a client that answers nothing has.
    sleep(2 * (FAST.interval + FAST.within)).await;
    let (response, _body) = requests.send_request(&request(), true).expect("taken");
    assert_eq!(reported.recv().await.as_deref(), Some("begun"));
    response.await.expect("answered");
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn unfinished_handshake_is_cut_off() {
    let (mut near, _reported, _drain) = served();
    near.write_all(b"PRI * HTTP/2.0\r\n").await.expect("room");
    let mut all = Vec::new();
    near.read_to_end(&mut all).await.expect("an end");
}
