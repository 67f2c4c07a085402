//! The end of a connection (RFC 9113 §6.8), on purpose or not: who is told what, what goes on, and that it does end.

use std::task::Poll;

use shoal_http2::{Config, Error, Reason, SendError};

use super::frames::{ACK, PING, SETTINGS, STREAMS_MAX, literal};
use super::harness::{Client, Server, Task, failure, now, once, read, request, send};

fn of_the_peer(error: &Error) -> bool {
    error.is_go_away() && error.is_remote()
}

/// Returns the bytes of a GOAWAY that gives a reason in words.
fn goaway_saying(last: u32, code: u32, why: &[u8]) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(why);
    payload
}

#[test]
fn goaway_between_calls_ends_cleanly() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    client.run();
    client.answer(1, true);
    assert!(now(response).is_ok());
    assert!(client.left_by_peer().is_none());
    client.wire.send(super::frames::GOAWAY, 0, 0, &goaway_saying(1, 0, b"maintenance"));
    client.says();
    assert!(matches!(client.end, Some(Ok(()))), "{:?}", client.end);
    assert!(client.wire.closed);
    let Err(SendError::Closed(error)) = client.sender.send_request(&request(), true) else { panic!("taken") };
    assert!(error.is_go_away() || error.is_io(), "{error}");
}

#[test]
fn goaway_fails_only_later_streams() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 3)]);
    let mut calls: Vec<_> = (0..4).map(|_| client.request(false)).collect();
    client.says();
    client.answer(1, false);
    client.wire.goaway(3, 11);
    client.run();
    assert!(client.end.is_none());
    let left = client.left_by_peer().expect("told");
    assert!(of_the_peer(&left));
    assert_eq!(left.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    // The third was sent, the fourth waits for a stream; both are certain not to have been looked at.
    for (response, mut body) in calls.drain(2..) {
        let error = now(response).expect_err("not looked at");
        assert!(of_the_peer(&error) && error.reason() == Some(Reason::ENHANCE_YOUR_CALM), "{error}");
        assert!(of_the_peer(&now(body.send("x".into(), true)).expect_err("not looked at")));
    }
    assert_eq!(client.says(), [""; 0], "nothing is said of them");
    let Err(SendError::Closed(error)) = client.sender.send_request(&request(), true) else { panic!("taken") };
    assert!(of_the_peer(&error));

    let (first, mut body) = calls.remove(0);
    send(&mut body, b"still", true);
    client.wire.data(1, b"here", true);
    assert_eq!(client.says(), ["DATA 1 5 END"]);
    assert_eq!(read(now(first).expect("an answer").body_mut()), b"here");
    assert!(client.end.is_none());
    let (second, mut body) = calls.remove(0);
    body.finish().expect("open");
    client.run();
    client.answer(3, true);
    assert!(now(second).is_ok());
    assert_eq!(client.says(), ["DATA 3 0 END"]);
    assert!(matches!(client.end, Some(Ok(()))), "{:?}", client.end);
    assert!(client.wire.closed);
}

#[test]
fn second_goaway_may_lower_last_stream() {
    let mut client = Client::new(Config::default());
    let mut calls: Vec<_> = (0..3).map(|_| client.request(true)).collect();
    client.says();
    client.wire.goaway((1 << 31) - 1, 0);
    client.run();
    assert!(calls.iter_mut().all(|(response, _)| once(response).is_pending()));
    client.wire.goaway(3, 2);
    client.run();
    let (third, _) = calls.remove(2);
    assert_eq!(now(third).expect_err("taken back").reason(), Some(Reason::INTERNAL_ERROR));
    client.wire.goaway(1, 2);
    client.run();
    let (second, _) = calls.remove(1);
    assert!(of_the_peer(&now(second).expect_err("taken back")));
    client.answer(1, true);
    assert!(now(calls.remove(0).0).is_ok());
    client.says();
    assert!(matches!(client.end, Some(Ok(()))), "{:?}", client.end);
}

#[test]
fn cut_after_goaway_is_an_error() {
    let mut client = Client::new(Config::default());
    let (covered, _body) = client.request(true);
    let (above, _body) = client.request(true);
    client.says();
    client.wire.goaway(1, 0);
    client.wire.cut();
    client.run();
    assert!(of_the_peer(&now(above).expect_err("above")));
    let error = now(covered).expect_err("cut");
    assert!(error.is_io() && !error.is_remote() && error.reason().is_none(), "{error}");
    assert!(matches!(&client.end, Some(Err(error)) if error.is_io()), "{:?}", client.end);
}

