//! Calls over a connection: whom they reach, and what they share.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::future::join_all;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

use super::*;
use crate::role::Role;
use crate::serving::routes::{Answer, RequestBody};
use crate::serving::service::Background;

/// Health's messages, whatever the method.
async fn call(channel: &Channel, path: &'static str) -> Result<HealthCheckResponse, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("connects");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    client
        .unary(Request::new(HealthCheckRequest::default()), path, codec)
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn unknown_services_and_methods_are_named() {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let channel = Endpoint::from_shared(address).expect("an address").connect_lazy();
    let descriptors = tonic_health::pb::FILE_DESCRIPTOR_SET;
    let service = Service::new(Role::Session, "clone", descriptors, Background::default());
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(service, listener, Drain::default(), shutdown.clone()));

    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
    assert_eq!(call(&channel, "/grpc.health.v1.Health/Check").await.expect("here").status(), serving);
    for (path, reason) in [
        ("/grpc.health.v1.Health/Nonsense", "UNKNOWN_METHOD"),
        ("/grpc.health.v1.Health/", "UNKNOWN_METHOD"),
        ("/grpc.health.v1.Healthy/Check", "UNKNOWN_SERVICE"),
        ("/more/grpc.health.v1.Health/Check", "UNKNOWN_SERVICE"),
        ("/", "UNKNOWN_SERVICE"),
    ] {
        let status = call(&channel, path).await.expect_err(path);
        let info = status.get_details_error_info().expect("ErrorInfo");
        assert_eq!((status.code(), info.reason.as_str()), (Code::Unimplemented, reason), "{path}");
    }
    shutdown.cancel();
    served.await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn what_the_caller_malformed_is_its_own_fault() {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let channel = Endpoint::from_shared(address).expect("an address").connect_lazy();
    let descriptors = tonic_health::pb::FILE_DESCRIPTOR_SET;
    let service = Service::new(Role::Session, "clone", descriptors, Background::default());
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(service, listener, Drain::default(), shutdown.clone()));
    let invalid = (Code::InvalidArgument, "INVALID_MESSAGE", false);
    for (body, encoding, expected) in [
        (&b"\x07\0\0\0\0"[..], None, invalid),
        (b"\x01\0\0\0\x01a", None, (Code::Internal, "INVALID_MESSAGE", true)),
        (b"\0\0\0\0\x09ab", None, invalid),
        (b"\0\0", None, invalid),
        (b"", None, invalid),
        (b"\0\0\0\0\x03\xff\xff\xff", None, invalid),
        (b"\0\xff\xff\xff\xff", None, (Code::ResourceExhausted, "MESSAGE_TOO_LARGE", true)),
        (b"\0\0\0\0\0", Some("br"), (Code::Unimplemented, "UNSUPPORTED_ENCODING", false)),
    ] {
        let mut request = http::Request::post("/grpc.health.v1.Health/Check");
        request = request.header("content-type", "application/grpc").header("te", "trailers");
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        let full = http_body_util::Full::new(bytes::Bytes::from_static(body));
        let request = request.body(Body::new(full)).expect("valid");
        let mut channel = channel.clone();
        std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await.expect("connects");
        let response = tower::Service::call(&mut channel, request).await.expect("answered");
        let headers = response.headers();
        let status = Status::from_header_map(headers).expect("a status");
        let reason = status.get_details_error_info().expect("ErrorInfo").reason;
        let fault_of = headers.contains_key("shoal-fault-of");
        assert_eq!((status.code(), reason.as_str(), fault_of), expected, "{body:?}");
        assert_eq!(headers.contains_key("grpc-accept-encoding"), encoding.is_some(), "{body:?}");
    }
    shutdown.cancel();
    served.await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn headers_a_gateway_accepts_are_accepted() {
    const OF_GATEWAY: usize = 64 << 10;
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let channel = Endpoint::from_shared(address).expect("an address").connect_lazy();
    let descriptors = tonic_health::pb::FILE_DESCRIPTOR_SET;
    let service = Service::new(Role::Session, "clone", descriptors, Background::default());
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(service, listener, Drain::default(), shutdown.clone()));
    for (bytes, expected) in [(OF_GATEWAY, 200), (OF_GATEWAY + 2_000, 200), (OF_GATEWAY + 8_000, 431)] {
        let request = http::Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-pad", "a".repeat(bytes));
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"\0\0\0\0\0"));
        let request = request.body(Body::new(body)).expect("valid");
        let mut channel = channel.clone();
        std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await.expect("connects");
        let response = tower::Service::call(&mut channel, request).await.expect("answered");
        assert_eq!(response.status().as_u16(), expected, "{bytes} bytes");
    }
    shutdown.cancel();
    served.await.expect("no panic").expect("drained");
}

/// Answers all its calls once it is let.
#[derive(Clone)]
struct Held {
    calls: watch::Sender<usize>,
    let_go: watch::Receiver<bool>,
}

impl NamedService for Held {
    const NAME: &'static str = "test.Held";
}

impl tower::Service<http::Request<RequestBody>> for Held {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<RequestBody>) -> Answer {
        let Held { calls, mut let_go } = self.clone();
        Box::pin(async move {
            calls.send_modify(|calls| *calls += 1);
            let_go.wait_for(|let_go| *let_go).await.expect("held by the test");
            Ok(Status::permission_denied("as said").into_http())
        })
    }
}

/// Counts what would be system calls.
struct Counted {
    inner: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Runs on one worker, so that no other one takes the task that is to run next.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ready_answers_are_written_together() {
    const CALLS: usize = 50;
    let (calls, (let_go, held)) = (watch::channel(0).0, watch::channel(false));
    let mut arrived = calls.subscribe();
    let mut routes = Routes::default();
    routes.add(Held { calls, let_go: held }, SMALL_MESSAGE_BYTES_MAX);
    let rpc = Rpc {
        role: Role::Session,
        methods: Methods::new("session", "clone", &[Held::NAME], Vec::new()),
        clone: "clone".to_owned(),
        routes,
        draining: CancellationToken::new(),
        memory: crate::Memory::default(),
    };
    let (near, far) = tokio::io::duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let server = Counted { inner: far, writes: Arc::clone(&writes) };
    let served = tokio::spawn(connection::serve(
        server,
        ([127, 0, 0, 1], 1).into(),
        Arc::new(rpc),
        CancellationToken::new(),
    ));
    let mut near = Some(near);
    let connector = tower::service_fn(move |_| {
        let near = near.take().ok_or(std::io::ErrorKind::NotConnected);
        async move { near.map(TokioIo::new).map_err(std::io::Error::from) }
    });
    let channel =
        Endpoint::from_static("http://test").connect_with_connector(connector).await.expect("connected");

    let answers: Vec<_> = (0..CALLS)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { call(&channel, "/test.Held/Call").await })
        })
        .collect();
    arrived.wait_for(|calls| *calls == CALLS).await.expect("held by the server");
    let before = writes.load(Ordering::Relaxed);
    // Where the calls run, so that all are ready before any other worker sees one.
    tokio::spawn(async move { let_go.send_replace(true) }).await.expect("no panic");
    for answer in join_all(answers).await {
        assert_eq!(answer.expect("no panic").expect_err("as said").code(), Code::PermissionDenied);
    }
    let writes = writes.load(Ordering::Relaxed) - before;
    assert!(writes < CALLS / 4, "{writes} writes of {CALLS} answers");
    drop(channel);
    served.await.expect("no panic");
}
