//! `shoal bench generator`: the load generator itself beside ghz, on the same servers at the same rate: whether both see the
//! same service times, and what a call costs each of them.

mod ghz;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use prost::Message as _;

use crate::load::arrivals::Arrivals;
use crate::load::call::Call;
use crate::load::level::{Demand, Level};
use crate::load::live::Live;
use crate::load::measure;
use crate::load::target::Target;
use crate::process::Server;
use crate::results::{Column, Table};
use crate::run::{Found, Run, RunArgs, seconds};
use crate::{echo, peer, report};

pub(crate) const ABOUT: &str = "\
Measures the generator that the other benchmarks use beside ghz (`ghz --async --rps`), with the same servers, rate, connections \
and even arrivals, in interleaved rounds. Two servers: an echo that answers at once, at half of the load that a closed loop of \
64 callers gets through, and one that takes 5 ms for each call. Times are service times (sent → answer), the only ones that ghz \
has; a fixed service time shows whether both measure the same, the echo what each adds to it. CPU time is that of the generator's \
process for each call: its overhead.";

const EXAMPLES: &str = "Examples:
  scripts/engines install ghz && shoal bench generator
  shoal bench generator --rounds 3 --seconds 5 --rate-max 2000";

/// Settings of the comparison.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GeneratorArgs {
    /// Where ghz is, beside PATH; default: where `scripts/engines install ghz` puts it
    #[arg(long, env = "SHOAL_BENCH_PEERS")]
    peers_dir: Option<PathBuf>,
    /// Seconds of each generator in a round
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Calls a second that are not exceeded, whatever the echo gets through
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate_max: u32,
    #[command(flatten)]
    run: RunArgs,
}

/// Callers and time of the closed loop by which the echo's load is found.
const CALLERS: usize = 64;
const FULL_LOAD_SECONDS: f64 = 1.0;

/// Service time of the slower server, in milliseconds.
const SERVICE_MS: &str = "5";
/// Calls a second that it gets, at most: it answers each by a timer.
const SLOW_RATE_MAX: u32 = 1_000;

const CONNECTIONS: usize = 8;

/// Text of each request, 100 bytes.
const TEXT: &str =
    "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr";

/// Figures of one generator in one round.
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

pub(crate) async fn run(args: &GeneratorArgs) -> anyhow::Result<()> {
    let title = "The load generator beside ghz: service times of the same servers at the same rate, and the CPU time of the generator \
                 for each call.";
    let run = Run::begin("generator", title, &args.run).await?;
    let ghz = peer::program("ghz", &peer::folder(args.peers_dir.as_ref()));
    if ghz.is_none() {
        report::progress("ghz is not there: scripts/engines install ghz. Going on without it.");
    }
    let protoset = tempfile::NamedTempFile::with_suffix(".binpb")?;
    std::fs::write(protoset.path(), echo::descriptors().encode_to_vec())?;
    let fast = Server::start(&["bench", "echo"]).await?;
    let slow = Server::start(&["bench", "known", "parallel", "--parallel-ms", SERVICE_MS]).await?;
    let call = Call::new(echo::ECHO, &echo::Text { text: TEXT.to_owned(), value: Vec::new() });
    let target = |server: &Server| Target::single(server.address, CONNECTIONS, &call);
    let full = Level::closed(CALLERS, Duration::from_secs_f64(FULL_LOAD_SECONDS));
    let full = measure(&target(&fast), &full, &Live::default()).await?.achieved_per_second();
    let half = ((full / 2.0) as u32).clamp(1, args.rate_max);
    let servers = [
        (format!("echo, {half} calls/s"), &fast, half),
        (
            format!("echo after {SERVICE_MS} ms, {} calls/s", half.min(SLOW_RATE_MAX)),
            &slow,
            half.min(SLOW_RATE_MAX),
        ),
    ];
    let time = Duration::from_secs_f64(args.seconds);
    let mut figures: Vec<[Vec<Figures>; 2]> = servers.iter().map(|_| Default::default()).collect();
    for round in 1..=args.run.rounds {
        report::progress(&format!("round {round} of {}: {} s for each", args.run.rounds, args.seconds));
        for ((_, server, rate), [theirs, ours]) in servers.iter().zip(&mut figures) {
            if let Some(ghz) = &ghz {
                theirs.push(ghz::measured(ghz, protoset.path(), server.address, *rate, time).await?);
            }
            ours.push(measured(&target(server), *rate, time, round.into()).await?);
        }
    }
    let mut table = Table::new("Service time and overhead", columns());
    for ((name, ..), [theirs, ours]) in servers.iter().zip(&figures) {
        let peer = format!("ghz, {name}");
        if !theirs.is_empty() {
            table.row(&peer, None, cells(theirs));
        }
        table.row(&format!("shoal, {name}"), Some(&peer), cells(ours));
    }
    let found = Found {
        warm_up: format!("a fourth of {} s before each", args.seconds),
        tables: vec![table],
        notes: vec![format!(
            "A closed loop of {CALLERS} callers gets {full:.0} calls a second through the echo; half of that is its load here, at most \
             {}. Arrivals are even.",
            args.rate_max
        )],
        ..Found::default()
    };
    run.end(found).await
}

async fn measured(target: &Target, rate: u32, time: Duration, seed: u64) -> anyhow::Result<Figures> {
    let level = Level {
        demand: Demand::Open { per_second: f64::from(rate), arrivals: Arrivals::Constant },
        warm_up: time / 4,
        seed,
        ..Level::open(1.0, time)
    };
    let measured = measure(target, &level, &Live::default()).await?;
    Ok(Figures {
        per_second: measured.achieved_per_second(),
        p50_us: measured.service_time.value_at_quantile(0.5) as f64,
        p99_us: measured.service_time.value_at_quantile(0.99) as f64,
        cpu_us: measured.generator.used.as_secs_f64() * 1e6 / measured.generator.calls.max(1) as f64,
    })
}

fn columns() -> Vec<Column> {
    vec![
        Column::new("calls_per_second", "calls/s", 0),
        Column::new("service_p50_us", "service p50 µs", 0).with_ratio(),
        Column::new("service_p99_us", "service p99 µs", 0).with_ratio(),
        Column::new("generator_cpu_us", "generator CPU µs/call", 1).with_ratio(),
    ]
}

fn cells(figures: &[Figures]) -> Vec<Vec<f64>> {
    let figure = |of: fn(&Figures) -> f64| figures.iter().map(of).collect();
    vec![figure(|f| f.per_second), figure(|f| f.p50_us), figure(|f| f.p99_us), figure(|f| f.cpu_us)]
}
