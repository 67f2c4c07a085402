//! Frames that break a rule of RFC 9113 §4 to §6, one by one: the error that follows, and whether it is a stream's or the
//! connection's.

use shoal_http2::Config;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, frame, request_block, response_block,
};
use super::harness::{Client, Server};

/// A frame as it is sent (kind, flags, stream, payload), and what our side replies, which may be nothing.
type Row = (u8, u8, u32, &'static [u8], &'static str);

const NOTHING: &str = "";
const LARGEST: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

/// Frames for a server that has answered on stream 1, has stream 3 open, and has seen no stream above it.
const AT_A_SERVER: &[Row] = &[
    // DATA, §6.1
    (DATA, 0, 0, b"x", "GOAWAY 3 PROTOCOL_ERROR"),
    (DATA, 0, 5, b"x", "GOAWAY 3 PROTOCOL_ERROR"),
    (DATA, 0, 4, b"x", "GOAWAY 3 PROTOCOL_ERROR"),
    (DATA, 0, 1, b"x", "RST_STREAM 1 STREAM_CLOSED"),
    (DATA, PADDED, 3, b"\x00", NOTHING),
    (DATA, PADDED, 3, b"\x02ab", NOTHING),
    (DATA, PADDED, 3, b"\x03ab", "GOAWAY 3 PROTOCOL_ERROR"),
    (DATA, PADDED, 3, b"", "GOAWAY 3 FRAME_SIZE_ERROR"),
    (DATA, 0xf6, 3, b"x", NOTHING),
    // HEADERS, §6.2
    (HEADERS, END_HEADERS, 0, &[0x83, 0x86, 0x84], "GOAWAY 3 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS, 4, &[0x83, 0x86, 0x84], "GOAWAY 3 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS | END_STREAM, 1, &[0x83, 0x86, 0x84], "GOAWAY 3 STREAM_CLOSED"),
    (HEADERS, END_HEADERS | PADDED, 5, &[9, 0x83, 0x86], "GOAWAY 3 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS | PADDED, 5, &[], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (HEADERS, END_HEADERS | PADDED, 5, &[2, 0x83, 0x86, 0x84, 9, 9], NOTHING),
    (HEADERS, END_HEADERS | WITH_PRIORITY, 5, &[0, 0, 0, 0], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (HEADERS, END_HEADERS | WITH_PRIORITY, 5, &[0, 0, 0, 3, 16, 0x83, 0x86, 0x84], NOTHING),
    (
        HEADERS,
        END_HEADERS | WITH_PRIORITY,
        5,
        &[0, 0, 0, 5, 16, 0x83, 0x86, 0x84],
        "RST_STREAM 5 PROTOCOL_ERROR",
    ),
    (
        HEADERS,
        END_HEADERS | WITH_PRIORITY,
        5,
        &[0x80, 0, 0, 5, 16, 0x83, 0x86, 0x84],
        "RST_STREAM 5 PROTOCOL_ERROR",
    ),
    (HEADERS, END_HEADERS | WITH_PRIORITY | PADDED, 5, &[1, 0, 0, 0, 3, 16, 0x83, 0x86, 0x84, 0], NOTHING),
    (HEADERS, END_HEADERS | WITH_PRIORITY | PADDED, 5, &[2, 0, 0, 0, 3, 16, 0], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (HEADERS, END_HEADERS, 5, &[0x80], "GOAWAY 3 COMPRESSION_ERROR"),
    (HEADERS, END_HEADERS, 5, &[0xbe], "GOAWAY 3 COMPRESSION_ERROR"),
    (HEADERS, END_HEADERS, 5, &[0x3f, 0xff, 0xff, 0x7f], "GOAWAY 3 COMPRESSION_ERROR"),
    (HEADERS, END_HEADERS, 5, &[0x00, 5, b'a'], "GOAWAY 3 COMPRESSION_ERROR"),
    (HEADERS, END_HEADERS, 3, &[0xff], "GOAWAY 3 COMPRESSION_ERROR"),
    (HEADERS, END_HEADERS, 3, &[0x84], "RST_STREAM 3 PROTOCOL_ERROR"),
    // PRIORITY, §6.3
    (PRIORITY, 0, 0, &[0, 0, 0, 1, 16], "GOAWAY 3 PROTOCOL_ERROR"),
    (PRIORITY, 0, 3, &[0, 0, 0, 1], "RST_STREAM 3 FRAME_SIZE_ERROR"),
    (PRIORITY, 0, 3, &[0, 0, 0, 1, 16, 0], "RST_STREAM 3 FRAME_SIZE_ERROR"),
    (PRIORITY, 0, 3, &[0, 0, 0, 3, 16], "RST_STREAM 3 PROTOCOL_ERROR"),
    (PRIORITY, 0, 5, &[0, 0, 0, 1], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (PRIORITY, 0, 3, &[0, 0, 0, 1, 16], NOTHING),
    (PRIORITY, 0, 1, &[0, 0, 0, 3, 16], NOTHING),
    (PRIORITY, 0, 99, &[0, 0, 0, 3, 16], NOTHING),
    // RST_STREAM, §6.4
    (RST_STREAM, 0, 0, &[0, 0, 0, 8], "GOAWAY 3 PROTOCOL_ERROR"),
    (RST_STREAM, 0, 3, &[0, 0, 8], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (RST_STREAM, 0, 3, &[0, 0, 0, 8, 0], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (RST_STREAM, 0, 5, &[0, 0, 0, 8], "GOAWAY 3 PROTOCOL_ERROR"),
    (RST_STREAM, 0, 4, &[0, 0, 0, 8], "GOAWAY 3 PROTOCOL_ERROR"),
    (RST_STREAM, 0, 1, &[0, 0, 0, 8], NOTHING),
    (RST_STREAM, 0xff, 3, &[0xff, 0xff, 0xff, 0xff], NOTHING),
    // SETTINGS, §6.5
    (SETTINGS, 0, 3, &[], "GOAWAY 3 PROTOCOL_ERROR"),
    (SETTINGS, ACK, 0, &[0; 6], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (SETTINGS, 0, 0, &[0; 5], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (SETTINGS, 0, 0, &[0; 7], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2], "SETTINGS ACK, GOAWAY 3 PROTOCOL_ERROR"),
    (SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1], "SETTINGS ACK"),
    (SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0], "SETTINGS ACK, GOAWAY 3 FLOW_CONTROL_ERROR"),
    (SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff], "SETTINGS ACK"),
    (SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff], "SETTINGS ACK, GOAWAY 3 PROTOCOL_ERROR"),
    (SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0], "SETTINGS ACK, GOAWAY 3 PROTOCOL_ERROR"),
    (SETTINGS, 0, 0, &[0, 5, 0, 0xff, 0xff, 0xff], "SETTINGS ACK"),
    (SETTINGS, 0, 0, &[0x7a, 0x7a, 1, 2, 3, 4], "SETTINGS ACK"),
    (SETTINGS, ACK, 0, &[], "GOAWAY 3 PROTOCOL_ERROR"),
    // PUSH_PROMISE, §6.6
    (PUSH_PROMISE, END_HEADERS, 3, &[0, 0, 0, 2, 0x83], "GOAWAY 3 PROTOCOL_ERROR"),
    // PING, §6.7
    (PING, 0, 3, &[0; 8], "GOAWAY 3 PROTOCOL_ERROR"),
    (PING, 0, 0, &[0; 7], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (PING, ACK, 0, &[0; 9], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (PING, 0, 0, &[0; 8], "PING ACK"),
    (PING, ACK, 0, &[0; 8], NOTHING),
    // GOAWAY, §6.8
    (GOAWAY, 0, 3, &[0; 8], "GOAWAY 3 PROTOCOL_ERROR"),
    (GOAWAY, 0, 0, &[0; 7], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (GOAWAY, 0, 0, &[0; 8], NOTHING),
    // WINDOW_UPDATE, §6.9
    (WINDOW_UPDATE, 0, 0, &[0; 4], "GOAWAY 3 PROTOCOL_ERROR"),
    (WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0], "GOAWAY 3 PROTOCOL_ERROR"),
    (WINDOW_UPDATE, 0, 0, &LARGEST, "GOAWAY 3 FLOW_CONTROL_ERROR"),
    (WINDOW_UPDATE, 0, 0, &[0, 0, 1], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1, 0], "GOAWAY 3 FRAME_SIZE_ERROR"),
    (WINDOW_UPDATE, 0, 3, &[0; 4], "RST_STREAM 3 PROTOCOL_ERROR"),
    (WINDOW_UPDATE, 0, 3, &LARGEST, "RST_STREAM 3 FLOW_CONTROL_ERROR"),
    (WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1], "GOAWAY 3 PROTOCOL_ERROR"),
    (WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1], NOTHING),
    (WINDOW_UPDATE, 0, 0x8000_0003, &[0x80, 0, 0, 1], NOTHING),
    // CONTINUATION, §6.10
    (CONTINUATION, END_HEADERS, 0, &[0x83], "GOAWAY 3 PROTOCOL_ERROR"),
    (CONTINUATION, END_HEADERS, 3, &[0x83], "GOAWAY 3 PROTOCOL_ERROR"),
    // Others, §4.1, §5.5
    (0x0b, 0xff, 0, b"whatever", NOTHING),
    (0xff, 0, 7, &[], NOTHING),
];

/// Frames for a client that has sent a request on stream 1, and whose stream 3 has been answered in part.
const AT_A_CLIENT: &[Row] = &[
    (DATA, 0, 1, b"x", "RST_STREAM 1 PROTOCOL_ERROR"),
    (DATA, 0, 5, b"x", "GOAWAY 0 PROTOCOL_ERROR"),
    (DATA, 0, 2, b"x", "GOAWAY 0 PROTOCOL_ERROR"),
    (DATA, END_STREAM, 3, b"x", NOTHING),
    (HEADERS, END_HEADERS, 5, &[0x88], "GOAWAY 0 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS, 2, &[0x88], "GOAWAY 0 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS, 1, &[0x83], "RST_STREAM 1 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS, 1, &[0xbe], "GOAWAY 0 COMPRESSION_ERROR"),
    (HEADERS, END_HEADERS | END_STREAM, 1, &[0x88], NOTHING),
    (HEADERS, END_HEADERS, 3, &[0x88], "RST_STREAM 3 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS, 3, &[], "RST_STREAM 3 PROTOCOL_ERROR"),
    (HEADERS, END_HEADERS | END_STREAM, 3, &[], NOTHING),
    (HEADERS, END_HEADERS | WITH_PRIORITY, 1, &[0, 0, 0, 1, 0, 0x88], "RST_STREAM 1 PROTOCOL_ERROR"),
    (RST_STREAM, 0, 5, &[0, 0, 0, 8], "GOAWAY 0 PROTOCOL_ERROR"),
    (RST_STREAM, 0, 1, &[0, 0, 0, 8], NOTHING),
    (PRIORITY, 0, 1, &[0], "RST_STREAM 1 FRAME_SIZE_ERROR"),
    (PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x83], "GOAWAY 0 PROTOCOL_ERROR"),
    (SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1], "SETTINGS ACK, GOAWAY 0 PROTOCOL_ERROR"),
    (SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0], "SETTINGS ACK"),
    (WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1], "GOAWAY 0 PROTOCOL_ERROR"),
    (GOAWAY, 0, 0, &[0; 4], "GOAWAY 0 FRAME_SIZE_ERROR"),
    (PING, 0, 0, &[], "GOAWAY 0 FRAME_SIZE_ERROR"),
];

