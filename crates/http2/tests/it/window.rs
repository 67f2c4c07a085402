//! Flow control both ways (RFC 9113 §5.2, §6.9): never more than the windows allow, and nothing of them lost.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use shoal_http2::{Config, Reason};

use super::frames::{ACK, DATA, Frame, PADDED, SETTINGS, WINDOW, WINDOW_UPDATE};
use super::harness::{Client, Server, Task, failure, now, read, send};

/// Counts the bytes of DATA among `frames`.
fn data_bytes(frames: &[Frame]) -> usize {
    frames.iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum()
}

/// Returns a payload with so much padding behind it.
fn padded(data: &[u8], padding: u8) -> Vec<u8> {
    let mut payload = vec![padding];
    payload.extend_from_slice(data);
    payload.resize(1 + data.len() + usize::from(padding), 0);
    payload
}

#[test]
fn body_uses_whole_stream_window() {
    let mut client = Client::told(Config::default(), &[(WINDOW, 10)]);
    let (_response, mut body) = client.request(false);
    let mut task = Task::new(async move { body.send(Bytes::from(vec![1; 100]), true).await });
    let mut step = |client: &mut Client| {
        let sent = task.poll();
        (client.says(), sent.is_ready())
    };
    assert_eq!(step(&mut client), (vec!["HEADERS 1".into(), "DATA 1 10".into()], false));
    client.wire.window(1, 1);
    client.run();
    assert_eq!(step(&mut client), (vec!["DATA 1 1".into()], false));
    client.wire.settings(&[(WINDOW, 0)]);
    client.wire.window(1, 4);
    assert_eq!(client.says(), ["SETTINGS ACK"]);
    assert_eq!(step(&mut client), (vec![], false), "less than nothing, by six");
    client.wire.window(1, 6);
    client.run();
    assert_eq!(step(&mut client), (vec![], false), "nothing");
    client.wire.window(1, 1);
    client.run();
    assert_eq!(step(&mut client), (vec!["DATA 1 1".into()], false));
    client.wire.settings(&[(WINDOW, 20)]);
    assert_eq!(client.says(), ["SETTINGS ACK"]);
    assert_eq!(step(&mut client), (vec!["DATA 1 20".into()], false), "grown by settings");
    client.wire.settings(&[(WINDOW, 10)]);
    client.wire.settings(&[(WINDOW, 1_000)]);
    assert_eq!(client.says(), ["SETTINGS ACK", "SETTINGS ACK"]);
    assert_eq!(step(&mut client), (vec!["DATA 1 68 END".into()], true));
}

#[test]
fn zero_window_passes_headers_and_end() {
    let mut client = Client::told(Config::default(), &[(WINDOW, 0)]);
    let (_response, mut body) = client.request(false);
    let (_response, mut other) = client.request(false);
    body.finish().expect("needs no window");
    other.send_trailers(http::HeaderMap::new()).expect("need no window");
    assert_eq!(client.says(), ["HEADERS 1", "HEADERS 3", "DATA 1 0 END", "HEADERS 3 END"]);
}

#[test]
fn bodies_share_connection_window() {
    let mut client = Client::told(Config::default(), &[(WINDOW, 1 << 20)]);
    let mut tasks: Vec<_> = (0..2)
        .map(|_| {
            let (response, mut body) = client.request(false);
            Task::new(async move {
                let _response = response;
                body.send(Bytes::from(vec![1; 50_000]), true).await
            })
        })
        .collect();
    let mut step = |client: &mut Client| {
        client.run();
        for task in &mut tasks {
            let _ = task.poll();
        }
        data_bytes(&client.frames())
    };
    assert_eq!(step(&mut client), 65_535);
    assert_eq!(step(&mut client), 0);
    for more in [1, 7, 10_000] {
        client.wire.window(0, more);
        assert_eq!(step(&mut client), more as usize);
    }
    client.wire.window(0, 1 << 20);
    assert_eq!(step(&mut client), 100_000 - 65_535 - 10_008);
    assert_eq!(client.state().number("send_window"), 65_535 + 10_008 + (1 << 20) - 100_000);
}

#[test]
fn stream_window_is_returned_by_halves() {
    let config = Config { stream_window: 100_000, connection_window: 1 << 30, ..Config::default() };
    let mut server = Server::new(config);
    let mut calls = Vec::new();
    for id in [1, 3, 5] {
        let mut call = server.call(id, false);
        server.wire.much_data(id, 49_999);
        server.run();
        assert_eq!(read(&mut call.body).len(), 49_999);
        assert_eq!(server.says(), [""; 0], "read and not released");
        call.body.release(49_999);
        assert_eq!(server.says(), [""; 0], "not worth a frame");
        server.wire.data(id, b"xy", false);
        server.run();
        assert_eq!(read(&mut call.body), b"xy");
        call.body.release(1);
        assert_eq!(server.says(), [format!("WINDOW_UPDATE {id} 50000")]);
        calls.push(call);
    }
}

