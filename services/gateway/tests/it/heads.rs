//! Heads: the part of a caller's head that reaches a clone, the part of a clone's that reaches a caller, and what is never sent
//! on.

use shoal_http2::hpack::{Decoder, Field};

use crate::harness::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, Wire, literal, request_block, response_block,
};
use crate::harness::mesh::Mesh;
use crate::harness::peer::{ok, peer};
use crate::harness::upstream::{SAFE, Upstream, as_session};

async fn mesh() -> (Upstream, Mesh) {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    (upstream, mesh)
}

/// The head of a call to an authority, or to none.
fn call_to(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", SAFE));
    for (name, value) in fields {
        block.extend(literal(name, value));
    }
    block.extend(literal("content-type", "application/grpc"));
    block
}

/// Sends a call and says how its stream ends: with HEADERS or a reset.
async fn ends(wire: &mut Wire, stream: u32, block: &[u8]) -> Frame {
    wire.send(HEADERS, END_HEADERS | END_STREAM, stream, block).await;
    let over = |frame: &Frame| {
        frame.stream == stream
            && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 && frame.kind != DATA)
    };
    wire.until(over).await.expect("an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn clone_gets_a_clean_authority() {
    let (upstream, mesh) = mesh().await;
    let own = upstream.address.to_string();
    let mut wire = Wire::connect(mesh.address).await;
    let rows: &[(&[(&str, &str)], &str)] = &[
        (&[(":authority", "mesh.test")], "mesh.test"),
        (&[(":authority", "my_service:80")], "my_service:80"),
        (&[(":authority", "[::1]:7000")], "[::1]:7000"),
        (&[(":authority", "UPPER.Case:443")], "UPPER.Case:443"),
        (&[(":authority", "mesh.test"), ("host", "MESH.test:80")], "mesh.test"),
        (&[("host", "by.host")], "by.host"),
        (&[(":authority", "a:1,b:2")], &own),
        (&[(":authority", "%2Fvar%2Frun%2Fx.sock")], &own),
        (&[(":authority", "")], &own),
        (&[], &own),
    ];
    for (row, (fields, expected)) in rows.iter().enumerate() {
        let end = ends(&mut wire, 2 * row as u32 + 1, &call_to(fields)).await;
        assert_eq!(end.kind, HEADERS, "{fields:?}");
        assert_eq!(upstream.calls(), row + 1, "{fields:?}");
        let head = upstream.head(row);
        assert_eq!(head.uri.authority().map(|authority| authority.as_str()), Some(*expected), "{fields:?}");
        assert!(!head.headers.contains_key("host"), "{fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_head_reaches_no_clone() {
    let (upstream, mesh) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    let rows: &[&[(&str, &str)]] = &[
        &[(":authority", "mesh.test"), ("x", " a")],
        &[(":authority", "mesh.test"), ("x", "a\t")],
        &[(":authority", "mesh.test"), ("host", "evil.test")],
        &[("host", "a"), ("host", "b")],
        &[(":authority", "user:secret@mesh.test")],
    ];
    for (row, fields) in rows.iter().enumerate() {
        let end = ends(&mut wire, 2 * row as u32 + 1, &call_to(fields)).await;
        assert_eq!((end.kind, end.payload[3]), (RST_STREAM, 1), "{fields:?}");
    }
    let end = ends(&mut wire, 99, &call_to(&[(":authority", "mesh.test")])).await;
    assert_eq!((end.kind, upstream.calls()), (HEADERS, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_reaches_no_caller() {
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let wrong: [&[u8]; 4] = [
        &literal(":status", "101"),
        &[response_block(), literal("connection", "close")].concat(),
        &[response_block(), literal("x", "a\nb")].concat(),
        &[response_block(), literal("content-length", "5")].concat(),
    ];
    for block in wrong {
        let (answer, ()) = tokio::join!(caller.call(SAFE, &[], b""), async {
            let stream = wire.whole_call().await.expect("a call");
            wire.send(HEADERS, END_HEADERS | END_STREAM, stream, block).await;
        });
        assert_eq!((answer.code(), answer.headers.get("connection")), (13, None), "{}", block.escape_ascii());
    }
    // White space at the end of a message of gRPC is what many servers send.
    let (answer, ()) = tokio::join!(caller.call(SAFE, &[], b""), async {
        let stream = wire.whole_call().await.expect("a call");
        let status = [literal("grpc-status", "5"), literal("grpc-message", "none such: ")].concat();
        wire.send(HEADERS, END_HEADERS | END_STREAM, stream, &[response_block(), status].concat()).await;
    });
    assert_eq!((answer.code(), &answer.headers["grpc-message"]), (5, &"none such:".parse().expect("ascii")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_head_has_no_content() {
    let (_upstream, mesh) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    let mut decoder = Decoder::new(4096);
    for (stream, method, path) in [(1, "HEAD", "/"), (3, "HEAD", SAFE), (5, "GET", "/"), (7, "GET", SAFE)] {
        let mut block = literal(":method", method);
        block.push(0x86);
        block.extend([literal(":path", path), literal(":authority", "mesh.test")].concat());
        wire.send(HEADERS, END_HEADERS | END_STREAM, stream, &block).await;
        let head =
            wire.until(|frame| frame.stream == stream && frame.kind == HEADERS).await.expect("an answer");
        assert_eq!(head.flags & END_STREAM != 0, method == "HEAD", "{method} {path}");
        let answered =
            wire.has_sent(|frame| frame.stream == stream && frame.kind == DATA && !frame.payload.is_empty());
        assert_eq!(answered.await, method != "HEAD", "{method} {path}");
        let fields = decoded(&mut decoder, &head);
        let length = fields.iter().find(|field| field.name.as_str() == "content-length");
        let length = length.and_then(|field| field.value.to_str().ok()?.parse().ok());
        assert!(length.is_some_and(|length: usize| length > 0), "{method} {path}: as GET would say");
    }
}

fn decoded(decoder: &mut Decoder, frame: &Frame) -> Vec<Field> {
    let mut fields = Vec::new();
    decoder.decode(&frame.payload, |field| fields.push(field)).expect("HPACK");
    fields
}

fn secrets(fields: &[Field]) -> Vec<&str> {
    // A trace's and a deadline's are marked so too, as they are of one call.
    let marked = fields.iter().filter(|field| field.value.is_sensitive()).map(|field| field.name.as_str());
    marked.filter(|name| !matches!(*name, "traceparent" | "grpc-timeout")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_never_indexed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let lines = format!("peer.session = '{address}'\ngateway.callers.header = 'x-api-key'");
    let mesh = Mesh::with_cores(1, &lines).await;
    let mut wire = Wire::accept(&listener, &[]).await;
    let mut decoder = Decoder::new(4096);
    for _health in 0..2 {
        let asked = wire.until(|frame| frame.kind == HEADERS).await.expect("a health question");
        decoded(&mut decoder, &asked);
        wire.status_only(asked.stream, 12).await;
    }
    let mut caller = Wire::connect(mesh.address).await;
    let mut answers = Decoder::new(4096);
    let names = ["cookie", "authorization", "proxy-authorization", "x-api-key"];
    for stream in [1, 3] {
        let mut block = request_block(SAFE);
        for name in names {
            block.extend(literal(name, "of somebody"));
        }
        caller.send(HEADERS, END_HEADERS | END_STREAM, stream, &block).await;
        let asked = wire.until(|frame| frame.kind == HEADERS).await.expect("a call");
        let mut found = decoded(&mut decoder, &asked);
        found.sort_by_key(|field| names.iter().position(|name| *name == field.name.as_str()));
        assert_eq!(secrets(&found), names);
        let mut block = response_block();
        for (name, value) in [("set-cookie", "a=b"), ("x-api-key", "of somebody"), ("grpc-status", "0")] {
            block.extend(literal(name, value));
        }
        wire.send(HEADERS, END_HEADERS | END_STREAM, asked.stream, &block).await;
        let answer = caller.until(|frame| frame.kind == HEADERS).await.expect("an answer");
        let mut found = decoded(&mut answers, &answer);
        found.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        assert_eq!(secrets(&found), ["set-cookie", "x-api-key"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_headers_pass() {
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let (answer, ()) = tokio::join!(caller.call(SAFE, &[], b""), async {
        let stream = wire.whole_call().await.expect("a call");
        wire.send(HEADERS, END_HEADERS, stream, &literal(":status", "103")).await;
        wire.answer(stream, b"ok").await;
    });
    ok(&answer, b"ok");
}
