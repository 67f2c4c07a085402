//! The charts of the report, each with its description in words and its table.

use crate::scale::axis::{Axis, AxisKind};
use crate::scale::capacity::Purpose;
use crate::scale::html::chart::{BOTTOM, Cell, Chart, LEFT, RIGHT, Series, Spot, TOP, Table};
use crate::scale::html::scale::Scale;
use crate::scale::html::text::{number, percent, time};
use crate::scale::objective::{Objective, is_grey};
use crate::scale::report::Report;
use crate::scale::run::Run;
use crate::scale::statistics::mean;

/// Percentiles that are shown.
const PERCENTILES: [(f64, &str); 5] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")];
/// Loads whose errors are drawn; the table has all.
const ERROR_BARS: usize = 5;
/// Points of a fitted curve.
const CURVE: u32 = 48;

/// A load and its merged runs.
struct Condition {
    /// Name in a table.
    name: String,
    /// Name below a bar.
    short: String,
    run: Run,
}

/// Returns the loads of the search, merged and in the order of what was offered.
fn offered(report: &Report) -> Vec<Condition> {
    let Some(capacity) = &report.experiment.capacity else { return Vec::new() };
    let mut loads: Vec<f64> = capacity.tried.iter().map(|tried| tried.per_second).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    let condition = |load: f64| {
        let tried = || capacity.tried.iter().filter(|tried| tried.per_second == load);
        let run = Run::merged(tried().map(|tried| &tried.run))?;
        let beyond = tried().any(|tried| tried.purpose == Purpose::Beyond);
        let name =
            format!("{} calls/s offered{}", number(load), if beyond { ", beyond capacity" } else { "" });
        Some(Condition { name, short: format!("{}/s", number(load)), run })
    };
    loads.into_iter().filter_map(condition).collect()
}

fn levels(axis: &Axis) -> Vec<Condition> {
    let counts = axis.kind.counts();
    let condition = |n: u32, run: Run| {
        let counts = if n == 1 { &counts[..counts.len() - 1] } else { counts };
        Condition { name: format!("{n} {counts}"), short: format!("{n} {counts}"), run }
    };
    axis.levels.iter().filter_map(|level| Some(condition(level.n, level.merged()?))).collect()
}

fn quantile_cell(run: &Run, quantile: f64) -> Cell {
    Cell {
        text: run.response_time.quantile_us(quantile).map_or_else(|| "–".to_owned(), time),
        grey: is_grey(run.response_time.count(), quantile),
    }
}

fn spots(conditions: &[Condition], quantile: f64) -> Vec<Spot> {
    let spot = |condition: &Condition| {
        let y = condition.run.response_time.quantile_us(quantile)?;
        Some(Spot {
            x: condition.run.achieved(),
            y,
            grey: is_grey(condition.run.response_time.count(), quantile),
        })
    };
    conditions.iter().filter_map(spot).collect()
}

/// Latency against throughput, with the objective.
pub(crate) fn latency(report: &Report) -> Option<String> {
    let objective = report.experiment.objective;
    let mut conditions = offered(report);
    let open = !conditions.is_empty();
    if !open {
        conditions = levels(report.axis(AxisKind::Concurrency)?);
    }
    let percentile = objective.percentile();
    let (half, tail) = (spots(&conditions, 0.5), spots(&conditions, objective.quantile));
    if tail.is_empty() {
        return None;
    }
    let limit = objective.limit_us() as f64;
    let x = Scale::linear(tail.iter().map(|spot| spot.x), LEFT, RIGHT);
    let y = Scale::logarithmic(half.iter().chain(&tail).map(|spot| spot.y).chain([limit]), BOTTOM, TOP);
    let ticks = x.ticks().into_iter().map(|tick| (tick, number(tick))).collect();
    let mut chart = Chart::new(
        "latency",
        "Latency against throughput",
        ("answered calls a second", x, ticks),
        ("response time (logarithmic)", y, time),
    );
    chart.bound(limit, &format!("objective {objective}"));
    let capacity = report.experiment.capacity.as_ref().and_then(|capacity| capacity.per_second);
    if let Some(per_second) = capacity {
        chart.vertical(per_second, "capacity");
    }
    chart.series(Series::First, "p50", &half, true);
    if objective.quantile != 0.5 {
        chart.series(Series::Second, &percentile, &tail, true);
    }
    if half.iter().chain(&tail).any(|spot| spot.grey) {
        chart.legend_grey();
    }
    let within = tail.iter().filter(|spot| spot.y <= limit).map(|spot| spot.x).fold(0.0, f64::max);
    chart.describe(format!(
        "{percentile} of the response time stays within {} up to {} answered calls a second; {}",
        time(limit),
        number(within),
        if open {
            "each point is a load that was offered, in order."
        } else {
            "each point is a number of callers, who make the next call when the last one is answered."
        }
    ));
    let rows = conditions.iter().map(|condition| {
        let run = &condition.run;
        let mut row = vec![condition.name.clone().into(), number(run.achieved()).into()];
        row.push(quantile_cell(run, 0.5));
        row.push(quantile_cell(run, objective.quantile));
        row.push(service_cell(run, objective));
        row.push(
            percent(run.response_time.within(objective.limit_us()) as f64 / run.due.max(1) as f64).into(),
        );
        row.push(late_cell(run));
        row.push(percent(run.generator_busiest).into());
        row
    });
    let table = Table {
        caption: "Latency against throughput".to_owned(),
        header: vec![
            "load".to_owned(),
            "answered/s".to_owned(),
            "response p50".to_owned(),
            format!("response {percentile}"),
            format!("service {percentile}"),
            format!("within {}", time(limit)),
            "generator late, p99".to_owned(),
            "generator's busiest thread".to_owned(),
        ],
        rows: rows.collect(),
        prose: false,
    };
    Some(chart.figure(&table))
}

