//! Many bodies behind one window, or one socket, that has room for few: all go on, none blocks the others.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use shoal_http2::{Config, ResponseFuture, SendStream};

use super::frames::{DATA, WINDOW};
use super::harness::{Client, Task, now, once, send};

/// Makes a client whose connection window is used up, and whose streams have large windows.
fn without_room() -> Client {
    let mut client = Client::told(Config::default(), &[(WINDOW, 1 << 20)]);
    let (_response, mut first) = client.request(false);
    send(&mut first, &[0; 65_535], true);
    client.says();
    client
}

/// Counts the DATA on each stream.
fn arrived(client: &mut Client) -> Vec<(u32, usize)> {
    let data = client.frames().into_iter().filter(|frame| frame.kind == DATA);
    data.map(|frame| (frame.stream, frame.payload.len())).collect()
}

fn sum(arrived: &[(u32, usize)]) -> usize {
    arrived.iter().map(|(_, len)| len).sum()
}

/// Opens a stream with a body of that length, and spawns the task that sends it.
fn body(client: &mut Client, len: usize) -> Task<()> {
    let (response, mut body) = client.request(false);
    Task::new(async move {
        let _response = response;
        body.send(Bytes::from(vec![1; len]), true).await.expect("not reset");
    })
}

#[test]
fn small_window_is_used_up() {
    for step in [1, 7, 100, 511, 512, 513, 2_000, 60_000] {
        const STREAMS: usize = 50;
        const BODY: usize = 300;
        let mut client = without_room();
        let mut tasks: Vec<_> = (0..STREAMS).map(|_| body(&mut client, BODY)).collect();
        client.settle(&mut tasks);
        assert_eq!(sum(&arrived(&mut client)), 0);
        let mut rest = STREAMS * BODY;
        while rest > 0 {
            client.wire.window(0, step);
            client.settle(&mut tasks);
            let arrived = sum(&arrived(&mut client));
            assert_eq!(arrived, rest.min(step as usize), "a window of {step}, {rest} left");
            rest -= arrived;
        }
        assert!(tasks.is_empty());
    }
}

#[test]
fn greedy_streams_starve_nobody() {
    let mut client = without_room();
    let mut tasks: Vec<_> = (0..20).map(|_| body(&mut client, 1 << 19)).collect();
    client.settle(&mut tasks);
    let mut shares = std::collections::BTreeMap::new();
    for _ in 0..200 {
        client.wire.window(0, 1_000);
        client.settle(&mut tasks);
        for (stream, len) in arrived(&mut client) {
            *shares.entry(stream).or_insert(0) += len;
        }
    }
    assert_eq!(shares.len(), 20, "{shares:?}");
    let least = shares.values().min().expect("some");
    assert!(*least >= 200_000 / 20 / 4, "{shares:?}");
}

#[test]
fn latecomers_queue_behind_waiters() {
    let mut client = without_room();
    let mut waiting = vec![body(&mut client, 5_000)];
    client.settle(&mut waiting);
    for round in 0.. {
        assert!(round < 100, "it waits for ever");
        if waiting.is_empty() {
            break;
        }
        client.wire.window(0, 1_000);
        client.run();
        // It is woken; one that comes in between may be faster, but not each time.
        if round % 2 == 0 {
            let mut late = vec![body(&mut client, 400)];
            client.settle(&mut late);
        }
        client.settle(&mut waiting);
    }
}

#[test]
fn small_buffer_is_shared_fairly() {
    for (buffer, socket) in [(1, 64), (10, 64), (1_000, 50), (10_000, 5_000), (100_000, 100)] {
        let config = Config { send_buffer: buffer, ..Config::default() };
        let mut client = Client::silent(config, socket);
        client.wire.settings(&[(WINDOW, 1 << 20)]);
        client.run();
        let mut tasks: Vec<_> = (0..30).map(|_| body(&mut client, 1_000)).collect();
        let mut read = 0;
        for round in 0.. {
            assert!(round < 200_000, "{} hang with a buffer of {buffer}", tasks.len());
            client.settle(&mut tasks);
            if client.wire.read_bytes(40) == 0 {
                break;
            }
            if round == 10 {
                client.wire.window(0, 1 << 20);
            }
            read += 1;
        }
        assert!(tasks.is_empty(), "{} hang with a buffer of {buffer}", tasks.len());
        assert!(read > 700, "{read} reads of 40 bytes");
        assert_eq!(sum(&arrived(&mut client)), 30_000);
    }
}

#[test]
fn unsent_data_stays_within_buffer() {
    let mut client = Client::silent(Config { send_buffer: 5_000, ..Config::default() }, 64);
    client.wire.settings(&[(WINDOW, 1 << 20)]);
    client.run();
    let mut tasks: Vec<_> = (0..100).map(|_| body(&mut client, 600)).collect();
    client.settle(&mut tasks);
    let sent = 65_535 - client.state().number("send_window");
    // Heads of frames and the requests themselves count too, and what was written makes room.
    assert!((1_000..=5_000 + 64).contains(&sent), "{sent}");
    assert!(client.state().number("unsent") <= 5_000 + 100 * 60);
}

