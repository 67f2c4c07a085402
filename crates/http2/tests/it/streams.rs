//! The life of a stream (RFC 9113 §5.1, §8.1) frame by frame, on both sides: how it opens, in which orders its halves end,
//! and what a reset leaves behind at each stage.

use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use shoal_http2::{Config, Reason, SendError};

use super::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, STREAMS_MAX, WINDOW, indexed, literal, request_block,
    request_with, response_with,
};
use super::harness::{Client, Server, Task, failure, now, once, read, request, send};

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

#[test]
fn call_gets_its_response() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    assert_eq!((call.head.method().as_str(), call.head.uri().path()), ("POST", "/a.B/C"));
    assert_eq!(call.head.uri().authority().map(http::uri::Authority::as_str), Some("mesh.test"));
    server.wire.data(1, b"ask", false);
    server.wire.headers(1, &literal("x-end", "1"), true);
    server.run();
    assert_eq!(read(&mut call.body), b"ask");
    assert!(!call.body.is_end_stream(), "trailers are to be read");
    let end = now(call.body.trailers()).expect("no reset").expect("trailers");
    assert_eq!(end["x-end"], "1");
    assert!(call.body.is_end_stream());
    let mut answer = call.answer(false);
    send(&mut answer, b"answer", false);
    answer.send_trailers(trailers()).expect("open");
    assert_eq!(server.says(), ["HEADERS 1", "DATA 1 6", "HEADERS 1 END"]);
    assert!(answer.send_trailers(trailers()).is_err(), "ended twice");
    assert!(now(answer.send(Bytes::from_static(b"x"), false)).is_err(), "after its end");
    assert!(call.respond.send_response(&Response::new(()), true).is_err(), "answered twice");
    drop((call, answer));
    assert_eq!(server.says(), [""; 0]);
    server.state().is_clean();
}

#[test]
fn trailers_only_response_is_complete() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    client.run();
    client.wire.headers(1, &response_with(&[("grpc-status", "5")]), true);
    client.run();
    let response = now(response).expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "5");
    let mut body = response.into_body();
    assert!(body.is_end_stream());
    assert!(now(body.data()).is_none());
    assert!(now(body.trailers()).expect("no reset").is_none());
    let mut server = Server::new(Config::default());
    server.call(1, true).answer(true);
    assert_eq!(server.says(), ["HEADERS 1 END"]);
    server.state().is_clean();
}

#[test]
fn informational_responses_are_skipped() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    let mut response = Task::new(response);
    client.run();
    for status in ["100", "103", "103", "199"] {
        client.wire.headers(1, &literal(":status", status), false);
        client.run();
        assert!(response.poll().is_pending(), "{status}");
    }
    client.answer(1, true);
    assert_eq!(response.ready().expect("an answer").status(), StatusCode::OK);

    let (response, _body) = client.request(true);
    client.says();
    client.wire.headers(3, &literal(":status", "103"), true);
    assert_eq!(client.says(), ["RST_STREAM 3 PROTOCOL_ERROR"]);
    assert_eq!(now(response).expect_err("no answer").reason(), Some(Reason::PROTOCOL_ERROR));

    let (response, _body) = client.request(true);
    client.says();
    client.wire.headers(5, &literal(":status", "100"), false);
    client.wire.data(5, b"x", false);
    assert_eq!(client.says(), ["RST_STREAM 5 PROTOCOL_ERROR"], "DATA before the answer");
    assert!(now(response).is_err());
}

#[test]
fn second_block_must_be_trailers() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    server.wire.headers(1, &literal("x", "y"), false);
    assert_eq!(server.says(), ["RST_STREAM 1 PROTOCOL_ERROR"]);
    assert_eq!(failure(&mut call.body).reason(), Some(Reason::PROTOCOL_ERROR));

    let _call = server.call(3, false);
    server.wire.headers(3, &literal(":path", "/"), true);
    assert_eq!(server.says(), ["RST_STREAM 3 PROTOCOL_ERROR"], "trailers with a pseudo-field");

    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    client.run();
    client.answer(1, false);
    client.says();
    client.answer(1, false);
    assert_eq!(client.says(), ["RST_STREAM 1 PROTOCOL_ERROR"], "answered twice");
    assert!(failure(now(response).expect("the first").body_mut()).is_reset());
}

