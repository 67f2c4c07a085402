//! The limits an HTTP/2 peer sets, and sets anew while calls are under way: streams at once, and windows.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Barrier;
use tonic_types::StatusExt as _;

use crate::harness::caller::{Caller, answer, request};
use crate::harness::frames::{DATA, END_STREAM, Frame, HEADERS, Wire, literal, request_block};
use crate::harness::mesh::Mesh;
use crate::harness::peer::{ok, peer};
use crate::harness::upstream::{UNSAFE, Upstream, as_session, trailers};
use crate::harness::{eventually, within};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW: u16 = 4;

/// A service nobody has: the gateway's own answer says that it has taken the calls before this one.
const NOWHERE: &str = "/x.Y/Z";

#[tokio::test(flavor = "multi_thread")]
async fn upstream_stream_limit_is_obeyed() {
    for limit in 1..=5 {
        // Calls are answered in groups of that many: with fewer at once none is.
        let group = Arc::new(Barrier::new(limit));
        let streams = u32::try_from(limit).expect("few");
        let builder = h2::server::Builder::new().max_concurrent_streams(streams).clone();
        let upstream = Upstream::with(builder, move |call| {
            let group = group.clone();
            async move {
                group.wait().await;
                call.answer(b"ok").await;
            }
        })
        .await;
        let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
        mesh.ready("session", 1).await;
        let caller = mesh.caller().await;
        let calls = (0..60).map(|_| caller.call(UNSAFE, &[], b""));
        for answer in within("all calls", futures::future::join_all(calls)).await {
            ok(&answer, b"ok");
        }
        assert_eq!(upstream.calls(), 60, "none was refused and sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_calls_leave_streams_to_others() {
    let builder = h2::server::Builder::new().max_concurrent_streams(10).clone();
    let upstream = Upstream::with(builder, |call| call.answer(b"ok")).await;
    let configuration = format!("gateway.balance.connections = 1\n{}", as_session(&[&upstream]));
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 1).await;
    let (greedy, other) = (mesh.caller().await, mesh.caller().await);
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(greedy.begin(request(UNSAFE, &[]), false).await);
    }
    eventually("its share to be used up", || (upstream.calls() >= 7).then_some(())).await;
    for _ in 0..20 {
        ok(&other.call(UNSAFE, &[], b"").await, b"ok");
    }
    // Those that wait in vain are told within a second what they wait for, without a deadline of their own.
    let refused = async {
        let (response, _stream) = held.pop().expect("the last one");
        answer(response.await.expect("an answer")).await.expect("whole")
    };
    let refused = within("the refusal", refused).await;
    let info = refused.grpc().get_details_error_info().expect("ErrorInfo");
    assert_eq!((refused.code(), info.reason.as_str()), (8, "UPSTREAM_STREAMS"));
    let (allowed, held) = (&info.metadata["allowed"], &info.metadata["held"]);
    assert!(allowed == "10" && ["7", "8"].contains(&held.as_str()), "{held} of {allowed}");
    assert!(refused.grpc().message().contains("gateway.balance.connections"), "{:?}", refused.grpc());
    ok(&other.call(UNSAFE, &[], b"").await, b"ok");
}

/// Begins calls, and gives back once the gateway has them.
async fn begin(caller: &Arc<Caller>, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let calls = (0..count).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move { ok(&caller.call(UNSAFE, &[], b"").await, b"ok") })
    });
    let calls = calls.collect();
    tokio::task::yield_now().await;
    assert_eq!(caller.call(NOWHERE, &[], b"").await.code(), 12);
    calls
}

fn is_head(frame: &Frame) -> bool {
    frame.kind == HEADERS
}

