//! Upstreams that do what a library would not: GOAWAY of every kind, broken frames, answers that make no sense.

use std::time::{Duration, Instant};

use crate::harness::caller::request;
use crate::harness::frames::{
    END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, Wire, literal, request_block, response_block,
};
use crate::harness::mesh::Mesh;
use crate::harness::peer::{again, ok, peer};
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session};
use crate::harness::{eventually, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_goaway_between_calls_costs_nothing() {
    let (listener, _mesh, mut wire, caller) = peer(&[]).await;
    let (first, stream) = tokio::join!(caller.call(UNSAFE, &[], b"1"), async {
        let stream = wire.whole_call().await.expect("a call");
        wire.answer(stream, b"one").await;
        stream
    });
    ok(&first, b"one");
    wire.goaway(stream, 0).await;
    let (second, _wire) = tokio::join!(caller.call(UNSAFE, &[], b"2"), async {
        let mut wire = again(&listener).await;
        let stream = wire.whole_call().await.expect("a call");
        wire.answer(stream, b"two").await;
        wire
    });
    ok(&second, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn goaway_resends_calls_above_last_stream() {
    let (listener, _mesh, mut wire, caller) = peer(&[]).await;
    let caller = std::sync::Arc::new(caller);
    let call = |body: &'static [u8]| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call(UNSAFE, &[], body).await })
    };
    let below = call(b"1");
    let low = wire.whole_call().await.expect("a call");
    let above = call(b"2");
    let high = wire.whole_call().await.expect("a call");
    assert!(high > low);
    wire.goaway(low, 0).await;
    let mut next = again(&listener).await;
    let moved = next.whole_call().await.expect("the call above");
    next.answer(moved, b"moved").await;
    ok(&above.await.expect("no panic"), b"moved");
    // The old connection still has the call below.
    wire.answer(low, b"stayed").await;
    ok(&below.await.expect("no panic"), b"stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn unprocessed_calls_are_all_resent() {
    let (listener, _mesh, mut wire, caller) = peer(&[]).await;
    let caller = std::sync::Arc::new(caller);
    let mut calls = Vec::new();
    for _ in 0..5 {
        let caller = caller.clone();
        calls.push(tokio::spawn(async move { caller.call(UNSAFE, &[], b"1").await }));
        wire.whole_call().await.expect("a call");
    }
    // Below every call there was: they may be sent again although none is safe to repeat.
    wire.goaway(0, 0).await;
    let mut next = again(&listener).await;
    for _ in 0..5 {
        let head = next.until(|frame| frame.kind == HEADERS).await.expect("a call");
        next.status_only(head.stream, 0).await;
    }
    for call in calls {
        assert_eq!(call.await.expect("no panic").code(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calming_goaway_lets_calls_finish() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let script = async {
        let stream = wire.whole_call().await.expect("a call");
        wire.goaway(stream, ENHANCE_YOUR_CALM).await;
        wire.answer(stream, b"calmly").await;
        wire
    };
    let (answer, _wire) = tokio::join!(caller.call(UNSAFE, &[], b"1"), script);
    ok(&answer, b"calmly");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_goaways_of_draining_server() {
    let (listener, _mesh, mut wire, caller) = peer(&[]).await;
    let script = async {
        let stream = wire.whole_call().await.expect("a call");
        // First "no more", then, a moment later, the last stream that was taken.
        wire.goaway(0x7fff_ffff, 0).await;
        wire.goaway(stream, 0).await;
        wire.answer(stream, b"last").await;
        again(&listener).await
    };
    let (answer, mut next) = tokio::join!(caller.call(UNSAFE, &[], b"1"), script);
    ok(&answer, b"last");
    let (answer, ()) = tokio::join!(caller.call(UNSAFE, &[], b"2"), async {
        let stream = next.whole_call().await.expect("a call");
        next.answer(stream, b"next").await;
    });
    ok(&answer, b"next");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_call_is_repeated_if_safe() {
    for (path, repeated) in [(SAFE, true), (UNSAFE, false)] {
        let (listener, _mesh, mut wire, caller) = peer(&[]).await;
        let script = async {
            wire.whole_call().await.expect("a call");
            drop(wire);
            let mut next = again(&listener).await;
            if repeated {
                let stream = next.whole_call().await.expect("the call again");
                next.answer(stream, b"again").await;
            }
            next
        };
        let (answer, _next) = tokio::join!(caller.call(path, &[], b"1"), script);
        assert_eq!(answer.code(), if repeated { 0 } else { 14 }, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_answer_is_upstream_error() {
    let broken: [(&str, Vec<u8>); 2] = [
        ("no :status", literal("content-type", "application/grpc")),
        ("an upper case name", {
            let mut block = response_block();
            block.extend(literal("X-Upper", "1"));
            block
        }),
    ];
    for (what, block) in broken {
        let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
        let script = async {
            let stream = wire.whole_call().await.expect("a call");
            wire.send(HEADERS, END_HEADERS | END_STREAM, stream, &block).await;
            wire
        };
        let (answer, _wire) = tokio::join!(caller.call(UNSAFE, &[], b"1"), script);
        let status = answer.grpc();
        assert!(
            matches!(status.code(), tonic::Code::Internal | tonic::Code::Unavailable),
            "{what}: {status:?}"
        );
        assert!(status.message().contains("session"), "{what}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_are_obeyed() {
    // A window of nothing at first; then one that lets the request through.
    const INITIAL_WINDOW: u16 = 4;
    let (_listener, _mesh, mut wire, caller) = peer(&[(INITIAL_WINDOW, 0)]).await;
    let body = vec![5; 3_000];
    let script = async {
        let stream = wire.call().await.expect("a call");
        wire.settings(&[(INITIAL_WINDOW, 1_000)]).await;
        let mut read = 0;
        loop {
            let frame = within("a frame", wire.next()).await.expect("open");
            if frame.kind == crate::harness::frames::DATA && frame.stream == stream {
                read += frame.payload.len();
                if frame.flags & END_STREAM != 0 {
                    break;
                }
                assert!(read <= 3_005, "{read}");
                wire.settings(&[(INITIAL_WINDOW, 1_000 + u32::try_from(read).expect("short"))]).await;
            }
        }
        assert_eq!(read, 3_005);
        wire.answer(stream, b"whole").await;
        wire
    };
    let (answer, _wire) = tokio::join!(caller.call(UNSAFE, &[], &body), script);
    ok(&answer, b"whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_upstream_is_reconnected() {
    let (listener, _mesh, mut wire, caller) = peer(&[]).await;
    let script = async {
        wire.whole_call().await.expect("a call");
        // SETTINGS of five bytes: a connection error (RFC 9113 §6.5).
        wire.send(SETTINGS, 0, 0, &[0; 5]).await;
        let mut next = again(&listener).await;
        let stream = next.whole_call().await.expect("the call again");
        next.answer(stream, b"again").await;
        next
    };
    let (answer, _next) = tokio::join!(caller.call(SAFE, &[], b"1"), script);
    ok(&answer, b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_streams_are_reset_later() {
    // A server that reads both at once takes it for an attack, and ends the connection of all callers.
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    // Given up by its caller, and by its deadline.
    for timeout in ["10S", "1m"] {
        let at = Instant::now();
        let (_response, mut stream) = caller.begin(request(SAFE, &[("grpc-timeout", timeout)]), true).await;
        let opened = wire.call().await.expect("a call");
        if timeout == "10S" {
            stream.send_reset(h2::Reason::CANCEL);
        }
        let reset = wire.until(|frame| frame.kind == RST_STREAM).await.expect("a reset");
        let took = at.elapsed();
        assert_eq!((reset.stream, &reset.payload[..]), (opened, &8u32.to_be_bytes()[..]));
        assert!(took >= Duration::from_millis(5), "{timeout}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_deadlines_keep_upstream_connections() {
    // On h2's defaults, which end a connection with twenty streams reset before they were looked at.
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = Upstream::start(move |call| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            call.answer(b"ok").await;
        }
    })
    .await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let (stays, hasty) = (mesh.caller().await, mesh.caller().await);
    let staying = stays.call(UNSAFE, &[], b"");
    let storm = async {
        eventually("the call that stays", || (upstream.calls() == 1).then_some(())).await;
        for _ in 0..10 {
            let calls = (0..100).map(|n| {
                let timeout = ["1n", "100u", "500u", "1m", "3m"][n % 5];
                let hasty = &hasty;
                async move { hasty.call(SAFE, &[("grpc-timeout", timeout)], b"").await }
            });
            let answers = futures::future::join_all(calls.collect::<Vec<_>>()).await;
            assert!(answers.iter().all(|answer| answer.code() == 4));
        }
        release.send(true).expect("watched");
    };
    let (answer, ()) = tokio::join!(staying, storm);
    ok(&answer, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn immediately_reset_call_is_not_forwarded() {
    let (_listener, mesh, mut wire, caller) = peer(&[]).await;
    let mut hasty = Wire::connect(mesh.address).await;
    hasty.send_and_reset(1, &request_block(SAFE)).await;
    // What the peer is sent first is the call that came later.
    let (answer, path) = tokio::join!(caller.call(UNSAFE, &[], b"1"), async {
        let stream = wire.whole_call().await.expect("a call");
        wire.answer(stream, b"ok").await;
        stream
    });
    ok(&answer, b"ok");
    // Streams 1 and 3 asked for health.
    assert_eq!(path, 5);
}