#[test]
fn frames_after_end_stream_reset_it() {
    for (kind, payload) in [(HEADERS, literal("x", "y")), (super::frames::DATA, b"x".to_vec())] {
        let mut server = Server::new(Config::default());
        let mut call = server.call(1, true);
        server.says();
        server.wire.send(kind, END_HEADERS | END_STREAM, 1, &payload);
        assert_eq!(server.says(), ["RST_STREAM 1 STREAM_CLOSED"], "kind {kind}");
        assert!(call.respond.send_response(&Response::new(()), true).is_err());
        server.wire.send(kind, END_HEADERS | END_STREAM, 1, &payload);
        assert_eq!(server.says(), [""; 0], "it may have crossed our reset");
    }
}

#[test]
fn closed_stream_rejects_headers_and_data() {
    let mut server = Server::new(Config::default());
    server.call(1, true).answer(true);
    assert_eq!(server.says(), ["HEADERS 1 END"]);
    server.wire.window(1, 5);
    server.wire.reset(1, 8);
    assert_eq!(server.says(), [""; 0], "these may have crossed our end");
    server.wire.data(1, b"x", false);
    assert_eq!(server.says(), ["RST_STREAM 1 STREAM_CLOSED"]);
    server.call(3, true).answer(true);
    server.says();
    server.open(3, true);
    assert_eq!(server.says(), ["GOAWAY 3 STREAM_CLOSED"]);
}

#[test]
fn content_length_is_exact() {
    /// Returns the result of a request with that length, those frames, and then its end.
    fn outcome(length: &str, body: &[&[u8]], end: bool) -> Vec<String> {
        let mut server = Server::new(Config::default());
        server.wire.headers(1, &request_with(&[("content-length", length)]), body.is_empty() && end);
        for (at, data) in body.iter().enumerate() {
            server.wire.data(1, data, end && at + 1 == body.len());
        }
        server.says()
    }
    const WRONG: [&str; 1] = ["RST_STREAM 1 PROTOCOL_ERROR"];
    assert_eq!(outcome("5", &[b"hello"], true), [""; 0]);
    assert_eq!(outcome("5", &[b"he", b"", b"llo", b""], true), [""; 0]);
    assert_eq!(outcome("0", &[], true), [""; 0]);
    assert_eq!(outcome("0", &[b""], true), [""; 0]);
    assert_eq!(outcome("00005", &[b"hello"], true), [""; 0]);
    assert_eq!(outcome("5", &[b"hello", b"!"], false), WRONG);
    assert_eq!(outcome("5", &[b"hell"], true), WRONG);
    assert_eq!(outcome("5", &[b"hell"], false), [""; 0], "more may come");
    assert_eq!(outcome("5", &[], true), WRONG);
    assert_eq!(outcome("0", &[b"x"], false), WRONG);
    for nonsense in ["", "+5", "-1", "5 ", "5,5", "0x5", "99999999999999999999999", "five"] {
        assert_eq!(outcome(nonsense, &[b"hello"], true), WRONG, "{nonsense:?}");
    }

    let twice = |one, other| {
        let mut server = Server::new(Config::default());
        server.wire.headers(1, &request_with(&[("content-length", one), ("content-length", other)]), false);
        server.wire.data(1, b"hello", true);
        server.says()
    };
    assert_eq!(twice("5", "5"), [""; 0]);
    assert_eq!(twice("5", "6"), WRONG);

    let mut server = Server::new(Config::default());
    server.wire.headers(1, &request_with(&[("content-length", "5")]), false);
    server.wire.data(1, b"hell", false);
    server.wire.headers(1, &literal("x", "y"), true);
    assert_eq!(server.says(), WRONG, "trailers before all is there");
}

#[test]
fn response_content_length_is_enforced() {
    let mut client = Client::new(Config::default());
    let mut head = request();
    *head.method_mut() = http::Method::HEAD;
    let (answer, _body) = client.sender.send_request(&head, true).expect("taken");
    client.says();
    client.wire.headers(1, &response_with(&[("content-length", "5")]), true);
    assert_eq!(client.says(), [""; 0], "as the answer to HEAD is");
    assert!(now(answer).is_ok());
    let (answer, _body) = client.request(true);
    client.says();
    client.wire.headers(3, &response_with(&[("content-length", "5")]), false);
    client.wire.data(3, b"hell", true);
    assert_eq!(client.says(), ["RST_STREAM 3 PROTOCOL_ERROR"]);
    assert!(failure(now(answer).expect("headers").body_mut()).is_reset());
}