#[test]
fn connection_window_is_returned_by_halves() {
    let config = Config { stream_window: 1 << 20, connection_window: 300_000, ..Config::default() };
    let mut server = Server::new(config);
    let mut call = server.call(1, false);
    server.wire.much_data(1, 100_000);
    server.run();
    read(&mut call.body);
    call.body.release(99_999);
    assert_eq!(server.says(), [""; 0]);
    call.body.release(1);
    assert_eq!(server.says(), ["WINDOW_UPDATE 0 100000"]);
    // Nobody reads most of it: the rest goes round the faster.
    server.wire.much_data(1, 294_000);
    let mut other = server.call(3, false);
    server.wire.data(3, &[0; 2_000], false);
    server.run();
    read(&mut other.body);
    other.body.release(1_999);
    assert_eq!(server.says(), [""; 0]);
    other.body.release(1);
    assert_eq!(server.says(), ["WINDOW_UPDATE 0 2000"]);
    assert_eq!(server.state().receivable(), 6_000);
    drop((call, other));
    server.says();
    assert_eq!(server.state().receivable(), 300_000);
}

#[test]
fn ended_stream_gets_no_window() {
    let mut server = Server::new(Config { stream_window: 100, ..Config::default() });
    let mut call = server.call(1, false);
    server.wire.data(1, &[0; 100], true);
    server.run();
    assert_eq!(read(&mut call.body).len(), 100);
    call.body.release(100);
    assert_eq!(server.says(), [""; 0]);
}

#[test]
fn padding_is_returned_unread() {
    let config = Config { stream_window: 1_000, ..Config::default() };
    let whole = i64::from(config.connection_window);
    let mut server = Server::new(config);
    let mut call = server.call(1, false);
    // 1 + 44 + 255: the length's octet and the padding are 256.
    server.wire.send(DATA, PADDED, 1, &padded(&[9; 44], 255));
    assert_eq!(server.says(), [""; 0]);
    server.wire.send(DATA, PADDED, 1, &padded(&[9; 44], 255));
    assert_eq!(server.says(), ["WINDOW_UPDATE 1 512"]);
    assert_eq!(read(&mut call.body), [9; 88]);
    assert_eq!(server.state().receivable(), whole - 88);
    // 400 and 512 are left, of which padding takes its part.
    for _ in 0..3 {
        server.wire.send(DATA, PADDED, 1, &padded(&[9; 44], 255));
    }
    assert_eq!(server.says(), ["WINDOW_UPDATE 1 512"]);
    server.wire.send(DATA, PADDED, 1, &padded(&[9; 600], 255));
    assert_eq!(server.says(), ["RST_STREAM 1 FLOW_CONTROL_ERROR"]);
    drop(call);
    assert_eq!(server.state().receivable(), whole);
}

#[test]
fn padding_is_no_content() {
    let mut server = Server::new(Config::default());
    server.wire.headers(1, &super::frames::request_with(&[("content-length", "5")]), false);
    let mut call = server.take();
    server.wire.send(DATA, PADDED, 1, &padded(b"he", 9));
    server.wire.send(DATA, PADDED, 1, &padded(b"", 0));
    server.wire.send(DATA, PADDED | 1, 1, &padded(b"llo", 0));
    assert_eq!(server.says(), [""; 0]);
    assert_eq!(read(&mut call.body), b"hello");
    assert!(call.body.is_end_stream());
}

#[test]
fn exceeded_windows_are_errors() {
    let config = Config { stream_window: 70_000, connection_window: 65_535, ..Config::default() };
    let mut server =
        Server::new(Config { stream_window: 100, connection_window: 65_535, ..Config::default() });
    let mut call = server.call(1, false);
    server.wire.data(1, &[0; 100], false);
    assert_eq!(server.says(), [""; 0]);
    server.wire.data(1, &[0; 1], false);
    assert_eq!(server.says(), ["RST_STREAM 1 FLOW_CONTROL_ERROR"]);
    assert_eq!(failure(&mut call.body).reason(), Some(Reason::FLOW_CONTROL_ERROR));
    drop(call);
    assert_eq!(server.state().receivable(), 65_535);

    let mut server = Server::new(config);
    let _call = server.call(1, false);
    server.wire.much_data(1, 65_535);
    assert_eq!(server.says(), [""; 0]);
    server.wire.data(1, &[0; 1], false);
    assert_eq!(server.says(), ["GOAWAY 1 FLOW_CONTROL_ERROR"]);
    assert!(server.wire.closed);
}

