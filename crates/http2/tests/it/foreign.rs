//! Our client with the server of h2, and our server with the client of h2.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use shoal_http2::{Config, RecvStream};
use tokio::io::{DuplexStream, duplex};

fn request() -> Request<()> {
    let request = Request::post("http://mesh/a.B/C").header("te", "trailers").header("x-id", "7");
    request.body(()).expect("valid")
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

/// Reads a body and its trailers to their end.
async fn read(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("no reset");
        all.extend_from_slice(&data);
        body.release(data.len());
    }
    (all, body.trailers().await.expect("no reset"))
}

/// Runs our server, which sends back what it is sent, and trailers.
async fn echo(socket: DuplexStream, config: Config) {
    let mut connection = shoal_http2::handshake(socket, config).await.expect("a handshake");
    while let Some(accepted) = poll_fn(|cx| connection.poll_accept(cx)).await {
        let (request, mut respond) = accepted.expect("a request");
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut response = Response::new(());
            *response.headers_mut() = head.headers;
            let mut send = respond.send_response(&response, false).expect("not reset");
            while let Some(data) = body.data().await {
                let data = data.expect("no reset");
                let len = data.len();
                send.send(data, false).await.expect("not reset");
                body.release(len);
            }
            send.send_trailers(trailers()).expect("not reset");
        });
    }
}

async fn h2_echo(socket: DuplexStream) {
    let mut connection = h2::server::handshake(socket).await.expect("a handshake");
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.expect("a request");
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut send = respond.send_response(Response::new(()), false).expect("not reset");
            while let Some(data) = body.data().await {
                let data = data.expect("no reset");
                let _ = body.flow_control().release_capacity(data.len());
                send.send_data(data, false).expect("not reset");
            }
            send.send_trailers(trailers()).expect("not reset");
        });
    }
}

/// Returns limits with small windows and buffers, so that every limit is reached.
fn tight() -> Config {
    Config { stream_window: 65_535, connection_window: 65_535, send_buffer: 10_000, ..Config::default() }
}

const BODY_BYTES: usize = 3_000_000;

#[tokio::test]
async fn h2_server_understands_our_client() {
    for config in [Config::default(), tight()] {
        let (near, far) = duplex(5_000);
        tokio::spawn(h2_echo(far));
        let (sender, mut pings, connection) = shoal_http2::connect(near, config);
        tokio::spawn(connection);
        pings.ping().await.expect("an answer");
        let calls = (0..20).map(|call: usize| {
            let sender = sender.clone();
            tokio::spawn(async move {
                let (response, mut send) = sender.send_request(&request(), false).expect("open");
                let body = Bytes::from(vec![call as u8; BODY_BYTES / 20 + call]);
                let sent = tokio::spawn({
                    let body = body.clone();
                    async move { send.send(body, true).await }
                });
                let response = response.await.expect("an answer");
                let (back, trailers) = read(response.into_body()).await;
                sent.await.expect("no panic").expect("all sent");
                assert!(back == body, "{} of {}", back.len(), body.len());
                assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic");
        }
    }
}

#[tokio::test]
async fn h2_client_understands_our_server() {
    for config in [Config::default(), tight()] {
        let (near, far) = duplex(5_000);
        tokio::spawn(echo(far, config));
        let (sender, connection) = h2::client::handshake(near).await.expect("a handshake");
        tokio::spawn(connection);
        let calls = (0..20).map(|call: usize| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let (response, mut send) = sender.send_request(request(), false).expect("open");
                let body = Bytes::from(vec![call as u8; BODY_BYTES / 20 + call]);
                send.send_data(body.clone(), true).expect("buffered");
                let response = response.await.expect("an answer");
                assert_eq!(response.headers()["x-id"], "7");
                let mut incoming = response.into_body();
                let mut back = Vec::new();
                while let Some(data) = incoming.data().await {
                    let data = data.expect("no reset");
                    let _ = incoming.flow_control().release_capacity(data.len());
                    back.extend_from_slice(&data);
                }
                assert!(back == body, "{} of {}", back.len(), body.len());
                let trailers = incoming.trailers().await.expect("no reset");
                assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic");
        }
    }
}

#[tokio::test]
async fn our_client_understands_our_server() {
    let (near, far) = duplex(5_000);
    tokio::spawn(echo(far, tight()));
    let (sender, _, connection) = shoal_http2::connect(near, tight());
    tokio::spawn(connection);
    for call in 0..200_usize {
        let (response, mut send) = sender.send_request(&request(), false).expect("open");
        let body = Bytes::from(vec![1; call * 50]);
        send.send(body.clone(), true).await.expect("room");
        let (back, trailers) = read(response.await.expect("an answer").into_body()).await;
        assert_eq!(back, body);
        assert!(trailers.is_some());
    }
}