#[test]
fn goaway_text_is_short_and_printable() {
    let mut client = Client::new(Config::default());
    let (_response, _body) = client.request(true);
    client.wire.send(
        super::frames::GOAWAY,
        0,
        0,
        &goaway_saying(1, 0, &[b"\x1b[31mred\xff".to_vec(), vec![b'x'; 10_000]].concat()),
    );
    client.run();
    let said = client.left_by_peer().expect("told").to_string();
    assert!(said.len() < 400 && !said.contains('\x1b'), "{said:?}");
    assert!(said.contains("red"), "{said:?}");
}

#[test]
fn cut_connection_fails_its_streams() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 2)]);
    let (first, mut body) = client.request(false);
    let (second, _body) = client.request(true);
    let (third, _body) = client.request(true);
    send(&mut body, &[0; 65_535], false);
    let mut sending = Task::new(async move { body.send("more".into(), true).await });
    assert!(sending.poll().is_pending());
    client.run();
    client.answer(1, false);
    client.wire.data(1, b"part", false);
    client.run();
    let mut incoming = now(first).expect("an answer").into_body();
    let mut ping = client.ping();
    assert!(ping.poll().is_pending());
    client.wire.cut();
    client.run();
    assert!(matches!(&client.end, Some(Err(error)) if error.is_io()));
    assert!(ping.ready().expect_err("cut").is_io());
    assert!(sending.ready().expect_err("cut").is_io());
    assert_eq!(now(incoming.data()).expect("data").expect("what came before"), "part");
    assert!(failure(&mut incoming).is_io());
    assert!(now(second).expect_err("cut").is_io());
    assert!(now(third).expect_err("never sent").is_io());
    assert!(
        matches!(client.sender.send_request(&request(), true), Err(SendError::Closed(error)) if error.is_io())
    );
}

#[test]
fn dropped_connection_fails_its_streams() {
    let mut client = Client::new(Config::default());
    let (response, mut body) = client.request(false);
    let mut response = Task::new(response);
    assert!(response.poll().is_pending());
    client.run();
    client.drop_connection();
    assert!(response.ready().expect_err("cut").is_io());
    assert!(now(body.send("x".into(), true)).expect_err("cut").is_io());
    assert!(client.ping().ready().expect_err("cut").is_io());
    drop((response, body));
    client.state().is_clean();

    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    let mut answer = call.answer(false);
    server.drop_connection();
    assert!(failure(&mut call.body).is_io());
    assert!(answer.send_trailers(http::HeaderMap::new()).expect_err("cut").is_io());
    assert!(now(std::future::poll_fn(|cx| answer.poll_reset(cx))).is_io());
}

#[test]
fn close_between_calls_is_clean() {
    let mut server = Server::new(Config::default());
    server.call(1, true).answer(true);
    server.says();
    server.wire.cut();
    server.run();
    assert!(matches!(server.end, Some(Ok(()))), "{:?}", server.end);

    let mut client = Client::new(Config::default());
    client.wire.cut();
    client.run();
    assert!(matches!(client.end, Some(Ok(()))), "{:?}", client.end);
    assert!(client.sender.send_request(&request(), true).is_err());

    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    server.wire.cut();
    server.run();
    assert!(matches!(&server.end, Some(Err(error)) if error.is_io()), "{:?}", server.end);
    assert!(failure(&mut call.body).is_io());
}

#[test]
fn retired_client_ends_with_last_response() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 1)]);
    let (first, _body) = client.request(true);
    let (queued, _body) = client.request(true);
    client.retire();
    client.run();
    let Err(SendError::Closed(_)) = client.sender.send_request(&request(), true) else { panic!("taken") };
    client.answer(1, true);
    assert!(now(first).is_ok());
    assert_eq!(client.says(), ["HEADERS 1 END", "HEADERS 3 END"], "what it had promised");
    assert!(client.end.is_none());
    client.answer(3, true);
    assert!(now(queued).is_ok());
    client.says();
    assert!(matches!(client.end, Some(Ok(()))), "{:?}", client.end);
    assert!(client.wire.closed);

    let mut idle = Client::new(Config::default());
    idle.retire();
    idle.says();
    assert!(idle.wire.closed && matches!(idle.end, Some(Ok(()))));

    let mut dropping = Client::new(Config::default());
    let call = dropping.request(true);
    dropping.retire();
    dropping.says();
    drop(call);
    assert_eq!(dropping.says(), ["RST_STREAM 1 CANCEL"], "the last word is said");
    assert!(dropping.wire.closed && matches!(dropping.end, Some(Ok(()))));
}