#[test]
fn streams_above_limit_are_refused() {
    let mut server = Server::new(Config { streams_max: 2, ..Config::default() });
    let mut first = server.call(1, false);
    let _second = server.call(3, true);
    server.open(5, true);
    assert_eq!(server.says(), ["RST_STREAM 5 REFUSED_STREAM"]);
    assert!(server.accepted.is_empty());
    first.answer(true);
    assert_eq!(server.says(), ["HEADERS 1 END"]);
    server.open(7, true);
    assert_eq!(server.says(), ["RST_STREAM 7 REFUSED_STREAM"], "the first one's request goes on");
    server.wire.data(1, b"x", true);
    let _fourth = server.call(9, true);
    assert_eq!(server.says(), [""; 0]);
    server.wire.reset(3, 8);
    let _fifth = server.call(11, true);
    assert_eq!(server.says(), [""; 0], "a reset makes room");
}

#[test]
fn frames_after_refusal_are_skipped() {
    let config = Config { streams_max: 1, connection_window: 65_535, ..Config::default() };
    let mut server = Server::new(config);
    let _first = server.call(1, true);
    // The client sent all of these before it could know.
    server.open(3, false);
    server.wire.data(3, b"body", false);
    server.wire.window(3, 100);
    server.wire.headers(3, &literal("x", "y"), true);
    server.open(5, false);
    server.wire.data(5, b"body", true);
    assert_eq!(server.says(), ["RST_STREAM 3 REFUSED_STREAM", "RST_STREAM 5 REFUSED_STREAM"]);
    let state = server.state();
    assert_eq!((state.number("stream_errors"), state.receivable()), (0, 65_535));
}

#[test]
fn queued_requests_open_in_order() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 1)]);
    let mut calls: Vec<_> = (0..4).map(|_| client.request(true)).collect();
    assert_eq!(client.says(), ["HEADERS 1 END"]);
    client.answer(1, true);
    assert_eq!(client.says(), ["HEADERS 3 END"]);
    client.wire.reset(3, 8);
    assert_eq!(client.says(), ["HEADERS 5 END"], "a reset makes room");
    assert!(
        once(&mut calls[1].0).is_ready() && once(&mut calls[2].0).is_pending(),
        "the second was the next"
    );
    drop(calls.remove(2));
    assert_eq!(client.says(), ["RST_STREAM 5 CANCEL", "HEADERS 7 END"]);
    let (_more, _body) = client.request(true);
    assert_eq!(client.says(), [""; 0]);
    client.wire.settings(&[(STREAMS_MAX, 2)]);
    assert_eq!(client.says(), ["SETTINGS ACK", "HEADERS 9 END"], "and so do settings");
    client.wire.settings(&[(STREAMS_MAX, 0)]);
    client.answer(7, true);
    client.answer(9, true);
    let (_last, _body) = client.request(true);
    assert_eq!(client.says(), ["SETTINGS ACK"]);
    client.wire.settings(&[(STREAMS_MAX, 1)]);
    assert_eq!(client.says(), ["SETTINGS ACK", "HEADERS 11 END"]);
}

#[test]
fn zero_stream_limit_queues_all() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 0)]);
    assert_eq!(client.sender.streams_max(), 0);
    let (response, mut body) = client.request(false);
    let mut response = Task::new(response);
    let mut sent = Task::new(async move { body.send(Bytes::from_static(b"later"), true).await });
    assert!(response.poll().is_pending() && sent.poll().is_pending());
    assert_eq!(client.says(), [""; 0]);
    client.wire.settings(&[(STREAMS_MAX, 7)]);
    client.run();
    assert_eq!(client.sender.streams_max(), 7);
    assert!(matches!(sent.poll(), Poll::Ready(Ok(()))));
    assert_eq!(client.says(), ["SETTINGS ACK", "HEADERS 1", "DATA 1 5 END"]);
    client.answer(1, true);
    assert!(response.ready().is_ok());
}