/// Returns whether the expected reply ends the connection.
fn is_fatal(expected: &str) -> bool {
    expected.contains("GOAWAY")
}

#[test]
fn server_answers_violations_with_errors() {
    for (kind, flags, stream, payload, expected) in AT_A_SERVER {
        let row = format!("kind {kind}, flags {flags:#x}, stream {stream}, {payload:?}");
        let mut server = Server::new(Config::default());
        server.call(1, true).answer(true);
        let _open = server.call(3, false);
        server.says();
        server.wire.send(*kind, *flags, *stream, payload);
        assert_eq!(server.says().join(", "), *expected, "{row}");
        assert_eq!(server.end.is_some(), is_fatal(expected), "{row}");
        assert_eq!(server.wire.closed, is_fatal(expected), "{row}");
        if !is_fatal(expected) {
            server.accepted.clear();
            server.says();
            server.call(9, true).answer(true);
            assert_eq!(server.says(), ["HEADERS 9 END"], "{row}");
        }
    }
}

#[test]
fn client_answers_violations_with_errors() {
    for (kind, flags, stream, payload, expected) in AT_A_CLIENT {
        let row = format!("kind {kind}, flags {flags:#x}, stream {stream}, {payload:?}");
        let mut client = Client::new(Config::default());
        let _asked = client.request(false);
        let _answered = client.request(false);
        client.run();
        client.answer(3, false);
        client.says();
        client.wire.send(*kind, *flags, *stream, payload);
        assert_eq!(client.says().join(", "), *expected, "{row}");
        assert_eq!(client.end.as_ref().is_some_and(Result::is_err), is_fatal(expected), "{row}");
        if !is_fatal(expected) {
            let (response, _body) = client.request(true);
            client.run();
            client.answer(5, true);
            assert!(super::harness::now(response).is_ok(), "{row}");
        }
    }
}

