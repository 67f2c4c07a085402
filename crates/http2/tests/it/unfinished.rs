//! Frames and header blocks that a client has begun and not ended: they are seen from outside, so that an owner with a clock
//! can end the connection.

use std::sync::Arc;

use shoal_http2::{Config, Unfinished, Unread};

use super::frames::{CONTINUATION, DATA, END_HEADERS, HEADERS, PING, frame, request_block};
use super::harness::{Client, Server, now, read};

fn unfinished(server: &mut Server) -> Option<Unfinished> {
    server.connection().unfinished()
}

#[test]
fn trickled_header_block_stays_unfinished() {
    let mut server = Server::new(Config::default());
    assert_eq!(unfinished(&mut server), None);
    let block = request_block();
    server.wire.send(HEADERS, 0, 1, &block[..1]);
    let begun = unfinished(&mut server);
    assert!(begun.is_some_and(|begun| !begun.data));
    for byte in &block[1..4] {
        server.wire.send(CONTINUATION, 0, 1, &[*byte]);
        assert_eq!(unfinished(&mut server), begun, "a frame of it is not its end");
    }
    let last = frame(CONTINUATION, END_HEADERS, 1, &block[4..]);
    for byte in &last[..last.len() - 1] {
        server.wire.bytes(&[*byte]);
        assert_eq!(unfinished(&mut server), begun);
    }
    server.wire.bytes(&last[last.len() - 1..]);
    assert_eq!(unfinished(&mut server), None);
    server.take();

    server.wire.send(HEADERS, 0, 3, &block[..1]);
    assert_ne!(unfinished(&mut server), begun, "another one");
}

#[test]
fn trickled_frame_is_reported_unfinished() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    let ping = frame(PING, 0, 0, b"12345678");
    server.wire.bytes(&ping[..1]);
    let begun = unfinished(&mut server);
    assert!(begun.is_some());
    server.wire.bytes(&ping[1..12]);
    assert_eq!(unfinished(&mut server), begun);
    server.wire.bytes(&[&ping[12..], &ping[..5]].concat());
    let next = unfinished(&mut server);
    assert!(next.is_some() && next != begun, "the next one has begun");
    server.wire.bytes(&ping[5..]);
    assert_eq!(unfinished(&mut server), None);

    let data = frame(DATA, 0, 1, &[7; 1_000]);
    server.wire.bytes(&data[..500]);
    let begun = unfinished(&mut server);
    assert!(begun.is_some_and(|begun| begun.data));
    server.wire.bytes(&data[500..600]);
    assert_eq!(unfinished(&mut server), begun);
    server.wire.bytes(&data[600..]);
    server.run();
    assert_eq!(unfinished(&mut server), None, "a body may be slow between two frames");
    assert_eq!(read(&mut call.body).len(), 1_000);
}

#[test]
fn unread_bytes_count_per_owner_and_total() {
    let all = Arc::new(Unread::default());
    let owners = [(); 2].map(|()| Arc::new(Unread::part_of(all.clone())));
    let counts = || (owners[0].bytes(), owners[1].bytes(), all.bytes());
    let mut client = Client::new(Config::default());
    let mut bodies = Vec::new();
    for (stream, owner) in [(1, 0), (3, 0), (5, 1)] {
        let (response, sender) = client.request(true);
        client.run();
        client.answer(stream, false);
        client.wire.data(stream, &[7; 100], false);
        client.run();
        let mut body = now(response).expect("an answer").into_body();
        assert_eq!(body.unreleased(), 100);
        body.count_unread(&owners[owner]);
        body.count_unread(&owners[owner]);
        bodies.push((body, sender));
    }
    assert_eq!(counts(), (200, 100, 300), "what was there before");
    client.wire.much_data(5, 50_000);
    client.run();
    assert_eq!(counts(), (200, 50_100, 50_300));
    let (body, _) = &mut bodies[2];
    assert_eq!(read(body).len(), 50_100);
    assert_eq!(counts().1, 50_100, "read, and not done with");
    body.release(40_000);
    assert_eq!(counts(), (200, 10_100, 10_300));
    client.wire.reset(3, 8);
    client.run();
    assert_eq!(counts().0, 200, "it is still held");
    bodies.remove(1);
    assert_eq!(counts(), (100, 10_100, 10_200));
    bodies.clear();
    assert_eq!(counts(), (0, 0, 0));

    let (response, sender) = client.request(true);
    client.run();
    client.answer(7, false);
    client.wire.data(7, &[7; 100], true);
    client.run();
    let mut body = now(response).expect("an answer").into_body();
    body.count_unread(&owners[0]);
    assert_eq!((read(&mut body).len(), counts().0), (100, 100));
    drop((body, sender));
    assert_eq!(counts(), (0, 0, 0), "read to its end and never released");
}