#[test]
fn queued_request_is_sent_complete() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 0), (WINDOW, 3)]);
    let (_one, mut finished) = client.request(false);
    finished.finish().expect("waits");
    let (_two, mut ended) = client.request(false);
    ended.send_trailers(trailers()).expect("waits");
    let (_three, mut sending) = client.request(false);
    let mut sending = Task::new(async move { sending.send(Bytes::from_static(b"body"), true).await });
    assert!(sending.poll().is_pending());
    // The window they have is that of when they open.
    client.wire.settings(&[(STREAMS_MAX, 9), (WINDOW, 2)]);
    client.run();
    assert!(sending.poll().is_pending());
    assert_eq!(
        client.says(),
        ["SETTINGS ACK", "HEADERS 1 END", "HEADERS 3", "HEADERS 3 END", "HEADERS 5", "DATA 5 2"]
    );
}

#[test]
fn ended_queued_request_takes_no_more() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 0)]);
    let (_response, mut body) = client.request(true);
    assert!(body.send_trailers(trailers()).is_err());
    let (_response, mut body) = client.request(false);
    body.send_trailers(trailers()).expect("waits");
    assert!(body.send_trailers(trailers()).is_err());
    assert!(matches!(once(body.send(Bytes::from_static(b"x"), true)), Poll::Ready(Err(_))));
    client.wire.settings(&[(STREAMS_MAX, 9)]);
    assert_eq!(client.says(), ["SETTINGS ACK", "HEADERS 1 END", "HEADERS 3", "HEADERS 3 END"]);
}

#[test]
fn cancelled_queued_request_sends_nothing() {
    let mut client = Client::told(Config::default(), &[(STREAMS_MAX, 1)]);
    let first = client.request(true);
    let (reset, mut body) = client.request(false);
    let dropped = client.request(false);
    let (_last, _body) = client.request(true);
    body.send_reset(Reason::CANCEL);
    drop(dropped);
    assert_eq!(client.says(), ["HEADERS 1 END"]);
    let error = now(reset).expect_err("reset");
    assert!(error.is_reset() && !error.is_remote());
    assert!(now(body.send(Bytes::new(), true)).is_err());
    client.answer(1, true);
    assert_eq!(client.says(), ["HEADERS 3 END"], "the one behind them");
    client.answer(3, true);
    drop((first, body, _last, _body));
    client.state().is_clean();
}

#[test]
fn client_resets_at_every_stage() {
    /// Returns what is sent when a call is dropped, or reset with a reason, after `stage` steps.
    fn said(stage: usize, dropped: bool) -> Vec<String> {
        let mut client = Client::new(Config::default());
        let (response, mut body) = client.request(false);
        let mut incoming = None;
        let mut response = Some(response);
        type Step<'a> = &'a dyn Fn(&mut Client, &mut shoal_http2::SendStream);
        let steps: [Step<'_>; 5] = [
            &|_, body| send(body, b"some", false),
            &|_, body| send(body, b"all", true),
            &|client, _| client.answer(1, false),
            &|client, _| client.wire.data(1, b"part", false),
            &|client, _| client.wire.data(1, b"rest", true),
        ];
        for step in steps.into_iter().take(stage) {
            step(&mut client, &mut body);
            client.run();
            if let Some(Poll::Ready(answer)) = response.as_mut().map(once) {
                incoming = Some(answer.expect("an answer").into_body());
                response = None;
            }
        }
        client.says();
        if dropped {
            drop((response, incoming, body));
        } else {
            body.send_reset(Reason::INTERNAL_ERROR);
            body.send_reset(Reason::CANCEL);
            if let Some(response) = response {
                assert_eq!(now(response).expect_err("reset").reason(), Some(Reason::INTERNAL_ERROR));
            }
        }
        let says = client.says();
        client.wire.headers(1, &super::frames::response_block(), false);
        client.wire.data(1, b"late", true);
        if stage < 5 {
            assert_eq!(client.says(), [""; 0], "frames that cross a reset are no fault");
        }
        says
    }
    for stage in 0..=4 {
        assert_eq!(said(stage, true), ["RST_STREAM 1 CANCEL"], "dropped after {stage}");
        assert_eq!(said(stage, false), ["RST_STREAM 1 INTERNAL_ERROR"], "reset after {stage}");
    }
    assert_eq!(said(5, true), [""; 0], "it is over");
    assert_eq!(said(5, false), [""; 0], "it is over");
}