fn service_cell(run: &Run, objective: Objective) -> Cell {
    Cell {
        text: run.service_time.quantile_us(objective.quantile).map_or_else(|| "–".to_owned(), time),
        grey: is_grey(run.service_time.count(), objective.quantile),
    }
}

fn late_cell(run: &Run) -> Cell {
    run.lateness.quantile_us(0.99).map_or_else(|| "–".to_owned(), time).into()
}

/// Throughput against N, with the fit and the linear line.
pub(crate) fn growth(axis: &Axis) -> Option<String> {
    let counts = axis.kind.counts();
    let means: Vec<(u32, Vec<f64>)> = axis
        .levels
        .iter()
        .filter(|level| !level.repetitions.is_empty())
        .map(|level| (level.n, level.repetitions.iter().map(Run::achieved).collect()))
        .collect();
    let (first, last) = (means.first()?, means.last()?);
    let n_max = f64::from(last.0);
    let each = mean(&first.1) / f64::from(first.0);
    let x = Scale::linear([n_max], LEFT, RIGHT);
    let linear = |n: f64| n * each;
    let y = Scale::linear(means.iter().flat_map(|(_, all)| all.clone()).chain([linear(n_max)]), BOTTOM, TOP);
    let ticks = ticks(&means, n_max);
    let (id, title) = match axis.kind {
        AxisKind::Concurrency => ("callers", "Throughput against callers of one clone"),
        AxisKind::Clones => ("clones", "Throughput against clones"),
    };
    let mut chart = Chart::new(id, title, (counts, x, ticks), ("answered calls a second", y, number));
    let spot = |n: f64, y: f64| Spot { x: n, y, grey: false };
    let curve = |value: &dyn Fn(f64) -> f64| -> Vec<Spot> {
        let n = |k: u32| 1.0 + (n_max - 1.0) * f64::from(k) / f64::from(CURVE);
        (0..=CURVE).map(|k| spot(n(k), value(n(k)))).collect()
    };
    chart.curve(
        Series::Bound,
        "linear: each does what one does",
        &[spot(0.0, 0.0), spot(n_max, linear(n_max))],
    );
    if let Some(analysis) = &axis.analysis {
        chart.curve(Series::Second, "fit of the law", &curve(&|n| analysis.fit.usl.throughput(n)));
        if analysis.saturates() {
            // The queue of whole callers has values at whole N only.
            let whole: Vec<Spot> = (1..=last.0)
                .map(|n| spot(f64::from(n), analysis.saturation.throughput(f64::from(n))))
                .collect();
            chart.curve(Series::Third, "one saturated resource, which fits better", &whole);
        }
    }
    for (n, all) in &means {
        let bounds = all.iter().fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(*x), high.max(*x)));
        chart.interval(Series::First, f64::from(*n), bounds.0, bounds.1);
    }
    let measured: Vec<Spot> = means.iter().map(|(n, all)| spot(f64::from(*n), mean(all))).collect();
    chart.series(Series::First, "measured: mean, and lowest to highest repetition", &measured, false);
    let kept = mean(&last.1) / linear(n_max);
    chart.describe(format!(
        "{} {counts} answer {} calls a second: {} of what {} times the throughput of {} would be.",
        last.0,
        number(mean(&last.1)),
        percent(kept),
        number(n_max / f64::from(first.0)),
        if first.0 == 1 { "one".to_owned() } else { first.0.to_string() }
    ));
    Some(chart.figure(&growth_table(axis, title)))
}

