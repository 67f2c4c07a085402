//! `shoal bench scale`: which problem a service has. Measures a single user, more and more callers, and the highest load that
//! meets the objective; writes the report.

mod summary;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::clones::{CloneArgs, Service, Times};
use crate::live_view::LiveView;
use crate::load::level::Level;
use crate::load::measure;
use crate::load::target::Target;
use crate::machine::{BUSY_MAX, CpuMeter, Watch};
use crate::method::TargetArgs;
use crate::report;
use crate::run::{command, timestamp};
use crate::scale::axis::{Axis, AxisKind, AxisLevel};
use crate::scale::capacity::{Capacity, Limit, Purpose, Search, Trial, Tried, search};
use crate::scale::html;
use crate::scale::judgement::Judgement;
use crate::scale::objective::Objective;
use crate::scale::report::{Experiment, Report};
use crate::scale::run::Run;
use crate::scale_service::{self, ServiceMeasured};
use crate::single_load::{PER_SECOND_MAX, duration, rate};

pub(crate) const ABOUT: &str = "\
Finds out which problem a gRPC service has: slow for a single user (performance), or fast alone and slow under load (scalability), \
and then whether callers wait for each other (contention) or cost each other work (coherence), by the Universal Scalability Law. \
Finds the highest load that meets an objective, too, and what becomes of calls beyond it.

It measures, in this order: closed loops of 1, 2, 4 … callers, interleaved in rounds; then open loops (calls are made when they \
are due, at random moments) at rates that double until the objective is missed, bisection between the last two, three \
confirmations, and 1.2 and 2 times the rate found. With the defaults this takes two to five minutes. All of it is load: \
do not aim it at what others use. Ctrl-C ends it and keeps what was measured.

With --service it measures clones of one of Shoal's own services instead, on embedded engines, or on --redis or --cassandra: 1, 2, 3 … \
clones, each a process behind another one that holds it to the capacity of a machine of its own, with a load that grows alike. \
The report says what that simulates and what it does not.

The target should be one clone, alone: what is found about callers is then about what happens within it. For whole figures \
let the load run on a machine of its own; the report says where the generator was the limit.";

const EXAMPLES: &str = "Examples:
  shoal bench scale --target 127.0.0.1:7000 --method shoal.cache.v1.CacheService/Get --data '{\"namespace\":\"n\",\"key\":\"k{{zipf:1000:1.1}}\"}' --html scale.html
  shoal bench scale --target 127.0.0.1:50051 --method a.B/Get=9 --data '{\"id\":\"{{seq}}\"}' --method a.B/Put=1 --data-file put.json --objective p99=20ms
  shoal bench scale --service session --redis redis://127.0.0.1:6379 --html session.html
  shoal bench scale --target HOST:50051 --protoset api.binpb --metadata 'authorization: Bearer T' --method a.B/Get --json scale.json";

/// Settings of the experiment.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// One of Shoal's own services instead of a target: measures numbers of clones of it, each held to the capacity of a
    /// machine of its own
    #[arg(long, value_enum, conflicts_with = "target")]
    service: Option<Service>,
    #[command(flatten)]
    clones: CloneArgs,
    /// Response time that a share of all calls must meet, as in p99=50ms or p99.9=1s. Default: p99=50ms, and with --service
    /// five times --service-ms
    #[arg(long)]
    objective: Option<Objective>,
    /// Numbers of callers of the closed loops. It takes six to fit the law
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    callers: Vec<u32>,
    /// Repetitions of each number of callers, interleaved. It takes three to fit the law
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each run, at least
    #[arg(long, default_value_t = 2.0, value_parser = duration)]
    seconds: f64,
    /// Seconds of a run, at most, where the objective's percentile needs more calls than come in --seconds
    #[arg(long, default_value_t = 10.0, value_parser = duration)]
    seconds_max: f64,
    /// Seconds of load before each run that are not counted
    #[arg(long, default_value_t = 0.5, value_parser = duration)]
    warm_up: f64,
    /// Rate that the search does not exceed, in calls a second
    #[arg(long, value_name = "PER_SECOND", default_value_t = PER_SECOND_MAX, value_parser = rate)]
    rate_max: f64,
    /// File for the report as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// File for the report with all data as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// File for the figures in the shape of the other benchmarks, for docs/benchmarks.md
    #[arg(long, value_name = "FILE", requires = "service")]
    figures: Option<PathBuf>,
}