#[test]
fn server_survives_reset_at_every_stage() {
    for stage in 0..=3 {
        let mut server = Server::new(Config::default());
        let mut call = server.call(1, false);
        let mut sending = None;
        if stage >= 1 {
            server.wire.data(1, b"part", false);
        }
        if stage >= 2 {
            sending = Some(call.answer(false));
        }
        if stage >= 3 {
            send(sending.as_mut().expect("begun"), b"part", false);
        }
        let mut respond = call.respond;
        let mut reset = Task::new(std::future::poll_fn(move |cx| respond.poll_reset(cx)));
        assert!(reset.poll().is_pending());
        server.says();
        server.wire.reset(1, 5);
        assert_eq!(server.says(), [""; 0]);
        let error = reset.ready();
        assert!(error.is_reset() && error.is_remote(), "{error}");
        assert_eq!(error.reason(), Some(Reason::STREAM_CLOSED));
        if stage >= 1 {
            assert_eq!(now(call.body.data()).expect("data").expect("what came before"), "part");
        }
        assert!(failure(&mut call.body).is_remote());
        assert!(now(call.body.trailers()).is_err());
        if let Some(sending) = &mut sending {
            assert!(now(sending.send(Bytes::from_static(b"x"), false)).is_err());
            assert!(sending.send_trailers(trailers()).is_err());
        }
        drop((call.body, sending, reset));
        assert_eq!(server.says(), [""; 0], "a reset is not answered with a reset");
        server.state().is_clean();
    }
}

#[test]
fn client_survives_reset_at_every_stage() {
    let mut client = Client::new(Config::default());
    let (response, mut body) = client.request(false);
    let (mut response, mut writing) = (Task::new(response), {
        send(&mut body, &[0; 65_535], false);
        Task::new(async move { body.send(Bytes::from_static(b"more"), true).await })
    });
    assert!(response.poll().is_pending() && writing.poll().is_pending());
    client.says();
    client.wire.reset(1, 7);
    client.run();
    let error = response.ready().expect_err("reset");
    assert_eq!((error.reason(), error.is_remote()), (Some(Reason::REFUSED_STREAM), true));
    assert_eq!(writing.ready().expect_err("reset").reason(), Some(Reason::REFUSED_STREAM));
    drop((response, writing));

    let (response, _body) = client.request(true);
    client.run();
    client.answer(3, false);
    client.wire.data(3, b"part", false);
    let mut body = now(response).expect("an answer").into_body();
    client.wire.reset(3, 2);
    client.run();
    assert_eq!(read_part(&mut body), b"part");
    assert_eq!(failure(&mut body).reason(), Some(Reason::INTERNAL_ERROR));
    client.wire.reset(3, 2);
    client.wire.window(3, 2);
    drop((_body, body));
    client.says();
    client.state().is_clean();
}

fn read_part(body: &mut shoal_http2::RecvStream) -> Vec<u8> {
    now(body.data()).expect("data").expect("what came before").to_vec()
}

#[test]
fn early_response_stops_request() {
    let mut server = Server::new(Config::default());
    let mut call = server.call(1, false);
    call.answer(true);
    drop(call);
    assert_eq!(server.says(), ["HEADERS 1 END", "RST_STREAM 1 NO_ERROR"]);
    server.wire.data(1, b"under way", false);
    server.wire.headers(1, &literal("x", "y"), true);
    assert_eq!(server.says(), [""; 0]);

    let mut client = Client::new(Config::default());
    let (response, mut body) = client.request(false);
    client.run();
    client.wire.headers(1, &super::frames::response_block(), false);
    client.wire.data(1, b"early", false);
    client.wire.headers(1, &literal("x", "y"), true);
    client.wire.reset(1, 0);
    client.run();
    let answer = now(response);
    assert_eq!(
        now(body.send(Bytes::from_static(b"x"), true)).expect_err("over").reason(),
        Some(Reason::NO_ERROR)
    );
    let mut incoming = answer.expect("an answer").into_body();
    assert_eq!(read(&mut incoming), b"early");
    assert_eq!(now(incoming.trailers()).expect("whole").expect("trailers")["x"], "y");
}

