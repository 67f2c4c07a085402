//! Flow control crosses the gateway: a slow side slows the other, and neither costs memory or holds anybody else up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::harness::caller::{Caller, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, Upstream, as_session, payload, trailers};
use crate::harness::{eventually, within};

/// Waits until a counter stops growing.
async fn settled(counter: &AtomicUsize) -> usize {
    let mut last = counter.load(Ordering::SeqCst);
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = counter.load(Ordering::SeqCst);
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
}

/// Streams without end on `/Watch…`, counting what it could send; answers other calls.
async fn flooding() -> (Upstream, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let upstream = Upstream::start(move |mut call| {
        let sent = counter.clone();
        async move {
            if !call.request.uri().path().ends_with("WatchSessions") {
                return call.answer(b"ok").await;
            }
            let mut stream = call.begin();
            let chunk = Bytes::from(vec![7; 16 << 10]);
            loop {
                stream.reserve_capacity(chunk.len());
                let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let part = chunk.slice(..capacity.min(chunk.len()));
                sent.fetch_add(part.len(), Ordering::SeqCst);
                if stream.send_data(part, false).is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, sent)
}

const WATCH: &str = "/shoal.session.v1.SessionService/WatchSessions";

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_stops_only_its_stream() {
    let (upstream, sent) = flooding().await;
    let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let mut windows = h2::client::Builder::new();
    let windows = windows.initial_window_size(65_535).initial_connection_window_size(1 << 20).clone();
    let mut slow = Vec::new();
    let mut open = Vec::new();
    // So many that a shared window of any usual size would be used up.
    for _ in 0..10 {
        let caller = Caller::connect_with(mesh.address, &windows).await;
        for _ in 0..8 {
            let (response, stream) = caller.begin(request(WATCH, &[]), true).await;
            open.push((within("a head", response).await.expect("begun"), stream));
        }
        slow.push(caller);
    }
    let stalled = within("the streams to stall", settled(&sent)).await;
    // What the gateway's window takes, what it has let out to the caller, and what the kernel holds; not the flood.
    assert!(stalled < open.len() * (1 << 20), "{stalled} bytes");
    let caller = mesh.caller().await;
    for _ in 0..100 {
        assert_eq!(within("a call beside it", caller.call(SAFE, &[], b"")).await.code(), 0);
    }
    // Reading again makes it flow again, from where it was.
    let (response, _) = &mut open[0];
    let mut read = 0;
    while read < 4 << 20 {
        let chunk = within("more", response.body_mut().data()).await.expect("open").expect("data");
        assert!(chunk.iter().all(|byte| *byte == 7));
        response.body_mut().flow_control().release_capacity(chunk.len()).expect("received");
        read += chunk.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_upstream_stops_the_upload() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let upstream = Upstream::start(move |mut call| {
        let mut gone = gone.clone();
        async move {
            let _ = gone.wait_for(|go| *go).await;
            let body = call.body().await.expect("a body");
            call.answer(body.len().to_string().as_bytes()).await;
        }
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller = mesh.caller().await;
    let (response, mut stream) = caller.begin(request(WATCH, &[]), false).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let (counter, total) = (sent.clone(), 8 << 20);
    let upload = tokio::spawn(async move {
        let mut left = total;
        while left > 0 {
            stream.reserve_capacity(left.min(64 << 10));
            let capacity =
                std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("open");
            let part = capacity.min(left);
            left -= part;
            counter.fetch_add(part, Ordering::SeqCst);
            stream.send_data(vec![1; part].into(), left == 0).expect("open");
        }
        stream
    });
    let stalled = within("the upload to stall", settled(&sent)).await;
    assert!(stalled < 3 << 20, "{stalled} bytes");
    go.send(true).expect("watched");
    let response = within("the answer", response).await.expect("an answer");
    let answer = crate::harness::caller::answer(response).await.expect("whole");
    assert_eq!(payload(&answer), total.to_string().as_bytes());
    upload.await.expect("no panic");
}

/// Small frames and larger ones, which wait in different places.
fn part(n: u32) -> Vec<u8> {
    vec![n as u8; if n.is_multiple_of(3) { 3_000 } else { 300 }]
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_window_gets_every_byte() {
    let upstream = Upstream::start(|mut call| async move {
        let mut stream = call.begin();
        for n in 0..200u32 {
            stream.send_data(Bytes::from(part(n)), false).expect("open");
        }
        stream.send_trailers(trailers(0)).expect("open");
    })
    .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    let caller =
        Caller::connect_with(mesh.address, h2::client::Builder::new().initial_window_size(1_000)).await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    let response = within("the head", response).await.expect("begun");
    let answer = within("the rest", crate::harness::caller::answer(response)).await.expect("whole");
    let expected: Vec<u8> = (0..200u32).flat_map(part).collect();
    assert!(answer.data == expected && answer.code() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_stream_server_serves_all() {
    let upstream =
        Upstream::with(h2::server::Builder::new().max_concurrent_streams(1).clone(), |call| async {
            call.answer(b"ok").await;
        })
        .await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    let calls = (0..100).map(|_| caller.call(SAFE, &[], b""));
    for answer in within("all calls", futures::future::join_all(calls)).await {
        assert_eq!(answer.code(), 0);
    }
    eventually("every call", || (upstream.calls() >= 100).then_some(())).await;
}
