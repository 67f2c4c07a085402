//! Peers that attack: the bound that cuts each attack off, and that an honest peer that does the same in measure is served.

use http::Response;
use shoal_http2::Config;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, indexed, literal, request_block, request_with,
};
use super::harness::{Client, Server, now, read, send};

#[test]
fn too_many_continuations_end_connection() {
    let mut server = Server::new(Config::default());
    server.wire.send(HEADERS, END_STREAM, 1, &request_block());
    for _ in 0..7 {
        server.wire.send(CONTINUATION, 0, 1, &[]);
    }
    assert_eq!(server.says(), [""; 0], "a few are let pass");
    server.wire.send(CONTINUATION, 0, 1, &[]);
    assert_eq!(server.says(), ["GOAWAY 0 ENHANCE_YOUR_CALM"]);
}

#[test]
fn endless_header_block_ends_connection() {
    let config = Config { header_list_max: 10_000, ..Config::default() };
    let mut server = Server::new(config);
    server.wire.send(HEADERS, END_STREAM, 1, &request_block());
    let mut sent = 0;
    while server.end.is_none() {
        server.wire.send(CONTINUATION, 0, 1, &[0; 5_000]);
        sent += 5_000;
        server.run();
        assert!(sent < 120_000);
    }
    assert!(sent > 80_000, "{sent}: one that is only too long is read to its end");
    assert_eq!(server.says(), ["GOAWAY 0 ENHANCE_YOUR_CALM"]);
}

#[test]
fn honest_block_in_small_frames_passes() {
    let mut server = Server::new(Config::default());
    let block = request_with(&[("x", &"y".repeat(50_000))]);
    let parts: Vec<&[u8]> = block.chunks(1_200).collect();
    for (at, part) in parts.iter().enumerate() {
        let kind = if at == 0 { HEADERS } else { CONTINUATION };
        let flags = if at + 1 == parts.len() { END_HEADERS } else { 0 };
        server.wire.send(kind, flags, 1, part);
    }
    assert_eq!(server.take().head.headers()["x"].len(), 50_000);
}

#[test]
fn list_of_references_is_bounded() {
    let mut server = Server::new(Config::default());
    let mut block = request_block();
    block.extend(indexed("x", &"y".repeat(4_000)));
    // Each octet stands for four thousand.
    block.extend([0xbe; 16_000 - 4_100]);
    server.wire.headers(1, &block, true);
    assert_eq!(
        server.refuse(),
        format!("header list of {} bytes is above the limit of 65536", 11_901 * 4_033 + 180)
    );
    let mut block = request_block();
    block.extend([0xbe; 2]);
    server.wire.headers(3, &block, true);
    assert_eq!(server.take().head.headers().get_all("x").iter().count(), 2, "the table is in step");
}

/// Sends a frame again and again without reading a reply. Returns how many bytes were taken.
fn unread(server: &mut Server, frame: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        let mut taken = 0;
        while taken < frame.len() {
            let more = server.wire.offer(&frame[taken..]);
            taken += more;
            server.run();
            if more == 0 {
                return sent + taken;
            }
        }
        sent += taken;
        assert!(sent < 64 << 20, "it reads for ever");
    }
}

#[test]
fn unread_replies_stop_server_reading() {
    for (what, frame) in [("pings", frame(PING, 0, 0, b"01234567"))] {
        let mut server = Server::silent(Config::default(), 1_000);
        server.greet();
        server.run();
        let sent = unread(&mut server, &frame);
        // What lies in the socket and in the read buffer, and the answers that wait.
        assert!(sent < 128 << 10, "{sent} bytes of {what}");
        let unsent = server.state().number("unsent");
        assert!(unsent < 80 << 10, "{unsent} bytes for {what}");
        let whole = sent / frame.len();
        let mut answers = 0;
        for _ in 0..1_000 {
            answers += server.says().iter().filter(|line| line.ends_with("ACK")).count();
        }
        assert!(answers >= whole, "{answers} of {whole} {what}");
    }
}

#[test]
fn unread_replies_stop_client_reading() {
    let mut client = Client::silent(Config::default(), 1_000);
    client.wire.settings(&[]);
    client.run();
    let ping = frame(PING, 0, 0, b"01234567");
    let mut sent = 0;
    loop {
        let taken = client.wire.offer(&ping);
        client.run();
        if taken == 0 {
            break;
        }
        sent += taken;
        assert!(sent < 1 << 20);
        if taken < ping.len() {
            sent += client.wire.offer(&ping[taken..]);
            client.run();
        }
    }
    assert!(client.state().number("unsent") < 40 << 10);
}