/// Objective of a target.
const OBJECTIVE: Objective = Objective { quantile: 0.99, limit: Duration::from_millis(50) };
/// Multiple of a worker's time that is the objective of our own clones: two callers wait for each worker, and the load is not
/// spread evenly at every moment.
const OBJECTIVE_TIMES: u32 = 5;

impl ScaleArgs {
    fn objective(&self) -> Objective {
        let of_service = || Objective {
            quantile: OBJECTIVE.quantile,
            limit: Duration::from_millis(self.clones.service_ms) * OBJECTIVE_TIMES,
        };
        self.objective.unwrap_or_else(|| if self.service.is_some() { of_service() } else { OBJECTIVE })
    }
}

/// Measurements of an experiment.
struct Measured {
    subject: String,
    methods: Vec<String>,
    single: Vec<Run>,
    capacity: Option<Capacity>,
    axes: Vec<Axis>,
    notes: Vec<String>,
    ended_early: bool,
    service: Option<ServiceMeasured>,
}

/// Time that a target may take to work off what an overload left, and of each look at it.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);
/// Multiple of a lone caller's time at which an overload counts as worked off.
const SETTLED_MAX: f64 = 2.0;

/// An experiment under way.
struct Measuring<'a> {
    args: &'a ScaleArgs,
    target: Target,
    view: LiveView,
    /// Runs made so far: each draws other arrivals and requests.
    runs: Cell<u64>,
    /// Time of a lone caller's call, in microseconds, when nothing else was going on.
    alone_us: Cell<f64>,
}

pub(crate) async fn run(args: &ScaleArgs) -> anyhow::Result<()> {
    let (begun, clock) = (SystemTime::now(), Instant::now());
    // Sooner than after minutes of load.
    for file in args.html.iter().chain(&args.json).chain(&args.figures) {
        writable(file)?;
    }
    let target = match args.service {
        Some(_) => None,
        None => Some(args.target.target().await?),
    };
    if cfg!(debug_assertions) {
        report::progress("This is a debug build: its figures say nothing. Build with --profile dist.");
    }
    let watch = Watch::begin().await?;
    if watch.busy_before() > BUSY_MAX {
        let busy = 100.0 * watch.busy_before();
        report::progress(&format!("Others use {busy:.0} % of the CPUs: this machine is not quiet."));
    }
    let measured = match (args.service, target) {
        (Some(service), _) => of_service(args, service).await?,
        (None, Some(target)) => of_target(args, target).await?,
        (None, None) => bail!("say what to measure: --target or --service"),
    };
    let machine = watch.end().await?;
    let report = Report::new(Experiment {
        subject: measured.subject,
        methods: measured.methods,
        command: command(std::env::args().skip(1)),
        begun: timestamp(begun),
        seconds: clock.elapsed().as_secs_f64(),
        machine: machine.clone(),
        objective: args.objective(),
        single: measured.single,
        capacity: measured.capacity,
        axes: measured.axes,
        notes: measured.notes,
        ended_early: measured.ended_early,
    });
    report::line(&summary::text(&report));
    if let (Some(service), Some(file)) = (&measured.service, &args.figures) {
        service.results(&report, &machine).write(file)?;
        report::progress(&format!("written to {}", file.display()));
    }
    let files = [(&args.html, html::render(&report)), (&args.json, report.json()?)];
    for (file, content) in files {
        if let Some(file) = file {
            std::fs::write(file, content).with_context(|| file.display().to_string())?;
            report::progress(&format!("written to {}", file.display()));
        }
    }
    if args.html.is_none() {
        report::progress("--html FILE writes the whole report, with charts; --json FILE its data.");
    }
    Ok(())
}