#[test]
fn oversized_frame_is_refused_by_head() {
    for kind in [DATA, HEADERS, SETTINGS, PING, 0xee] {
        let mut server = Server::new(Config::default());
        let _open = server.call(1, false);
        server.wire.bytes(&frame(kind, 0, 1, &[0; 16_385])[..9]);
        assert_eq!(server.says(), ["GOAWAY 1 FRAME_SIZE_ERROR"], "kind {kind}");
    }
    let mut server = Server::new(Config::default());
    let _open = server.call(1, false);
    server.wire.send(DATA, 0, 1, &[0; 16_384]);
    server.wire.send(0xee, 0, 1, &[0; 16_384]);
    assert_eq!(server.says(), [""; 0]);
}

#[test]
fn header_block_frames_are_contiguous() {
    let block = request_block();
    for (kind, stream) in
        [(DATA, 1), (HEADERS, 1), (PING, 0), (SETTINGS, 0), (CONTINUATION, 3), (0xee, 1), (RST_STREAM, 1)]
    {
        let mut server = Server::new(Config::default());
        server.wire.send(HEADERS, 0, 1, &block[..3]);
        server.wire.send(kind, END_HEADERS, stream, &block[3..]);
        assert_eq!(server.says(), ["GOAWAY 0 PROTOCOL_ERROR"], "kind {kind} on {stream}");
    }
}

