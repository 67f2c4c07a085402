//! `shoal bench scale --service`: the clones of one of our own services on the axis of the report, and the same figures in the
//! shape of the other benchmarks, from which the page of results is made.

use crate::clones::contended::{self, of_linear};
use crate::clones::{self, CloneArgs, CloneLevel, Service, Times};
use crate::live_view::LiveView;
use crate::machine::Machine;
use crate::results::{Column, FORMAT, Results, Table};
use crate::scale::axis::{Axis, AxisKind, AxisLevel};
use crate::scale::report::Report;
use crate::scale::run::Run;

/// Measurements of a service.
pub(crate) struct ServiceMeasured {
    pub(crate) subject: String,
    /// Runs of a single user.
    pub(crate) single: Vec<Run>,
    pub(crate) axis: Axis,
    /// Sentences about what held the clones back.
    pub(crate) notes: Vec<String>,
    table: Table,
    rounds: u32,
    warm_up: String,
}

/// Heading of the table of clones.
pub(crate) const CLONES: &str = "Clones";

/// Measures a service.
///
/// # Errors
/// When something does not start, or a call fails.
pub(crate) async fn measure(
    service: Service,
    args: &CloneArgs,
    rounds: u32,
    times: Times,
    seed: u64,
    view: &LiveView,
) -> anyhow::Result<ServiceMeasured> {
    let levels = clones::levels(service, args, rounds, times, view).await?;
    let single = clones::single(service, args, rounds, times, view).await?;
    let engine = args.engine(service);
    Ok(ServiceMeasured {
        subject: format!("{} on {engine}", service.role()),
        single: single.iter().map(|(level, measured)| Run::new(level, measured)).collect(),
        axis: Axis::new(AxisKind::Clones, args.simulation(service), by_number(&levels), seed),
        notes: contended::sentences(service, args, &levels),
        table: table(&levels),
        rounds,
        warm_up: format!("{:.1} s of each row", times.warm_up.as_secs_f64()),
    })
}

fn by_number(levels: &[CloneLevel]) -> Vec<AxisLevel> {
    let mut axis: Vec<AxisLevel> = Vec::new();
    for level in levels.iter().filter(|level| !level.measured.ended_early) {
        let (n, machine_busy) = (u32::from(level.clones), Some(level.machine_busy));
        let run = Run { machine_busy, ..Run::new(&level.level, &level.measured) };
        match axis.iter_mut().find(|level| level.n == n) {
            Some(level) => level.repetitions.push(run),
            None => axis.push(AxisLevel { n, repetitions: vec![run] }),
        }
    }
    axis
}

fn table(levels: &[CloneLevel]) -> Table {
    let mut table = Table::new(
        CLONES,
        vec![
            Column::new("calls_per_second", "OK/s", 1).with_ratio(),
            Column::new("of_linear_percent", "% of linear", 1),
            Column::new("p50_ms", "p50 ms", 1),
            Column::new("p99_ms", "p99 ms", 1),
            Column::new("clones_cpu_us", "clones CPU µs", 0),
            Column::new("gateway_cpu_us", "gateway CPU µs", 0),
            Column::new("machine_busy_percent", "machine busy %", 0),
            Column::new("redis_busy_percent", "Redis thread busy %", 1),
        ],
    );
    let mut numbers: Vec<u16> = levels.iter().map(|level| level.clones).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for clones in numbers.iter().copied() {
        let of: Vec<&CloneLevel> = levels.iter().filter(|level| level.clones == clones).collect();
        let each =
            |figure: &dyn Fn(&CloneLevel) -> f64| of.iter().map(|level| figure(level)).collect::<Vec<f64>>();
        let at = |level: &CloneLevel, q: f64| level.measured.response_time.value_at_quantile(q) as f64 / 1e3;
        let figures = vec![
            each(&|level| level.measured.achieved_per_second()),
            of_linear(levels, clones).map(|share| 100.0 * share).into_iter().collect(),
            each(&|level| at(level, 0.5)),
            each(&|level| at(level, 0.99)),
            each(&|level| level.clones_cpu_us),
            each(&|level| level.gateway_cpu_us),
            each(&|level| 100.0 * level.machine_busy),
            of.iter().filter_map(|level| level.redis_busy).map(|busy| 100.0 * busy).collect(),
        ];
        let peer = (clones != numbers[0]).then(|| numbers[0].to_string());
        table.row(&clones.to_string(), peer.as_deref(), figures);
    }
    table
}

impl ServiceMeasured {
    /// Returns the figures of a report on it in the shape of the other benchmarks.
    pub(crate) fn results(&self, report: &Report, machine: &Machine) -> Results {
        let mut notes = vec![format!("**Verdict:** {}", report.verdict.sentence)];
        notes.extend(self.notes.iter().cloned());
        notes.extend(self.axis.simulates.iter().cloned());
        Results {
            format: FORMAT.to_owned(),
            benchmark: "scale".to_owned(),
            title: format!("Clones of {}, each with the capacity of a machine of its own.", self.subject),
            command: report.experiment.command.clone(),
            version: report.version.clone(),
            begun: report.experiment.begun.clone(),
            seconds: report.experiment.seconds,
            repetitions: self.rounds,
            warm_up: self.warm_up.clone(),
            machine: machine.clone(),
            tables: vec![self.table.clone()],
            notes,
            attachments: Vec::new(),
        }
    }
}