const LAST: u32 = (1 << 31) - 1;

#[test]
fn graceful_shutdown_serves_streams_between_goaways() {
    let mut server = Server::new(Config::default());
    let mut first = server.call(1, false);
    server.connection().graceful_shutdown();
    server.connection().graceful_shutdown();
    let frames = server.frames();
    let said: Vec<String> = frames.iter().map(ToString::to_string).collect();
    assert_eq!(said, [format!("GOAWAY {LAST} NO_ERROR"), "PING".to_owned()]);
    let mut between = server.call(3, true);
    server.wire.send(PING, ACK, 0, b"another!");
    assert_eq!(server.says(), [""; 0], "an answer to something else");
    server.wire.send(PING, ACK, 0, &frames[1].payload);
    assert_eq!(server.says(), ["GOAWAY 3 NO_ERROR"]);
    server.wire.send(PING, ACK, 0, &frames[1].payload);
    assert_eq!(server.says(), [""; 0], "once");
    server.open(5, true);
    assert_eq!(server.says(), [""; 0]);
    assert!(server.accepted.is_empty(), "too late");
    between.answer(true);
    assert_eq!(server.says(), ["HEADERS 3 END"]);
    assert!(server.end.is_none() && server.connection().has_streams());
    server.wire.data(1, b"x", true);
    first.answer(true);
    assert_eq!(server.says(), ["HEADERS 1 END"]);
    assert!(matches!(server.end, Some(Ok(()))), "{:?}", server.end);
    assert!(server.wire.closed);
}

#[test]
fn frames_of_late_streams_are_skipped() {
    let mut server = Server::new(Config { connection_window: 65_535, ..Config::default() });
    let mut call = server.call(1, true);
    server.connection().graceful_shutdown();
    let ping = server.frames().pop().expect("a ping");
    server.wire.send(PING, ACK, 0, &ping.payload);
    assert_eq!(server.says(), ["GOAWAY 1 NO_ERROR"]);
    for id in [3, 7] {
        server.open(id, false);
        server.wire.data(id, &[0; 1_000], false);
        server.wire.window(id, 100);
        server.wire.headers(id, &literal("x", "y"), true);
        server.wire.reset(id, 8);
        server.wire.send(super::frames::PRIORITY, 0, id, &[0, 0, 0, 1, 0]);
    }
    assert_eq!(server.says(), [""; 0]);
    let state = server.state();
    assert_eq!((state.receivable(), state.number("stream_errors")), (65_535, 0));
    call.answer(true);
    assert_eq!(server.says(), ["HEADERS 1 END"]);
    assert!(matches!(server.end, Some(Ok(()))));
}

#[test]
fn idle_server_ends_once_goaway_seen() {
    let mut server = Server::new(Config::default());
    server.connection().graceful_shutdown();
    let ping = server.frames().pop().expect("a ping");
    assert!(server.end.is_none() && !server.wire.closed);
    server.wire.send(PING, ACK, 0, &ping.payload);
    assert_eq!(server.says(), ["GOAWAY 0 NO_ERROR"]);
    assert!(server.wire.closed && matches!(server.end, Some(Ok(()))));
}

#[test]
fn leaving_server_ends_with_last_reset() {
    for by_peer in [false, true] {
        let mut server = Server::new(Config::default());
        let call = server.call(1, false);
        server.connection().graceful_shutdown();
        let ping = server.frames().pop().expect("a ping");
        server.wire.send(PING, ACK, 0, &ping.payload);
        server.says();
        if by_peer {
            server.wire.reset(1, 8);
            server.run();
        } else {
            drop(call);
            assert_eq!(server.says(), ["RST_STREAM 1 CANCEL"]);
        }
        assert!(matches!(server.end, Some(Ok(()))), "by the peer: {by_peer}");
    }
}