#[test]
fn unread_responses_stop_server_reading() {
    let config = Config { streams_max: 100_000, send_buffer: 10_000, ..Config::default() };
    let mut server = Server::silent(config, 1_000);
    server.greet();
    server.run();
    let value = "y".repeat(1_000);
    let mut answered = 0;
    let mut id = 1;
    'asking: loop {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, id, &request_block());
        let mut taken = 0;
        while taken < request.len() {
            let more = server.wire.offer(&request[taken..]);
            taken += more;
            server.run();
            while let Some(mut call) = server.accepted.pop_front() {
                // A value that differs each time, so that no table makes it short.
                answered += 1;
                let mut response = http::Response::new(());
                let value = format!("{answered}{value}").parse().expect("valid");
                response.headers_mut().insert("x", value);
                call.respond.send_response(&response, true).expect("open");
            }
            if more == 0 {
                break 'asking;
            }
        }
        id += 2;
        assert!(id < 2_000_000, "it answers for ever: {}", server.state().number("unsent"));
    }
    let unsent = server.state().number("unsent");
    // The buffer, 256 KiB of answers, and those to what had been read.
    assert!((256 << 10..10_000 + (256 << 10) + 128 * 1_024).contains(&unsent), "{unsent}");
}

#[test]
fn pending_accept_resets_end_connection() {
    let attack = |number: u32| {
        let mut server = Server::new(Config { pending_accept_resets_max: 50, ..Config::default() });
        let mut bytes = Vec::new();
        for call in 0..number {
            bytes.extend(frame(HEADERS, END_HEADERS, call * 2 + 1, &request_block()));
            bytes.extend(frame(RST_STREAM, 0, call * 2 + 1, &[0, 0, 0, 8]));
        }
        server.wire.bytes(&bytes);
        (server.says(), server)
    };
    assert_eq!(attack(50).0, [""; 0]);
    assert_eq!(attack(51).0, ["GOAWAY 101 ENHANCE_YOUR_CALM"]);
    let (_, mut server) = attack(50);
    // They are looked at, and that is the end of it.
    assert_eq!(server.accepted.len(), 50);
    server.accepted.clear();
    server.state().is_clean();
    for call in 50..1_000 {
        drop(server.call(call * 2 + 1, false));
        server.wire.reset(call * 2 + 1, 8);
    }
    server.says();
    assert!(server.end.is_none());
    server.state().is_clean();
}

#[test]
fn resets_after_accept_are_no_attack() {
    let mut server = Server::new(Config { pending_accept_resets_max: 5, ..Config::default() });
    for call in 0..1_000 {
        let _call = server.call(call * 2 + 1, false);
        server.wire.reset(call * 2 + 1, 8);
        server.run();
    }
    assert!(server.end.is_none());
}

#[test]
fn too_many_stream_errors_end_connection() {
    let mut server = Server::new(Config::default());
    for call in 0.. {
        let id = call * 2 + 1;
        server.wire.headers(id, &literal(":method", "GET"), true);
        let says = server.says();
        if call < 1_024 {
            assert_eq!(says, [format!("RST_STREAM {id} PROTOCOL_ERROR")]);
        } else {
            assert_eq!(says, [format!("GOAWAY {id} ENHANCE_YOUR_CALM")]);
            break;
        }
    }
    // By frames that do it on streams that are open.
    let mut server = Server::new(Config::default());
    for call in 0..=1_024 {
        let _call = server.call(call * 2 + 1, false);
        server.wire.window(call * 2 + 1, 0);
        server.run();
    }
    assert!(server.end.as_ref().is_some_and(Result::is_err));
}

#[test]
fn good_streams_offset_stream_errors() {
    let mut server = Server::new(Config::default());
    for round in 0..1_200 {
        for call in 0..64 {
            let mut call = server.call(round * 130 + call * 2 + 1, true);
            call.respond.send_response(&Response::new(()), true).expect("open");
        }
        server.wire.headers(round * 130 + 129, &literal(":method", "GET"), true);
        server.says();
        assert!(server.end.is_none(), "after {round} streams that broke");
    }
}

#[test]
fn long_headers_never_end_connection() {
    let mut server = Server::new(Config { header_list_max: 1_000, ..Config::default() });
    let long = request_with(&[("x", &"y".repeat(1_000))]);
    for call in 0..2_000 {
        server.wire.headers(call * 2 + 1, &long, false);
        server.refuse();
        assert_eq!(server.says().len(), 2, "{call}");
    }
}

#[test]
fn empty_data_flood_ends_connection() {
    let mut server = Server::new(Config::default());
    let _calls = [server.call(1, false), server.call(3, false)];
    for at in 0..1_000 {
        server.wire.data(1 + at % 2 * 2, b"", false);
    }
    assert_eq!(server.says(), [""; 0]);
    server.wire.data(1, b"x", false);
    server.wire.data(1, b"", false);
    assert_eq!(server.says(), ["GOAWAY 3 ENHANCE_YOUR_CALM"], "a byte makes up for nothing");
}

#[test]
fn bytes_and_messages_offset_empty_data() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    for at in 0..4_000 {
        server.wire.data(1, b"", false);
        if at % 2 == 0 {
            // The kilobyte may come in pieces.
            (0..4).for_each(|_| server.wire.data(1, &[0; 256], false));
        } else {
            server.wire.headers(3 + at * 2, &request_block(), true);
        }
        server.run();
        let read = read(&mut call.body).len();
        call.body.release(read);
        server.accepted.clear();
    }
    server.run();
    assert!(server.end.is_none(), "{:?}", server.end);
    for _ in 0..10_000 {
        server.wire.data(1, &[0; 10], false);
        server.wire.data(1, b"", false);
    }
    server.run();
    assert!(server.end.is_some(), "ten bytes do not make up for an empty frame");
}