#[test]
fn default_window_holds_until_settings_ack() {
    let mut server = Server::silent(Config { stream_window: 1_000, ..Config::default() }, 1 << 20);
    server.greet();
    let _early = server.call(1, false);
    server.says();
    server.wire.much_data(1, 65_535);
    assert_eq!(server.says(), [""; 0]);
    server.wire.data(1, &[0; 1], false);
    assert_eq!(server.says(), ["RST_STREAM 1 FLOW_CONTROL_ERROR"]);
    server.wire.send(SETTINGS, ACK, 0, &[]);
    let _late = server.call(3, false);
    server.wire.data(3, &[0; 1_001], false);
    assert_eq!(server.says(), ["RST_STREAM 3 FLOW_CONTROL_ERROR"]);
}

#[test]
fn larger_window_holds_at_once() {
    let mut server = Server::silent(Config { stream_window: 100_000, ..Config::default() }, 1 << 20);
    server.greet();
    let _call = server.call(1, false);
    server.says();
    server.wire.much_data(1, 100_000);
    assert_eq!(server.says(), [""; 0]);
}

#[test]
fn release_is_limited_to_received() {
    let config = Config { stream_window: 100, connection_window: 65_535, ..Config::default() };
    let mut server = Server::new(config);
    let mut call = server.call(1, false);
    server.wire.data(1, &[0; 60], false);
    server.run();
    read(&mut call.body);
    call.body.release(usize::MAX);
    assert_eq!(server.says(), ["WINDOW_UPDATE 1 60"]);
    call.body.release(1_000);
    call.body.release(0);
    assert_eq!(server.says(), [""; 0]);
    assert_eq!(server.state().receivable(), 65_535);
}

/// Returns the connection's window as a client knows it.
fn given(frames: &[Frame]) -> i64 {
    let of_connection = |frame: &&Frame| frame.kind == WINDOW_UPDATE && frame.stream == 0;
    frames.iter().filter(of_connection).map(|frame| i64::from(frame.number(0))).sum()
}

/// Sends DATA on streams whatever became of them; far more in all than the connection's window.
fn data_on_lost_streams(lose: impl Fn(&mut Server, u32)) {
    const BYTES: i64 = 1_000;
    let config = Config { connection_window: 65_535, stream_window: 65_535, ..Config::default() };
    let mut server = Server::new(config);
    let mut window = 65_535;
    for call in 0..3_000 {
        let id = call * 2 + 1;
        lose(&mut server, id);
        let frames = server.frames();
        assert!(frames.iter().all(|frame| frame.kind != super::frames::GOAWAY), "{frames:?}");
        window += given(&frames) - BYTES;
        assert!(window > BYTES, "{window} after {call} streams");
    }
    server.accepted.clear();
    window += given(&server.frames());
    let state = server.state();
    state.is_clean();
    assert_eq!(state.receivable(), 65_535);
    assert_eq!(state.number("receive_window"), window, "both sides count the same");
}

#[test]
fn data_after_local_reset_is_returned() {
    data_on_lost_streams(|server, id| {
        server.call(id, false).respond.send_reset(Reason::CANCEL);
        server.wire.data(id, &[0; 1_000], true);
    });
}

#[test]
fn data_after_early_response_is_returned() {
    data_on_lost_streams(|server, id| {
        let mut call = server.call(id, false);
        server.wire.data(id, &[0; 400], false);
        server.run();
        drop((call.answer(true), call));
        server.wire.data(id, &[0; 600], true);
    });
}

#[test]
fn unread_data_of_dropped_stream_returned() {
    data_on_lost_streams(|server, id| {
        let mut call = server.call(id, false);
        server.wire.data(id, &[0; 1_000], true);
        server.run();
        assert_eq!(read(&mut call.body).len(), 1_000);
        call.body.release(300);
        call.answer(true);
    });
}

#[test]
fn data_of_peer_reset_stream_returned() {
    data_on_lost_streams(|server, id| {
        let _call = server.call(id, false);
        server.wire.data(id, &[0; 1_000], false);
        server.wire.reset(id, 8);
        server.run();
    });
}

