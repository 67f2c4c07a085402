//! Callers and upstreams that send too much of something: they are held up or cut off, and nobody else notices.

use std::time::Duration;

use tokio::time::timeout;

use crate::harness::caller::{Caller, message, request};
use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, Wire, frame,
    literal, request_block, response_block,
};
use crate::harness::mesh::Mesh;
use crate::harness::peer::{ok, peer};
use crate::harness::upstream::{SAFE, UNSAFE, Upstream, as_session};
use crate::harness::{eventually, within};

async fn mesh() -> (Upstream, Mesh, Caller) {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    (upstream, mesh, caller)
}

/// The most calls that a flood may have got through before it was cut off.
const CALLS_MAX: usize = 3_000;

/// The caller that was there before the flood goes on, and so do new ones.
async fn unharmed(mesh: &Mesh, caller: &Caller) {
    ok(&within("a call beside the flood", caller.call(SAFE, &[], b"")).await, b"ok");
    ok(&within("a call after the flood", mesh.caller().await.call(SAFE, &[], b"")).await, b"ok");
}

/// Writes the same bytes again and again without reading, until the other side takes no more. Says how many it took.
async fn unread(wire: &mut Wire, bytes: &[u8], bytes_max: usize) -> usize {
    /// Longer than a gateway that still reads takes for a socket buffer.
    const HELD_UP: Duration = Duration::from_secs(1);
    let mut taken = 0;
    while taken < bytes_max && timeout(HELD_UP, wire.bytes(bytes)).await.is_ok() {
        taken += bytes.len();
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_control_answers_are_bounded() {
    // Past what the socket buffers of both sides hold: the rest would be in the gateway's memory.
    const BYTES_MAX: usize = 64 << 20;
    let (_upstream, mesh, caller) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    let taken = unread(&mut wire, &frame(PING, 0, 0, &[0; 8]).repeat(4_096), BYTES_MAX).await;
    // Writes to a connection that was cut off go nowhere.
    assert!(taken < BYTES_MAX || wire.ended().await, "{taken}");
    unharmed(&mesh, &caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn useless_frames_are_cut_off() {
    let (_upstream, mesh, caller) = mesh().await;
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])] {
        let mut wire = Wire::connect(mesh.address).await;
        for _ in 0..100 {
            wire.bytes(&flood.repeat(500)).await;
            // Read, so that nothing holds the flood up.
            while timeout(Duration::from_millis(1), wire.next()).await.is_ok_and(|frame| frame.is_some()) {}
        }
        assert!(wire.ended().await);
        unharmed(&mesh, &caller).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moderate_control_frames_are_answered() {
    const PRIORITY: u8 = 2;
    const UNKNOWN: u8 = 0xfe;
    let (_upstream, mesh, _caller) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    for _ in 0..2_000 {
        wire.send(PING, 0, 0, &[1; 8]).await;
        wire.send(PRIORITY, 0, 9, &[0, 0, 0, 0, 15]).await;
        wire.send(UNKNOWN, 0, 0, b"what").await;
    }
    for _ in 0..90 {
        wire.settings(&[(4, 70_000)]).await;
    }
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(SAFE)).await;
    let end = wire.until(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).await;
    assert_eq!(end.expect("an answer").kind, HEADERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_reset_ends_only_its_connection() {
    let (upstream, mesh, caller) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    for n in 0..20_000u32 {
        wire.open(2 * n + 1, SAFE).await;
        wire.reset(2 * n + 1, 8).await;
    }
    assert!(wire.ended().await);
    assert!(upstream.calls() < CALLS_MAX, "{}", upstream.calls());
    unharmed(&mesh, &caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provoked_resets_are_counted_too() {
    // CVE-2025-8671, "MadeYouReset": a window opened by nothing is an error of its stream, so the server resets it.
    let (upstream, mesh, caller) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    for n in 0..20_000u32 {
        wire.open(2 * n + 1, SAFE).await;
        wire.window(2 * n + 1, 0).await;
    }
    assert!(wire.ended().await);
    assert!(upstream.calls() < CALLS_MAX, "{}", upstream.calls());
    unharmed(&mesh, &caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn excess_streams_are_refused() {
    const REFUSED_STREAM: u32 = 7;
    let upstream = Upstream::start(|call| async move {
        // Dropped, it would be reset.
        let _open = call;
        std::future::pending::<()>().await;
    })
    .await;
    let mesh =
        Mesh::with_cores(1, &format!("gateway.limits.streams = 10\n{}", as_session(&[&upstream]))).await;
    mesh.ready("session", 1).await;
    let mut wire = Wire::connect(mesh.address).await;
    for n in 0..11 {
        wire.open(2 * n + 1, SAFE).await;
    }
    let reset = wire.until(|frame| frame.kind == RST_STREAM).await.expect("a reset");
    assert_eq!((reset.stream, &reset.payload[..]), (21, &REFUSED_STREAM.to_be_bytes()[..]));
    eventually("the ten", || (upstream.calls() == 10).then_some(())).await;
}

/// HEADERS and as many CONTINUATIONs as the block needs.
async fn send_block(wire: &mut Wire, stream: u32, block: &[u8]) {
    let mut pieces = block.chunks(16_000).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let first = if kind == HEADERS { END_STREAM } else { 0 };
        wire.send(kind, first | last, stream, piece).await;
        kind = CONTINUATION;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expanding_header_is_never_a_call() {
    let (upstream, mesh, caller) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    let mut block = request_block(SAFE);
    // One header of 3 900 bytes into the table, then a byte for each time it is used: 58 MB.
    let mut once = literal("x-bomb", &"v".repeat(3_900));
    once[0] = 0x40;
    block.extend(once);
    block.extend([0x80 | 62; 15_000]);
    send_block(&mut wire, 1, &block).await;
    // 431, a reset or the end of the connection.
    if let Some(end) =
        wire.until(|frame| frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM)).await
    {
        assert!(end.kind == RST_STREAM || end.payload != [0x88], "{end:?}");
    }
    unharmed(&mesh, &caller).await;
    assert_eq!(upstream.calls(), 2, "those of the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_empty_frames_end_connection() {
    // CVE-2019-9518: they cost no window.
    let (_upstream, mesh, caller) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    wire.open(1, SAFE).await;
    for _ in 0..10_000 {
        wire.send(DATA, 0, 1, &[]).await;
    }
    assert!(wire.ended().await);
    unharmed(&mesh, &caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn untaken_small_frames_harm_nobody() {
    // The upstream reads no bodies, so they pile up: as bytes, up to the window of 1 MiB; as frames h2 would hold a
    // hundred bytes for each, or end the connection.
    let upstream = Upstream::start(|call| async move {
        if call.request.uri().path() == SAFE {
            return crate::harness::upstream::end(&mut { call }.respond, 0);
        }
        std::future::pending::<()>().await;
    })
    .await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let mut wire = Wire::connect(mesh.address).await;
    wire.open(1, UNSAFE).await;
    let frames = frame(DATA, 0, 1, b"x").repeat(1_000);
    for _ in 0..200 {
        wire.bytes(&frames).await;
        // No faster than they are looked at: who is faster may be ended.
        assert!(!wire.has_sent(|frame| frame.kind == RST_STREAM || frame.kind == GOAWAY).await);
    }
    assert_eq!(within("a call beside it", caller.call(SAFE, &[], b"")).await.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_answer_frames_arrive() {
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let whole = message(&[7; 995]);
    let script = async {
        let stream = wire.whole_call().await.expect("a call");
        wire.send(HEADERS, END_HEADERS, stream, &response_block()).await;
        for byte in &whole {
            wire.send(DATA, 0, stream, &[*byte]).await;
        }
        wire.send(HEADERS, END_HEADERS | END_STREAM, stream, &literal("grpc-status", "0")).await;
        wire
    };
    let (answer, _wire) = tokio::join!(caller.call(UNSAFE, &[], b""), script);
    ok(&answer, &[7; 995]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_small_messages_break_no_stream() {
    const INITIAL_WINDOW: u16 = 4;
    // Together with the frames below, more than h2 lets lie unread on a connection before it ends it for all.
    const SLOW: usize = 26;
    let (_listener, mesh, mut back, caller) = peer(&[]).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut front = Wire::connect(mesh.address).await;
        front.settle(&[]).await;
        front.settle(&[(INITIAL_WINDOW, 0)]).await;
        front.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block(SAFE)).await;
        let stream = back.call().await.expect("a call");
        back.send(HEADERS, END_HEADERS, stream, &response_block()).await;
        let small = frame(DATA, 0, stream, &[7; 10]).repeat(1_000);
        // Within the window that an answer has before any of it is taken.
        for _ in 0..6 {
            back.bytes(&small).await;
        }
        slow.push((front, stream));
    }
    let (answer, ()) = tokio::join!(caller.call(UNSAFE, &[], b""), async {
        let stream = back.whole_call().await.expect("the connection lives");
        back.answer(stream, b"ok").await;
    });
    ok(&answer, b"ok");
    // And once they read, nothing is missing.
    let (front, stream) = &mut slow[0];
    back.send(HEADERS, END_HEADERS | END_STREAM, *stream, &literal("grpc-status", "0")).await;
    front.window(0, 1 << 20).await;
    front.window(1, 1 << 20).await;
    let mut read = 0;
    loop {
        let frame = front.until(|frame| frame.stream == 1).await.expect("open");
        match frame.kind {
            DATA => read += frame.payload.len(),
            _ if frame.flags & END_STREAM != 0 => break,
            _ => {}
        }
    }
    assert_eq!(read, 60_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn flooding_upstream_loses_no_call() {
    let (_listener, _mesh, mut wire, caller) = peer(&[]).await;
    let script = async {
        let stream = wire.whole_call().await.expect("a call");
        for _ in 0..5_000 {
            wire.send(PING, 0, 0, &[2; 8]).await;
            wire.settings(&[(4, 70_000)]).await;
        }
        wire.answer(stream, b"ok").await;
        wire
    };
    let (answer, _wire) = tokio::join!(caller.call(UNSAFE, &[], b""), script);
    ok(&answer, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn vanishing_callers_harm_no_stream() {
    let builder = h2::server::Builder::new().max_pending_accept_reset_streams(4096).clone();
    let upstream = Upstream::with(builder, |mut call| async move {
        if call.request.uri().path() == SAFE {
            return call.answer(b"ok").await;
        }
        // An echo, message by message.
        let mut stream = call.begin();
        while let Some(Ok(chunk)) = call.request.body_mut().data().await {
            let _ = call.request.body_mut().flow_control().release_capacity(chunk.len());
            let _ = stream.send_data(chunk, false);
        }
        let _ = stream.send_trailers(crate::harness::upstream::trailers(0));
    })
    .await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let stays = mesh.caller().await;
    let (response, mut up) = stays.begin(request(UNSAFE, &[]), false).await;
    let mut down = within("its head", response).await.expect("begun").into_body();
    for wave in 0..10u8 {
        for _ in 0..10 {
            let caller = Caller::connect(mesh.address).await;
            let mut open = Vec::new();
            for _ in 0..20 {
                open.push(caller.begin(request(UNSAFE, &[]), false).await);
            }
            // With what was written of them, at whatever stage they are.
            caller.drop_connection().await;
            drop(open);
        }
        up.send_data(vec![wave].into(), false).expect("open");
        let said = within("the echo", down.data()).await.expect("open").expect("data");
        assert_eq!(said[..], [wave]);
        down.flow_control().release_capacity(1).expect("received");
    }
    unharmed(&mesh, &stays).await;
}
