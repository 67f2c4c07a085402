//! `shoal bench load`: one load on any gRPC service, at a rate or from a number of callers. No search, no verdict.

use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::live_view::LiveView;
use crate::load::level::{Demand, Level};
use crate::load::limits::GeneratorLimit;
use crate::load::measure;
use crate::load::measured::{Measured, NotIssued, code_name};
use crate::method::TargetArgs;
use crate::results::{Column, Table};
use crate::run::{Found, Run, RunArgs};

pub(crate) const ABOUT: &str = "\
Offers one load to any gRPC service and prints what came of it. With --rate calls are made when they are due, whatever became of \
those before (an open loop); response time counts from the moment a call was due, service time from when it was sent. With \
--callers each caller makes the next call when the last is answered (a closed loop). The types of the methods come from the \
server's reflection. Ctrl-C keeps what was measured.";

const EXAMPLES: &str = "Examples:
  shoal bench load --target 127.0.0.1:7000 --method shoal.cache.v1.CacheService/Get --data '{\"namespace\":\"n\",\"key\":\"k{{zipf:1000:1.1}}\"}' --rate 500
  shoal bench load --target 127.0.0.1:50051 --method a.B/Get=9 --data '{\"id\":\"{{seq}}\"}' --method a.B/Put=1 --data-file put.json --callers 16
  shoal bench load --target HOST:50051 --protoset api.binpb --metadata 'authorization: Bearer T' --method a.B/Get --rate 100";

/// Settings of a load.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Calls a second
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, required_unless_present = "callers")]
    rate: Option<f64>,
    /// Callers of a closed loop
    #[arg(long, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    callers: Option<u32>,
    /// Seconds of each repetition
    #[arg(long, default_value_t = 5.0, value_parser = duration)]
    seconds: f64,
    /// Seconds of load before each repetition that are not counted
    #[arg(long, default_value_t = 1.0, value_parser = duration)]
    warm_up: f64,
    #[command(flatten)]
    run: RunArgs,
}

/// Highest rate, and longest repetition.
pub(crate) const PER_SECOND_MAX: f64 = 1e6;
const SECONDS_MAX: f64 = 24.0 * 3600.0;

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=PER_SECOND_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("not a number of calls a second from 0.01 to {PER_SECOND_MAX}")),
    }
}

pub(crate) fn duration(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("not a number of seconds up to {SECONDS_MAX}")),
    }
}

pub(crate) async fn run(args: &LoadArgs) -> anyhow::Result<()> {
    let target = args.target.target().await?;
    let title = format!("{} at {}.", args.target.named().join(", "), args.target.target.join(", "));
    let run = Run::begin("load", &title, &args.run).await?;
    let demand = match (args.rate, args.callers) {
        (Some(per_second), _) => Demand::Open { per_second, arrivals: args.target.arrivals },
        (None, Some(callers)) => Demand::Closed { callers: callers as usize },
        (None, None) => bail!("say how much: --rate or --callers"),
    };
    let level = Level {
        demand,
        warm_up: Duration::from_secs_f64(args.warm_up),
        ..Level::open(1.0, Duration::from_secs_f64(args.seconds))
    };
    let view = LiveView::begin();
    let mut rounds = Vec::new();
    for round in 0..args.run.rounds {
        if view.live().ended() {
            break;
        }
        view.note(&format!("round {} of {}: {} s", round + 1, args.run.rounds, args.warm_up + args.seconds));
        rounds.push(measure(&target, &args.target.shaped(level, round.into()), view.live()).await?);
    }
    drop(view);
    let name = match demand {
        Demand::Open { per_second, .. } => format!("{per_second} calls a second"),
        Demand::Closed { callers } => format!("{callers} callers"),
    };
    let mut table = Table::new("What came of the load", columns());
    table.row(&name, None, figures(&rounds));
    let found = Found {
        warm_up: format!("{} s", args.warm_up),
        tables: vec![table],
        notes: notes(&rounds),
        ..Found::default()
    };
    run.end(found).await
}

/// Returns the columns of [`figures`].
pub(crate) fn columns() -> Vec<Column> {
    vec![
        Column::new("offered_per_second", "offered/s", 1),
        Column::new("achieved_per_second", "OK/s", 1),
        Column::new("service_p50_us", "service p50 µs", 0).with_ratio(),
        Column::new("service_p99_us", "service p99 µs", 0).with_ratio(),
        Column::new("response_p50_us", "response p50 µs", 0),
        Column::new("response_p99_us", "response p99 µs", 0),
        Column::new("lateness_p99_us", "generator late p99 µs", 0),
        Column::new("generator_cpu_us", "generator CPU µs/call", 1).with_ratio(),
        Column::new("target_cpu_us", "target CPU µs/call", 1),
    ]
}

/// Returns the figures of the repetitions of a load, for [`columns`].
pub(crate) fn figures(rounds: &[Measured]) -> Vec<Vec<f64>> {
    let figure = |of: &dyn Fn(&Measured) -> f64| rounds.iter().map(of).collect();
    let at = |times: &hdrhistogram::Histogram<u64>, q| match times.len() {
        0 => f64::NAN,
        _ => times.value_at_quantile(q) as f64,
    };
    vec![
        figure(&Measured::offered_per_second),
        figure(&Measured::achieved_per_second),
        figure(&|m| at(&m.service_time, 0.5)),
        figure(&|m| at(&m.service_time, 0.99)),
        figure(&|m| at(&m.response_time, 0.5)),
        figure(&|m| at(&m.response_time, 0.99)),
        figure(&|m| at(&m.lateness, 0.99)),
        figure(&|m| m.generator.used.as_secs_f64() * 1e6 / m.generator.calls.max(1) as f64),
        figure(&|m| match m.cpu.is_empty() {
            true => f64::NAN,
            false => m.cpu.iter().sum::<Duration>().as_secs_f64() * 1e6 / m.ok_within.max(1) as f64,
        }),
    ]
}

/// Returns what the figures do not say: failed calls, calls not made, and whether the generator was the limit.
pub(crate) fn notes(rounds: &[Measured]) -> Vec<String> {
    let mut notes = Vec::new();
    let Ok(mut sum) = Measured::empty() else { return notes };
    let mut limits: Vec<GeneratorLimit> = Vec::new();
    for measured in rounds {
        limits.extend(measured.generator_limits());
        let _ = sum.add(measured.clone());
    }
    for (code, errors) in &sum.errors {
        notes.push(format!(
            "{} of {} calls failed with {}; the first: {}",
            errors.calls,
            sum.issued,
            code_name(*code),
            if errors.first.is_empty() { "no message" } else { &errors.first }
        ));
    }
    for (reason, calls) in &sum.not_issued {
        let why = match reason {
            NotIssued::OutstandingMax => "as many as may be (--outstanding-max) were outstanding",
            NotIssued::GeneratorBehind => "the generator was too late for them",
        };
        notes.push(format!("{calls} of {} calls that were due were not made: {why}.", sum.due));
    }
    if sum.waited_for_stream * 100 > sum.issued {
        notes.push(format!(
            "{} of {} calls waited for a stream: the server bounds the calls of a connection. More --connections shorten the \
             response time by that wait.",
            sum.waited_for_stream, sum.issued
        ));
    }
    if let Some(limit) = limits.first() {
        notes.push(format!(
            "**Generator-limited:** {limit}. These figures say more about this machine than about the target: offer less, or run \
             the generator on a machine of its own."
        ));
    }
    if rounds.iter().any(|measured| measured.ended_early) {
        notes.push("Ended early: the figures are of what was measured until then.".to_owned());
    }
    notes
}
