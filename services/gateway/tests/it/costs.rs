//! Bounds on what one client connection may take: calls, connections, answers it does not read. Whoever takes too much is told,
//! and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::harness::caller::{Caller, answer, request};
use crate::harness::frames::{GOAWAY, Wire};
use crate::harness::mesh::Mesh;
use crate::harness::peer::ok;
use crate::harness::upstream::{SAFE, Upstream, as_session, head, trailers};
use crate::harness::{eventually, within};

/// A gateway with these lines before an upstream, on one core.
async fn mesh(lines: &str, upstream: &Upstream) -> Mesh {
    let mesh = Mesh::with_cores(1, &format!("{lines}\n{}", as_session(&[upstream]))).await;
    mesh.ready("session", 1).await;
    mesh
}

/// Answers what has a body, and nothing else.
async fn echoes_bodies() -> Upstream {
    Upstream::start(|mut call| async move {
        if call.request.body_mut().data().await.is_some() {
            call.answer(b"ok").await;
        } else {
            std::future::pending::<()>().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_leaves_calls_to_others() {
    let upstream = echoes_bodies().await;
    let mesh = mesh("gateway.limits.calls = 100", &upstream).await;
    let greedy = [mesh.caller().await, mesh.caller().await, mesh.caller().await];
    let mut open = Vec::new();
    let mut refused = None;
    for caller in &greedy {
        for _ in 0..100 {
            let (mut response, stream) = caller.begin(request(SAFE, &[]), false).await;
            // Refused at once, or never answered.
            if refused.is_none() {
                let early = tokio::time::timeout(Duration::from_millis(20), &mut response).await;
                if let Ok(early) = early {
                    refused = Some(answer(early.expect("an answer")).await.expect("whole"));
                }
            }
            open.push((response, stream));
        }
    }
    let status = refused.expect("a refusal").grpc();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("gateway.limits.calls = 100"), "{status:?}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"), "{status:?}");
    // Three connections that take what they can leave enough for one that does not.
    for _ in 0..10 {
        ok(&within("an honest call", mesh.caller().await.call(SAFE, &[], b"x")).await, b"ok");
    }
    assert!(upstream.calls() < 100, "{}", upstream.calls());
    drop(open);
    within("a call of theirs", async {
        while greedy[0].call(SAFE, &[], b"x").await.code() == 8 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn longest_idle_connection_makes_room() {
    let upstream = echoes_bodies().await;
    let mesh = mesh("gateway.limits.connections = 4", &upstream).await;
    // Readiness needs no connection of a client. One has a call in flight, one has had some, two never called.
    let busy = mesh.caller().await;
    let (_response, _stream) = busy.begin(request(SAFE, &[]), false).await;
    let used = mesh.caller().await;
    ok(&used.call(SAFE, &[], b"x").await, b"ok");
    eventually("the call", || (upstream.calls() == 2).then_some(())).await;
    let mut silent = [Wire::connect(mesh.address).await, Wire::connect(mesh.address).await];
    for wire in &mut silent {
        wire.settle(&[]).await;
    }
    // The first newcomer takes the place of one that never called, which is told before it is closed.
    let mut newcomers = Vec::new();
    for wire in &mut silent {
        let newcomer = mesh.caller().await;
        ok(&within("a newcomer", newcomer.call(SAFE, &[], b"x")).await, b"ok");
        newcomers.push(newcomer);
        assert!(wire.until(|frame| frame.kind == GOAWAY).await.is_some(), "it is told");
        assert!(wire.ended().await);
    }
    assert!(busy.lives().await && used.lives().await);
    // With nobody left who never called, the one goes that was idle for longest; never the one with a call.
    ok(&within("one more", mesh.caller().await.call(SAFE, &[], b"x")).await, b"ok");
    assert!(busy.lives().await);
    used.closed().await.expect("closed in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_too() {
    let upstream = echoes_bodies().await;
    let mesh = mesh("gateway.limits.connections = 2", &upstream).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(mesh.address).await.expect("connected"));
    }
    ok(&within("a newcomer", mesh.caller().await.call(SAFE, &[], b"x")).await, b"ok");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_address_gets_no_more_connections() {
    let upstream = echoes_bodies().await;
    let mesh = mesh("gateway.limits.connections_per_address = 2", &upstream).await;
    let busy = [mesh.caller().await, mesh.caller().await];
    let mut calls = Vec::new();
    for caller in &busy {
        calls.push(caller.begin(request(SAFE, &[]), false).await);
    }
    eventually("the calls", || (upstream.calls() == 2).then_some(())).await;
    assert!(Wire::connect(mesh.address).await.ended().await);
    // An idle one makes room.
    drop(calls.pop());
    within("a third", async {
        // It is idle a moment later.
        while mesh.caller().await.try_call(SAFE, &[], b"x").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(busy[0].lives().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_connection_is_told_to_go() {
    let upstream = echoes_bodies().await;
    let mesh = mesh("gateway.connection.first_call = '200ms'", &upstream).await;
    let used = mesh.caller().await;
    ok(&used.call(SAFE, &[], b"x").await, b"ok");
    let mut unused = Wire::connect(mesh.address).await;
    assert!(unused.until(|frame| frame.kind == GOAWAY).await.is_some());
    assert!(unused.ended().await);
    assert!(used.lives().await);
}

/// Longer than the window of an answer, so that its clone holds the rest.
const LONG: usize = 300 << 10;

/// Answers every call with [`LONG`] bytes, and what has a body with little. Counts of the long ones what the gateway takes.
async fn long() -> (Upstream, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let upstream = Upstream::start(move |mut call| {
        let sent = counter.clone();
        async move {
            if call.request.body_mut().data().await.is_some() {
                return call.answer(b"ok").await;
            }
            let Ok(mut stream) = call.respond.send_response(head(&[]), false) else { return };
            let mut left = Bytes::from(vec![7; LONG]);
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let part = left.split_to(room.min(left.len()));
                sent.fetch_add(part.len(), Ordering::SeqCst);
                if stream.send_data(part, false).is_err() {
                    return;
                }
            }
            let _ = stream.send_trailers(trailers(0));
        }
    })
    .await;
    (upstream, sent)
}

/// A connection that asks and takes nothing: no stream of it has a window.
async fn takes_nothing(mesh: &Mesh) -> Caller {
    Caller::connect_with(mesh.address, h2::client::Builder::new().initial_window_size(0)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answer_is_given_up() {
    let (upstream, _sent) = long().await;
    let mesh = mesh("gateway.limits.unread_time = '100ms'", &upstream).await;
    let caller = takes_nothing(&mesh).await;
    let (response, _stream) = caller.begin(request(SAFE, &[]), true).await;
    let answer = answer(within("a head", response).await.expect("a head")).await.expect("trailers");
    let status = answer.grpc();
    assert_eq!((status.code(), answer.data.len()), (tonic::Code::ResourceExhausted, 0), "{status:?}");
    assert!(status.message().contains("gateway.limits.unread_bytes"), "{status:?}");
    // The connection is as good as ever.
    assert!(caller.lives().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_hold_their_connections_calls() {
    const UNREAD: usize = 2 << 20;
    let (upstream, sent) = long().await;
    // A time that does not end here.
    let lines = format!("gateway.limits.unread_bytes = {UNREAD}\ngateway.limits.unread_time = '1h'");
    let mesh = mesh(&lines, &upstream).await;
    let caller = takes_nothing(&mesh).await;
    let mut calls = Vec::new();
    // One after the other, so that each finds what those before have left.
    const WINDOW: usize = 64 << 10;
    let most = UNREAD / WINDOW + 1;
    let beside = mesh.caller().await;
    for n in 0..most {
        let (response, stream) = caller.begin(request(SAFE, &[]), true).await;
        calls.push((within("a head", response).await.expect("a head"), stream));
        let used = || (sent.load(Ordering::SeqCst) == (n + 1) * WINDOW).then_some(());
        eventually("its window to be used", used).await;
        // An answer that comes behind what was sent.
        ok(&within("a call beside", beside.call(SAFE, &[], b"x")).await, b"ok");
    }
    let (waiting, _stream) = caller.begin(request(SAFE, &[]), true).await;
    // Others are served meanwhile, and the one that waits is not.
    for _ in 0..20 {
        ok(&within("a call beside", mesh.caller().await.call(SAFE, &[], b"x")).await, b"ok");
    }
    assert_eq!(upstream.calls(), 2 * most + 20);
    // Some of it is taken: an answer is given up.
    calls.truncate(most / 2);
    within("its turn", waiting).await.expect("a head");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_unread_answers_are_bounded() {
    const UNREAD: usize = 2 << 20;
    const CALLS: usize = 96;
    let (upstream, _sent) = long().await;
    let mesh = mesh(&format!("gateway.limits.unread_bytes = {UNREAD}"), &upstream).await;
    let caller = takes_nothing(&mesh).await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(caller.begin(request(SAFE, &[]), true).await);
    }
    let mut refused = 0;
    for (response, _stream) in calls {
        let Ok(Ok(response)) = tokio::time::timeout(Duration::from_secs(5), response).await else { continue };
        let answer = answer(response).await.expect("whole");
        refused += usize::from(answer.code() == 8);
    }
    // None is left: each was over the bound, or was not taken in time by a connection that had left too much.
    assert_eq!(refused, CALLS);
    ok(&within("a call beside", mesh.caller().await.call(SAFE, &[], b"x")).await, b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_read_in_time_stay_whole() {
    const UNREAD: usize = 2 << 20;
    // Together they leave more than that before the first is read.
    const CALLS: usize = 40;
    // Kept so long while nothing of them is taken. A round that takes longer, on a busy machine, may lose some.
    const KEPT: Duration = Duration::from_secs(2);
    let (upstream, sent) = long().await;
    let mesh = mesh(&format!("gateway.limits.unread_bytes = {UNREAD}"), &upstream).await;
    for _ in 0..10 {
        let before = sent.load(Ordering::SeqCst);
        let caller =
            Caller::connect_with(mesh.address, h2::client::Builder::new().initial_window_size(16 << 10))
                .await;
        let begun = Instant::now();
        let mut calls = Vec::new();
        for _ in 0..CALLS {
            calls.push(caller.begin(request(SAFE, &[]), true).await);
        }
        let full = || (sent.load(Ordering::SeqCst) - before > UNREAD + UNREAD / 8).then_some(());
        eventually("more than may be left", full).await;
        let read = calls.into_iter().map(|(response, _stream)| async {
            let answer = answer(response.await.expect("a head")).await.ok()?;
            Some((answer.code(), answer.data.len()))
        });
        let answers = within("every answer", futures::future::join_all(read)).await;
        let lost: Vec<_> = answers.iter().filter(|answer| **answer != Some((0, LONG))).collect();
        if lost.is_empty() {
            return;
        }
        assert!(begun.elapsed() > KEPT, "{} of {CALLS} were given up: {:?}", lost.len(), lost[0]);
    }
    panic!("no round was in time");
}