/// Returns ticks at the levels, as far apart as labels need.
fn ticks(means: &[(u32, Vec<f64>)], n_max: f64) -> Vec<(f64, String)> {
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for (n, _) in means {
        let place = f64::from(*n);
        if ticks.last().is_none_or(|(last, _)| place - last >= n_max / 16.0) {
            ticks.push((place, n.to_string()));
        }
    }
    ticks
}

fn growth_table(axis: &Axis, title: &str) -> Table {
    let rows = axis.levels.iter().map(|level| {
        let throughput: Vec<f64> = level.repetitions.iter().map(Run::achieved).collect();
        let list: Vec<String> = throughput.iter().copied().map(number).collect();
        let analysis = axis.analysis.as_ref();
        let efficiency = analysis.and_then(|all| all.efficiencies.iter().find(|each| each.n == level.n));
        let merged = level.merged();
        let quantile = |quantile| {
            merged.as_ref().map_or_else(|| "–".to_owned().into(), |run| quantile_cell(run, quantile))
        };
        let dash = || "–".to_owned();
        vec![
            level.n.to_string().into(),
            number(mean(&throughput)).into(),
            list.join(" · ").into(),
            efficiency
                .map_or_else(dash, |each| {
                    let (low, high) = (number(100.0 * each.interval.low), number(100.0 * each.interval.high));
                    format!("{} ({low}–{high})", percent(each.value))
                })
                .into(),
            analysis.and_then(|all| all.predicted(f64::from(level.n))).map_or_else(dash, number).into(),
            quantile(0.5),
            quantile(0.99),
        ]
    });
    let header = [
        axis.kind.counts(),
        "answered/s",
        "repetitions",
        "efficiency (95 %)",
        "fit",
        "response p50",
        "response p99",
    ];
    Table {
        caption: title.to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows: rows.collect(),
        prose: false,
    }
}

/// Percentiles of the response time under the loads that matter.
pub(crate) fn percentiles(report: &Report) -> Option<String> {
    let mut conditions = Vec::new();
    let mut push = |name: &str, run: Option<Run>| {
        let run = run.filter(|run| run.response_time.count() > 0);
        conditions.extend(run.map(|run| Condition { name: name.to_owned(), short: String::new(), run }));
    };
    push("single user", Run::merged(&report.experiment.single));
    push("at capacity", report.experiment.capacity.as_ref().and_then(|capacity| capacity.sustained.clone()));
    for axis in &report.experiment.axes {
        let last = axis.levels.last()?;
        push(&format!("{} {}", last.n, axis.kind.counts()), last.merged());
    }
    conditions.truncate(Series::ALL.len());
    let spots = |run: &Run| -> Vec<Spot> {
        let spot = |(k, (quantile, _)): (usize, &(f64, &str))| {
            let y = run.response_time.quantile_us(*quantile)?;
            Some(Spot { x: k as f64, y, grey: is_grey(run.response_time.count(), *quantile) })
        };
        PERCENTILES.iter().enumerate().filter_map(spot).collect()
    };
    let all: Vec<Vec<Spot>> = conditions.iter().map(|condition| spots(&condition.run)).collect();
    let single = conditions.first()?;
    let limit = report.experiment.objective.limit_us() as f64;
    let x = Scale::linear([PERCENTILES.len() as f64 - 1.0], LEFT + 24.0, RIGHT - 24.0);
    let y = Scale::logarithmic(all.iter().flatten().map(|spot| spot.y).chain([limit]), BOTTOM, TOP);
    let ticks = PERCENTILES.iter().enumerate().map(|(k, (_, name))| (k as f64, (*name).to_owned())).collect();
    let mut chart = Chart::new(
        "percentiles",
        "Percentiles of the response time",
        ("percentile", x, ticks),
        ("response time (logarithmic)", y, time),
    );
    chart.bound(limit, &format!("objective {}", report.experiment.objective));
    for ((condition, spots), series) in conditions.iter().zip(&all).zip(Series::ALL) {
        chart.series(series, &condition.name, spots, true);
    }
    if all.iter().flatten().any(|spot| spot.grey) {
        chart.legend_grey();
    }
    let said =
        |quantile: f64| single.run.response_time.quantile_us(quantile).map_or_else(|| "–".to_owned(), time);
    chart.describe(format!(
        "For {} half of the calls are answered within {}, and 99 of 100 within {}.",
        if single.name == "single user" { "a single user".to_owned() } else { single.name.clone() },
        said(0.5),
        said(0.99)
    ));
    let mut header = vec!["load".to_owned(), "calls".to_owned()];
    header.extend(PERCENTILES.iter().map(|(_, name)| (*name).to_owned()));
    header.extend(["max".to_owned(), "service p99".to_owned()]);
    let rows = conditions.iter().map(|condition| {
        let run = &condition.run;
        let mut row: Vec<Cell> =
            vec![condition.name.clone().into(), number(run.response_time.count() as f64).into()];
        row.extend(PERCENTILES.iter().map(|(quantile, _)| quantile_cell(run, *quantile)));
        row.push(time(run.response_time.0.max() as f64).into());
        row.push(Cell {
            text: run.service_time.quantile_us(0.99).map_or_else(|| "–".to_owned(), time),
            grey: is_grey(run.service_time.count(), 0.99),
        });
        row
    });
    let caption = "Percentiles of the response time".to_owned();
    Some(chart.figure(&Table { caption, header, rows: rows.collect(), prose: false }))
}