#[test]
fn data_of_refused_request_is_returned() {
    let long = "x".repeat(70_000);
    let mut server = Server::new(Config { connection_window: 65_535, ..Config::default() });
    let block = super::frames::request_with(&[("x", &long)]);
    for call in 0..200 {
        let id = call * 2 + 1;
        server.wire.send(super::frames::HEADERS, 0, id, &block[..16_384]);
        let rest: Vec<&[u8]> = block[16_384..].chunks(16_384).collect();
        for (at, part) in rest.iter().enumerate() {
            let flags = if at + 1 == rest.len() { super::frames::END_HEADERS } else { 0 };
            server.wire.send(super::frames::CONTINUATION, flags, id, part);
        }
        server.refuse();
        server.wire.data(id, &[0; 1_000], true);
        let says = server.says();
        assert!(says.iter().all(|line| !line.starts_with("GOAWAY")), "{says:?}");
        assert_eq!(&says[..2], [format!("HEADERS {id} END"), format!("RST_STREAM {id} NO_ERROR")]);
    }
    assert_eq!(server.state().receivable(), 65_535);
}

#[test]
fn unwanted_response_data_is_returned() {
    let config = Config { connection_window: 65_535, stream_window: 65_535, ..Config::default() };
    let mut client = Client::new(config);
    let mut window = 65_535;
    for call in 0..3_000 {
        let id = call * 2 + 1;
        let handles = client.request(true);
        client.run();
        drop(handles);
        client.run();
        client.answer(id, false);
        client.wire.data(id, &[0; 1_000], true);
        window += given(&client.frames()) - 1_000;
        assert!(window > 1_000, "{window} after {call}");
    }
    let state = client.state();
    state.is_clean();
    assert_eq!((state.receivable(), state.number("stream_errors")), (65_535, 0));
}

#[test]
fn initial_window_applies_to_sent_requests() {
    let mut client = Client::silent(Config::default(), 1 << 20);
    let (_response, mut body) = client.request(false);
    send(&mut body, &[0; 60_000], false);
    client.run();
    client.wire.settings(&[(WINDOW, 50_000)]);
    client.wire.window(0, 1 << 20);
    client.run();
    let mut more = Task::new(async move { body.send(Bytes::from(vec![0; 10]), true).await });
    assert!(more.poll().is_pending());
    client.wire.window(1, 10_000);
    client.run();
    assert!(more.poll().is_pending(), "it is exactly nothing");
    client.wire.window(1, 10);
    client.run();
    assert!(matches!(more.poll(), Poll::Ready(Ok(()))));
}

#[test]
fn overflowing_windows_are_errors() {
    let mut client = Client::new(Config::default());
    let (response, _body) = client.request(false);
    let (other, _body) = client.request(false);
    client.says();
    client.wire.window(1, (1 << 31) - 1 - 65_535);
    assert_eq!(client.says(), [""; 0], "the largest");
    client.wire.window(1, 1);
    assert_eq!(client.says(), ["RST_STREAM 1 FLOW_CONTROL_ERROR"]);
    let error = now(response).expect_err("reset");
    assert!(error.is_reset() && !error.is_remote());
    client.wire.window(3, 1);
    client.wire.settings(&[(WINDOW, (1 << 31) - 1)]);
    assert_eq!(client.says(), ["SETTINGS ACK", "GOAWAY 0 FLOW_CONTROL_ERROR"]);
    assert!(now(other).expect_err("ended").is_go_away());

    let mut client = Client::new(Config::default());
    client.wire.window(0, (1 << 31) - 1 - 65_535);
    assert_eq!(client.says(), [""; 0]);
    client.wire.window(0, 1);
    assert_eq!(client.says(), ["GOAWAY 0 FLOW_CONTROL_ERROR"]);
}

#[test]
fn one_byte_window_works() {
    let config = Config { stream_window: 1, connection_window: 1, ..Config::default() };
    let mut server = Server::new(config);
    let mut call = server.call(1, false);
    for _ in 0..200 {
        server.wire.data(1, b"x", false);
        server.run();
        assert_eq!(read(&mut call.body), b"x");
        call.body.release(1);
        assert_eq!(server.says(), ["WINDOW_UPDATE 1 1"]);
    }
    assert_eq!(server.state().receivable(), 65_535, "less than the protocol's cannot be asked for");
}

#[test]
fn zero_window_sends_no_update() {
    let config = Config { stream_window: 1 << 20, connection_window: 65_535, ..Config::default() };
    let mut server = Server::new(config);
    let _full = server.call(1, false);
    server.wire.much_data(1, 65_535);
    server.call(3, true).answer(true);
    assert_eq!(server.says(), ["HEADERS 3 END"], "a WINDOW_UPDATE of nothing is an error");
}

