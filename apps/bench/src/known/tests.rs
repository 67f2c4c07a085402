//! The verdict on services whose answer is known: each is measured as the scale report measures, and judged by its rules.

use shoal_testing::RedisServer;
use tokio::net::TcpStream;

use super::*;
use crate::load::call::Call;
use crate::load::level::Level;
use crate::load::live::Live;
use crate::load::measure;
use crate::load::target::Target;
use crate::machine::CpuMeter;
use crate::process::free_address;
use crate::scale::axis::{Axis, AxisKind, AxisLevel};
use crate::scale::run::Run;
use crate::scale::usl::{Analysis, Term};
use crate::scale::verdict::{Measurements, Problem, Verdict, judge};

/// Callers, or clones with a caller each.
const LEVELS: [u32; 6] = [1, 2, 4, 8, 12, 16];
const REPETITIONS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(200);
const COUNTED: Duration = Duration::from_millis(1_200);
/// Share of this machine's CPUs from which a run is not believed, as others kept the processes from running.
const BUSY_MAX: f64 = 0.8;
/// Runs that are made until one was not disturbed. The last one counts in any case.
const TRIES_MAX: usize = 4;

/// Measurements and the verdict on them.
struct Judged {
    verdict: Verdict,
    axis: Axis,
}

impl Judged {
    fn analysis(&self) -> &Analysis {
        self.axis.analysis.as_ref().expect("six levels")
    }

    fn term(&self) -> Term {
        self.verdict.axes[0].term
    }
}

/// Measures a law, judges it, and checks the verdict; as often as `SHOAL_TEST_KNOWN` says. A run that says of
/// itself that it cannot tell is repeated.
async fn check(law: Law, kind: AxisKind, objective: &str, right: impl Fn(&Judged) -> bool) {
    let times = std::env::var("SHOAL_TEST_KNOWN").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let servers = match kind {
        AxisKind::Concurrency => 1,
        AxisKind::Clones => LEVELS[LEVELS.len() - 1],
    };
    let mut addresses = Vec::new();
    for _ in 0..servers {
        addresses.push(served(&law).await);
    }
    for _ in 0..times {
        for tried in 1..=TRIES_MAX {
            let meter = CpuMeter::begin();
            let judged = judged(&addresses, kind, objective).await;
            if right(&judged) {
                break;
            }
            let busy = meter.busy();
            assert!(
                (busy > BUSY_MAX || judged.verdict.problem == Problem::CannotTell) && tried < TRIES_MAX,
                "{law:?}, {:.0} % of the CPUs busy: {:#?}\n{:?}\n{:?}",
                100.0 * busy,
                judged.verdict,
                judged.axis.analysis,
                throughput(&judged.axis),
            );
        }
    }
}

fn throughput(axis: &Axis) -> Vec<(u32, Vec<f64>)> {
    axis.levels.iter().map(|level| (level.n, level.repetitions.iter().map(Run::achieved).collect())).collect()
}

/// Starts a server of a law.
async fn served(law: &Law) -> SocketAddr {
    let (listen, answer) = (free_address().expect("free"), law.clone().answer().await.expect("an answer"));
    tokio::spawn(echo::serve(listen, answer));
    let begun = Instant::now();
    while TcpStream::connect(listen).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{listen} does not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    listen
}

async fn judged(addresses: &[SocketAddr], kind: AxisKind, objective: &str) -> Judged {
    let mut levels: Vec<AxisLevel> =
        LEVELS.iter().map(|&n| AxisLevel { n, repetitions: Vec::new() }).collect();
    for _ in 0..REPETITIONS {
        for level in &mut levels {
            level.repetitions.push(run(addresses, level.n as usize).await);
        }
    }
    let single = levels[0].repetitions.clone();
    let axis = Axis::new(kind, Vec::new(), levels, 1);
    let objective = objective.parse().expect("an objective");
    let axes = std::slice::from_ref(&axis);
    let verdict = judge(&Measurements { objective, single: &single, axes, cores: 2, doubts: &[] });
    Judged { verdict, axis }
}

/// Measures `n` callers: of the one server, or each of a server of its own.
async fn run(addresses: &[SocketAddr], n: usize) -> Run {
    let call = Call::new(echo::ECHO, &Text { text: "x".to_owned(), value: Vec::new() });
    let mut target = Target::single(addresses[0], 1, &call);
    target.addresses = addresses.iter().copied().take(n).collect();
    let level = Level { warm_up: WARM_UP, ..Level::closed(n, COUNTED) };
    let measured = measure(&target, &level, &Live::default()).await.expect("measured");
    assert_eq!(measured.failed(), 0, "{:?}", measured.errors);
    Run::new(&level, &measured)
}

fn law(kind: Kind, parallel_ms: f64, serial_ms: f64) -> Law {
    let part = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    Law { kind, parallel: part(parallel_ms), serial: part(serial_ms), redis: None }
}

/// Tells whether a value is within a tenth of the wanted one.
fn near(value: f64, wanted: f64) -> bool {
    (value / wanted - 1.0).abs() <= 0.1
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_sleep_is_a_performance_problem() {
    let sleep = law(Kind::Parallel, 80.0, 0.0);
    let right = |judged: &Judged| judged.verdict.problem == Problem::Performance;
    check(sleep, AxisKind::Concurrency, "p99=50ms", right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_service_has_no_problem() {
    let parallel = law(Kind::Parallel, 80.0, 0.0);
    check(parallel, AxisKind::Concurrency, "p99=500ms", |judged| {
        judged.verdict.problem == Problem::None && judged.term() == Term::None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn global_lock_is_found_as_contention() {
    let lock = law(Kind::Contention, 16.0, 4.0);
    check(lock, AxisKind::Concurrency, "p99=500ms", |judged| {
        judged.verdict.problem == Problem::Scalability
            && judged.term() == Term::Contention
            && near(judged.analysis().contention().value, 0.2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crosstalk_is_found_as_coherence() {
    let crosstalk = law(Kind::Crosstalk, 20.0, 0.2);
    check(crosstalk, AxisKind::Concurrency, "p99=500ms", |judged| {
        judged.verdict.problem == Problem::Scalability
            && judged.term() == Term::Coherence
            && near(judged.analysis().beta.value, 0.01)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_bound_clones_contend() {
    let Some(redis) = RedisServer::start_with(&["--enable-debug-command", "yes"]).await else { return };
    let bound = Law { redis: Some(redis.url()), ..law(Kind::Redis, 12.0, 4.0) };
    check(bound, AxisKind::Clones, "p99=500ms", |judged| {
        judged.verdict.problem == Problem::Scalability
            && judged.term() == Term::Contention
            && near(judged.analysis().contention().value, 0.25)
    })
    .await;
}
