//! Retries: which calls are repeated and which are not; the death of a clone costs no more than it must.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use h2::Reason;
use tonic::Request;
use tonic::client::Grpc;

use crate::harness::caller::{Answer, answer, message, request};
use crate::harness::echo::{Codec, Echo, Payload};
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{Call, SAFE, UNSAFE, Upstream, as_session, end, head, payload};
use crate::harness::{eventually, seed, within};

/// Calls in flight at any time, and in all.
const CALLERS: usize = 32;
const CALLS: usize = 3_000;

/// Sends `CALLS` calls to three clones and kills one amid them. Returns the answers by number of the call, and the
/// numbers each clone was sent.
async fn load_with_a_kill(path: &'static str) -> (Vec<Answer>, Vec<HashSet<usize>>, usize) {
    let mut rng = fastrand::Rng::with_seed(seed("a killed clone"));
    let received: Vec<_> = (0..3).map(|_| Arc::new(Mutex::new(HashSet::new()))).collect();
    let mut upstreams = Vec::new();
    for received in &received {
        let received = received.clone();
        upstreams.push(
            Upstream::start(move |mut call| {
                let received = received.clone();
                async move {
                    let Ok(body) = call.body().await else { return };
                    let number = String::from_utf8_lossy(&body[5..]).parse().expect("a number");
                    received.lock().expect("no panic").insert(number);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    call.answer(&body[5..]).await;
                }
            })
            .await,
        );
    }
    let mesh = Mesh::start(&as_session(&upstreams.iter().collect::<Vec<_>>())).await;
    mesh.ready("session", 3).await;
    let (victim, at) = (rng.usize(0..3), rng.usize(CALLS / 4..CALLS / 2));

    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::new());
    let callers = (0..CALLERS).map(|_| async {
        let caller = mesh.caller().await;
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= CALLS {
                return;
            }
            let answer = caller.call(path, &[], number.to_string().as_bytes()).await;
            answers.lock().expect("no panic").push((number, answer));
        }
    });
    let kill = async {
        eventually("the moment of the kill", || (next.load(Ordering::SeqCst) >= at).then_some(())).await;
        upstreams[victim].kill().await;
    };
    tokio::join!(futures::future::join_all(callers), kill);
    let mut answers = answers.into_inner().expect("no panic");
    answers.sort_by_key(|(number, _)| *number);
    let received = received.iter().map(|received| received.lock().expect("no panic").clone()).collect();
    (answers.into_iter().map(|(_, answer)| answer).collect(), received, victim)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_clone_loses_no_idempotent_call() {
    let (answers, received, victim) = load_with_a_kill(SAFE).await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.code(), 0, "call {number}: {:?}", answer.grpc());
        assert_eq!(payload(answer), number.to_string().as_bytes());
    }
    assert!(!received[victim].is_empty(), "the victim had taken part");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_clone_fails_only_its_calls() {
    let (answers, received, victim) = load_with_a_kill(UNSAFE).await;
    let mut failed = 0;
    for (number, answer) in answers.iter().enumerate() {
        let sent_to = received.iter().filter(|clone| clone.contains(&number)).count();
        assert!(sent_to <= 1, "call {number} was repeated");
        if answer.code() != 0 {
            failed += 1;
            assert_eq!(answer.code(), 14, "call {number}");
            // In flight on the victim: it had it, or its bytes were on their way there.
            let elsewhere = (0..3).filter(|n| *n != victim).any(|n| received[n].contains(&number));
            assert!(!elsewhere, "call {number} failed although a living clone had it");
        }
    }
    assert!(failed <= CALLERS, "{failed} calls failed; at most {CALLERS} were in flight");
}

