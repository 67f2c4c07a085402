//! `shoal bench gateway`: what a call costs at our gateway and at its peers, with the same upstreams and callers.

mod bed;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;

use self::bed::{Bed, Gateway};
use self::workload::Workload;
use crate::load::level::Level;
use crate::load::target::Target;
use crate::peer::{self, Peer};
use crate::process::affinity::{Cpus, Placing};
use crate::report;
use crate::results::{Attachment, Column, Table};
use crate::round::{self, Sample, interleaved, load_columns, load_figures, warm_up};
use crate::run::{Found, Run, RunArgs, seconds};

pub(crate) const ABOUT: &str = "\
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
#[command(after_help = EXAMPLES)]
pub(crate) struct GatewayArgs {
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
    #[command(flatten)]
    run: RunArgs,
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

/// Time that everything but the rounds may take, for each number of cores.
const SETUP_WITHIN: Duration = Duration::from_secs(120);

/// Time that a busy machine may take beyond twice the time of the rounds.
const SLACK: Duration = Duration::from_secs(60);

pub(crate) async fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    let title = "What a call costs at our gateway and at its peers, with the same upstreams and callers. CPU time is that of the \
                 gateway's processes.";
    let run = Run::begin("gateway", title, &args.run).await?;
    let cpus = Cpus::allowed()?;
    let mut found = Found { warm_up: warm_up(Duration::from_secs_f64(args.seconds)), ..Found::default() };
    for cores in args.cores.iter().copied() {
        let Some(placing) = Placing::of(cores, &cpus) else {
            report::progress(&format!("{cores} cores: this process may use {} only. Left out.", cpus.len()));
            continue;
        };
        let bed = tokio::time::timeout(
            SETUP_WITHIN,
            Bed::start(&placing, args.peers(), &peer::folder(args.peers_dir.as_ref()), &args.also),
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
        tokio::time::timeout(bound, measure(args, cores, &placing, &bed, &mut found))
            .await
            .context("took more than twice the time it should: is this machine busy?")??;
    }
    ensure!(
        !found.tables.is_empty(),
        "no measurement is possible with --cores {:?} on this machine",
        args.cores
    );
    run.end(found).await
}

impl GatewayArgs {
    fn peers(&self) -> &[Peer] {
        if self.alone { &[] } else { &self.peers }
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
    Duration::from_secs_f64(scenarios * args.seconds * (f64::from(args.run.rounds) + 0.25))
}

async fn measure(
    args: &GatewayArgs,
    cores: usize,
    placing: &Placing,
    bed: &Bed,
    found: &mut Found,
) -> anyhow::Result<()> {
    let lines = lines(bed);
    let time = Duration::from_secs_f64(args.seconds);
    let samples = interleaved(
        &lines,
        |line| format!("{}, {}", line.gateway.name, line.workload.name()),
        (args.run.rounds, time),
        async |line, time, round| sample(args, cores, line, time, u64::from(round)).await,
    )
    .await?;
    tables(args, cores, placing, bed, (&lines, &samples), found)
}

async fn sample(
    args: &GatewayArgs,
    cores: usize,
    line: &Line<'_>,
    time: Duration,
    seed: u64,
) -> anyhow::Result<Sample> {
    let connections = usize::from(args.connections) * cores;
    let mut target = Target::single(line.gateway.address, connections, &line.workload.call());
    target.pids = line.gateway.pids();
    let level = match line.pressure {
        Pressure::Closed => {
            let callers = usize::from(args.in_flight) * cores;
            Level { threads: cores, ..Level::closed(callers, time) }
        }
        Pressure::Open => {
            let per_second = f64::from(args.rate) * cores as f64;
            Level { seed, ..Level::open(per_second, time) }
        }
    };
    round::sample(&target, &level).await
}

fn tables(
    args: &GatewayArgs,
    cores: usize,
    placing: &Placing,
    bed: &Bed,
    (lines, samples): (&[Line<'_>], &[Vec<Sample>]),
    found: &mut Found,
) -> anyhow::Result<()> {
    let of_cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    found.notes.push(format!(
        "{of_cores}: gateways on CPU {}, callers and upstreams on {}.",
        placing.measured, placing.rest
    ));
    for workload in Workload::ALL {
        let title = format!(
            "{}, closed loop: {} in flight on {} connections, {of_cores}",
            workload.name(),
            usize::from(args.in_flight) * cores,
            usize::from(args.connections) * cores
        );
        let which = |line: &Line<'_>| line.workload == workload && line.pressure == Pressure::Closed;
        found.tables.push(table(&title, lines, samples, which));
    }
    let rate = args.rate as usize * cores;
    let title = format!("100 B unary, open loop: {rate} calls a second, Poisson arrivals, {of_cores}");
    found.tables.push(table(&title, lines, samples, |line| line.pressure == Pressure::Open));
    let title = format!("Resident memory after all of it, {of_cores}");
    let mut memory = Table::new(&title, vec![Column::new("resident_mib", "MiB", 0)]);
    for gateway in bed.gateways.iter().filter(|gateway| gateway.server.is_some()) {
        let pids = gateway.pids();
        let bytes: u64 = pids.into_iter().map(crate::process::cpu::resident).sum::<anyhow::Result<u64>>()?;
        memory.row(&gateway.name, None, vec![vec![bytes as f64 / f64::from(1 << 20)]]);
        let name = format!("{}, {of_cores}", gateway.name);
        found.attachments.push(Attachment { name, text: gateway.settings.clone() });
    }
    found.tables.push(memory);
    Ok(())
}

/// Returns the lines of a table. Their peer is HAProxy, and where that is not measured the upstream without a gateway.
fn table(
    title: &str,
    lines: &[Line<'_>],
    samples: &[Vec<Sample>],
    which: impl Fn(&Line<'_>) -> bool,
) -> Table {
    let haproxy = Peer::Haproxy.name();
    let mut rows: Vec<(&Line<'_>, &Vec<Sample>)> =
        lines.iter().zip(samples).filter(|(line, _)| which(line)).collect();
    // A peer stands before those that are compared with it.
    rows.sort_by_key(|(line, _)| line.gateway.name != haproxy);
    let peer = rows.first().map(|(line, _)| line.gateway.name.clone()).unwrap_or_default();
    let mut columns = vec![Column::new("gateway_cpu_us", "CPU µs", 1).with_ratio()];
    columns.extend(load_columns());
    columns.push(Column::new("lost", "calls lost", 0));
    let mut table = Table::new(title, columns);
    for (line, samples) in rows {
        let cpu = samples.iter().filter_map(|sample| sample.cpu_us.first().copied()).collect();
        let lost = samples.iter().map(|sample| sample.lost as f64).collect();
        let figures = [vec![cpu], load_figures(samples), vec![lost]].concat();
        let name = &line.gateway.name;
        table.row(name, (*name != peer).then_some(peer.as_str()), figures);
    }
    table
}
