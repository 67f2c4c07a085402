//! Hedging: a slow call has a second chance elsewhere, for calls that may be repeated and for few of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use shoal_proto::gateway::v1::{ListUpstreamsRequest, Upstream as Listed};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::harness::caller::{Answer, answer, message, request};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{Call, SAFE, UNSAFE, Upstream, as_session, end, head, payload};
use crate::harness::within;

/// Two clones that answer each call as `answer` says, told how many calls both had before it.
async fn clones<F, Fut>(answer: F) -> [Upstream; 2]
where
    F: Fn(Call, usize) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let clone = async || {
        let (answer, calls) = (answer.clone(), calls.clone());
        Upstream::start(move |call| answer(call, calls.fetch_add(1, Ordering::SeqCst))).await
    };
    [clone().await, clone().await]
}

/// A gateway in front of them, with calls of the session service hedged so.
async fn hedging(hedge: &str, budget: f64, upstreams: &[Upstream; 2]) -> (Mesh, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("routes.toml");
    let routes = format!("[[route]]\nservice = 'shoal.session.v1.SessionService'\nhedge = {hedge}\n");
    std::fs::write(&path, routes).expect("written");
    let configuration = format!(
        "gateway.routes = '{}'\ngateway.hedge.budget = {budget:?}\n{}",
        path.display(),
        as_session(&[&upstreams[0], &upstreams[1]])
    );
    // One core: its measurements and its budget are those of all calls.
    let mesh = Mesh::with_cores(1, &configuration).await;
    mesh.ready("session", 2).await;
    (mesh, dir)
}

async fn listed(mesh: &Mesh) -> Listed {
    let mut client = GatewayServiceClient::new(mesh.channel().await);
    let list = client.list_upstreams(ListUpstreamsRequest {}).await.expect("answered").into_inner();
    list.upstreams.into_iter().next().expect("an upstream")
}

