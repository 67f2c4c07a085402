//! An open loop: calls are made when they are due, whatever became of those before, and their latency is counted from
//! that moment. A server that stalls is charged for everybody who would have come meanwhile, which a closed loop forgives
//! (Tene, "How NOT to Measure Latency"; "coordinated omission").

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::arrivals::{Arrivals, Schedule};
use crate::load::measured::{Measured, NotIssued};
use crate::load::run::Run;
use crate::load::thread::{Due, Thread};

/// Lateness past which a call is not issued: its latency would be the generator's.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// Longest sleep of the clock, so that it sees the end of a run.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Says when calls are due, on a thread of its own: tokio's timers are a millisecond coarse. The request of the next call
/// is made before its time has come.
pub(super) fn keep_time(
    run: &Run,
    per_second: f64,
    arrivals: Arrivals,
    inlets: &[mpsc::UnboundedSender<Due>],
) -> anyhow::Result<Measured> {
    // The kernel may wake a sleeper 50 µs late by default, to save power.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut counted = Measured::empty()?;
    let schedule = Schedule::new(arrivals, per_second, run.level.whole(), run.level.seed);
    let mut requests = run.target.workload.requests(run.level.seed);
    for (offset, inlet) in schedule.zip(inlets.iter().cycle()) {
        let at = run.begun + offset;
        let request = requests.next();
        while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if run.live.ended() {
                break;
            }
            // Nobody wakes it, but it may wake by itself.
            std::thread::park_timeout(left.min(SLEEP_MAX));
        }
        if run.live.ended() {
            break;
        }
        if run.live.outstanding() >= run.level.outstanding_max as u64 {
            run.live.not_issued(false);
            if run.counts(at) {
                counted.due += 1;
                *counted.not_issued.entry(NotIssued::OutstandingMax).or_default() += 1;
            }
            continue;
        }
        run.live.due();
        // Bounded by what may be outstanding.
        if inlet.send(Due { at, request }).is_err() {
            break;
        }
    }
    counted.generator.spent(run.begun.elapsed());
    Ok(counted)
}

