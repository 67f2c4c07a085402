//! Streams that are read as they grow: nothing twice, nothing missed that Redis still has.

use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig, Tail, TailEvent};
use tokio::time::{Instant, timeout};

use crate::load::until_served;
use crate::proxy::Proxy;
use crate::server::{PATIENCE, Server, open};
use crate::stalls::Stalls;

/// Less than a blocking read lasts.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(crate) async fn next(tail: &mut Tail) -> TailEvent {
    timeout(PATIENCE, tail.recv()).await.expect("an event in time")
}

pub(crate) async fn append(link: &Link, key: &str, value: &str) -> String {
    link.query(redis::cmd("XADD").arg(key).arg("*").arg("v").arg(value)).await.unwrap()
}

/// Values of the next `count` entries with their keys; other events are given back beside them.
pub(crate) async fn values(tail: &mut Tail, count: usize) -> (Vec<(String, String)>, Vec<TailEvent>) {
    let (mut values, mut others) = (Vec::new(), Vec::new());
    while values.len() < count {
        match next(tail).await {
            TailEvent::Entries { key, entries } => {
                let key = String::from_utf8(key).unwrap();
                values.extend(
                    entries
                        .into_iter()
                        .map(|entry| (key.clone(), String::from_utf8(entry.fields[0].1.clone()).unwrap())),
                );
            }
            other => others.push(other),
        }
    }
    (values, others)
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_read_from_cursor_onward() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let first = append(&link, "s", "before").await;
    append(&link, "s", "one").await;
    let mut tail = link.tail(vec![(b"s".to_vec(), first), (b"t".to_vec(), "0-0".to_owned())]);
    assert_eq!(values(&mut tail, 1).await, (vec![pair("s", "one")], vec![]));
    for number in 0..1000 {
        append(&link, if number % 2 == 0 { "s" } else { "t" }, &number.to_string()).await;
    }
    let (seen, others) = values(&mut tail, 1000).await;
    assert_eq!(others, []);
    for (key, parity) in [("s", 0), ("t", 1)] {
        let of_key: Vec<u32> =
            seen.iter().filter(|(k, _)| k == key).map(|(_, value)| value.parse().unwrap()).collect();
        assert_eq!(of_key, (0..1000).filter(|number| number % 2 == parity).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_come_and_go_at_once() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let mut tail = link.tail(Vec::new());
    append(&link, "s", "old").await;
    tail.add("s", "$");
    // From now on: what that means is settled when the reader hears of it, so ask until it has.
    let mut number = 0;
    let first = loop {
        append(&link, "s", &number.to_string()).await;
        number += 1;
        if let Ok(TailEvent::Entries { entries, .. }) = timeout(Duration::from_millis(50), tail.recv()).await
        {
            break entries;
        }
        assert!(number < 100, "never heard");
    };
    assert_ne!(first[0].fields[0].1, b"old");

    // Now the reader is in a blocking read: a new cursor ends it.
    append(&link, "t", "one").await;
    let (stalls, begin) = (Stalls::watch(), Instant::now());
    tail.add("t", "0-0");
    while !matches!(next(&mut tail).await, TailEvent::Entries { key, .. } if key == b"t") {}
    assert!(stalls.since(begin) < AT_ONCE, "took {:?}", begin.elapsed());

    tail.remove(b"s");
    append(&link, "s", "unseen").await;
    append(&link, "t", "two").await;
    loop {
        match next(&mut tail).await {
            TailEvent::Entries { key, entries } if key == b"t" => {
                assert_eq!(entries[0].fields[0].1, b"two");
                break;
            }
            TailEvent::Entries { entries, .. } => {
                assert!(entries.iter().all(|entry| entry.fields[0].1 != b"unseen"), "removed and read");
            }
            other => panic!("{other:?}"),
        }
    }
    let begin = Instant::now();
    tail.add("t", "0-0");
    assert_eq!(values(&mut tail, 2).await.0, [pair("t", "one"), pair("t", "two")], "a cursor can go back");
    assert!(stalls.since(begin) < AT_ONCE, "took {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connection_misses_and_repeats_nothing() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    let mut tail = link.tail(vec![(b"s".to_vec(), "0-0".to_owned())]);
    let mut reconnected = 0;
    for round in 0..10 {
        for number in 0..20 {
            append(&link, "s", &format!("{round}/{number}")).await;
        }
        let (seen, others) = values(&mut tail, 20).await;
        let expected: Vec<_> = (0..20).map(|number| pair("s", &format!("{round}/{number}"))).collect();
        assert_eq!(seen, expected);
        assert!(others.iter().all(|event| *event == TailEvent::Reconnected), "{others:?}");
        reconnected += others.len();
        let _ = link.query::<u64>(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await;
        until_served(&link).await;
    }
    assert!(reconnected > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_with_smaller_ids_follow_restart() {
    let Some(mut server) = Server::start().await else { return };
    let link = server.link().await;
    let mut tail = link.tail(vec![(b"s".to_vec(), "0-0".to_owned())]);
    append(&link, "s", "one").await;
    assert_eq!(values(&mut tail, 1).await.0, [pair("s", "one")]);
    server.stop();
    server.restart().await;
    until_served(&link).await;
    assert_eq!(next(&mut tail).await, TailEvent::RestartedOrFailedOver);
    // Smaller than any id before the restart.
    let _: String = link.query(redis::cmd("XADD").arg("s").arg("5-1").arg("v").arg("two")).await.unwrap();
    assert_eq!(values(&mut tail, 1).await, (vec![pair("s", "two")], vec![]));
}

/// Both processes live on, and each takes over from the other again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fail_over_is_told() {
    let (Some(a), Some(b)) = (Server::start().await, Server::start().await) else { return };
    let proxy = Proxy::to(a.port).await;
    let link = open(LinkConfig::new(proxy.url(), "test")).await;
    let mut tail = link.tail(vec![(b"s".to_vec(), "0-0".to_owned())]);
    let (direct, mut at) = ([a.link().await, b.link().await], 0);
    append(&direct[at], "s", "0").await;
    assert_eq!(values(&mut tail, 1).await.0, [pair("s", "0")]);
    for round in 1..=6 {
        at = 1 - at;
        proxy.lead_to([a.port, b.port][at]);
        let mut events = vec![next(&mut tail).await];
        while *events.last().unwrap() == TailEvent::Reconnected {
            events.push(next(&mut tail).await);
        }
        assert_eq!(events.pop(), Some(TailEvent::RestartedOrFailedOver), "change {round}");
        append(&direct[at], "s", &round.to_string()).await;
        let (seen, _) = values(&mut tail, 1).await;
        assert_eq!(seen, [pair("s", &round.to_string())]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_dead_tail_reads_on() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::to(server.port).await;
    let link = open(LinkConfig::new(proxy.url(), "test")).await;
    let direct = server.link().await;
    let mut tail = link.tail(vec![(b"s".to_vec(), "0-0".to_owned())]);
    append(&direct, "s", "one").await;
    assert_eq!(values(&mut tail, 1).await.0, [pair("s", "one")]);
    proxy.swallow_established();
    append(&direct, "s", "two").await;
    let (stalls, begin) = (Stalls::watch(), Instant::now());
    let (seen, others) = values(&mut tail, 1).await;
    assert_eq!((seen, others), (vec![pair("s", "two")], vec![TailEvent::Reconnected]));
    assert!(stalls.since(begin) < Duration::from_secs(3), "took {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_loses_no_entries() {
    let Some(server) = Server::start().await else { return };
    let link = server.link().await;
    const SENT: usize = 40_000;
    let mut tail = link.tail(vec![(b"s".to_vec(), "0-0".to_owned())]);
    for chunk in 0..SENT / 1000 {
        let mut pipe = redis::pipe();
        for number in 0..1000 {
            pipe.cmd("XADD").arg("s").arg("*").arg("v").arg(chunk * 1000 + number).ignore();
        }
        let () = link.pipeline(&pipe).await.unwrap();
    }
    let (seen, _) = values(&mut tail, SENT).await;
    assert!(seen.iter().enumerate().all(|(index, (_, value))| *value == index.to_string()));
}
