//! An open loop: calls are made when they are due, whatever became of those before, and their latency is counted from
//! that moment. A server that stalls is charged for everybody who would have come meanwhile, which a closed loop forgives
//! (Tene, "How NOT to Measure Latency"; "coordinated omission").

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::arrivals::{Arrivals, Schedule};
use crate::load::call::{Call, connect, once};
use crate::load::{Done, histogram, micros, on_own_thread};

/// A load that does not wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) arrivals: Arrivals,
    /// Calls a second.
    pub(crate) rate: f64,
    pub(crate) connections: usize,
    /// Calls that may be outstanding. Past it those that are due are missed, and counted.
    pub(crate) outstanding_max: usize,
    /// Time to wait for answers after the last call was due. Calls without an answer by then have failed.
    pub(crate) grace: Duration,
    pub(crate) seed: u64,
}

/// Makes calls for `time`, and ends by itself at the latest a grace after it.
///
/// # Errors
/// When a connection cannot be made. A call that fails is counted.
pub(crate) async fn open_loop(
    address: SocketAddr,
    call: &Call,
    load: Open,
    time: Duration,
) -> anyhow::Result<Done> {
    let call = call.clone();
    on_own_thread(move || run(address, call, load, time, Duration::ZERO)).await
}

/// State that the calls and the clock share.
struct Shared {
    outstanding: AtomicUsize,
    latency: Mutex<Histogram<u64>>,
}

/// `late`: how much later than it should the loop begins, for the test.
async fn run(
    address: SocketAddr,
    call: Call,
    load: Open,
    time: Duration,
    late: Duration,
) -> anyhow::Result<Done> {
    let uri = call.uri(address)?;
    let mut connections = Vec::new();
    for _ in 0..load.connections.max(1) {
        connections.push(connect(address).await?);
    }
    let shared = Arc::new(Shared { outstanding: AtomicUsize::new(0), latency: Mutex::new(histogram()?) });
    let schedule = Schedule::new(load.arrivals, load.rate, time, load.seed);
    let begun = Instant::now().checked_sub(late).unwrap_or_else(Instant::now);
    // Bounded by what may be outstanding.
    let (tell, mut due) = mpsc::unbounded_channel();
    let clock = {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || keep_time(schedule, begun, &shared, load.outstanding_max, &tell))?
    };
    let mut calls = JoinSet::new();
    let mut made = 0;
    while let Some(intended) = due.recv().await {
        let sender = connections[made % connections.len()].clone();
        made += 1;
        calls.spawn(one(sender, uri.clone(), call.framed.clone(), intended, shared.clone()));
        while calls.try_join_next().is_some() {}
    }
    let elapsed = begun.elapsed();
    // Those that are not answered by then are dropped, and so have failed.
    let _ = timeout(load.grace, async { while calls.join_next().await.is_some() {} }).await;
    calls.abort_all();
    let missed = clock.join().map_err(|_| anyhow::anyhow!("the clock of the load panicked"))?;
    let latency = shared.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Done { calls: latency.len(), failed: made as u64 - latency.len(), missed, elapsed, latency })
}

/// Says when calls are due, on a thread of its own: tokio's timers are a millisecond coarse. Returns how many were missed.
fn keep_time(
    schedule: Schedule,
    begun: Instant,
    shared: &Shared,
    outstanding_max: usize,
    tell: &mpsc::UnboundedSender<Instant>,
) -> u64 {
    let mut missed = 0;
    for offset in schedule {
        let intended = begun + offset;
        while let Some(left) = intended.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            // Nobody wakes it, but it may wake by itself.
            std::thread::park_timeout(left);
        }
        if shared.outstanding.load(Ordering::Relaxed) >= outstanding_max {
            missed += 1;
            continue;
        }
        shared.outstanding.fetch_add(1, Ordering::Relaxed);
        if tell.send(intended).is_err() {
            break;
        }
    }
    missed
}

async fn one(
    mut sender: SendRequest<Bytes>,
    uri: http::Uri,
    request: Bytes,
    intended: Instant,
    shared: Arc<Shared>,
) {
    let answer = once(&mut sender, &uri, request, None).await;
    if answer.is_ok_and(|answer| answer.status == Some(0)) {
        let latency = micros(intended.elapsed());
        // Grows as it needs to, and so does not fail.
        let _ = shared.latency.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
    }
    shared.outstanding.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::{HeaderMap, HeaderValue};
    use tokio::net::TcpListener;

    const LOAD: Open = Open {
        arrivals: Arrivals::Constant,
        rate: 1_000.0,
        connections: 2,
        outstanding_max: 1_000,
        grace: Duration::from_secs(30),
        seed: 1,
    };

    /// A server that answers every call with `status`, or none of them.
    async fn server(status: Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut held = Vec::new();
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let Some(status) = status else {
                            held.push(respond);
                            continue;
                        };
                        let mut body = respond.send_response(http::Response::new(()), false).expect("sent");
                        let trailers = HeaderMap::from_iter([(
                            http::HeaderName::from_static("grpc-status"),
                            HeaderValue::from_static(status),
                        )]);
                        body.send_trailers(trailers).expect("sent");
                    }
                });
            }
        });
        address
    }

    async fn check(status: Option<&'static str>, load: Open, late: Duration) -> Done {
        let address = server(status).await;
        let call = Call { path: "/a.B/C", framed: Bytes::from_static(&[0; 5]) };
        run(address, call, load, Duration::from_millis(100), late).await.expect("ran")
    }

    #[tokio::test]
    async fn every_due_call_is_made() {
        let done = check(Some("0"), LOAD, Duration::ZERO).await;
        assert_eq!((done.calls, done.failed, done.missed), (100, 0, 0));
    }

    #[tokio::test]
    async fn latency_counts_from_the_due_time() {
        let done = check(Some("0"), LOAD, Duration::from_secs(3)).await;
        assert_eq!(done.calls, 100);
        // The last was due 2.9 s before it could be made; the histogram has three digits.
        assert!(done.latency.min() >= 2_880_000, "{} µs", done.latency.min());
    }

    #[tokio::test]
    async fn outstanding_calls_are_bounded() {
        let load = Open { outstanding_max: 10, grace: Duration::from_millis(50), ..LOAD };
        let done = check(None, load, Duration::ZERO).await;
        assert_eq!((done.calls, done.failed, done.missed), (0, 10, 90));
    }

    #[tokio::test]
    async fn failed_calls_do_not_end_the_loop() {
        let done = check(Some("14"), LOAD, Duration::ZERO).await;
        assert_eq!((done.calls, done.failed), (0, 100));
    }
}