/// Calls that were not answered OK, by status code; a sentence if there are none.
pub(crate) fn errors(report: &Report) -> String {
    let mut conditions = offered(report);
    for axis in &report.experiment.axes {
        conditions.extend(levels(axis));
    }
    conditions.extend(Run::merged(&report.experiment.single).map(|run| Condition {
        name: "single user".to_owned(),
        short: "one user".to_owned(),
        run,
    }));
    let lost = |run: &Run| (run.failed() + run.not_issued()) as f64 / run.due.max(1) as f64;
    conditions.retain(|condition| lost(&condition.run) > 0.0);
    if conditions.is_empty() {
        return "<p>Every call that was due was made, and answered OK.</p>\n".to_owned();
    }
    let codes = codes(&conditions);
    let count = |run: &Run, code: &str| match code {
        NOT_MADE => run.not_issued(),
        code => run.errors.iter().filter(|errors| errors.code == code).map(|errors| errors.calls).sum(),
    };
    let table = error_table(&conditions, &codes, &count);
    let mut drawn: Vec<&Condition> = conditions.iter().collect();
    drawn.sort_by(|a, b| lost(&b.run).total_cmp(&lost(&a.run)));
    drawn.truncate(ERROR_BARS);
    drawn.sort_by(|a, b| a.run.offered().total_cmp(&b.run.offered()));
    let x = Scale::linear([drawn.len() as f64], LEFT, RIGHT);
    let y = Scale::linear(drawn.iter().map(|condition| 100.0 * lost(&condition.run)), BOTTOM, TOP);
    // The scale ends at a round number, not at the last bar.
    let middle = |k: usize| (k as f64 + 0.5) * x.high() / drawn.len() as f64;
    let ticks = drawn.iter().enumerate().map(|(k, condition)| (middle(k), condition.short.clone())).collect();
    let places: Vec<f64> = (0..drawn.len()).map(middle).collect();
    let mut chart = Chart::new(
        "errors",
        "Calls that were not answered OK",
        ("load", x, ticks),
        ("% of the calls that were due", y, number),
    );
    let shown: Vec<&String> = codes.iter().take(Series::ALL.len()).collect();
    for (condition, x) in drawn.iter().zip(places) {
        let mut low = 0.0;
        for (code, series) in shown.iter().zip(Series::ALL) {
            let share = 100.0 * count(&condition.run, code) as f64 / condition.run.due.max(1) as f64;
            chart.bar(series, x, 56.0, (low, low + share));
            low += share;
        }
    }
    for (code, series) in shown.iter().zip(Series::ALL) {
        chart.legend_bar(series, code);
    }
    let worst = drawn.iter().max_by(|a, b| lost(&a.run).total_cmp(&lost(&b.run)));
    chart.describe(worst.map_or_else(String::new, |worst| {
        format!(
            "Most are lost at {}: {} of the calls that were due. {}",
            worst.name,
            percent(lost(&worst.run)),
            worst.run.errors.first().map_or_else(
                || "They were not made.".to_owned(),
                |errors| format!("The first error says: {}", errors.first)
            )
        )
    }));
    chart.figure(&table)
}