#[test]
fn abandoned_response_is_cancelled() {
    let mut server = Server::new(Config::default());
    drop(server.call(1, true));
    let mut call = server.call(3, true);
    let mut answer = call.answer(false);
    send(&mut answer, b"part", false);
    drop((call, answer));
    let expected = ["RST_STREAM 1 CANCEL", "HEADERS 3", "DATA 3 4", "RST_STREAM 3 CANCEL"];
    assert_eq!(server.says(), expected);
    server.state().is_clean();
}

#[test]
fn reset_after_end_changes_nothing() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(true);
    client.run();
    client.wire.headers(1, &super::frames::response_block(), false);
    client.wire.data(1, b"all", true);
    client.wire.reset(1, 2);
    client.run();
    let mut body = now(response).expect("an answer").into_body();
    assert_eq!(read(&mut body), b"all");
    assert!(now(body.data()).is_none());
    assert!(now(body.trailers()).expect("no reset").is_none());
}

#[test]
fn failed_requests_keep_tables_in_step() {
    let config = Config { streams_max: 1, header_list_max: 400, ..Config::default() };
    let mut server = Server::new(config);
    let first = server.call(1, true);
    // Refused, too long, and malformed: each block puts a field into the table.
    for (id, more) in [(3, literal("a", "b")), (5, literal("a", &"b".repeat(400))), (7, literal("A", "b"))] {
        let mut block = request_block();
        block.extend(indexed("x-number", &id.to_string()));
        block.extend(more);
        server.wire.headers(id, &block, true);
    }
    server.run();
    drop(first);
    server.run();
    let mut block = request_block();
    block.extend([0xbe, 0xbf, 0xc0]);
    server.wire.headers(9, &block, true);
    let call = server.take();
    let numbers: Vec<_> = call.head.headers().get_all("x-number").iter().collect();
    assert_eq!(numbers, ["7", "5", "3"]);
}

#[test]
fn continuations_make_one_request() {
    let mut server = Server::new(Config::default());
    let block = request_with(&[("x", &"y".repeat(3_000))]);
    server.wire.send(HEADERS, END_STREAM, 1, &block[..1]);
    server.wire.send(CONTINUATION, 0, 1, &[]);
    server.wire.send(CONTINUATION, 0, 1, &block[1..2_000]);
    server.wire.send(CONTINUATION, END_HEADERS, 1, &block[2_000..]);
    let mut call = server.take();
    assert_eq!(call.head.headers()["x"].len(), 3_000);
    assert!(now(call.body.data()).is_none(), "END_STREAM is said by the first frame");
}

#[test]
fn long_headers_are_sent_as_continuations() {
    let mut client = Client::new(Config::default());
    let long = Request::post("http://mesh.test/a").header("x", "y".repeat(40_000)).body(());
    let _call = client.sender.send_request(&long.expect("valid"), true).expect("taken");
    let expected = ["HEADERS 1 END MORE", "CONTINUATION 1 MORE", "CONTINUATION 1"];
    assert_eq!(client.says(), expected);
    client.wire.settings(&[(5, 100_000)]);
    client.says();
    let long = Request::post("http://mesh.test/a").header("x", "y".repeat(40_000)).body(());
    let _call = client.sender.send_request(&long.expect("valid"), true).expect("taken");
    assert_eq!(client.says(), ["HEADERS 3 END"], "the peer takes longer ones");
}

#[test]
fn invalid_request_is_not_sent() {
    let client = Client::new(Config::default());
    for (uri, header) in
        [("/a", ("x", "y")), ("http://mesh/a", ("connection", "close")), ("http://mesh/a", ("te", "gzip"))]
    {
        let request = Request::post(uri).header(header.0, header.1).body(()).expect("valid");
        let error = client.sender.send_request(&request, true).expect_err("not sent");
        assert!(matches!(error, SendError::Invalid(_)), "{error}");
    }
    assert!(client.sender.send_request(&request(), true).is_ok());
}