/// Two clones of which the first to be sent a call dies of it.
async fn one_dies(path: &'static str, body: &[u8]) -> (Answer, usize, Vec<http::request::Parts>) {
    let died = Arc::new(AtomicBool::new(false));
    let (kill, mut killed) = tokio::sync::mpsc::unbounded_channel();
    let mut upstreams = Vec::new();
    for index in 0..2 {
        let (died, kill) = (died.clone(), kill.clone());
        upstreams.push(
            Upstream::start(move |mut call| {
                let (died, kill) = (died.clone(), kill.clone());
                async move {
                    let body = call.body().await;
                    if !died.swap(true, Ordering::SeqCst) {
                        let _ = kill.send(index);
                        return std::future::pending().await;
                    }
                    if let Ok(body) = body {
                        call.answer(&body[5..]).await;
                    }
                }
            })
            .await,
        );
    }
    let mesh = Mesh::start(&as_session(&[&upstreams[0], &upstreams[1]])).await;
    mesh.ready("session", 2).await;
    let caller = mesh.caller().await;
    let call = async {
        let (response, mut stream) = caller.begin(request(path, &[]), false).await;
        let body = message(body);
        let mut sent = 0;
        while sent < body.len() {
            stream.reserve_capacity(body.len() - sent);
            let capacity =
                std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("open");
            let part = body.slice(sent..(sent + capacity).min(body.len()));
            sent += part.len();
            stream.send_data(part, sent == body.len()).expect("open");
        }
        answer(within("an answer", response).await.expect("an answer")).await.expect("whole")
    };
    let death = async {
        let victim: usize = within("a call at a clone", killed.recv()).await.expect("told");
        upstreams[victim].kill().await;
    };
    let (answer, ()) = tokio::join!(call, death);
    let calls = upstreams.iter().map(Upstream::calls).sum();
    let heads = upstreams.iter().flat_map(|u| (0..u.calls()).map(|n| u.head(n))).collect();
    (answer, calls, heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_repeated_whole_elsewhere() {
    let body: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let (answer, calls, heads) = one_dies(SAFE, &body).await;
    assert_eq!((answer.code(), calls), (0, 2));
    assert!(payload(&answer) == body);
    let mut attempts: Vec<_> =
        heads.iter().map(|head| head.headers.get("grpc-previous-rpc-attempts").cloned()).collect();
    attempts.sort();
    assert_eq!(attempts, [None, Some("1".parse().expect("ascii"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_or_long_call_stays_single() {
    for (path, length, why) in [(UNSAFE, 10, "not marked safe"), (SAFE, 70_000, "too long")] {
        let (answer, calls, _) = one_dies(path, &vec![1; length]).await;
        assert_eq!((answer.code(), calls), (14, 1), "{why}");
        let message = answer.grpc().message().to_owned();
        assert!(message.contains(why) && message.contains("1 attempts"), "{why}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_idempotency_comes_from_reflection() {
    // The first server to get the call holds it; it is killed; only the descriptors can say that the other may be asked.
    let servers = [Echo::start(true).await, Echo::start(true).await];
    let mesh = Mesh::start(&format!(
        "[gateway.upstream.echo]\nendpoints = ['{}', '{}']",
        servers[0].address, servers[1].address
    ))
    .await;
    mesh.ready("echo", 2).await;
    let path = http::uri::PathAndQuery::from_static("/test.echo.v1.Echo/Unary");
    crate::reflection::described(&mesh, "test.echo.v1.Echo").await;
    let mut client = Grpc::new(mesh.channel().await);
    client.ready().await.expect("ready");
    let call = client.unary(Request::new(Payload { data: "hold".into(), count: 0 }), path, Codec::default());
    let kill = async {
        let victim = eventually("the call at a server", || servers.iter().position(|s| s.held() > 0)).await;
        servers[victim].kill();
    };
    let (answer, ()) = tokio::join!(call, kill);
    assert_eq!(answer.expect("repeated").into_inner().data, "hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_unavailable_is_repeated_elsewhere() {
    let down = Upstream::start(|call| call.refuse(14)).await;
    let up = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&as_session(&[&down, &up])).await;
    mesh.ready("session", 2).await;
    let caller = mesh.caller().await;
    for _ in 0..20 {
        assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    }
    assert!(down.calls() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_unavailable_answer_is_forwarded() {
    for (path, attempts) in [(SAFE, 3), (UNSAFE, 1)] {
        let upstream = Upstream::start(|mut call| async move {
            let answer = head(&[("grpc-status", "14"), ("grpc-message", "closed%20today")]);
            call.respond.send_response(answer, true).expect("there");
        })
        .await;
        let mesh = Mesh::start(&as_session(&[&upstream])).await;
        let answer = mesh.caller().await.call(path, &[], b"").await;
        assert_eq!(answer.grpc().message(), "closed today");
        assert_eq!(upstream.calls(), attempts, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushback_delays_or_stops_retries() {
    for (pushback, calls, pause_ms) in [("300", 2, 300), ("-1", 1, 0)] {
        let upstream = Upstream::start(move |mut call| async move {
            if call.number > 0 {
                return call.answer(b"ok").await;
            }
            let answer = head(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)]);
            call.respond.send_response(answer, true).expect("there");
        })
        .await;
        let mesh = Mesh::start(&as_session(&[&upstream])).await;
        mesh.ready("session", 1).await;
        let begun = Instant::now();
        mesh.caller().await.call(SAFE, &[], b"").await;
        assert_eq!(upstream.calls(), calls, "{pushback}");
        assert!(begun.elapsed() >= Duration::from_millis(pause_ms), "{pushback}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_stream_is_resent_always() {
    for (refusals, code, calls) in [(1, 0, 2), (3, 0, 4), (9, 14, 4)] {
        let upstream = Upstream::start(move |mut call: Call| async move {
            if call.number < refusals {
                return call.respond.send_reset(Reason::REFUSED_STREAM);
            }
            call.answer(b"ok").await;
        })
        .await;
        let mesh = Mesh::start(&as_session(&[&upstream])).await;
        let answer = mesh.caller().await.call(UNSAFE, &[], b"x").await;
        assert_eq!((answer.code(), upstream.calls()), (code, calls), "{refusals} refusals");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_retries_stay_within_budget() {
    let upstream = Upstream::start(|mut call| async move { end(&mut call.respond, 14) }).await;
    let configuration = format!("gateway.retry.backoff = '1ms'\n{}", as_session(&[&upstream]));
    let mesh = Mesh::start(&configuration).await;
    mesh.ready("session", 1).await;
    let begun = Instant::now();
    let calls = 600;
    let callers = (0..8).map(|_| async {
        let caller = mesh.caller().await;
        for _ in 0..calls / 8 {
            assert_eq!(caller.call(SAFE, &[], b"").await.code(), 14);
        }
    });
    futures::future::join_all(callers).await;
    // The budget begins with ten seconds' worth.
    let bound = 1.2 * calls as f64 + 10.0 * (begun.elapsed().as_secs_f64() + 10.0);
    assert!((upstream.calls() as f64) <= bound, "{} attempts of {calls} calls", upstream.calls());
    assert!(upstream.calls() > calls, "some were repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_caller_stops_retries() {
    let upstream = Upstream::start(|mut call| async move { end(&mut call.respond, 14) }).await;
    let configuration = format!("gateway.retry.backoff = '10s'\n{}", as_session(&[&upstream]));
    let mesh = Mesh::start(&configuration).await;
    let caller = mesh.caller().await;
    let (_response, mut stream) = caller.begin(request(SAFE, &[]), true).await;
    eventually("the first attempt", || (upstream.calls() == 1).then_some(())).await;
    stream.send_reset(Reason::CANCEL);
    assert!(caller.lives().await);
    mesh.shut_down();
    // Bounded by the grace only if something were still waiting.
    let begun = Instant::now();
    drop(caller);
    mesh.drained().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_headers_then_unavailable_is_retried() {
    // As servers do that send their headers first and find out then; `begun`: with a message.
    let late = |begun: bool| {
        move |mut call: Call| async move {
            let _ = call.body().await;
            let mut stream = call.begin();
            // In a write of its own.
            tokio::time::sleep(Duration::from_millis(2)).await;
            if begun {
                let _ = stream.send_data(message(b"half"), false);
            }
            let mut trailers = crate::harness::upstream::trailers(14);
            trailers.insert("x-why", "late".parse().expect("valid"));
            let _ = stream.send_trailers(trailers);
        }
    };
    let good = Upstream::start(|call| call.answer(b"ok")).await;
    for begun in [false, true] {
        let bad = Upstream::start(late(begun)).await;
        let mesh = Mesh::with_cores(
            1,
            &format!(
                "gateway.ejection.enabled = false\ngateway.balance.penalty = '0s'\n{}",
                as_session(&[&bad, &good])
            ),
        )
        .await;
        mesh.ready("session", 2).await;
        let caller = mesh.caller().await;
        let mut codes = HashSet::new();
        for _ in 0..40 {
            codes.insert(caller.call(SAFE, &[], b"").await.code());
        }
        assert!(bad.calls() > 0, "it has taken part");
        assert_eq!(codes.contains(&14), begun, "an answer that has begun is not repeated: {codes:?}");
        // What may not be repeated is handed on as it came.
        let before = bad.calls();
        let answer = within("the other clone's turn", async {
            loop {
                let answer = caller.call(UNSAFE, &[], b"").await;
                if bad.calls() > before {
                    return answer;
                }
            }
        })
        .await;
        assert_eq!(
            (answer.code(), answer.trailers.expect("trailers")["x-why"].as_bytes()),
            (14, &b"late"[..])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_headers_and_trailers_are_forwarded() {
    for code in [0, 5, 14] {
        let upstream = Upstream::start(move |mut call| async move {
            let _ = call.body().await;
            let response = head(&[("x-head", "one")]);
            let mut stream = call.respond.send_response(response, false).expect("the caller is there");
            tokio::time::sleep(Duration::from_millis(2)).await;
            let _ = stream.send_trailers(crate::harness::upstream::trailers(code));
        })
        .await;
        let mesh = Mesh::with_cores(1, &as_session(&[&upstream])).await;
        let answer = mesh.caller().await.call(SAFE, &[], b"").await;
        assert_eq!((answer.code(), answer.headers["x-head"].as_bytes()), (code, &b"one"[..]));
        assert_eq!(upstream.calls(), if code == 14 { 3 } else { 1 });
    }
}