/// Calls that were due and not made, among the status codes.
const NOT_MADE: &str = "not made";

/// Returns the status codes of failed calls, the most frequent first.
fn codes(conditions: &[Condition]) -> Vec<String> {
    let mut counts: Vec<(String, u64)> = Vec::new();
    let mut add = |code: &str, calls: u64| match counts.iter_mut().find(|(known, _)| known == code) {
        Some((_, sum)) => *sum += calls,
        None if calls > 0 => counts.push((code.to_owned(), calls)),
        None => (),
    };
    for condition in conditions {
        condition.run.errors.iter().for_each(|errors| add(&errors.code, errors.calls));
        add(NOT_MADE, condition.run.not_issued());
    }
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.into_iter().map(|(code, _)| code).collect()
}

fn error_table(conditions: &[Condition], codes: &[String], count: &dyn Fn(&Run, &str) -> u64) -> Table {
    let mut header = vec!["load".to_owned(), "calls due".to_owned(), "OK".to_owned()];
    header.extend(codes.iter().cloned());
    let rows = conditions.iter().map(|condition| {
        let run = &condition.run;
        let mut row: Vec<Cell> =
            vec![condition.name.clone().into(), number(run.due as f64).into(), number(run.ok as f64).into()];
        row.extend(codes.iter().map(|code| Cell::from(number(count(run, code) as f64))));
        row
    });
    Table {
        caption: "Calls that were not answered OK".to_owned(),
        header,
        rows: rows.collect(),
        prose: false,
    }
}

/// CPU time for each answered call; a sentence if none was measured.
pub(crate) fn cpu(report: &Report) -> String {
    let axes: Vec<(&Axis, Vec<Spot>)> = report
        .experiment
        .axes
        .iter()
        .map(|axis| {
            let spot = |level: &crate::scale::axis::AxisLevel| {
                let y = level.merged()?.cpu_us_per_call()?;
                Some(Spot { x: f64::from(level.n), y, grey: false })
            };
            (axis, axis.levels.iter().filter_map(spot).collect())
        })
        .filter(|(_, spots): &(&Axis, Vec<Spot>)| !spots.is_empty())
        .collect();
    let Some((_, first)) = axes.first() else {
        return "<p>The CPU time of the service was not measured: its processes are not on this machine, or were not named.</p>\n"
            .to_owned();
    };
    let n_max = axes.iter().flat_map(|(_, spots)| spots).map(|spot| spot.x).fold(1.0, f64::max);
    let x = Scale::linear([n_max], LEFT, RIGHT);
    let y = Scale::linear(axes.iter().flat_map(|(_, spots)| spots).map(|spot| spot.y), BOTTOM, TOP);
    let ticks = x.ticks().into_iter().map(|tick| (tick, number(tick))).collect();
    let mut chart = Chart::new(
        "cpu",
        "CPU time for each answered call",
        ("callers or clones", x, ticks),
        ("CPU time", y, time),
    );
    for ((axis, spots), series) in axes.iter().zip(Series::ALL) {
        chart.series(series, &format!("by the number of {}", axis.kind.counts()), spots, true);
    }
    let (begin, end) = (first.first().map_or(0.0, |spot| spot.y), first.last().map_or(0.0, |spot| spot.y));
    chart.describe(format!(
        "An answered call costs the service {} of CPU time at the smallest load of its first axis, and {} at the largest.",
        time(begin),
        time(end)
    ));
    let rows = axes.iter().flat_map(|(axis, _)| levels(axis)).filter_map(|condition| {
        let run = &condition.run;
        let per_call = run.generator_cpu_seconds * 1e6 / run.ok_within.max(1) as f64;
        let used = run.cpu_seconds.iter().sum::<f64>() / run.seconds;
        Some(vec![
            condition.name.clone().into(),
            time(run.cpu_us_per_call()?).into(),
            format!("{used:.2}").into(),
            time(per_call).into(),
            percent(run.generator_busiest).into(),
        ])
    });
    let header = [
        "load",
        "service, for each call",
        "CPUs used by the service",
        "generator, for each call",
        "generator's busiest thread",
    ];
    let table = Table {
        caption: "CPU time for each answered call".to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows: rows.collect(),
        prose: false,
    };
    chart.figure(&table)
}