fn total(upstreams: &[Upstream; 2]) -> usize {
    upstreams.iter().map(Upstream::calls).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_call_is_hedged_elsewhere() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstreams = clones(move |mut call, before| {
        let tell = tell.clone();
        async move {
            let body = call.body().await.expect("whole");
            if before == 0 {
                let reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
                let _ = tell.send(reset.ok());
                return;
            }
            call.answer(&body[5..]).await;
        }
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '20ms' }", 1.0, &upstreams).await;
    let body: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let answer = mesh.caller().await.call(SAFE, &[], &body).await;
    assert_eq!(answer.code(), 0, "{:?}", answer.grpc());
    assert!(payload(&answer) == body, "the second endpoint had the whole request");
    assert_eq!(within("the reset", told.recv()).await, Some(Some(Reason::CANCEL)));
    assert_eq!((upstreams[0].calls(), upstreams[1].calls()), (1, 1), "another host");
    let mut attempts: Vec<_> = upstreams
        .iter()
        .map(|upstream| upstream.head(0).headers.get("grpc-previous-rpc-attempts").cloned())
        .collect();
    attempts.sort();
    assert_eq!(attempts, [None, Some("1".parse().expect("ascii"))]);
    let listed = listed(&mesh).await;
    assert_eq!((listed.hedges, listed.hedges_won, listed.retries), (1, 1, 0));
    assert_eq!(listed.calls_by_code["OK"], 1, "one call, one answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_safe_routed_methods_are_hedged() {
    for (hedge, path, attempts) in
        [("{ after = '5ms' }", SAFE, 2), ("{ after = '5ms' }", UNSAFE, 1), ("{}", SAFE, 1)]
    {
        let upstreams = clones(|call, _| async move {
            tokio::time::sleep(Duration::from_millis(250)).await;
            call.answer(b"ok").await;
        })
        .await;
        let (mesh, _dir) = hedging(hedge, 1.0, &upstreams).await;
        assert_eq!(mesh.caller().await.call(path, &[], b"").await.code(), 0);
        assert_eq!(total(&upstreams), attempts, "{hedge} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hedging_needs_endpoint_and_whole_request() {
    let upstreams = clones(|mut call, _| async move {
        // Answered a while after its end.
        let _ = call.body().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        call.answer(b"ok").await;
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '5ms' }", 1.0, &upstreams).await;
    let (response, mut stream) = mesh.caller().await.begin(request(SAFE, &[]), false).await;
    stream.send_data(message(b"the first of two"), false).expect("open");
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.send_data(message(b"the second"), true).expect("open");
    let response = within("the answer", response).await.expect("an answer");
    assert_eq!(answer(response).await.expect("whole").code(), 0);
    assert_eq!(total(&upstreams), 1, "what is not whole cannot be sent twice");

    upstreams[1].kill().await;
    mesh.ready("session", 1).await;
    let before = total(&upstreams);
    assert_eq!(mesh.caller().await.call(SAFE, &[], b"").await.code(), 0);
    assert_eq!(total(&upstreams) - before, 1, "the same endpoint would be as slow again");
}

#[tokio::test(flavor = "multi_thread")]
async fn hedges_stay_within_the_budget() {
    let upstreams = clones(|call, _| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        call.answer(b"ok").await;
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '1ms' }", 0.05, &upstreams).await;
    let calls = 400;
    let callers = (0..8).map(|_| async {
        let caller = mesh.caller().await;
        for _ in 0..calls / 8 {
            assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
        }
    });
    futures::future::join_all(callers).await;
    let extra = total(&upstreams) - calls;
    assert!(extra > 0 && extra <= calls / 20, "{extra} of {calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn default_hedge_delay_is_measured() {
    let (stall, stalled) = watch::channel(false);
    let held = Arc::new(AtomicUsize::new(0));
    let upstreams = clones(move |call, _| {
        let (stalled, held) = (stalled.clone(), held.clone());
        async move {
            if *stalled.borrow() && held.fetch_add(1, Ordering::SeqCst) == 0 {
                return std::future::pending().await;
            }
            call.answer(b"ok").await;
        }
    })
    .await;
    let (mesh, _dir) = hedging("{}", 1.0, &upstreams).await;
    let caller = mesh.caller().await;
    // More than enough samples, over longer than a percentile is kept.
    let begun = std::time::Instant::now();
    while total(&upstreams) < 200 || begun.elapsed() < Duration::from_millis(1_200) {
        assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    }
    stall.send(true).expect("watched");
    let answer: Answer = within("an answer from the other", caller.call(SAFE, &[], b"")).await;
    assert_eq!(answer.code(), 0);
    assert!(listed(&mesh).await.hedges_won >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushback_stops_hedging() {
    let upstreams = clones(|mut call, before| async move {
        if before == 0 {
            let answer = head(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "60000")]);
            call.respond.send_response(answer, true).expect("there");
            return;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        call.answer(b"ok").await;
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '5ms' }", 1.0, &upstreams).await;
    let caller = mesh.caller().await;
    assert_eq!(caller.call(SAFE, &[], b"").await.code(), 14);
    assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    assert_eq!(total(&upstreams), 2);
}

/// The first attempt waits until the second one is there; then both do as they are told.
async fn race(first: fn(Call), second: fn(Call)) -> (Answer, usize) {
    let (arrive, arrived) = watch::channel(false);
    let (fail, failed) = watch::channel(false);
    let arrive = Arc::new(arrive);
    let fail = Arc::new(fail);
    let upstreams = clones(move |mut call, before| {
        let (arrive, mut arrived) = (arrive.clone(), arrived.clone());
        let (fail, mut failed) = (fail.clone(), failed.clone());
        async move {
            let _ = call.body().await;
            let (turn, act) = if before == 0 { (&mut arrived, first) } else { (&mut failed, second) };
            if before == 1 {
                let _ = arrive.send(true);
            }
            let _ = turn.wait_for(|go| *go).await;
            act(call);
            if before == 0 {
                // Long enough for the gateway to have seen it; correctness does not hang on it.
                tokio::time::sleep(Duration::from_millis(30)).await;
                let _ = fail.send(true);
            }
        }
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '5ms' }", 1.0, &upstreams).await;
    let answer = mesh.caller().await.call(SAFE, &[], b"x").await;
    (answer, total(&upstreams))
}

fn unavailable(mut call: Call) {
    end(&mut call.respond, 14);
}

fn reset(mut call: Call) {
    call.respond.send_reset(Reason::INTERNAL_ERROR);
}

fn ok(call: Call) {
    tokio::spawn(call.answer(b"ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_waits_for_the_other() {
    for first in [unavailable as fn(Call), reset] {
        let (answer, attempts) = race(first, ok).await;
        assert_eq!((answer.code(), payload(&answer), attempts), (0, &b"ok"[..], 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_hedge_leaves_first_attempt() {
    let upstreams = clones(|mut call, before| async move {
        if before == 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            return call.answer(b"first").await;
        }
        end(&mut call.respond, 14);
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '5ms' }", 1.0, &upstreams).await;
    let answer = mesh.caller().await.call(SAFE, &[], b"").await;
    assert_eq!((payload(&answer), total(&upstreams)), (&b"first"[..], 2));
    let listed = listed(&mesh).await;
    assert_eq!((listed.hedges, listed.hedges_won, listed.retries), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_failed_attempts_count() {
    // Of three attempts two are used up, so one more is made: it comes third and is answered.
    let upstreams = clones(|mut call, before| async move {
        match before {
            0 => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                end(&mut call.respond, 14);
            }
            1 => end(&mut call.respond, 14),
            _ => call.refuse(14).await,
        }
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '5ms' }", 1.0, &upstreams).await;
    assert_eq!(mesh.caller().await.call(SAFE, &[], b"").await.code(), 14);
    assert_eq!(total(&upstreams), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_cancels_both() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let upstreams = clones(move |mut call, _| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(None);
            let reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            let _ = tell.send(reset.ok());
        }
    })
    .await;
    let (mesh, _dir) = hedging("{ after = '5ms' }", 1.0, &upstreams).await;
    let caller = mesh.caller().await;
    let (_response, mut stream) = caller.begin(request(SAFE, &[]), false).await;
    stream.send_data(message(b"x"), true).expect("open");
    for _ in 0..2 {
        assert_eq!(within("an attempt", told.recv()).await, Some(None));
    }
    stream.send_reset(Reason::CANCEL);
    for _ in 0..2 {
        assert_eq!(within("a reset", told.recv()).await, Some(Some(Reason::CANCEL)));
    }
    assert!(caller.lives().await);
}
