//! Late resets: they wait, so that no peer finds a request and its reset in one read.

use bytes::Bytes;
use shoal_http2::{Config, Reason};

use super::frames::{DATA, HEADERS, RST_STREAM, WINDOW};
use super::harness::{Client, Task, now};

fn late() -> Config {
    Config { late_resets: true, ..Config::default() }
}

/// Returns what is sent when a moment has passed.
fn after_a_moment(client: &mut Client) -> Vec<String> {
    client.send_late_resets();
    client.says()
}

fn is_reset(says: &[String], stream: u32) -> bool {
    matches!(says, [line] if line.contains("RST_STREAM") && line.contains(&stream.to_string()))
}

#[test]
fn early_cancel_resets_after_full_delay() {
    for dropped in [true, false] {
        let mut client = Client::new(late());
        let (response, mut stream) = client.request(true);
        if !dropped {
            stream.send_reset(Reason::CANCEL);
        }
        drop((response, stream));
        assert!(client.says().iter().all(|line| !line.contains("RST_STREAM")), "with its headers");
        assert!(client.has_late_resets());
        assert_eq!(after_a_moment(&mut client), [""; 0], "the moment that had begun before");
        let says = after_a_moment(&mut client);
        assert!(is_reset(&says, 1), "{says:?}");
        assert!(!client.has_late_resets() && after_a_moment(&mut client).is_empty());
    }
}

#[test]
fn unwritten_request_delays_late_reset() {
    let mut client = Client::silent(late(), 64);
    client.wire.settings(&[]);
    client.run();
    drop(client.request(true));
    client.run();
    for _ in 0..3 {
        client.send_late_resets();
        client.run();
    }
    let mut says = Vec::new();
    for _ in 0..1_000 {
        says.extend(client.says());
    }
    assert!(says.iter().any(|line| line.contains("HEADERS")), "{says:?}");
    assert!(!says.iter().any(|line| line.contains("RST_STREAM")), "{says:?}");
    assert!(client.has_late_resets());
}

#[test]
fn reset_is_sent_during_endless_upload() {
    let config = Config { send_buffer: 20_000, ..late() };
    let mut client = Client::silent(config, 1_000);
    client.wire.settings(&[(WINDOW, 1 << 20)]);
    client.run();
    let (response, mut body) = client.request(false);
    let mut tasks = vec![Task::new(async move {
        let _response = response;
        body.send(Bytes::from(vec![7; 60_000]), true).await.expect("not reset");
    })];
    client.settle(&mut tasks);
    drop(client.request(true));
    let (mut data, mut headers, mut reset) = (0, 0, None);
    while data < 50_000 {
        client.settle(&mut tasks);
        client.send_late_resets();
        client.run();
        for frame in client.wire_frames() {
            match frame.kind {
                DATA => data += frame.payload.len(),
                HEADERS => headers += 1,
                RST_STREAM => reset = reset.or(Some((headers, data))),
                _ => {}
            }
        }
    }
    let (headers, before) = reset.expect("the upload goes on, and it is told");
    assert!(headers == 2, "not before its request");
    assert!(before < 50_000, "{before}");
}

#[test]
fn late_reset_stream_counts_as_open() {
    let mut client = Client::told(late(), &[(3, 1)]);
    drop(client.request(true));
    let _second = client.request(true);
    client.says();
    assert_eq!(after_a_moment(&mut client), [""; 0]);
    let says = after_a_moment(&mut client);
    assert_eq!(says.len(), 2, "{says:?}");
    assert!(is_reset(&says[..1], 1) && says[1].contains("HEADERS"), "{says:?}");
}

#[test]
fn answered_stream_is_reset_at_once() {
    let mut client = Client::new(late());
    let (response, stream) = client.request(false);
    client.says();
    client.answer(1, false);
    let response = now(response).expect("an answer");
    drop((response, stream));
    let says = client.says();
    assert!(is_reset(&says, 1), "{says:?}");
}

#[test]
fn response_crossing_late_reset_is_skipped() {
    let mut client = Client::new(late());
    drop(client.request(true));
    client.says();
    client.answer(1, true);
    client.send_late_resets();
    client.send_late_resets();
    assert!(client.end.is_none(), "{:?}", client.end);
    client.retire();
    client.run();
    assert!(matches!(client.end, Some(Ok(()))), "{:?}", client.end);
}