/// Makes the calls that are due until the clock ends, and waits a grace for the last answers.
pub(super) async fn dispatch(thread: &Arc<Thread>, mut due: mpsc::UnboundedReceiver<Due>) {
    let mut calls = JoinSet::new();
    while let Some(due) = due.recv().await {
        let now = Instant::now();
        if now.saturating_duration_since(due.at) > LATENESS_MAX {
            thread.not_issued(due.at, NotIssued::GeneratorBehind);
            continue;
        }
        let thread = thread.clone();
        calls.spawn(async move { thread.call(due, now).await });
        while calls.try_join_next().is_some() {}
    }
    // Those that are not answered by then are dropped, and so have failed.
    let _ = timeout(thread.run.level.grace, async { while calls.join_next().await.is_some() {} }).await;
    calls.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::SocketAddr;
    use std::sync::Mutex;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use tokio::net::TcpListener;

    use crate::load::call::Call;
    use crate::load::level::{Demand, Level};
    use crate::load::live::Live;
    use crate::load::measure;
    use crate::load::target::Target;

    /// Behaviour of a server.
    #[derive(Clone, Copy)]
    enum Server {
        /// Answers every call with a status, at once.
        Answers(&'static str),
        /// Answers no call.
        Silent,
        /// Stops for a second as soon as it has answered so many calls, and answers the rest at once.
        Stalls { after: usize },
        /// Closes each connection in good order after so many calls.
        Leaves { after: usize },
    }

    const STALL: Duration = Duration::from_secs(1);

    async fn serve(behaviour: Server) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        // Calls answered, and the end of the stall.
        let state = Arc::new(Mutex::new((0, None::<Instant>)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, behaviour, state.clone()));
            }
        });
        address
    }

    async fn connection(
        stream: tokio::net::TcpStream,
        behaviour: Server,
        state: Arc<Mutex<(usize, Option<Instant>)>>,
    ) {
        let mut held = Vec::new();
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let mut served = 0;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let status = match behaviour {
                Server::Silent => {
                    held.push(respond);
                    continue;
                }
                Server::Answers(status) => status,
                Server::Leaves { after } => {
                    served += 1;
                    if served == after {
                        connection.graceful_shutdown();
                    }
                    "0"
                }
                Server::Stalls { after } => {
                    let until = {
                        let mut state = state.lock().expect("not poisoned");
                        state.0 += 1;
                        if state.0 > after {
                            state.1.get_or_insert_with(|| Instant::now() + STALL);
                        }
                        state.1
                    };
                    if let Some(until) = until {
                        tokio::time::sleep_until(until.into()).await;
                    }
                    "0"
                }
            };
            let mut body = respond.send_response(http::Response::new(()), false).expect("sent");
            let status = [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))];
            body.send_trailers(HeaderMap::from_iter(status)).expect("sent");
        }
    }

    fn level(time: Duration) -> Level {
        let level = Level::open(1_000.0, time);
        let demand = Demand::Open { per_second: 1_000.0, arrivals: Arrivals::Constant };
        Level { demand, outstanding_max: 5_000, grace: Duration::from_secs(30), ..level }
    }

    async fn check(behaviour: Server, level: Level) -> Measured {
        let call = Call { path: "/a.B/C", framed: Bytes::from_static(&[0; 5]) };
        let target = Target::single(serve(behaviour).await, 2, &call);
        measure(&target, &level, &Live::default()).await.expect("ran")
    }

    /// Returns how many calls of the histogram took at least this long.
    fn at_least(times: &hdrhistogram::Histogram<u64>, least: Duration) -> u64 {
        let least = u64::try_from(least.as_micros()).expect("short");
        times.iter_recorded().filter(|v| v.value_iterated_to() >= least).map(|v| v.count_at_value()).sum()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_due_call_is_made() {
        let measured = check(Server::Answers("0"), level(Duration::from_millis(100))).await;
        assert_eq!((measured.due, measured.not_made() + measured.issued), (100, 100));
        assert_eq!(measured.ok, measured.issued);
        assert_eq!(measured.response_time.len(), measured.ok);
        assert_eq!(measured.generator.calls, measured.issued);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stall_delays_all_calls_due_in_it() {
        let measured = check(Server::Stalls { after: 200 }, level(Duration::from_secs(2))).await;
        let (made, times) = (measured.issued, &measured.response_time);
        assert_eq!((measured.ok, measured.not_made() + made), (made, measured.due), "{:?}", measured.errors);
        assert_eq!(measured.not_issued.get(&NotIssued::OutstandingMax), None);
        // 1000 calls were due in the second; those of its first half waited for at least the other half.
        let halfway = at_least(times, STALL / 2);
        let lost = measured.not_made();
        assert!(lost <= 200, "{lost} calls were made too late: a loop that waits, or a busy machine");
        assert!(halfway + lost >= 495, "{halfway} of {made} calls");
        // A tenth of them waited for nine tenths of it, and not one call alone.
        let nearly_all = at_least(times, STALL * 9 / 10);
        assert!(nearly_all + lost >= 95, "{nearly_all} of {made} calls");
        // They were outstanding all that time.
        let most = measured.in_flight.iter().map(|sample| sample.calls).max();
        assert!(most.is_some_and(|most| most + lost >= 800), "{most:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn outstanding_calls_are_bounded() {
        let level = Level {
            outstanding_max: 10,
            grace: Duration::from_millis(50),
            ..level(Duration::from_millis(100))
        };
        let measured = check(Server::Silent, level).await;
        assert_eq!((measured.ok, measured.due), (0, 100));
        assert_eq!(measured.issued + measured.not_made(), 100);
        assert!(measured.issued <= 10, "{}", measured.issued);
        assert!(measured.not_issued[&NotIssued::OutstandingMax] > 0);
        let unanswered = &measured.errors[&4];
        assert_eq!(unanswered.calls, measured.issued);
        assert_eq!(unanswered.first, "no answer when the run was over");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn failed_calls_do_not_end_the_loop() {
        let measured = check(Server::Answers("14"), level(Duration::from_millis(100))).await;
        assert_eq!((measured.ok, measured.due), (0, 100));
        assert_eq!(measured.failed(), measured.issued);
        assert_eq!(measured.errors.keys().copied().collect::<Vec<_>>(), [14]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closed_connections_cost_no_calls() {
        let measured = check(Server::Leaves { after: 20 }, level(Duration::from_millis(300))).await;
        assert_eq!((measured.ok, measured.failed()), (measured.issued, 0), "{:?}", measured.errors);
        assert!(measured.issued >= 100, "{measured:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn warm_up_is_not_counted() {
        let warm = Level { warm_up: Duration::from_millis(100), ..level(Duration::from_millis(50)) };
        let measured = check(Server::Answers("0"), warm).await;
        assert_eq!(measured.due, 50);
        assert_eq!(measured.elapsed, Duration::from_millis(50));
        assert!(measured.generator.calls >= measured.issued, "{:?}", measured.generator);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ending_a_run_keeps_its_counts() {
        let call = Call { path: "/a.B/C", framed: Bytes::from_static(&[0; 5]) };
        let target = Target::single(serve(Server::Answers("0")).await, 2, &call);
        let live = Live::default();
        let whole = level(Duration::from_secs(600));
        let run = async { measure(&target, &whole, &live).await.expect("ran") };
        let end = async {
            while live.counts().ok < 50 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            live.end();
        };
        let (measured, ()) = tokio::join!(run, end);
        assert!(measured.ended_early);
        assert!(measured.ok >= 50 && measured.elapsed < Duration::from_secs(600), "{measured:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn callers_of_a_closed_loop_wait() {
        let time = Duration::from_millis(200);
        let measured = check(Server::Answers("0"), Level::closed(7, time)).await;
        assert!(measured.ok >= 7, "{measured:?}");
        assert_eq!((measured.failed(), measured.not_made()), (0, 0));
        let most = measured.in_flight.iter().map(|sample| sample.calls).max();
        assert!(most <= Some(7), "{most:?}");
    }
}
