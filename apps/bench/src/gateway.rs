//! `shoal bench gateway`: what a call costs at our gateway and at its peers, with the same upstreams and callers.

mod bed;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;

use self::bed::{Bed, Gateway};
use self::workload::Workload;
use crate::load::arrivals::Arrivals;
use crate::load::closed::{Closed, closed_loop};
use crate::load::open::{Open, open_loop};
use crate::peer::Peer;
use crate::process::affinity::{Cpus, Placing};
use crate::report;
use crate::round::{Sample, measured, median};

const ABOUT: &str = "\
Each gateway forwards to the same two tonic servers on this machine, with the same windows, stream limits, cores and rule \
of balancing; their configuration files are part of the report. First it is checked that each really forwards. Then rounds \
are interleaved, and medians are reported: CPU time per call of the gateway's processes, which is the figure to trust on a \
small machine, where callers and upstreams share its cores; throughput of a closed loop; latency of calls that arrive at \
random at a fixed rate, counted from when they were due. Our own gateway is measured with one thing switched off each, too.

For each number of cores it takes (seconds + a warm-up of a fourth) for each of 26 scenarios in each round: with the \
defaults about 9 minutes in all. What takes more than twice as long and a minute is ended.";

const EXAMPLES: &str = "Examples:
  scripts/engines install peers && shoal bench gateway
  shoal bench gateway --peers haproxy --cores 1 --rounds 7 --seconds 1
  shoal bench gateway --alone";

/// Settings of a measurement.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct GatewayArgs {
    /// Gateways to measure beside ours
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Haproxy, Peer::Envoy, Peer::Nginx])]
    peers: Vec<Peer>,
    /// Measure ours alone
    #[arg(long, conflicts_with = "peers")]
    alone: bool,
    /// Where the peers' programs are, beside PATH; default: where `scripts/engines install peers` puts them
    #[arg(long, env = "SHOAL_BENCH_PEERS")]
    peers_dir: Option<PathBuf>,
    /// A `shoal-gateway` of another build, to be measured beside this one
    #[arg(long, value_name = "PROGRAM")]
    also: Vec<PathBuf>,
    /// Rounds of every scenario
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each scenario in a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Cores of each gateway, one measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    cores: Vec<usize>,
    /// Calls in flight for each core
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    in_flight: u16,
    /// Connections of the callers for each core
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Calls a second for each core where they arrive at random
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
}

/// The longest a scenario may take in a round.
const SECONDS_MAX: f64 = 60.0;

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("not a number of seconds from 0.05 to {SECONDS_MAX}")),
    }
}

/// Time that everything but the rounds may take, for each number of cores.
const SETUP_WITHIN: Duration = Duration::from_secs(120);

/// Time that a busy machine may take beyond twice the time of the rounds.
const SLACK: Duration = Duration::from_secs(60);

/// Calls of the open loop that may be outstanding: more than that are no latency but a standstill.
const OUTSTANDING_MAX: usize = 10_000;

/// Time that the last calls of a load are waited for.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        report::progress("This is a debug build: its figures say nothing. Build with --profile dist.");
    }
    let cpus = Cpus::allowed()?;
    let mut measured = 0;
    for cores in args.cores.iter().copied() {
        let Some(placing) = Placing::of(cores, &cpus) else {
            report::progress(&format!("{cores} cores: this process may use {} only. Left out.", cpus.len()));
            continue;
        };
        measured += 1;
        let bed = tokio::time::timeout(
            SETUP_WITHIN,
            Bed::start(&placing, args.peers(), &args.peers_dir(), &args.also),
        )
        .await
        .context("the gateways did not start in time")??;
        let expected = expected(args, &bed);
        let bound = 2 * expected + SLACK;
        report::progress(&format!(
            "{cores} cores (gateways on CPU {}, callers and upstreams on {}): about {:.0} s, at most {:.0} s",
            placing.measured,
            placing.rest,
            expected.as_secs_f64(),
            bound.as_secs_f64()
        ));
        tokio::time::timeout(bound, measure(args, cores, &placing, &bed))
            .await
            .context("took more than twice the time it should: is this machine busy?")??;
    }
    ensure!(measured > 0, "no measurement is possible with --cores {:?} on this machine", args.cores);
    Ok(())
}

impl GatewayArgs {
    fn peers(&self) -> &[Peer] {
        if self.alone { &[] } else { &self.peers }
    }

    fn peers_dir(&self) -> PathBuf {
        let in_cache = || match (std::env::var_os("SHOAL_CACHE"), std::env::var_os("HOME")) {
            (Some(cache), _) => PathBuf::from(cache).join("peers"),
            (None, home) => PathBuf::from(home.unwrap_or_default()).join(".cache/shoal/peers"),
        };
        self.peers_dir.clone().unwrap_or_else(in_cache)
    }
}

/// Load on a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pressure {
    Closed,
    Open,
}

/// Line of the report.
struct Line<'b> {
    gateway: &'b Gateway,
    workload: Workload,
    pressure: Pressure,
}

/// All lines, in the order in which a round takes them: those that are compared follow each other.
fn lines(bed: &Bed) -> Vec<Line<'_>> {
    let line = |workload, pressure| move |gateway| Line { gateway, workload, pressure };
    let mut lines = Vec::new();
    for workload in Workload::ALL {
        lines.extend(bed.gateways.iter().map(line(workload, Pressure::Closed)));
    }
    lines.extend(bed.switched.iter().map(line(Workload::Small, Pressure::Closed)));
    lines.extend(bed.gateways.iter().map(line(Workload::Small, Pressure::Open)));
    lines
}

