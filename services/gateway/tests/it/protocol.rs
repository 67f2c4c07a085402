//! Requests that are no gRPC calls get an answer that their sender can read, and harm nobody.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_types::StatusExt as _;

use crate::harness::caller::{Caller, answer, request};
use crate::harness::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Wire, literal, request_block,
};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, Upstream, as_session, payload};
use crate::harness::within;

async fn mesh() -> (Upstream, Mesh) {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    (upstream, mesh)
}

async fn still_serves(mesh: &Mesh) {
    let answer = mesh.caller().await.call(SAFE, &[], b"").await;
    assert_eq!((payload(&answer), answer.code()), (&b"ok"[..], 0));
}

async fn raw(mesh: &Mesh, bytes: &[u8]) -> String {
    ended(mesh, bytes).await.0
}

/// Returns what is answered to these bytes, and how the connection then ends.
async fn ended(mesh: &Mesh, bytes: &[u8]) -> (String, std::io::Result<usize>) {
    let mut socket = TcpStream::connect(mesh.address).await.expect("connected");
    socket.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let end = within("the end of the connection", socket.read_to_end(&mut answer)).await;
    (String::from_utf8_lossy(&answer).into_owned(), end)
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_request_gets_readable_refusal() {
    let (_upstream, mesh) = mesh().await;
    let answer = raw(&mesh, b"GET / HTTP/1.1\r\nhost: mesh.test\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("gRPC"), "{answer}");
    still_serves(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_its_own_connection_only() {
    let (_upstream, mesh) = mesh().await;
    let caller = mesh.caller().await;
    // Closed in order: a reset would read as a crash. A TLS greeting is told by an alert that this failed.
    for (greeting, expected) in [
        (&[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], "\u{15}\u{3}\u{1}\0\u{2}\u{2}("),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
    ] {
        let (answer, end) = ended(&mesh, greeting).await;
        assert!(answer == expected && end.is_ok(), "{answer} {end:?}");
    }
    // A preface and then garbage: h2's own GOAWAY, which names the error.
    let mut garbage = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    garbage.extend([0xff; 64]);
    raw(&mesh, &garbage).await;
    assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    still_serves(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_root_describes_the_port() {
    let (_upstream, mesh) = mesh().await;
    let caller = mesh.caller().await;
    let get = |path: &str| http::Request::get(format!("http://mesh.test{path}")).body(()).expect("valid");
    for (path, status) in [("/", 200), ("/shoal.session.v1.SessionService/GetSession", 405)] {
        let (response, _) = caller.begin(get(path), true).await;
        let answer = answer(response.await.expect("an answer")).await.expect("whole");
        assert_eq!(answer.status, status, "{path}");
        assert!(String::from_utf8_lossy(&answer.data).contains("gRPC"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn non_grpc_post_gets_415() {
    let (upstream, mesh) = mesh().await;
    let caller = mesh.caller().await;
    let mut post = request(SAFE, &[]);
    post.headers_mut().insert("content-type", "application/json".parse().expect("ascii"));
    let (response, mut stream) = caller.begin(post, false).await;
    // Refused by its head, maybe before this.
    let _ = stream.send_data("{}".into(), true);
    let answer = answer(response.await.expect("an answer")).await.expect("whole");
    assert_eq!(answer.status, 415);
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn non_calls_are_answered_in_time() {
    let (_upstream, mesh) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    let get = |length: &str| {
        // :method GET, :scheme http and :path / are in the static table.
        let mut block = vec![0x82, 0x86, 0x84];
        block.extend(literal(":authority", "mesh.test"));
        block.extend(literal("content-length", length));
        block
    };
    // A body that is not as long as it says: no answer, but a reset.
    wire.send(HEADERS, END_HEADERS, 1, &get("3")).await;
    wire.send(DATA, END_STREAM, 1, b"four").await;
    assert_eq!(wire.until(|frame| frame.stream == 1).await.expect("an end").kind, RST_STREAM);
    // One that has not ended is answered all the same, late.
    let begun = Instant::now();
    wire.send(HEADERS, END_HEADERS, 3, &get("4")).await;
    assert_eq!(wire.until(|frame| frame.stream == 3).await.expect("an answer").kind, HEADERS);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_service_names_known_ones() {
    let (_upstream, mesh) = mesh().await;
    let answer = mesh.caller().await.call("/acme.Nothing/Do", &[], b"").await;
    let status = answer.grpc();
    assert_eq!((answer.status.as_u16(), status.code()), (200, tonic::Code::Unimplemented));
    assert_eq!(answer.headers["content-type"], "application/grpc");
    for part in ["acme.Nothing", "shoal.session.v1.SessionService", "shoal.gateway.v1.GatewayService"] {
        assert!(status.message().contains(part), "{part}: {}", status.message());
    }
    assert_eq!(status.get_details_error_info().expect("ErrorInfo").reason, "UNKNOWN_SERVICE");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_paths_and_timeouts_are_refused() {
    let (upstream, mesh) = mesh().await;
    let caller = mesh.caller().await;
    for path in ["/", "/x", "//x", "/x/", "/a/b/c"] {
        assert_eq!(caller.call(path, &[], b"").await.code(), 12, "{path}");
    }
    for timeout in ["", "1", "S", "123456789S", "-1S", "1.5S"] {
        let answer = caller.call(SAFE, &[("grpc-timeout", timeout)], b"").await;
        assert_eq!(answer.grpc().get_details_error_info().expect("ErrorInfo").reason, "INVALID_TIMEOUT");
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clone_fails_within_a_second() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    upstream.kill().await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let begun = Instant::now();
    let answer = mesh.caller().await.call(SAFE, &[], b"").await;
    let took = begun.elapsed();
    let status = answer.grpc();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!((0.9..1.5).contains(&took.as_secs_f64()), "{took:?}");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!((info.reason.as_str(), info.metadata["upstream"].as_str()), ("NO_ENDPOINT", "session"));
    assert_eq!(info.metadata["attempts"], "0");
    assert!(status.message().contains(&upstream.address.to_string()), "{}", status.message());
    assert!(status.message().contains("refused"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn call_waits_for_starting_clone() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    upstream.kill().await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (answer, ()) = tokio::join!(caller.call(SAFE, &[], b""), upstream.revive());
    assert_eq!(answer.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bomb_is_refused() {
    let (_upstream, mesh) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    // 100 KiB of headers in one block: past the 64 KiB that SETTINGS allow.
    let mut block = request_block(SAFE);
    for n in 0..10 {
        block.extend(literal(&format!("x-{n}"), &"v".repeat(10_000)));
    }
    let (first, rest) = block.split_at(16_000);
    wire.send(HEADERS, END_STREAM, 1, first).await;
    let mut pieces = rest.chunks(16_000).peekable();
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        wire.send(crate::harness::frames::CONTINUATION, last, 1, piece).await;
    }
    let end = wire.until(|frame| frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM)).await;
    if let Some(end) = end {
        // 431 by h2, or a reset: never a call.
        assert!(end.kind == RST_STREAM || end.payload != [0x88], "{end:?}");
    }
    still_serves(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuation_flood_ends_its_connection() {
    let (_upstream, mesh) = mesh().await;
    let mut wire = Wire::connect(mesh.address).await;
    wire.send(HEADERS, END_STREAM, 1, &request_block(SAFE)).await;
    for _ in 0..100_000 {
        wire.send(crate::harness::frames::CONTINUATION, 0, 1, &literal("x", "y")).await;
    }
    assert!(wire.until(|_| false).await.is_none(), "the connection is ended");
    still_serves(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_frames_make_one_request() {
    let upstream = Upstream::start(|mut call| async move {
        let body = call.body().await.expect("a body");
        call.answer(body.len().to_string().as_bytes()).await;
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (response, mut stream) = caller.begin(request(SAFE, &[]), false).await;
    for _ in 0..1_000 {
        stream.send_data("x".into(), false).expect("open");
    }
    stream.send_data("".into(), true).expect("open");
    let answer = answer(within("the answer", response).await.expect("an answer")).await.expect("whole");
    assert_eq!(payload(&answer), b"1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_storm_breaks_no_stream() {
    // The upstream holds every call; a thousand callers vanish with theirs; the one that stays must get its answer.
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = Upstream::with(
        h2::server::Builder::new().max_pending_accept_reset_streams(4096).clone(),
        move |call| {
            let mut released = released.clone();
            async move {
                let _ = released.wait_for(|released| *released).await;
                call.answer(b"ok").await;
            }
        },
    )
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let stays = mesh.caller().await;
    let staying = stays.call(SAFE, &[], b"");
    let storm = async {
        let mut callers = Vec::new();
        for _ in 0..20 {
            let caller = Caller::connect(mesh.address).await;
            let mut open = Vec::new();
            for _ in 0..50 {
                open.push(caller.begin(request(SAFE, &[]), true).await);
            }
            callers.push((caller, open));
        }
        crate::harness::eventually("every call at the upstream", || (upstream.calls() > 1_000).then_some(()))
            .await;
        for (caller, open) in callers {
            caller.drop_connection().await;
            drop(open);
        }
        release.send(true).expect("watched");
    };
    let (answer, ()) = tokio::join!(staying, storm);
    assert_eq!((answer.code(), payload(&answer)), (0, &b"ok"[..]));
    still_serves(&mesh).await;
    assert!(mesh.runs());
}
