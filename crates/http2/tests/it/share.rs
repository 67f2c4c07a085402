//! The share that one stream has of a window that all streams have together: bodies that nobody reads leave room for others,
//! and bodies that are read are as fast as without shares.

use bytes::Bytes;
use shoal_http2::Config;

use super::frames::{DATA, WINDOW};
use super::harness::{Client, Task};

/// The window of a connection at its beginning.
const WHOLE: usize = 65_535;

fn sharing() -> Client {
    Client::told(Config { leaves_window: true, ..Config::default() }, &[(WINDOW, 1 << 20)])
}

fn body(client: &mut Client, len: usize) -> Task<()> {
    let (response, mut body) = client.request(false);
    Task::new(async move {
        let _response = response;
        body.send(Bytes::from(vec![1; len]), true).await.expect("not reset");
    })
}

/// Counts the DATA of each stream, by the stream's id.
fn arrived(client: &mut Client) -> Vec<(u32, usize)> {
    let mut sums = Vec::new();
    for frame in client.frames().into_iter().filter(|frame| frame.kind == DATA) {
        match sums.iter_mut().find(|(stream, _)| *stream == frame.stream) {
            Some((_, sum)) => *sum += frame.payload.len(),
            None => sums.push((frame.stream, frame.payload.len())),
        }
    }
    sums
}

#[test]
fn stalled_bodies_leave_window_to_others() {
    let mut client = sharing();
    let mut tasks = vec![body(&mut client, 1 << 20), body(&mut client, 1 << 20)];
    client.settle(&mut tasks);
    let taken = arrived(&mut client);
    assert_eq!((taken[0].1, taken.len()), (WHOLE * 5 / 9 + 1, 2), "more than half, so that it is given back");
    assert!(taken.iter().map(|(_, sum)| sum).sum::<usize>() < WHOLE * 5 / 6, "{taken:?}");
    // A hundred calls of others go through, whose bytes are given back to the connection alone.
    for _ in 0..100 {
        let mut others = vec![body(&mut client, 2_000)];
        client.settle(&mut others);
        assert!(others.is_empty(), "it waits for those who are not read");
        let sum: usize = arrived(&mut client).iter().map(|(_, sum)| sum).sum();
        assert_eq!(sum, 2_000, "and those who stall get nothing of it");
        client.wire.window(0, 2_000);
        client.settle(&mut tasks);
    }
    assert_eq!(tasks.len(), 2);
}

#[test]
fn read_body_gets_its_share_back() {
    // By a peer that gives back both windows at half of each, or the connection's alone, or of both a little at a time.
    for (connection, stream) in [(2, 2), (2, 0), (8, 8), (3, 2)] {
        const BODY: usize = 1_000_000;
        let mut client = sharing();
        let mut tasks = vec![body(&mut client, BODY)];
        let (mut came, mut of_connection, mut of_stream) = (0, 0, 0);
        for round in 0.. {
            assert!(round < 1_000, "{came} bytes, with {connection} {stream}");
            client.settle(&mut tasks);
            let now: usize = arrived(&mut client).iter().map(|(_, sum)| sum).sum();
            (came, of_connection, of_stream) = (came + now, of_connection + now, of_stream + now);
            if came == BODY {
                break;
            }
            if of_connection > WHOLE / connection {
                client.wire.window(0, std::mem::take(&mut of_connection) as u32);
            }
            if stream > 0 && of_stream > WHOLE / stream {
                client.wire.window(1, std::mem::take(&mut of_stream) as u32);
            }
        }
        assert!(tasks.is_empty());
    }
}

#[test]
fn returned_window_belongs_to_its_stream() {
    let mut client = sharing();
    let mut tasks = vec![body(&mut client, 1 << 20)];
    let mut sums = Vec::new();
    for _ in 0..3 {
        client.settle(&mut tasks);
        sums.push(arrived(&mut client).iter().map(|(_, sum)| sum).sum::<usize>());
        // The connection's window comes later: what is under way may be more than a share.
        client.wire.window(1, 36_000);
    }
    assert_eq!(sums, [36_409, 16_182, 7_192], "five ninths of what there is");
}

#[test]
fn read_bodies_all_complete() {
    let mut client = sharing();
    let mut tasks: Vec<_> = (0..50).map(|_| body(&mut client, 50_000)).collect();
    let (mut came, mut owed) = (0, 0);
    for round in 0.. {
        assert!(round < 10_000, "{} hang", tasks.len());
        client.settle(&mut tasks);
        let now: usize = arrived(&mut client).iter().map(|(_, sum)| sum).sum();
        (came, owed) = (came + now, owed + now);
        if tasks.is_empty() {
            break;
        }
        assert!(now > 0 || owed > 0, "all wait for each other");
        client.wire.window(0, std::mem::take(&mut owed) as u32);
    }
    assert_eq!(came, 50 * 50_000);
    client.state().is_clean();
}

#[test]
fn short_window_is_reported() {
    let mut client = sharing();
    assert!(!client.sender.is_short_of_window());
    let mut tasks: Vec<_> = (0..3).map(|_| body(&mut client, 1 << 20)).collect();
    client.settle(&mut tasks);
    assert!(client.sender.is_short_of_window());
    drop(tasks);
    assert!(!client.sender.is_short_of_window(), "nobody waits");
    client.run();
    client.state().is_clean();
}