/// Returns the time that the rounds should take.
fn expected(args: &GatewayArgs, bed: &Bed) -> Duration {
    let scenarios = lines(bed).len() as f64;
    Duration::from_secs_f64(scenarios * args.seconds * (f64::from(args.rounds) + 0.25))
}

async fn measure(args: &GatewayArgs, cores: usize, placing: &Placing, bed: &Bed) -> anyhow::Result<()> {
    let lines = lines(bed);
    let time = Duration::from_secs_f64(args.seconds);
    let mut samples: Vec<Vec<Sample>> = lines.iter().map(|_| Vec::new()).collect();
    for line in &lines {
        sample(args, cores, line, time / 4, 0).await?;
    }
    for round in 1..=args.rounds {
        report::progress(&format!("round {round} of {}: {} scenarios of {time:?}", args.rounds, lines.len()));
        for (line, samples) in lines.iter().zip(&mut samples) {
            samples.push(sample(args, cores, line, time, u64::from(round)).await?);
        }
    }
    print(args, cores, placing, bed, &lines, &samples)
}

async fn sample(
    args: &GatewayArgs,
    cores: usize,
    line: &Line<'_>,
    time: Duration,
    seed: u64,
) -> anyhow::Result<Sample> {
    let (address, call, pids) = (line.gateway.address, line.workload.call(), line.gateway.pids());
    let connections = usize::from(args.connections) * cores;
    let sample = match line.pressure {
        Pressure::Closed => {
            let in_flight = usize::from(args.in_flight) * cores;
            let shape = Closed { in_flight, connections, threads: cores };
            measured(&pids, closed_loop(address, &call, shape, time)).await
        }
        Pressure::Open => {
            let load = Open {
                arrivals: Arrivals::Poisson,
                rate: f64::from(args.rate) * cores as f64,
                connections,
                outstanding_max: OUTSTANDING_MAX,
                grace: GRACE,
                seed,
            };
            measured(&pids, open_loop(address, &call, load, time)).await
        }
    };
    sample.with_context(|| format!("{}, {}", line.gateway.name, line.workload.name()))
}

fn print(
    args: &GatewayArgs,
    cores: usize,
    placing: &Placing,
    bed: &Bed,
    lines: &[Line<'_>],
    samples: &[Vec<Sample>],
) -> anyhow::Result<()> {
    report::line(&format!(
        "\n# {cores} core{s}: gateways on CPU {}, callers and upstreams on {}\n\nMedians of {} interleaved rounds of \
         {} s. CPU µs: of the gateway's processes, per call. ×: of HAProxy's in the same table.",
        placing.measured,
        placing.rest,
        args.rounds,
        args.seconds,
        s = if cores == 1 { "" } else { "s" },
    ));
    for workload in Workload::ALL {
        report::line(&format!(
            "\n## {}, closed loop: {} in flight on {} connections\n",
            workload.name(),
            usize::from(args.in_flight) * cores,
            usize::from(args.connections) * cores
        ));
        table(lines, samples, |line| line.workload == workload && line.pressure == Pressure::Closed);
    }
    let rate = args.rate as usize * cores;
    report::line(&format!("\n## 100 B unary, open loop: {rate} calls a second, Poisson arrivals\n"));
    table(lines, samples, |line| line.pressure == Pressure::Open);
    report::line("\n## Resident memory after all of it\n");
    for gateway in bed.gateways.iter().filter(|gateway| gateway.server.is_some()) {
        let bytes: u64 =
            gateway.pids().into_iter().map(crate::process::cpu::resident).sum::<anyhow::Result<u64>>()?;
        report::line(&format!("- {}: {} MiB", gateway.name, bytes >> 20));
    }
    report::line("\n## Settings");
    for gateway in bed.gateways.iter().filter(|gateway| gateway.server.is_some()) {
        report::line(&format!("\n{}:\n```\n{}```", gateway.name, gateway.settings));
    }
    Ok(())
}

fn table(lines: &[Line<'_>], samples: &[Vec<Sample>], which: impl Fn(&Line<'_>) -> bool) {
    let rows: Vec<(&Line<'_>, &Vec<Sample>)> =
        lines.iter().zip(samples).filter(|(line, _)| which(line)).collect();
    let haproxy = rows.iter().find(|(line, _)| line.gateway.name == Peer::Haproxy.name());
    let cpu = |samples: &[Sample]| median(samples, |s| s.cpu_us.first().copied().unwrap_or(f64::NAN));
    let ratio = |figure: &dyn Fn(&[Sample]) -> f64, samples: &[Sample]| match haproxy {
        Some((_, haproxy)) => number(figure(samples) / figure(haproxy), 2),
        None => "-".to_owned(),
    };
    let per_second = |samples: &[Sample]| median(samples, |s| s.per_second);
    let cells = rows.iter().map(|(line, samples)| {
        let mut name = line.gateway.name.clone();
        let lost: u64 = samples.iter().map(|sample| sample.lost).sum();
        if lost > 0 {
            name.push_str(&format!(" ({lost} calls lost)"));
        }
        [
            name,
            number(cpu(samples), 1),
            ratio(&cpu, samples),
            number(per_second(samples), 0),
            ratio(&per_second, samples),
            number(median(samples, |s| s.p50_us), 0),
            number(median(samples, |s| s.p99_us), 0),
        ]
    });
    let header = ["gateway", "CPU µs", "×", "calls/s", "×", "p50 µs", "p99 µs"];
    report::line(&report::markdown(header, &cells.collect::<Vec<_>>()));
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}
