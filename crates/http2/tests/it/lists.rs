//! Header lists above a limit: they are read to their end, counted, and fail one call alone.

use http::Request;
use shoal_http2::{Config, SendError};

use super::frames::{
    CONTINUATION, END_HEADERS, HEADERS, indexed, literal, request_block, request_with, response_with,
};
use super::harness::{Client, Server, failure, now};

#[test]
fn long_header_list_fails_one_stream() {
    let config = Config { header_list_max: 1_000, ..Config::default() };
    let mut server = Server::new(config.clone());
    let long = request_with(&[("x", &"y".repeat(1_000))]);
    server.wire.headers(1, &long, true);
    server.wire.headers(3, &long, false);
    for _ in 0..2 {
        assert_eq!(server.refuse(), "header list of 1213 bytes is above the limit of 1000");
    }
    assert_eq!(server.says(), ["HEADERS 1 END", "HEADERS 3 END", "RST_STREAM 3 NO_ERROR"]);
    server.state().is_clean();

    let call = server.call(5, true);
    assert_eq!(call.head.uri().path(), "/a.B/C", "the connection goes on");
    let _later = server.call(7, false);
    server.wire.headers(7, &with_long_value(), true);
    assert_eq!(server.says(), ["RST_STREAM 7 CANCEL"], "trailers");

    let mut client = Client::new(config);
    let (response, _body) = client.request(true);
    let (other, _body) = client.request(true);
    client.says();
    client.wire.headers(1, &response_with(&[("x", &"y".repeat(1_000))]), true);
    assert_eq!(client.says(), ["RST_STREAM 1 CANCEL"]);
    let error = now(response).expect_err("too long");
    let too_long = error.header_list_too_long().expect("it says so");
    assert_eq!((too_long.size(), too_long.limit()), (7 + 3 + 32 + 1_033, 1_000));
    assert!(error.is_reset() && !error.is_remote(), "{error}");
    assert!(error.to_string().contains("header list of 1075 bytes is above the limit of 1000"), "{error}");
    client.answer(3, false);
    client.wire.data(3, b"all of it", false);
    client.wire.headers(3, &with_long_value(), true);
    assert_eq!(client.says(), ["RST_STREAM 3 CANCEL"]);
    let mut body = now(other).expect("the connection goes on").into_body();
    assert_eq!(now(body.data()).expect("data").expect("no error"), "all of it");
    assert!(failure(&mut body).header_list_too_long().is_some());
    let error = now(body.trailers()).expect_err("they are too long");
    assert!(error.header_list_too_long().is_some(), "{error}");
}

/// Returns a request whose path is beyond the limit.
#[test]
fn request_cut_before_path_gets_431() {
    let mut server = Server::new(Config { header_list_max: 1_000, ..Config::default() });
    let block = [
        literal(":method", "POST"),
        literal(":scheme", "http"),
        literal(":path", &"/".repeat(1_000)),
        literal("x", "y"),
    ];
    server.wire.headers(1, &block.concat(), false);
    let frames = server.frames();
    let said: Vec<String> = frames.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["HEADERS 1 END", "RST_STREAM 1 NO_ERROR"]);
    let mut status = Vec::new();
    let mut decoder = shoal_http2::hpack::Decoder::new(4_096);
    decoder.decode(&frames[0].payload, |field| status.push(field.value)).expect("HPACK");
    assert_eq!(status, ["431"]);
    assert!(server.accepted.is_empty());
    server.state().is_clean();
}

#[test]
fn too_many_fields_are_too_long() {
    for (fields, taken) in [(100, true), (101, false)] {
        let mut server = Server::new(Config::default());
        let more: Vec<(&str, &str)> = (4..fields).map(|_| ("x", "y")).collect();
        server.wire.headers(1, &request_with(&more), true);
        if taken {
            assert_eq!(server.take().head.headers().len(), 96);
        } else {
            assert_eq!(server.refuse(), "header list of 101 fields is above the limit of 100");
        }
    }
}

