//! Bytes as a network brings them: cut anywhere, and wrong anywhere. The same bytes have the same result, however they are
//! cut; and no bytes make a side panic, spin, or keep what it should give back.

use std::task::Poll;

use fastrand::Rng;
use shoal_http2::Config;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, frame, indexed, literal, request_block, request_with,
    response_block,
};
use super::harness::{Call, Client, Server, once};

/// The bytes of the one large payload in the conversations.
const LARGE: usize = 5_000;

/// Returns the client's side of a conversation that has every kind of frame.
fn of_a_client() -> Vec<Vec<u8>> {
    let block = request_with(&[("x", "y"), ("content-length", "8")]);
    let mut second = request_block();
    second.extend(indexed("a", "b"));
    vec![
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x40, 0]),
        frame(SETTINGS, ACK, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]),
        frame(HEADERS, 0, 1, &block[..5]),
        frame(CONTINUATION, END_HEADERS, 1, &block[5..]),
        frame(DATA, PADDED, 1, &[3, b'h', b'a', b'l', b'f', 0, 0, 0]),
        frame(PING, 0, 0, b"01234567"),
        frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, &[&[0, 0, 0, 1, 9], &second[..]].concat()),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 9]),
        frame(DATA, 0, 3, &[7; LARGE]),
        frame(DATA, END_STREAM, 1, b"rest"),
        frame(0xee, 0xff, 9, b"unknown"),
        frame(DATA, 0, 3, b"small"),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &literal("x-end", "1")),
        frame(HEADERS, END_HEADERS, 5, &[&second[..], &[0xbe]].concat()),
        frame(DATA, 0, 5, b"never mind"),
        frame(RST_STREAM, 0, 5, &[0, 0, 0, 8]),
        frame(HEADERS, END_HEADERS | END_STREAM, 7, &literal(":method", "GET")),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0]),
        frame(PING, 0, 0, b"last one"),
    ]
}

/// Returns the server's side, for requests on 1, 3 and 5.
fn of_a_server() -> Vec<Vec<u8>> {
    vec![
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9, 0, 5, 0, 0, 0x50, 0]),
        frame(SETTINGS, ACK, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &literal(":status", "103")),
        frame(HEADERS, END_HEADERS, 1, &[response_block(), indexed("a", "b")].concat()),
        frame(DATA, PADDED, 1, &[1, b'h', b'a', b'l', b'f', 0]),
        frame(PING, 0, 0, b"01234567"),
        frame(HEADERS, 0, 3, &response_block()),
        frame(CONTINUATION, END_HEADERS, 3, &[0xbe]),
        frame(DATA, 0, 3, &[7; LARGE]),
        frame(DATA, END_STREAM, 1, b"rest"),
        frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &literal("x-end", "1")),
        frame(GOAWAY, 0, 0, &[&[0, 0, 0, 3, 0, 0, 0, 0][..], b"bye"].concat()),
    ]
}

/// Reads a body as far as it goes, and returns it as a line.
fn rest(body: &mut shoal_http2::RecvStream) -> String {
    let mut bytes = Vec::new();
    let end = loop {
        match once(body.data()) {
            Poll::Ready(Some(Ok(data))) => {
                bytes.extend_from_slice(&data);
                body.release(data.len());
            }
            Poll::Ready(Some(Err(error))) => break error.to_string(),
            Poll::Ready(None) => break format!("{:?}", once(body.trailers()).map(Result::ok)),
            Poll::Pending => break "more to come".to_owned(),
        }
    };
    let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    format!("{} bytes {sum:x}, {end}", bytes.len())
}

/// Gives the bytes to a server in these pieces, and returns what it received and sent.
fn served(pieces: &[&[u8]]) -> Vec<String> {
    let mut server = Server::silent(Config::default(), 1 << 20);
    for piece in pieces {
        server.wire.bytes(piece);
        server.run();
    }
    let mut outcome = server.says();
    for Call { head, body, .. } in &mut server.accepted {
        outcome.push(format!("{} {:?} {}", head.uri(), head.headers(), rest(body)));
    }
    outcome.push(format!("{:?}", server.end));
    outcome
}