/// Measures any gRPC service: callers at one target, and the highest load that meets the objective.
async fn of_target(args: &ScaleArgs, target: Target) -> anyhow::Result<Measured> {
    let measuring = Measuring {
        args,
        target,
        view: LiveView::begin(),
        runs: Cell::new(0),
        alone_us: Cell::new(f64::INFINITY),
    };
    let levels = measuring.callers().await?;
    let single = levels.iter().find(|level| level.n == 1).map(|level| level.repetitions.clone());
    let single = single.unwrap_or_default();
    let capacity = measuring.capacity(&single).await?;
    let ended_early = measuring.view.live().ended();
    let mut notes = Vec::new();
    if capacity.is_none() && !ended_early {
        notes.push(
            "The highest load that meets the objective was not searched: not even a single user meets it."
                .to_owned(),
        );
    }
    let simulates = vec![
        "Closed loops: each caller makes the next call when the last is answered. The callers are tasks of one process on this \
         machine, whose CPUs they share with the target if it runs here too."
            .to_owned(),
    ];
    Ok(Measured {
        subject: args.target.target.join(", "),
        methods: args.target.named(),
        single,
        capacity,
        axes: vec![Axis::new(AxisKind::Concurrency, simulates, levels, args.target.seed)],
        notes,
        ended_early,
        service: None,
    })
}

/// Measures clones of one of our own services. Their capacity is the workers' and is not searched.
async fn of_service(args: &ScaleArgs, service: Service) -> anyhow::Result<Measured> {
    let view = LiveView::begin();
    let needed =
        args.objective().samples_min() as f64 / f64::from(args.rounds) * args.clones.service_ms as f64 / 1e3;
    let times = Times {
        warm_up: Duration::from_secs_f64(args.warm_up),
        counted: Duration::from_secs_f64(args.seconds),
        single: Duration::from_secs_f64(needed.clamp(args.seconds, args.seconds_max.max(args.seconds))),
    };
    let found =
        scale_service::measure(service, &args.clones, args.rounds, times, args.target.seed, &view).await?;
    let mut notes = found.notes.clone();
    notes.push(
        "The highest load that meets the objective was not searched: it is what the workers are held to."
            .to_owned(),
    );
    Ok(Measured {
        subject: found.subject.clone(),
        methods: service.calls(),
        single: found.single.clone(),
        capacity: None,
        axes: vec![found.axis.clone()],
        notes,
        ended_early: view.live().ended(),
        service: Some(found),
    })
}

/// Fails if a file cannot be written.
fn writable(file: &Path) -> anyhow::Result<()> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    opened.map(|_| ()).with_context(|| format!("{} cannot be written", file.display()))
}