#[test]
fn self_dependent_stream_is_reset() {
    let block = request_block();
    let mut server = Server::new(Config::default());
    server.wire.send(HEADERS, WITH_PRIORITY, 1, &[&[0, 0, 0, 1, 0], &block[..3]].concat());
    server.wire.send(CONTINUATION, END_HEADERS, 1, &block[3..]);
    server.wire.data(1, b"under way", true);
    assert_eq!(server.says(), ["RST_STREAM 1 PROTOCOL_ERROR"]);
    server.call(3, true);
}

#[test]
fn first_frame_must_be_settings() {
    for (kind, flags, payload) in [
        (PING, 0, &[0; 8][..]),
        (HEADERS, END_HEADERS, &[0x83, 0x86, 0x84]),
        (DATA, 0, b"x"),
        (0xee, 0, b""),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (SETTINGS, ACK, b""),
    ] {
        let stream = if kind == PING || kind == SETTINGS { 0 } else { 1 };
        let mut server = Server::silent(Config::default(), 1 << 16);
        server.wire.bytes(super::frames::PREFACE);
        server.wire.send(kind, flags, stream, payload);
        let says = server.says();
        assert_eq!(says.last().map(String::as_str), Some("GOAWAY 0 PROTOCOL_ERROR"), "kind {kind}");
        let mut client = Client::silent(Config::default(), 1 << 16);
        let _call = client.request(true);
        client.run();
        client.wire.send(kind, flags, stream, payload);
        let says = client.says();
        assert_eq!(says.last().map(String::as_str), Some("GOAWAY 0 PROTOCOL_ERROR"), "kind {kind}");
    }
    let mut client = Client::silent(Config::default(), 1 << 16);
    client.wire.bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    client.run();
    assert!(client.end.as_ref().is_some_and(Result::is_err), "another protocol");
}

#[test]
fn wrong_preface_fails_at_first_byte() {
    for at in 0..super::frames::PREFACE.len() {
        let mut preface = super::frames::PREFACE.to_vec();
        preface[at] ^= 0x20;
        let mut server = Server::silent(Config::default(), 1 << 16);
        server.wire.bytes(&preface[..=at]);
        let says = server.says();
        assert_eq!(says.last().map(String::as_str), Some("GOAWAY 0 PROTOCOL_ERROR"), "byte {at}");
    }
}

#[test]
fn reserved_bit_is_ignored() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    client.run();
    client.wire.headers(0x8000_0001, &response_block(), true);
    client.run();
    assert!(super::harness::now(response).is_ok());
}