#[test]
fn abrupt_shutdown_gives_reason_to_both() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    let mut body = Task::new(async move { call.body.data().await });
    assert!(body.poll().is_pending());
    server.open(3, true);
    server.run();
    server.connection().abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(server.says(), ["GOAWAY 3 ENHANCE_YOUR_CALM"]);
    let error = body.ready().expect("not an end").expect_err("ended");
    assert!(error.is_go_away() && !error.is_remote());
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert!(matches!(&server.end, Some(Err(error)) if error.reason() == Some(Reason::ENHANCE_YOUR_CALM)));
    assert!(server.wire.closed);
}

#[test]
fn ended_client_sends_nothing_queued() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 1)]);
    let (_first, _body) = client.request(true);
    let (queued, _body) = client.request(true);
    assert_eq!(client.says(), ["HEADERS 1 END"]);
    client.wire.send(PING, 0, 0, b"short");
    // Whoever sees its request fail may send it elsewhere: it must not be here too.
    assert_eq!(client.says(), ["GOAWAY 0 FRAME_SIZE_ERROR"]);
    let error = now(queued).expect_err("never sent");
    assert!(error.is_go_away() && !error.is_remote());
    assert!(client.wire.closed && client.end.as_ref().is_some_and(Result::is_err));
}

#[test]
fn ping_resolves_or_fails_with_connection() {
    let mut client = Client::new(Config::default());
    let mut ping = client.ping();
    assert!(ping.poll().is_pending());
    let asked = client.frames().pop().expect("a ping");
    assert_eq!(asked.to_string(), "PING");
    client.wire.send(PING, ACK, 0, b"whatever");
    client.run();
    assert!(ping.poll().is_pending());
    client.wire.send(PING, ACK, 0, &asked.payload);
    client.run();
    assert!(matches!(ping.poll(), Poll::Ready(Ok(()))));
    client.wire.send(PING, 0, 0, b"01234567");
    let answer = client.frames().pop().expect("an answer");
    assert_eq!((answer.to_string().as_str(), &answer.payload[..]), ("PING ACK", &b"01234567"[..]));
}

#[test]
fn server_ping_resolves_or_fails() {
    let mut server = Server::new(Config::default());
    let mut ping = server.ping();
    assert!(ping.poll().is_pending());
    let asked = server.frames().pop().expect("a ping");
    server.wire.send(PING, ACK, 0, &asked.payload);
    server.run();
    assert!(matches!(ping.poll(), Poll::Ready(Ok(()))));
    let mut ping = server.ping();
    assert!(ping.poll().is_pending());
    server.drop_connection();
    assert!(ping.ready().is_err(), "it would wait for good");
}

#[test]
fn silent_client_fails_handshake() {
    for said in [&b""[..], b"PRI * HT"] {
        let mut server = Server::silent(Config::default(), 1 << 16);
        server.wire.bytes(said);
        server.run();
        server.wire.cut();
        server.run();
        assert!(matches!(&server.end, Some(Err(error)) if error.is_io()), "{:?}", server.end);
    }
    let mut server = Server::silent(Config::default(), 1 << 16);
    server.wire.bytes(b"GET / HTTP/1.1\r\n\r\n");
    assert!(server.says().contains(&"GOAWAY 0 PROTOCOL_ERROR".to_owned()));
    assert!(server.end.as_ref().is_some_and(Result::is_err));
}

#[test]
fn close_waits_until_goaway_is_written() {
    let mut server = Server::silent(Config::default(), 64);
    let mut hello = super::frames::PREFACE.to_vec();
    hello.extend(super::frames::frame(SETTINGS, 0, 0, &[]));
    hello.extend(super::frames::frame(PING, 0, 0, b"short"));
    let mut at = 0;
    let mut said = Vec::new();
    for _ in 0..1_000 {
        at += server.wire.offer(&hello[at..]);
        server.run();
        server.wire.read_bytes(1);
        said.extend(server.says());
        if server.wire.closed {
            break;
        }
    }
    assert_eq!(said.last().map(String::as_str), Some("GOAWAY 0 FRAME_SIZE_ERROR"));
    assert!(server.end.as_ref().is_some_and(Result::is_err));
}
