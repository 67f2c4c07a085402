//! Requests that wait to be sent: how many may wait, what it costs when they leave, and that headers wait at their source
//! when the peer reads none.

use bytes::Bytes;
use http::{HeaderValue, Request};
use shoal_http2::{Config, ResponseFuture, SendError, SendStream};

use super::frames::{DATA, HEADERS, STREAMS_MAX, WINDOW};
use super::harness::{Client, Task, request};

/// Returns a request with headers of so many bytes, which no table shortens.
fn long(bytes: usize) -> Request<()> {
    let mut request = request();
    let mut value = HeaderValue::from_bytes(&vec![b'~'; bytes]).expect("valid");
    value.set_sensitive(true);
    request.headers_mut().insert("x-long", value);
    request
}

fn is_full(sent: &Result<(ResponseFuture, SendStream), SendError>) -> bool {
    matches!(sent, Err(SendError::Full(_)))
}

#[test]
fn queued_requests_are_bounded() {
    let config = Config { queued_max: 3, ..Config::default() };
    let mut client = Client::told(config, &[(STREAMS_MAX, 1)]);
    let first = client.request(true);
    assert!(!first.1.is_queued());
    let mut waiting: Vec<_> = (0..3).map(|_| client.request(true)).collect();
    assert!(waiting[0].1.is_queued());
    assert_eq!(client.sender.queued(), 3);
    let refused = client.sender.send_request(&request(), true).expect_err("one too many");
    assert!(refused.to_string().contains("3 requests wait"), "{refused}");
    // One leaves from the middle, one gets its stream: there is room for two.
    drop(waiting.remove(1));
    drop(first);
    client.run();
    assert!(!waiting[0].1.is_queued());
    waiting.extend([client.request(true), client.request(true)]);
    assert!(is_full(&client.sender.send_request(&request(), true)));
    drop(waiting);
    client.run();
    client.state().is_clean();
}

#[test]
fn long_queue_drains_in_linear_time() {
    const CALLS: usize = 60_000;
    for backwards in [false, true] {
        let config = Config { queued_max: CALLS, ..Config::default() };
        let mut client = Client::told(config, &[(STREAMS_MAX, 0)]);
        let mut calls: Vec<_> = (0..CALLS).map(|_| client.request(false)).collect();
        assert_eq!(client.sender.queued(), CALLS);
        if backwards {
            calls.reverse();
        }
        drop(calls);
        client.state().is_clean();
    }
    let mut client = Client::told(Config::default(), &[(WINDOW, 1 << 20)]);
    let (_response, mut first) = client.request(false);
    // One takes the connection's window, and the others wait for it.
    super::harness::send(&mut first, &[0; 65_535], false);
    client.says();
    let mut bodies = Vec::new();
    for _ in 0..CALLS / 4 {
        let (response, mut body) = client.request(false);
        client.run();
        let mut task = Task::new(async move {
            let _response = response;
            let _ = body.send(Bytes::from_static(&[1; 10]), true).await;
        });
        assert!(task.poll().is_pending());
        bodies.push(task);
    }
    assert_eq!(client.state().number("waiting_for_room"), CALLS as i64 / 4);
    assert_eq!(client.sender.queued(), 0);
    bodies.reverse();
    drop(bodies);
    assert_eq!(client.state().number("waiting_for_room"), 0);
}

#[test]
fn unread_headers_wait_in_queue() {
    const BYTES: usize = 10_000;
    let config = Config { queued_max: 1_000, send_buffer: 20_000, ..Config::default() };
    let mut client = Client::silent(config, 1_000);
    client.wire.settings(&[]);
    client.run();
    let calls: Vec<_> =
        (0..1_000).map(|_| client.sender.send_request(&long(BYTES), false).expect("taken")).collect();
    client.run();
    let unsent = client.state().number("unsent");
    assert!(
        unsent < (256 << 10) + 20_000 + 2 * BYTES as i64,
        "{unsent} bytes of headers wait for the socket"
    );
    let opened = client.state().number("open");
    assert!(client.sender.queued() > 900, "{opened} are open");

    // Once it reads, all are sent, in their order.
    let mut streams = Vec::new();
    while streams.len() < 1_000 {
        let frames = client.frames();
        assert!(!frames.is_empty() || client.wire.read_bytes(0) == 0);
        streams.extend(frames.iter().filter(|frame| frame.kind == HEADERS).map(|frame| frame.stream));
    }
    assert!(streams.iter().copied().eq((0..1_000).map(|number| 2 * number + 1)));
    drop(calls);
}

#[test]
fn endless_headers_do_not_starve_bodies() {
    let config = Config { queued_max: 10_000, send_buffer: 20_000, ..Config::default() };
    let mut client = Client::silent(config, 1_000);
    client.wire.settings(&[(WINDOW, 1 << 20)]);
    client.run();
    let (response, mut body) = client.request(false);
    let mut tasks = vec![Task::new(async move {
        let _response = response;
        body.send(Bytes::from(vec![7; 60_000]), true).await.expect("not reset");
    })];
    let _calls: Vec<_> =
        (0..2_000).map(|_| client.sender.send_request(&long(5_000), false).expect("taken")).collect();
    let (mut data, mut headers) = (0, 0);
    while !tasks.is_empty() || data < 60_000 {
        client.settle(&mut tasks);
        for frame in client.wire_frames() {
            match frame.kind {
                DATA => data += frame.payload.len(),
                HEADERS => headers += 1,
                _ => {}
            }
        }
        assert!(headers < 1_000, "{data} bytes of the body beside {headers} headers");
    }
}

#[test]
fn endless_body_does_not_starve_headers() {
    let config = Config { queued_max: 10_000, send_buffer: 20_000, ..Config::default() };
    let mut client = Client::silent(config, 1_000);
    client.wire.settings(&[(WINDOW, 1 << 30), (STREAMS_MAX, 2)]);
    client.wire.window(0, 1 << 29);
    client.run();
    let (response, mut body) = client.request(false);
    let mut tasks = vec![Task::new(async move {
        let _response = response;
        body.send(Bytes::from(vec![7; 1_000_000]), true).await.expect("not reset");
    })];
    let other = client.request(true);
    client.settle(&mut tasks);
    let _calls: Vec<_> = (0..5).map(|_| client.request(true)).collect();
    assert_eq!(client.sender.queued(), 5);
    // From now on there are streams, and DATA fills the buffer.
    client.wire.settings(&[(STREAMS_MAX, 100)]);
    let (mut data, mut headers) = (0, 0);
    while headers < 7 {
        client.settle(&mut tasks);
        for frame in client.wire_frames() {
            match frame.kind {
                DATA => data += frame.payload.len(),
                HEADERS => headers += 1,
                _ => {}
            }
        }
        assert!(data < 500_000, "{headers} headers beside {data} bytes of the body");
    }
    drop(other);
}