/// Gives the bytes to a client in these pieces, and returns what it received and sent.
fn answered(pieces: &[&[u8]]) -> Vec<String> {
    let mut client = Client::silent(Config::default(), 1 << 20);
    let calls: Vec<_> = (0..3).map(|_| client.request(true)).collect();
    for piece in pieces {
        client.wire.bytes(piece);
        client.run();
    }
    let mut outcome = client.says();
    for (response, _) in calls {
        outcome.push(match once(response) {
            Poll::Ready(Ok(response)) => {
                let (head, mut body) = response.into_parts();
                format!("{} {:?} {}", head.status, head.headers, rest(&mut body))
            }
            other => format!("{other:?}"),
        });
    }
    outcome.push(format!("{:?}", client.end));
    outcome
}

/// Checks that the bytes have the same result whole, byte by byte, and cut in two anywhere.
fn check_cuts(conversation: &[Vec<u8>], outcome: fn(&[&[u8]]) -> Vec<String>) -> Vec<String> {
    let bytes = conversation.concat();
    let expected = outcome(&[&bytes]);
    assert_eq!(outcome(&bytes.chunks(1).collect::<Vec<_>>()), expected, "byte by byte");
    let frames: Vec<&[u8]> = conversation.iter().map(Vec::as_slice).collect();
    assert_eq!(outcome(&frames), expected, "frame by frame");
    for size in [2, 3, 8, 9, 10, 100] {
        assert_eq!(outcome(&bytes.chunks(size).collect::<Vec<_>>()), expected, "{size} bytes at a time");
    }
    let large = bytes.windows(100).position(|part| part == [7; 100]).expect("the large payload");
    let inside = large + 20..large + LARGE - 20;
    for at in (0..bytes.len()).filter(|at| !inside.contains(at)) {
        let (before, after) = bytes.split_at(at);
        assert_eq!(outcome(&[before, after]), expected, "cut at {at}");
    }
    expected
}

#[test]
fn server_ignores_read_boundaries() {
    let outcome = check_cuts(&of_a_client(), served);
    let said = outcome.join("\n");
    // Not all the same for having failed alike.
    assert!(said.contains("8 bytes") && said.contains(&format!("{} bytes", LARGE + 5)), "{said}");
    assert!(said.contains("x-end") && said.contains("the peer reset the stream: CANCEL"), "{said}");
    assert!(said.contains("RST_STREAM 7 PROTOCOL_ERROR") && said.ends_with("None"), "{said}");
}

#[test]
fn client_ignores_read_boundaries() {
    let outcome = check_cuts(&of_a_server(), answered);
    let said = outcome.join("\n");
    assert!(said.contains("8 bytes") && said.contains(&format!("{LARGE} bytes")), "{said}");
    assert!(said.contains("x-end") && said.contains("bye"), "{said}");
    assert!(said.ends_with("Some(Ok(()))"), "{said}");
}

/// Corrupts a conversation in one of several ways.
fn mutate(rng: &mut Rng, conversation: &[Vec<u8>]) -> Vec<u8> {
    let mut frames = conversation.to_vec();
    for _ in 0..rng.usize(0..3) {
        let (one, other) = (rng.usize(1..frames.len()), rng.usize(1..frames.len()));
        match rng.u8(0..3) {
            0 => frames.swap(one, other),
            1 => frames.insert(one, frames[other].clone()),
            _ => drop(frames.remove(one)),
        }
    }
    let mut bytes = frames.concat();
    for _ in 0..rng.usize(0..4) {
        let at = rng.usize(0..bytes.len());
        match rng.u8(0..4) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(0..8),
            2 => bytes.insert(at, rng.u8(..)),
            _ => drop(bytes.remove(at)),
        }
    }
    if rng.u8(0..8) == 0 {
        bytes.truncate(rng.usize(0..bytes.len()));
    }
    bytes
}