#[test]
fn data_without_reader_is_returned_at_once() {
    let config = Config { stream_window: 10_000, connection_window: 65_535, ..Config::default() };
    let mut server = Server::new(config);
    let mut call = server.call(1, false);
    server.wire.data(1, &[0; 4_000], false);
    server.run();
    let _answer = call.answer(false);
    drop(call.body);
    assert_eq!(server.state().receivable(), 65_535);
    server.says();
    for released in [9_000, 5_000, 5_000, 5_000] {
        server.wire.data(1, &[0; 5_000], false);
        let says = server.says();
        assert_eq!(says.first(), Some(&format!("WINDOW_UPDATE 1 {released}")));
        assert_eq!(server.state().receivable(), 65_535);
    }
}

#[test]
fn settings_wake_only_windowless_streams() {
    let mut client = Client::told(Config::default(), &[(WINDOW, 10)]);
    let (_response, mut starved) = client.request(false);
    let (_response, mut idle) = client.request(false);
    let mut starved = Task::new(async move { starved.send(Bytes::from(vec![1; 40]), true).await });
    let mut idle = Task::new(async move { poll_fn(|cx| idle.poll_reset(cx)).await });
    assert!(starved.poll().is_pending() && idle.poll().is_pending());
    client.says();
    for window in [0, 5, 10] {
        client.wire.settings(&[(WINDOW, window)]);
        client.run();
        assert!(starved.woken_since().is_none(), "{window}: no more than it has used");
    }
    client.wire.settings(&[(WINDOW, 20)]);
    client.run();
    assert!(starved.woken_since().is_some() && idle.woken_since().is_none());
    client.says();
    assert!(starved.poll().is_pending());
    assert_eq!(client.says(), ["DATA 1 10"]);
    client.wire.window(3, 1);
    client.run();
    assert!(idle.woken_since().is_none(), "it waits for no window");
    client.wire.reset(3, 8);
    client.run();
    assert!(idle.poll().is_ready());
    assert_eq!(client.state().number("waiting_for_window"), 1);
    client.wire.reset(1, 8);
    client.run();
    assert!(matches!(starved.poll(), Poll::Ready(Err(_))));
    assert_eq!(client.state().number("waiting_for_window"), 0);
}

/// Returns the DATA that was sent since, sorted.
fn says_data(client: &mut Client) -> Vec<String> {
    let mut says = client.says();
    says.retain(|line| line.starts_with("DATA"));
    says.sort();
    says
}

#[test]
fn waiting_streams_leave_in_any_order() {
    let mut client = Client::told(Config::default(), &[(WINDOW, 0)]);
    let mut tasks: Vec<_> = (0..8)
        .map(|_| {
            let (response, mut body) = client.request(false);
            Task::new(async move {
                let _response = response;
                body.send(Bytes::from_static(b"0123"), true).await
            })
        })
        .collect();
    client.settle(&mut tasks);
    assert_eq!(client.state().number("waiting_for_window"), 8);
    client.says();
    client.wire.window(5, 4);
    client.wire.reset(15, 8);
    client.wire.reset(1, 8);
    client.wire.window(13, 2);
    client.settle(&mut tasks);
    assert_eq!(says_data(&mut client), ["DATA 13 2", "DATA 5 4 END"]);
    assert_eq!(client.state().number("waiting_for_window"), 5);
    client.wire.settings(&[(WINDOW, 2)]);
    client.run();
    client.settle(&mut tasks);
    assert_eq!(says_data(&mut client), ["DATA 11 2", "DATA 13 2 END", "DATA 3 2", "DATA 7 2", "DATA 9 2"]);
    client.wire.settings(&[(WINDOW, 4)]);
    client.run();
    client.settle(&mut tasks);
    assert!(tasks.is_empty());
    assert_eq!(client.state().number("waiting_for_window"), 0);
}

#[test]
fn used_or_reset_windows_allow_larger_settings() {
    let mut client = Client::new(Config::default());
    let (_response, mut body) = client.request(false);
    let (_other, _body) = client.request(false);
    client.wire.window(1, 10);
    client.wire.window(3, (1 << 31) - 1 - 65_535);
    client.wire.reset(3, 8);
    client.run();
    send(&mut body, &[0; 10], false);
    client.says();
    client.wire.settings(&[(WINDOW, (1 << 31) - 1)]);
    assert_eq!(client.says(), ["SETTINGS ACK"]);
    client.wire.window(1, 1);
    assert_eq!(client.says(), ["RST_STREAM 1 FLOW_CONTROL_ERROR"]);
}