/// Opens streams that wait for the connection and then want nothing: they are held, and not polled again.
fn unwilling(client: &mut Client, number: usize) -> Vec<(ResponseFuture, SendStream)> {
    let mut held = Vec::new();
    for _ in 0..number {
        let (response, mut body) = client.request(false);
        assert!(once(body.send(Bytes::from_static(b"never mind"), false)).is_pending());
        held.push((response, body));
    }
    held
}

#[test]
fn uninterested_streams_block_nobody() {
    let mut client = without_room();
    let _held = unwilling(&mut client, 40);
    let mut tasks = vec![body(&mut client, 80), body(&mut client, 20)];
    client.settle(&mut tasks);
    client.wire.window(0, 100);
    client.settle(&mut tasks);
    assert_eq!(sum(&arrived(&mut client)), 100);
}

#[test]
fn windowless_streams_block_nobody() {
    let mut client = Client::told(Config::default(), &[(WINDOW, 2_000)]);
    // Forty that have used most of their own windows use all of the connection's but 35 bytes, and wait for it.
    let mut tasks: Vec<_> = (0..40)
        .map(|_| {
            let (response, mut body) = client.request(false);
            send(&mut body, &[0; 1_638], false);
            Task::new(async move {
                let _response = response;
                body.send(Bytes::from(vec![0; 15]), false).await.expect("not reset");
            })
        })
        .collect();
    client.settle(&mut tasks);
    let mut fresh = vec![body(&mut client, 100)];
    client.settle(&mut fresh);
    arrived(&mut client);
    // Now all but the last have used more than their own windows.
    client.wire.settings(&[(WINDOW, 1_000)]);
    client.wire.window(0, 100);
    client.settle(&mut tasks);
    client.settle(&mut fresh);
    client.run();
    assert_eq!(arrived(&mut client), [(81, 100)]);
    assert!(fresh.is_empty());
}

#[test]
fn idle_stream_gives_up_its_place() {
    let mut client = without_room();
    let mut streams: Vec<_> = (0..40).map(|_| client.request(false)).collect();
    for (_, stream) in &mut streams {
        assert!(once(poll_fn(|cx| stream.poll_ready(cx))).is_pending());
    }
    assert_eq!(client.state().number("waiting_for_room"), 40);
    let mut tasks = vec![body(&mut client, 100)];
    client.settle(&mut tasks);
    client.wire.window(0, 100);
    client.run();
    for (_, stream) in &mut streams {
        assert!(matches!(now(poll_fn(|cx| stream.poll_ready(cx))), Ok(())), "there is room");
        assert!(once(poll_fn(|cx| stream.poll_idle(cx))).is_pending());
    }
    assert_eq!(client.state().number("waiting_for_room"), 1);
    client.settle(&mut tasks);
    assert_eq!(sum(&arrived(&mut client)), 100);
}

#[test]
fn readiness_wakes_for_room_and_reset() {
    let mut client = without_room();
    let (_response, mut stream) = client.request(false);
    let mut ready = Task::new(poll_fn(move |cx| match stream.poll_ready(cx) {
        Poll::Ready(Ok(())) => stream.poll_idle(cx).map(|error| error.to_string()),
        Poll::Ready(Err(error)) => Poll::Ready(error.to_string()),
        Poll::Pending => Poll::Pending,
    }));
    assert!(ready.poll().is_pending());
    client.wire.window(0, 10);
    client.run();
    assert!(ready.woken_since().is_some(), "there is room");
    assert!(ready.poll().is_pending());
    client.wire.reset(3, 8);
    client.run();
    assert_eq!(ready.ready(), "the peer reset the stream: CANCEL");
}

#[test]
fn dropped_stream_passes_turn_on() {
    for reset in [false, true] {
        let mut client = without_room();
        let mut held = unwilling(&mut client, 40);
        let mut tasks = vec![body(&mut client, 100)];
        client.settle(&mut tasks);
        // Some are woken when they go, some are not.
        client.wire.window(0, 30);
        client.run();
        if reset {
            for (_, body) in &mut held {
                body.send_reset(shoal_http2::Reason::CANCEL);
            }
        } else {
            held.clear();
        }
        client.settle(&mut tasks);
        assert_eq!(sum(&arrived(&mut client)), 30, "reset: {reset}");
        client.wire.window(0, 70);
        client.settle(&mut tasks);
        assert_eq!(sum(&arrived(&mut client)), 70, "reset: {reset}");
        assert!(tasks.is_empty());
    }
}

#[test]
fn ended_stream_passes_turn_on() {
    let mut client = without_room();
    let mut held = unwilling(&mut client, 40);
    let mut tasks = vec![body(&mut client, 100)];
    client.settle(&mut tasks);
    client.wire.window(0, 100);
    client.run();
    for (_, body) in &mut held {
        body.send_trailers(HeaderMap::new()).expect("not over");
    }
    client.settle(&mut tasks);
    assert_eq!(sum(&arrived(&mut client)), 100);
}

#[test]
fn reset_stream_passes_turn_on() {
    let mut client = without_room();
    let _held = unwilling(&mut client, 40);
    let mut tasks = vec![body(&mut client, 100)];
    client.settle(&mut tasks);
    for id in 0..40 {
        client.wire.reset(3 + id * 2, 8);
    }
    client.wire.window(0, 100);
    client.settle(&mut tasks);
    assert_eq!(sum(&arrived(&mut client)), 100);
}
