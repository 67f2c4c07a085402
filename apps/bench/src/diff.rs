//! `shoal bench diff`: compares two reports and prints the ratios. `shoal bench render`: draws a report from its data again.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::report;
use crate::scale::diff::threshold::Threshold;
use crate::scale::diff::{Compared, Difference, Metric, compare, doubts};
use crate::scale::html;
use crate::scale::html::text::{number, percent, time};
use crate::scale::report::Report;

const EXAMPLES: &str = "Examples:
  shoal bench diff before.json after.json
  shoal bench diff before.json after.json --fail-if 'p99>+10%' --fail-if 'throughput<-5%'

Each figure is compared at each load that both reports have. A ratio is B divided by A, with a 95 % interval from resampled
repetitions: where it spans 1 there is no difference, and one in twenty differs by chance. A --fail-if fails (exit status 1) if
a figure changed by more at any load and its interval does not span 1.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    /// Report before, as `shoal bench scale --json` wrote it
    a: PathBuf,
    /// Report after
    b: PathBuf,
    /// Change that fails the comparison: of a percentile, throughput, cpu (of the service, for each call) or capacity
    #[arg(long, value_name = "FIGURE>+N%", value_parser = threshold)]
    fail_if: Vec<Threshold>,
}

fn threshold(text: &str) -> Result<Threshold, String> {
    text.parse().map_err(|error: anyhow::Error| format!("{error:#}"))
}

#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// Report, as `shoal bench scale --json` wrote it
    report: PathBuf,
    /// File for the page
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

/// Compares two reports.
///
/// # Errors
/// When a file is no report, or a threshold fails.
pub(crate) fn diff(args: &DiffArgs) -> anyhow::Result<()> {
    let (a, b) = (Report::read(&args.a)?, Report::read(&args.b)?);
    for doubt in doubts(&a, &b) {
        report::progress(&format!("Compare with care: {doubt}."));
    }
    let mut metrics = vec![
        Metric::Percentile(0.5),
        Metric::Percentile(a.experiment.objective.quantile),
        Metric::Throughput,
        Metric::Cpu,
        Metric::Capacity,
    ];
    metrics.extend(args.fail_if.iter().map(Threshold::metric));
    let mut distinct: Vec<Metric> = Vec::new();
    metrics.retain(|metric| {
        let new = !distinct.contains(metric);
        distinct.push(*metric);
        new
    });
    let all = compare(&a, &b, &metrics)?;
    report::line(&table(&all));
    let mut failures = Vec::new();
    for threshold in &args.fail_if {
        for one in threshold.failing(&all)? {
            failures.push(format!(
                "{} at {} changed by {}: {threshold}",
                one.metric,
                one.place,
                change(one.ratio)
            ));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Draws a report from its data.
///
/// # Errors
/// When the file is no report, or the page cannot be written.
pub(crate) fn render(args: &RenderArgs) -> anyhow::Result<()> {
    let report = Report::read(&args.report)?;
    std::fs::write(&args.html, html::render(&report)).with_context(|| args.html.display().to_string())
}

fn change(ratio: f64) -> String {
    let sign = if ratio >= 1.0 { "+" } else { "" };
    format!("{sign}{}", percent(ratio - 1.0))
}

fn table(all: &[Compared]) -> String {
    let figure = |metric: Metric, value: f64| match metric {
        Metric::Percentile(_) | Metric::Cpu => time(value),
        Metric::Throughput | Metric::Capacity => format!("{}/s", number(value)),
    };
    let rows = all.iter().map(|one| {
        let interval = one
            .interval
            .map_or_else(|| "–".to_owned(), |interval| format!("{:.3}–{:.3}", interval.low, interval.high));
        let said = match one.difference {
            Difference::None => "no difference".to_owned(),
            Difference::Lower | Difference::Higher => change(one.ratio),
            Difference::CannotTell => "cannot tell: too few samples or repetitions".to_owned(),
        };
        vec![
            one.place.clone(),
            one.metric.to_string(),
            figure(one.metric, one.a),
            figure(one.metric, one.b),
            format!("{:.3}", one.ratio),
            interval,
            said,
        ]
    });
    let header = ["load", "figure", "A", "B", "B / A", "95 %", "change"].map(str::to_owned);
    report::markdown(&header, &rows.collect::<Vec<_>>())
}