#[test]
fn malformed_requests_keep_connection_open() {
    let block = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
    };
    const METHOD: (&str, &str) = (":method", "POST");
    const SCHEME: (&str, &str) = (":scheme", "http");
    const PATH: (&str, &str) = (":path", "/");
    let blocks = [
        block(&[SCHEME, PATH]),
        block(&[METHOD, PATH]),
        block(&[METHOD, SCHEME]),
        block(&[METHOD, SCHEME, (":path", "")]),
        block(&[METHOD, METHOD, SCHEME, PATH]),
        block(&[METHOD, SCHEME, ("x", "y"), PATH]),
        block(&[METHOD, SCHEME, PATH, (":status", "200")]),
        block(&[METHOD, SCHEME, PATH, (":other", "1")]),
        block(&[METHOD, SCHEME, PATH, (":protocol", "websocket")]),
        block(&[METHOD, SCHEME, PATH, ("Upper", "1")]),
        block(&[METHOD, SCHEME, PATH, ("a b", "1")]),
        block(&[METHOD, SCHEME, PATH, ("", "1")]),
        block(&[METHOD, SCHEME, PATH, ("x", "a\r\nb")]),
        block(&[METHOD, SCHEME, PATH, ("x", "a\0b")]),
        block(&[METHOD, SCHEME, PATH, ("connection", "close")]),
        block(&[METHOD, SCHEME, PATH, ("transfer-encoding", "chunked")]),
        block(&[METHOD, SCHEME, PATH, ("te", "gzip")]),
        block(&[METHOD, SCHEME, PATH, (":authority", "a b")]),
        block(&[("x", "y")]),
        vec![],
    ];
    let mut server = Server::new(Config::default());
    for (at, block) in blocks.iter().enumerate() {
        let id = at as u32 * 2 + 1;
        server.wire.headers(id, block, at % 2 == 0);
        assert_eq!(server.says(), [format!("RST_STREAM {id} PROTOCOL_ERROR")], "block {at}");
    }
    assert!(server.accepted.is_empty());
    server.call(99, true);
}

#[test]
fn malformed_response_resets_its_stream() {
    let mut client = Client::new(Config::default());
    for (at, block) in [
        literal("x", "y"),
        literal(":status", "20"),
        literal(":status", "abc"),
        response_with(&[(":status", "200")]),
        response_with(&[(":path", "/")]),
        response_with(&[("connection", "close")]),
        response_with(&[("content-length", "x")]),
    ]
    .iter()
    .enumerate()
    {
        let id = at as u32 * 2 + 1;
        let (response, _body) = client.request(true);
        client.says();
        client.wire.headers(id, block, true);
        assert_eq!(client.says(), [format!("RST_STREAM {id} PROTOCOL_ERROR")], "block {at}");
        assert!(now(response).expect_err("no answer").is_reset());
    }
}

/// Returns the capacity of a server's tables after each of these streams, of 4000, has ended.
fn places(order: impl Iterator<Item = usize>) -> Vec<i64> {
    const STREAMS: u32 = 4_000;
    let mut server = Server::new(Config { streams_max: STREAMS, ..Config::default() });
    for stream in 0..STREAMS {
        server.open(2 * stream + 1, true);
    }
    server.run();
    let mut calls: Vec<_> = server.accepted.drain(..).map(Some).collect();
    assert!(server.state().number("capacity") >= i64::from(STREAMS));
    let mut places = Vec::new();
    for (ended, at) in order.enumerate() {
        calls[at].take().expect("once").answer(true);
        if ended % 100 == 99 {
            server.says();
            places.push(server.state().number("capacity"));
        }
    }
    places.push(server.state().number("capacity"));
    places
}

#[test]
fn tables_shrink_after_a_burst_of_streams() {
    for forwards in [false, true] {
        let last = if forwards { places(0..4_000) } else { places((0..4_000).rev()) };
        assert!(last.last().is_some_and(|places| *places <= 256), "forwards {forwards}: {last:?}");
    }
    let most = places((1..4_000).rev());
    assert!(most.last().is_some_and(|places| *places <= 256), "one of the first goes on: {most:?}");
    // Half of them leave: the tables are not made to go up and down.
    let half = places((0..4_000).step_by(2));
    assert!(half.iter().all(|places| *places > 4_000), "{half:?}");
}