#[tokio::test(flavor = "multi_thread")]
async fn lowered_stream_limit_holds_next() {
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let caller = Arc::new(caller);
    wire.settle(&[(MAX_CONCURRENT_STREAMS, 3)]).await;
    let mut calls = Vec::new();
    let mut open = Vec::new();
    for _ in 0..3 {
        calls.extend(begin(&caller, 1).await);
        open.push(wire.whole_call().await.expect("a call"));
    }
    wire.settle(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    calls.extend(begin(&caller, 2).await);
    assert!(!wire.has_sent(is_head).await, "a fourth stream while three are open");
    for stream in open.drain(..2) {
        wire.answer(stream, b"ok").await;
        assert!(!wire.has_sent(is_head).await, "a second stream while one is open");
    }
    // The first three end; then one at a time.
    wire.answer(open[0], b"ok").await;
    let fourth = wire.whole_call().await.expect("the fourth");
    assert!(!wire.has_sent(is_head).await, "a second stream while one is open");
    wire.answer(fourth, b"ok").await;
    let fifth = wire.whole_call().await.expect("the fifth");
    wire.answer(fifth, b"ok").await;
    for call in calls {
        within("the call", call).await.expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_allowed_streams() {
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let caller = Arc::new(caller);
    wire.settle(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    let calls = begin(&caller, 2).await;
    assert!(!wire.has_sent(is_head).await, "a stream while none is allowed");
    wire.settle(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    for _ in 0..2 {
        let stream = wire.whole_call().await.expect("a call");
        wire.answer(stream, b"ok").await;
    }
    for call in calls {
        within("the call", call).await.expect("answered");
    }
}

/// The bytes of the stream's next frames, until there are so many.
async fn take(wire: &mut Wire, stream: u32, bytes: usize) {
    let mut taken = 0;
    while taken < bytes {
        let frame = wire.until(|frame| frame.kind == DATA && frame.stream == stream).await.expect("open");
        taken += frame.payload.len();
        assert!(taken <= bytes, "{taken} bytes, allowed were {bytes}");
    }
}

/// The bytes that [`at_a_window_that_shrinks`] takes in all.
const TOTAL: usize = 30_000;

/// Takes a body at a window of 10 000 bytes that is lowered when it is used up, below nothing.
async fn at_a_window_that_shrinks(wire: &mut Wire, stream: u32) {
    let has_data = |frame: &Frame| frame.kind == DATA && frame.stream == stream && !frame.payload.is_empty();
    take(wire, stream, 10_000).await;
    assert!(!wire.has_sent(has_data).await, "past the window");
    wire.settle(&[(INITIAL_WINDOW, 1_000)]).await;
    // From 9 000 below nothing to nothing (RFC 9113 §6.9.2).
    wire.window(stream, 9_000).await;
    assert!(!wire.has_sent(has_data).await, "past a window below nothing");
    wire.window(stream, 500).await;
    take(wire, stream, 500).await;
    assert!(!wire.has_sent(has_data).await, "past the window");
    wire.window(stream, 30_000).await;
    take(wire, stream, TOTAL - 10_500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lowered_upstream_window_is_obeyed() {
    let (_listener, _mesh, mut wire, caller) = peer(&[(INITIAL_WINDOW, 10_000)]).await;
    let body = vec![5; TOTAL - 5];
    let script = async {
        let stream = wire.call().await.expect("a call");
        at_a_window_that_shrinks(&mut wire, stream).await;
        wire.answer(stream, b"whole").await;
        // Its answer opens the connection's window on the way; nothing more is sent.
        wire
    };
    let (answer, _wire) = tokio::join!(caller.call(UNSAFE, &[], &body), script);
    ok(&answer, b"whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn lowered_caller_window_is_obeyed() {
    let upstream = Upstream::start(|mut call| async move {
        let mut stream = call.begin();
        stream.send_data(Bytes::from(vec![5; TOTAL]), false).expect("open");
        stream.send_trailers(trailers(0)).expect("open");
    })
    .await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let mut wire = Wire::connect(mesh.address).await;
    wire.settle(&[]).await;
    wire.settle(&[(INITIAL_WINDOW, 10_000)]).await;
    wire.send(HEADERS, crate::harness::frames::END_HEADERS | END_STREAM, 1, &request_block(UNSAFE)).await;
    at_a_window_that_shrinks(&mut wire, 1).await;
    wire.until(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).await.expect("trailers");
}

#[tokio::test(flavor = "multi_thread")]
async fn smaller_header_table_is_obeyed() {
    const HEADER_TABLE_SIZE: u16 = 1;
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    for size in [4_096, 0, 256, 0] {
        wire.settle(&[(HEADER_TABLE_SIZE, size)]).await;
        let (answer, head) = tokio::join!(caller.call(UNSAFE, &[("x-size", "v")], b""), async {
            let head = wire.until(is_head).await.expect("a call");
            wire.until(|frame| frame.stream == head.stream && frame.flags & END_STREAM != 0).await;
            wire.answer(head.stream, b"ok").await;
            head
        });
        ok(&answer, b"ok");
        if size == 0 {
            // A block after a change begins by saying so: 001 and the new size (RFC 7541 §4.2, §6.3).
            assert_eq!(head.payload[0], 0x20, "{:x?}", &head.payload[..4]);
            // And from then on nothing may be added to the table: 01 would.
            assert!(!head.payload.contains(&literal_of_indexing()), "{:x?}", head.payload);
        }
    }
}

/// "Literal with incremental indexing, new name": what h2 writes for a header it has not seen.
fn literal_of_indexing() -> u8 {
    literal("", "")[0] | 0x40
}