/// Gives bytes to a server in random pieces while its application acts at random. Whatever the bytes are, nothing is left
/// afterwards, and nothing of the window is lost.
fn survive_as_server(rng: &mut Rng, bytes: &[u8]) -> bool {
    let mut server = Server::silent(Config::default(), 1 << 20);
    let mut rest = bytes;
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=rest.len()));
        rest = after;
        server.wire.bytes(piece);
        server.run();
        calls.extend(server.accepted.drain(..).map(|call| (call, None)));
        for (call, answer) in &mut calls {
            match rng.u8(0..5) {
                0 => *answer = call.respond.send_response(&http::Response::new(()), rng.bool()).ok(),
                1 => call.respond.send_reset(shoal_http2::Reason::CANCEL),
                2 => drop(super::cuts::rest(&mut call.body)),
                3 => {
                    if let Some(answer) = answer {
                        let _ = once(answer.send(vec![1; rng.usize(0..20_000)].into(), rng.bool()));
                    }
                }
                _ => {}
            }
        }
    }
    drop(calls);
    server.run();
    if server.end.is_none() && server.is_open() {
        let state = server.state();
        state.is_clean();
        assert_eq!(state.receivable(), 8 << 20);
        return true;
    }
    false
}

/// Gives bytes in random pieces to a client with a few requests under way.
fn survive_as_client(rng: &mut Rng, bytes: &[u8]) -> bool {
    let mut client = Client::silent(Config::default(), 1 << 20);
    let mut calls: Vec<_> = (0..3)
        .map(|_| {
            let (response, body) = client.request(rng.bool());
            (Some(response), body, None)
        })
        .collect();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=rest.len()));
        rest = after;
        client.wire.bytes(piece);
        client.run();
        for (response, body, incoming) in &mut calls {
            match rng.u8(0..6) {
                0 => body.send_reset(shoal_http2::Reason::CANCEL),
                1 => drop(once(body.send(vec![1; rng.usize(0..20_000)].into(), rng.bool()))),
                2 => {
                    if let Some(Poll::Ready(answer)) = response.as_mut().map(once) {
                        *incoming = answer.ok().map(http::Response::into_body);
                        *response = None;
                    }
                }
                _ => {
                    if let Some(incoming) = incoming {
                        super::cuts::rest(incoming);
                    }
                }
            }
        }
    }
    drop(calls);
    let state = client.state();
    if client.end.is_none() {
        state.is_clean();
        assert_eq!(state.receivable(), 8 << 20);
    }
    client.end.is_none()
}

/// Prints the seed of a panic.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn corrupted_conversations_do_no_harm() {
    let (mut alive, mut over) = (0, 0);
    for seed in 0..4_000 {
        let shown = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let survived = if rng.bool() {
            let bytes = mutate(&mut rng, &of_a_client());
            survive_as_server(&mut rng, &bytes)
        } else {
            let bytes = mutate(&mut rng, &of_a_server());
            survive_as_client(&mut rng, &bytes)
        };
        if survived {
            alive += 1;
        } else {
            over += 1;
        }
        drop(shown);
    }
    assert!(alive > 400 && over > 400, "{alive} were harmless, {over} were not");
}

#[test]
fn random_frames_do_no_harm() {
    for seed in 0..2_000 {
        let shown = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let server = rng.bool();
        let mut bytes = if server { PREFACE.to_vec() } else { Vec::new() };
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        for _ in 0..rng.usize(0..40) {
            let payload: Vec<u8> = (0..rng.usize(0..12)).map(|_| rng.u8(..)).collect();
            let payload = if rng.bool() { payload } else { response_block() };
            bytes.extend(frame(rng.u8(0..11), rng.u8(..), rng.u32(0..8), &payload));
        }
        if server {
            survive_as_server(&mut rng, &bytes);
        } else {
            survive_as_client(&mut rng, &bytes);
        }
        drop(shown);
    }
}

#[test]
fn random_bytes_do_no_harm() {
    for seed in 0..2_000 {
        let shown = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let noise: Vec<u8> = (0..rng.usize(1..300)).map(|_| rng.u8(..)).collect();
        survive_as_client(&mut rng, &noise);
        survive_as_server(&mut rng, &noise);
        survive_as_server(&mut rng, &[PREFACE, &noise].concat());
        let settled = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &noise[..]].concat();
        survive_as_server(&mut rng, &settled);
        drop(shown);
    }
}
