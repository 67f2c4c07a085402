//! Clients that begin to say something and take their time to end it.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::caller::{answer, request};
use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, Wire, frame, request_block,
};
use crate::harness::mesh::Mesh;
use crate::harness::peer::ok;
use crate::harness::upstream::{SAFE, Upstream, as_session};
use crate::harness::within;

const TIMES: &str = "gateway.limits.header_time = '300ms'\ngateway.limits.frame_time = '300ms'";

async fn mesh(lines: &str) -> (Upstream, Mesh) {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::with_cores(1, &format!("{lines}\n{}", as_session(&[&upstream]))).await;
    mesh.ready("session", 1).await;
    (upstream, mesh)
}

/// Writes octet after octet until the other side ends the connection. Says how many it took.
async fn trickled(wire: &mut Wire, bytes: &[u8]) -> usize {
    const OCTET_EVERY: Duration = Duration::from_millis(50);
    for (n, octet) in bytes.iter().enumerate() {
        wire.bytes(&[*octet]).await;
        if tokio::time::timeout(OCTET_EVERY, wire.ended()).await == Ok(true) {
            return n;
        }
    }
    panic!("all {} octets were waited for", bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_frames_end_their_connection() {
    let (_upstream, mesh) = mesh(TIMES).await;
    let beside = mesh.caller().await;
    let block = request_block(SAFE);
    let continued: Vec<u8> = (0..20).flat_map(|_| frame(CONTINUATION, 0, 1, &[])).collect();
    for (what, first, rest) in [
        ("half a header block", frame(HEADERS, 0, 1, &block[..1]), continued),
        ("a frame of headers", Vec::new(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)),
        ("a ping", Vec::new(), frame(PING, 0, 0, &[0; 8]).repeat(3)),
        ("a body", frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, 0, 1, &[7; 100])),
    ] {
        let mut wire = Wire::connect(mesh.address).await;
        wire.settle(&[]).await;
        wire.bytes(&first).await;
        let taken = within(what, trickled(&mut wire, &rest)).await;
        eprintln!("{what}: {taken} octets of {}", rest.len());
    }
    ok(&beside.call(SAFE, &[], b"x").await, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_frames_may_be_slow() {
    let (_upstream, mesh) = mesh(TIMES).await;
    let mut wire = Wire::connect(mesh.address).await;
    wire.settle(&[]).await;
    wire.open(1, SAFE).await;
    let begun = Instant::now();
    // Each frame in two parts, for longer than any one of them may take.
    while begun.elapsed() < Duration::from_secs(1) {
        let data = frame(DATA, 0, 1, b"slow");
        for part in [&data[..6], &data[6..]] {
            wire.bytes(part).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    wire.send(DATA, END_STREAM, 1, b"").await;
    let end = wire.until(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).await;
    assert_eq!(end.expect("an answer").kind, HEADERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_request_is_ended() {
    let (upstream, mesh) = mesh("gateway.limits.request_time = '300ms'").await;
    let caller = mesh.caller().await;
    let (response, mut stream) = caller.begin(request(SAFE, &[]), false).await;
    stream.send_data("half".into(), false).expect("sent");
    let answer = answer(within("an answer", response).await.expect("an answer")).await.expect("whole");
    assert_eq!(answer.code(), 4);
    assert!(answer.grpc().message().contains("gateway.limits.request_time"), "{answer:?}");
    assert!(upstream.calls() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fragmented_preface_is_accepted() {
    let (_upstream, mesh) = mesh("").await;
    let mut socket = TcpStream::connect(mesh.address).await.expect("connected");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for octet in preface.iter().chain(&frame(crate::harness::frames::SETTINGS, 0, 0, &[])) {
        socket.write_all(&[*octet]).await.expect("written");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut head = [0; 9];
    within("SETTINGS", socket.read_exact(&mut head)).await.expect("SETTINGS");
    assert_eq!(head[3], crate::harness::frames::SETTINGS);
}