#[test]
fn repeated_table_entries_are_too_long() {
    for (references, taken) in [(1, true), (3, false), (90, false)] {
        let mut server = Server::new(Config::default());
        let block = [request_block(), indexed("x", &"y".repeat(3_500))].concat();
        server.wire.headers(1, &block, true);
        assert_eq!(server.take().head.headers()["x"].len(), 3_500);
        let block = [request_block(), [0xbe].repeat(references)].concat();
        server.wire.headers(3, &block, true);
        if taken {
            assert_eq!(server.take().head.headers()["x"].len(), 3_500);
            // A name counts too.
            let block = [request_block(), [[0x0f, 0x2f, 1, b'v']; 2].concat()].concat();
            server.wire.headers(5, &block, true);
            assert_eq!(server.take().head.headers().get_all("x").iter().count(), 2);
        } else {
            let size = references * 3_533;
            let limit = if size > 64 << 10 { 64 << 10 } else { 8_192 };
            let why = server.refuse();
            assert!(why.ends_with(&format!("above the limit of {limit}")), "{why}");
        }
    }
}

#[test]
fn long_block_is_read_to_its_end() {
    let mut server = Server::new(Config { header_list_max: 10_000, ..Config::default() });
    let mut calls = vec![server.call(1, false)];
    for (id, len) in [(3, 30_000), (7, 80_000), (11, 90_000)] {
        // The long value comes first, last, and so that the table would be emptied by it.
        let long = match id {
            3 => [literal("x", &"y".repeat(len)), indexed("a", "b")].concat(),
            7 => [indexed("a", "b"), literal("x", &"y".repeat(len))].concat(),
            _ => [indexed("a", "b"), indexed("x", &"y".repeat(len)), indexed("c", "d")].concat(),
        };
        let block = [request_block(), long].concat();
        let parts: Vec<&[u8]> = block.chunks(10_000).collect();
        for (at, part) in parts.iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let flags = if at + 1 == parts.len() { END_HEADERS } else { 0 };
            server.wire.send(kind, flags, id, part);
            server.run();
            assert!(server.state().number("block") < 20_000, "it is not kept");
        }
        let why = server.refuse();
        assert!(why.starts_with("header list of ") && why.ends_with("the limit of 10000"), "{why}");
        let next = [request_block(), vec![0xbe]].concat();
        server.wire.headers(id + 2, &next, true);
        let call = server.take();
        let found = call.head.headers().iter().next().expect("the table is in step");
        assert_eq!(found.0, if id == 11 { "c" } else { "a" });
        calls.push(call);
        server.accepted.clear();
    }
    assert!(server.end.is_none());
}

#[test]
fn request_above_peer_limit_is_unsent() {
    const HEADER_LIST: u16 = 6;
    let request = |len: usize| Request::post("http://mesh.test/a.B/C").header("x", "y".repeat(len)).body(());
    // As in list_size_is_counted_per_rfc, and the field.
    let fixed = (7 + 4) + (7 + 4) + (5 + 6) + (10 + 9) + 4 * 32 + 1 + 32;
    let mut client = Client::told(Config::default(), &[(HEADER_LIST, fixed + 100)]);
    let sent = client.sender.send_request(&request(100).expect("valid"), true);
    assert!(sent.is_ok());
    assert_eq!(client.says(), ["HEADERS 1 END"]);
    let refused = client.sender.send_request(&request(101).expect("valid"), true);
    let Err(SendError::TooLong(too_long)) = refused else { panic!("{refused:?}") };
    assert_eq!((too_long.size(), too_long.limit()), (fixed as usize + 101, fixed as usize + 100));
    assert_eq!(client.says(), [""; 0]);
    assert!(client.sender.send_request(&request(10).expect("valid"), true).is_ok(), "others are sent");
}

fn with_long_value() -> Vec<u8> {
    literal("x", &"y".repeat(1_000))
}

#[test]
fn list_size_is_counted_per_rfc() {
    // :method POST, :scheme http, :path /a.B/C, :authority mesh.test, and 32 for each.
    let fixed = (7 + 4) + (7 + 4) + (5 + 6) + (10 + 9) + 4 * 32;
    let list_max = fixed + 1 + 100 + 32;
    let mut server = Server::new(Config { header_list_max: list_max as u32, ..Config::default() });
    server.wire.headers(1, &request_with(&[("x", &"y".repeat(100))]), true);
    assert_eq!(server.says(), [""; 0]);
    assert_eq!(server.take().head.headers()["x"].len(), 100);
    server.says();
    server.wire.headers(3, &request_with(&[("x", &"y".repeat(101))]), true);
    server.refuse();
    assert_eq!(server.says(), ["HEADERS 3 END"]);
}