impl Measuring<'_> {
    async fn level(&self, level: Level) -> anyhow::Result<Run> {
        let nth = self.runs.replace(self.runs.get() + 1);
        let level = Level { warm_up: Duration::from_secs_f64(self.args.warm_up), ..level };
        let level = self.args.target.shaped(level, nth);
        let meter = CpuMeter::begin();
        let measured = measure(&self.target, &level, self.view.live()).await?;
        Ok(Run { machine_busy: Some(meter.busy()), ..Run::new(&level, &measured) })
    }

    /// Measures closed loops of all numbers of callers, in interleaved rounds. That of a single one is long enough for the
    /// objective's percentile.
    async fn callers(&self) -> anyhow::Result<Vec<AxisLevel>> {
        let args = self.args;
        let mut callers = args.callers.clone();
        callers.sort_unstable();
        callers.dedup();
        if callers[0] != 1 {
            callers.insert(0, 1);
        }
        let shortest = Duration::from_secs_f64(args.seconds);
        self.view.note("warm-up: a single caller");
        let pilot = self.level(Level::closed(1, shortest)).await?;
        self.alone_us.set(pilot.response_time.quantile_us(0.99).unwrap_or(f64::INFINITY));
        let needed =
            args.objective().samples_min() as f64 / f64::from(args.rounds) / pilot.achieved().max(0.1);
        let single = Duration::from_secs_f64(needed.clamp(args.seconds, args.seconds_max.max(args.seconds)));
        let mut levels: Vec<AxisLevel> =
            callers.iter().map(|n| AxisLevel { n: *n, repetitions: Vec::new() }).collect();
        for round in 1..=args.rounds {
            for level in &mut levels {
                if self.view.live().ended() {
                    break;
                }
                let time = if level.n == 1 { single } else { shortest };
                let run = self.level(Level::closed(level.n as usize, time)).await?;
                self.view.note(&format!(
                    "round {round} of {}, {} caller{}: {} OK/s, {} {}{}",
                    args.rounds,
                    level.n,
                    if level.n == 1 { "" } else { "s" },
                    summary::number(run.achieved()),
                    args.objective().percentile(),
                    summary::milliseconds(run.response_time.quantile_us(args.objective().quantile)),
                    match run.failed() {
                        0 => String::new(),
                        failed => format!(", {failed} calls failed"),
                    }
                ));
                if !run.ended_early {
                    level.repetitions.push(run);
                }
            }
        }
        levels.retain(|level| !level.repetitions.is_empty());
        Ok(levels)
    }

    /// Searches the highest load that meets the objective: none if a single user misses it already, or it was ended before.
    async fn capacity(&self, single: &[Run]) -> anyhow::Result<Option<Capacity>> {
        let args = self.args;
        let Some(alone) = Run::merged(single) else { return Ok(None) };
        if self.view.live().ended() || !Judgement::of(&alone, &args.objective()).objective_met {
            return Ok(None);
        }
        let bounds = Search {
            objective: args.objective(),
            per_second_first: alone.achieved().max(1.0).min(args.rate_max),
            per_second_max: args.rate_max,
            seconds_min: args.seconds,
            seconds_max: args.seconds_max.max(args.seconds),
        };
        let tried = RefCell::new(Vec::new());
        match search(bounds, |trial| self.trial(trial, &tried)).await {
            Ok(capacity) => Ok(Some(capacity)),
            Err(_) if self.view.live().ended() => Ok(Some(unfinished(tried.into_inner()))),
            Err(error) => Err(error),
        }
    }

    /// Waits until the target has worked off what the last load left in it: the next one is to find it as the first did.
    async fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < SETTLES_WITHIN && !self.view.live().ended() {
            let run = self.level(Level::closed(1, LOOK)).await?;
            let median = run.response_time.quantile_us(0.5).unwrap_or(f64::INFINITY);
            if median <= SETTLED_MAX * self.alone_us.get() {
                break;
            }
        }
        Ok(())
    }

    async fn trial(&self, trial: Trial, tried: &RefCell<Vec<Tried>>) -> anyhow::Result<Run> {
        if self.view.live().ended() {
            bail!("ended");
        }
        let run = self.level(Level::open(trial.per_second, trial.duration)).await?;
        if run.ended_early {
            bail!("ended");
        }
        let judgement = Judgement::of(&run, &self.args.objective());
        if !judgement.sustainable {
            self.settle().await?;
        }
        let purpose = match trial.purpose {
            Purpose::Ramp => "ramp",
            Purpose::Bisection => "bisection",
            Purpose::Confirmation => "confirmation",
            Purpose::Beyond => "beyond",
        };
        self.view.note(&format!(
            "{purpose}, {:.0} calls/s: {} {}, {}",
            trial.per_second,
            self.args.objective().percentile(),
            summary::milliseconds(judgement.percentile_us),
            match judgement.sustainable {
                true => "sustained".to_owned(),
                false => format!("not sustained ({})", judgement.misses().join("; ")),
            }
        ));
        let (purpose, per_second) = (trial.purpose, trial.per_second);
        tried.borrow_mut().push(Tried { purpose, per_second, judgement, run: run.clone() });
        Ok(run)
    }
}

/// Returns what a search knew when it was ended: the highest load that was sustained, though not confirmed.
fn unfinished(tried: Vec<Tried>) -> Capacity {
    let sustained = tried.iter().filter(|tried| tried.judgement.sustainable);
    let best = sustained.max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    Capacity {
        per_second: best.map(|best| best.per_second),
        limit: Limit::SearchBound,
        sustained: best.map(|best| best.run.clone()),
        beyond: Vec::new(),
        overload: None,
        tried,
    }
}