#[test]
fn settings_flood_ends_the_connection() {
    let change = |value: u32| frame(SETTINGS, 0, 0, &[&[0, 4][..], &value.to_be_bytes()].concat());
    for (what, flood) in
        [("nothing", vec![frame(SETTINGS, 0, 0, &[])]), ("windows", vec![change(0), change((1 << 31) - 1)])]
    {
        let mut server = Server::new(Config::default());
        let mut answers = 0;
        for frame in flood.iter().cycle().take(10_000) {
            server.wire.bytes(frame);
            let says = server.says();
            if server.end.is_some() {
                assert_eq!(says, ["GOAWAY 0 ENHANCE_YOUR_CALM"], "{what}");
                break;
            }
            assert_eq!(says, ["SETTINGS ACK"], "{what}");
            answers += 1;
        }
        assert!(server.end.is_some(), "{what}");
        assert!(answers >= 100, "{answers}: a client that learns its windows is let");
    }
}

#[test]
fn idle_frame_flood_ends_connection() {
    for (what, flood) in [
        ("pings", frame(PING, 0, 0, b"01234567")),
        ("answers to no ping", frame(PING, ACK, 0, b"01234567")),
        ("priorities", frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 16])),
        ("unknown frames", frame(0xee, 0, 7, b"?")),
        ("resets of what is over", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("windows of what is over", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("headers of what is over", frame(HEADERS, END_HEADERS, 1, &[0x88])),
        ("data of what is over", frame(DATA, 0, 1, &[])),
        ("goodbyes", frame(GOAWAY, 0, 0, &[b'?'; 200])),
    ] {
        let mut server = Server::new(Config::default());
        drop(server.call(1, false));
        let _open = server.call(5, false);
        let mut sent = 0;
        while server.end.is_none() {
            assert!(sent < 100_000, "{what}");
            server.wire.bytes(&flood.repeat(500));
            sent += 500;
            server.run();
        }
        assert!(sent > 10_000, "{sent} {what}");
        assert_eq!(server.says().last().map(String::as_str), Some("GOAWAY 5 ENHANCE_YOUR_CALM"), "{what}");
    }
}

#[test]
fn server_floods_end_no_calls() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    client.says();
    let text = [&[0, 0, 0, 1, 0, 0, 0, 0][..], &[b'x'; 200]].concat();
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"01234567"), frame(GOAWAY, 0, 0, &text)] {
        for _ in 0..200 {
            client.wire.bytes(&flood.repeat(100));
            client.says();
        }
    }
    client.answer(1, true);
    assert!(now(response).is_ok());
}

#[test]
fn messages_and_data_offset_pings() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    let mut answer = call.answer(false);
    for _ in 0..30_000 {
        send(&mut answer, b"x", false);
        server.wire.send(PING, 0, 0, b"01234567");
        server.wire.window(1, 1);
        server.wire.window(0, 1);
        server.run();
    }
    assert!(server.end.is_none(), "a ping for each frame of an answer: {:?}", server.end);
    for id in 1..5_000 {
        drop(server.call(id * 2 + 1, true));
        for _ in 0..7 {
            server.wire.window(id * 2 + 1, 1);
        }
        server.run();
    }
    assert!(server.end.is_none(), "windows that come late: {:?}", server.end);
}

#[test]
fn local_resets_are_remembered_up_to_limit() {
    let mut server = Server::new(Config { locally_reset_max: 2, ..Config::default() });
    for id in [1, 3, 5] {
        drop(server.call(id, false));
    }
    server.says();
    server.wire.data(3, b"x", false);
    server.wire.data(5, b"x", false);
    assert_eq!(server.says(), [""; 0]);
    server.wire.data(1, b"x", false);
    assert_eq!(server.says(), ["RST_STREAM 1 STREAM_CLOSED"]);
    let mut server = Server::new(Config { locally_reset_max: 0, ..Config::default() });
    for id in [1, 3] {
        drop(server.call(id, false));
    }
    server.says();
    server.wire.data(3, b"x", false);
    assert_eq!(server.says(), ["RST_STREAM 3 STREAM_CLOSED"]);
}

#[test]
fn replies_go_before_bodies() {
    let mut server = Server::silent(Config::default(), 200);
    server.greet();
    server.run();
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block());
    assert_eq!(server.wire.offer(&request), request.len());
    let mut call = server.take();
    let mut answer = call.answer(false);
    let _ = unread(&mut server, &frame(PING, 0, 0, b"01234567"));
    for _ in 0..10_000 {
        if server.says().is_empty() {
            break;
        }
    }
    send(&mut answer, b"after all", true);
    assert!(server.says().contains(&"DATA 1 9 END".to_owned()));
}
