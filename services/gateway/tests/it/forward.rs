//! Calls of every shape pass through as they are.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, BinaryMetadataKey, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::harness::caller::{message, request};
use crate::harness::echo::{Codec, Echo, Payload};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session, end, payload, trailers};
use crate::harness::within;

const UNARY: PathAndQuery = PathAndQuery::from_static("/test.echo.v1.Echo/Unary");
const UPLOAD: PathAndQuery = PathAndQuery::from_static("/test.echo.v1.Echo/Upload");
const DOWNLOAD: PathAndQuery = PathAndQuery::from_static("/test.echo.v1.Echo/Download");
const CHAT: PathAndQuery = PathAndQuery::from_static("/test.echo.v1.Echo/Chat");

async fn mesh() -> (Echo, Mesh, Grpc<Channel>) {
    let echo = Echo::start(true).await;
    let mesh = Mesh::start(&format!(
        "[gateway.upstream.echo]\nendpoints = ['{}']\nservices = ['test.echo.v1.Echo']",
        echo.address
    ))
    .await;
    mesh.ready("echo", 1).await;
    let client = Grpc::new(mesh.channel().await).max_decoding_message_size(16 << 20);
    (echo, mesh, client)
}

fn of(data: impl Into<Bytes>) -> Payload {
    Payload { data: data.into(), count: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn unary_call_keeps_its_metadata() {
    let (_echo, _mesh, mut client) = mesh().await;
    client.ready().await.expect("ready");
    let mut call = Request::new(of("hello"));
    let key = AsciiMetadataKey::from_static("x-echo");
    call.metadata_mut().append(key.clone(), "one".parse().expect("ascii"));
    call.metadata_mut().append(key, "two".parse().expect("ascii"));
    let binary = MetadataValue::from_bytes(&[0, 255, 7]);
    call.metadata_mut().append_bin(BinaryMetadataKey::from_static("x-echo-bin"), binary.clone());
    let answer = client.unary(call, UNARY, Codec::default()).await.expect("answered");
    let values: Vec<_> = answer.metadata().get_all("x-echo").iter().collect();
    assert_eq!(values, ["one", "two"]);
    assert_eq!(answer.metadata().get_bin("x-echo-bin"), Some(&binary));
    assert_eq!(answer.into_inner(), of("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn error_keeps_message_and_metadata() {
    let (_echo, _mesh, mut client) = mesh().await;
    client.ready().await.expect("ready");
    let status = client.unary(Request::new(of("9")), UNARY, Codec::default()).await.expect_err("asked for");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "as asked: ü \n");
    assert_eq!(status.metadata().get("x-reason").map(|v| v.as_bytes()), Some(&b"asked"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stream_passes() {
    let (_echo, _mesh, mut client) = mesh().await;
    client.ready().await.expect("ready");
    let messages = tokio_stream::iter((0..200).map(|_| of(vec![1; 10_000])));
    let answer = client.client_streaming(Request::new(messages), UPLOAD, Codec::default()).await;
    assert_eq!(answer.expect("answered").into_inner(), Payload { data: "2000000".into(), count: 200 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stream_passes() {
    let (_echo, _mesh, mut client) = mesh().await;
    client.ready().await.expect("ready");
    let call = Request::new(Payload { data: vec![7; 5_000].into(), count: 1_000 });
    let answers =
        client.server_streaming(call, DOWNLOAD, Codec::default()).await.expect("answered").into_inner();
    let counts: Vec<u32> = answers.map(|answer| answer.expect("a message").count).collect().await;
    assert_eq!(counts, (0..1_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_stream_halves_stay_open() {
    let (_echo, _mesh, mut client) = mesh().await;
    client.ready().await.expect("ready");
    let (mut say, said) = futures::channel::mpsc::channel(1);
    let answers = client.streaming(Request::new(said), CHAT, Codec::default()).await.expect("answered");
    let mut answers = answers.into_inner();
    for n in 0..50 {
        say.send(Payload { data: Bytes::from(vec![3; n * 100]), count: n as u32 }).await.expect("open");
        let answer = within("an echo", answers.message()).await.expect("a message").expect("open");
        assert_eq!((answer.count, answer.data.len()), (n as u32, n * 100));
    }
    drop(say);
    assert_eq!(within("the end", answers.message()).await.expect("OK"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_both_ways() {
    let (_echo, _mesh, mut client) = mesh().await;
    client.ready().await.expect("ready");
    let large: Bytes = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<_>>().into();
    let call = Request::new(of(large.clone()));
    let answer = within("4 MiB", client.unary(call, UNARY, Codec::default())).await.expect("answered");
    assert!(answer.into_inner().data == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_trailers_pass_untouched() {
    let upstream = Upstream::start(|mut call| async move {
        call.body().await.expect("a body");
        let mut stream = call.respond.send_response(
            http::Response::builder()
                .header("content-type", "application/grpc+proto")
                .header("x-answer", "a")
                .header("x-answer", "b")
                .body(())
                .expect("valid"),
            false,
        );
        let stream = stream.as_mut().expect("the caller is there");
        stream.send_data(message(b"x"), false).expect("open");
        let mut trailers = trailers(0);
        trailers.insert("grpc-message", "fine%20%0a".parse().expect("ascii"));
        trailers.insert("x-cost-bin", "AAEC".parse().expect("ascii"));
        stream.send_trailers(trailers).expect("open");
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let headers = [
        ("user-agent", "caller/1"),
        ("x-request", "1"),
        ("x-bin", "zzz="),
        ("grpc-encoding", "gzip"),
        ("grpc-accept-encoding", "gzip"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let answer = mesh.caller().await.call(UNSAFE, &headers, b"y").await;
    let seen = upstream.head(0);
    assert_eq!(seen.method, http::Method::POST);
    assert_eq!(seen.uri.to_string(), format!("http://mesh.test{UNSAFE}"));
    for (name, value) in headers {
        assert_eq!(seen.headers[name], value);
    }
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers.len(), headers.len() + 2, "{:?}", seen.headers);
    assert_eq!(answer.headers["content-type"], "application/grpc+proto");
    assert_eq!(answer.headers.get_all("x-answer").iter().collect::<Vec<_>>(), ["a", "b"]);
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(
        (&trailers["grpc-message"], &trailers["x-cost-bin"]),
        (&"fine%20%0a".parse().expect("ascii"), &"AAEC".parse().expect("ascii"))
    );
    assert_eq!(trailers.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_only_answer_stays_one() {
    let upstream = Upstream::start(|call| call.refuse(5)).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let answer = mesh.caller().await.call(SAFE, &[], b"").await;
    assert_eq!((answer.code(), answer.trailers.is_none()), (5, true));
    assert_eq!(upstream.calls(), 1, "NOT_FOUND is an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn early_answer_is_not_lost() {
    let upstream = Upstream::start(|mut call| async move {
        // Answers at once and wants no more of the request.
        end(&mut call.respond, 8);
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (response, mut stream) = caller.begin(request(UNSAFE, &[]), false).await;
    let _ = stream.send_data(message(&[0; 1_000]), false);
    let response = within("the answer", response).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "8");
    assert!(caller.lives().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodiless_and_trailered_requests_pass() {
    let upstream = Upstream::start(|mut call| async move {
        let body = call.body().await.expect("a body");
        let trailers = call.request.body_mut().trailers().await.expect("ended");
        let said = trailers.map_or(String::new(), |trailers| format!("{:?}", trailers["x-end"]));
        call.answer(format!("{} {said}", body.len()).as_bytes()).await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (response, _stream) = caller.begin(request(UNSAFE, &[]), true).await;
    let response = within("the answer", response).await.expect("an answer");
    let answer = crate::harness::caller::answer(response).await.expect("whole");
    assert_eq!(payload(&answer), b"0 ");
    let (response, mut stream) = caller.begin(request(UNSAFE, &[]), false).await;
    stream.send_data(message(b"abc"), false).expect("open");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", "z".parse().expect("ascii"));
    stream.send_trailers(trailers).expect("open");
    let response = within("the answer", response).await.expect("an answer");
    let answer = crate::harness::caller::answer(response).await.expect("whole");
    assert_eq!(payload(&answer), b"8 \"z\"");
}
