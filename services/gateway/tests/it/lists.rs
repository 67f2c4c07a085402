//! Header lists above a limit: the caller is told which, and nobody else notices.

use tonic_types::StatusExt as _;

use crate::blame::failures;
use crate::harness::caller::Answer;
use crate::harness::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Wire, literal, request_block, response_block,
};
use crate::harness::mesh::Mesh;
use crate::harness::peer::{ok, peer};
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session, head, held, payload, trailers};

/// The reason and the limit's name of an answer that says RESOURCE_EXHAUSTED.
#[track_caller]
fn refused(answer: &Answer) -> (String, String) {
    let status = answer.grpc();
    assert_eq!(answer.code(), 8, "{status:?}");
    assert!(status.message().contains("header"), "{status:?}");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert!(status.message().contains(&info.metadata["limit"]), "{status:?}");
    (info.reason.clone(), info.metadata["limit"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn long_headers_keep_the_connection() {
    let (upstream, release) = held().await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = std::sync::Arc::new(mesh.caller().await);
    let other = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call(UNSAFE, &[], b"other").await }
    });
    for length in [66_000, 100_000, 300_000] {
        let long = "a".repeat(length);
        let answer = caller.call(UNSAFE, &[("x-pad", &long)], b"too long").await;
        assert_eq!(refused(&answer), ("HEADERS_TOO_LONG".into(), "header_bytes".into()));
    }
    let many: Vec<(String, &str)> = (0..120).map(|at| (format!("x-{at}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let answer = caller.call(UNSAFE, &many, b"too many").await;
    assert_eq!(refused(&answer), ("HEADERS_TOO_LONG".into(), "header_fields".into()));
    release.send_replace(true);
    ok(&other.await.expect("no panic"), b"ok");
    ok(&caller.call(UNSAFE, &[("x-pad", &"a".repeat(60_000))], b"long").await, b"ok");
    assert_eq!(upstream.calls(), 2, "what is refused is not sent on");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_headers_without_call_get_431() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let mut wire = Wire::connect(mesh.address).await;
    let long = literal("x", &"y".repeat(70_000));
    let get = [vec![0x82, 0x86, 0x84], literal(":authority", "mesh.test")].concat();
    for (stream, begin, status) in [(1, get, "431"), (3, request_block(SAFE), "200")] {
        let block = [begin, long.clone()].concat();
        let parts: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, part) in parts.iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let end = if at + 1 == parts.len() { END_HEADERS } else { 0 };
            wire.send(kind, end | END_STREAM, stream, part).await;
        }
        let answer = wire.until(|frame| frame.stream == stream).await.expect("an answer");
        let mut fields = Vec::new();
        let decoded = shoal_http2::hpack::Decoder::new(4_096).decode(&answer.payload, |field| {
            fields.push(field.value.to_str().unwrap_or_default().to_owned());
        });
        decoded.expect("HPACK");
        assert_eq!(fields[0], status, "{fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_above_announced_limit_stay() {
    const HEADER_LIST: u16 = 6;
    let (_listener, mesh, mut wire, caller) = peer(&[(HEADER_LIST, 2_000)]).await;
    let answer = caller.call(UNSAFE, &[("x-pad", &"a".repeat(3_000))], b"too long").await;
    let expected = ("HEADERS_TOO_LONG_FOR_UPSTREAM".into(), "SETTINGS_MAX_HEADER_LIST_SIZE".into());
    assert_eq!(refused(&answer), expected);
    let (answer, ()) = tokio::join!(caller.call(UNSAFE, &[], b"short"), async {
        let stream = wire.whole_call().await.expect("a call");
        wire.answer(stream, b"ok").await;
    });
    ok(&answer, b"ok");
    assert_eq!(failures(&mesh).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answer_fails_its_call_alone() {
    let (_listener, mesh, mut wire, caller) = peer(&[]).await;
    let caller = std::sync::Arc::new(caller);
    let call = || {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call(UNSAFE, &[], b"").await })
    };
    let other = call();
    let held = wire.whole_call().await.expect("a call");
    let long = literal("x-pad", &"a".repeat(100_000));
    let heads = [response_block(), long.clone()].concat();
    for (begun, block) in [(true, &long), (false, &heads), (true, &long)] {
        let failing = call();
        let stream = wire.whole_call().await.expect("a call");
        if begun {
            wire.send(HEADERS, END_HEADERS, stream, &response_block()).await;
        }
        let parts: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, part) in parts.iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let end = if at + 1 == parts.len() { END_HEADERS } else { 0 };
            wire.send(kind, end | END_STREAM, stream, part).await;
        }
        let answer = failing.await.expect("no panic");
        assert_eq!(refused(&answer), ("ANSWER_HEADERS_TOO_LONG".into(), "answer_header_bytes".into()));
        assert!(!answer.grpc().message().contains("protocol"), "{:?}", answer.grpc());
    }
    wire.answer(held, b"held").await;
    ok(&other.await.expect("no panic"), b"held");
    assert_eq!(failures(&mesh).await, (0, 0), "it is no failure of the endpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_limit_has_its_own_key() {
    let long = |mut call: crate::harness::upstream::Call| async move {
        let _ = call.body().await;
        let sent = call.respond.send_response(head(&[]), false);
        let mut trailers = trailers(9);
        trailers.insert("x-pad", "a".repeat(200_000).parse().expect("valid"));
        let _ = sent.expect("the caller is there").send_trailers(trailers);
    };
    let upstream = Upstream::start(long).await;
    let configuration = format!("gateway.limits.answer_header_bytes = 300000\n{}", as_session(&[&upstream]));
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 1).await;
    let mut builder = h2::client::Builder::new();
    builder.max_header_list_size(1 << 20);
    let caller = crate::harness::caller::Caller::connect_with(mesh.address, &builder).await;
    let answer = caller.call(UNSAFE, &[], b"").await;
    assert_eq!((answer.code(), payload(&answer)), (9, &b""[..]));
    assert_eq!(answer.trailers.expect("trailers")["x-pad"].len(), 200_000);
}
