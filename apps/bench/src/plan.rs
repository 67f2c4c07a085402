//! `shoal bench plan`: docs/scale.md, the paper plan from one machine to internet scale. Every number is computed from the
//! measured results and from the assumptions that the page lists.

mod costs;
mod stages;

use std::path::PathBuf;

use clap::Args;

use crate::page;
use crate::report;
use crate::results::Results;
use crate::scale_service::CLONES;
use costs::{Costs, MIX};
use stages::{Bound, Stage};

/// Settings of the plan.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Folder with the files that `--json` wrote
    #[arg(long, default_value = "docs/benchmarks")]
    from: PathBuf,
}

/// Share of a CPU, or of an engine's thread, that is planned with: the rest is for peaks, and for what a lost machine did.
pub(crate) const USED: f64 = 0.6;
/// Cores of a machine.
pub(crate) const CORES: f64 = 16.0;
/// Seconds between two actions of an active user.
pub(crate) const ACTION_EVERY_S: f64 = 20.0;
/// Operations a second of a Cassandra node, reads and writes alike.
pub(crate) const CASSANDRA_OPS: f64 = 10_000.0;
/// Nodes that a read asks, and that a write reaches: LOCAL_QUORUM of three copies.
pub(crate) const CASSANDRA_READ_NODES: f64 = 2.0;
/// Copies of a row.
pub(crate) const CASSANDRA_COPIES: f64 = 3.0;
/// Clones that a core of a gateway connects to, the default of `[gateway.balance] subset`.
pub(crate) const SUBSET: f64 = 100.0;
/// WatchJob streams of a jobs clone, its limit.
pub(crate) const WATCHES_OF_CLONE: f64 = 10_000.0;

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let runs: Vec<Results> = page::runs(&args.from)?.into_iter().map(|(_, run)| run).collect();
    report::line(plan(&runs)?.trim_end());
    Ok(())
}

/// Returns the page.
///
/// # Errors
/// When a figure is missing; the error names it.
fn plan(runs: &[Results]) -> anyhow::Result<String> {
    let costs = Costs::of(runs)?;
    let mut text = about(&costs);
    let doubts: Vec<String> = runs
        .iter()
        .filter(|run| !run.machine.doubts().is_empty())
        .map(|run| format!("{} ({})", run.benchmark, run.machine.doubts().join("; ")))
        .collect();
    if !doubts.is_empty() {
        text.push_str(&format!(
            "\n**Computed from figures that are not to be trusted:** {}. Measure again on a quiet machine, and this page follows.\n",
            doubts.join(". ")
        ));
    }
    text.push_str(&costs.markdown());
    text.push_str(&scaling(runs));
    text.push_str("\n## Stages\n");
    for (n, stage) in stages::all(&costs).iter().enumerate() {
        text.push_str(&section(n + 1, stage));
    }
    text.push_str(&stages::beyond(&costs));
    Ok(text)
}

/// Returns what the scale report measured of our own services: nothing where there are no such results.
fn scaling(runs: &[Results]) -> String {
    let lines = runs.iter().filter(|run| run.benchmark == "scale").filter_map(|run| {
        let table = run.tables.iter().find(|table| table.title == CLONES)?;
        let most = table.rows.last()?;
        let (percent, per_second) =
            (table.cell(&most.name, "of_linear_percent")?, table.cell(&most.name, "calls_per_second")?);
        Some(format!(
            "- {title} {clones} of them: {per_second} calls a second, {percent:.0} % of linear; this machine was {busy} % busy.\n",
            title = run.title,
            clones = most.name,
            per_second = number(per_second.median),
            percent = percent.median,
            busy = table.cell(&most.name, "machine_busy_percent").map_or(0.0, |cell| cell.median.round()),
        ))
    });
    let lines: String = lines.collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("\n## What was measured of scaling\n\n{lines}\nDetails are in [benchmarks.md](benchmarks.md).\n")
}

fn about(costs: &Costs) -> String {
    format!(
        "\
# From one machine to internet scale

A plan on paper: what to add, in which order, what each stage holds, and what breaks next. `shoal bench plan` computes it from the
results in [benchmarks](benchmarks) and from the assumptions below; a test computes it again and compares. Nothing larger than one
machine was measured: a stage holds if the costs stay what they are, which the scale report (`shoal bench scale --service`) shows for
one to eight clones.

## Assumptions

- An active user acts every {every:.0} s. An action is {mix}: {calls:.2} calls in all.
- A machine has {cores:.0} cores. CPUs and the threads of engines are used to {used:.0} %: the rest is for peaks and for what a lost machine did.
- A Cassandra node does {ops} operations a second, not measured here: take your own node's. A read at LOCAL_QUORUM asks {read:.0} nodes, a
  write reaches {copies:.0} copies.
- A call costs the same at any size of the mesh. Networks, TLS in front, disks and people are not in these numbers.
",
        every = ACTION_EVERY_S,
        mix = MIX.iter().map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", "),
        calls = costs.calls,
        cores = CORES,
        used = 100.0 * USED,
        ops = number(CASSANDRA_OPS),
        read = CASSANDRA_READ_NODES,
        copies = CASSANDRA_COPIES,
    )
}

fn section(number_of: usize, stage: &Stage) -> String {
    let mut bounds: Vec<&Bound> = stage.bounds.iter().collect();
    bounds.sort_by(|a, b| a.actions.total_cmp(&b.actions));
    let Some(first) = bounds.first() else { return String::new() };
    let rows = bounds.iter().map(|bound| {
        vec![
            bound.resource.clone(),
            number(bound.actions),
            format!("{:.0} %", 100.0 * USED * first.actions / bound.actions),
        ]
    });
    let header = ["resource", "actions/s it holds", "use at the stage's limit"].map(str::to_owned);
    format!(
        "\n### {number_of}. {name}\n\n{layout}\n\nHolds **{actions} actions a second: {users} active users, {calls} calls a second.** \
         What breaks next: **{resource}**. {then}\n\n{table}\n",
        name = stage.name,
        layout = stage.layout,
        actions = number(first.actions),
        users = number(first.actions * ACTION_EVERY_S),
        calls = number(first.actions * stage.calls),
        resource = first.resource,
        then = first.then,
        table = report::markdown(&header, &rows.collect::<Vec<_>>()),
    )
}

/// Formats a number with two significant digits, and spaces between thousands.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value < 10.0 {
        return format!("{value:.1}");
    }
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    let digits = format!("{:.0}", (value / unit).round() * unit);
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Column, Table};

    #[test]
    fn numbers_have_two_digits() {
        for (value, text) in
            [(0.25, "0.2"), (9.96, "10.0"), (12.4, "12"), (1_234.0, "1 200"), (9_960_000.0, "10 000 000")]
        {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn smallest_bound_is_the_stage() {
        let bound = |resource: &str, actions| Bound {
            resource: resource.to_owned(),
            actions,
            then: format!("More of {resource}."),
        };
        let bounds = vec![bound("gateways", 300.0), bound("Redis", 150.0)];
        let stage = Stage { name: "Small", layout: "One of each.".to_owned(), calls: 3.0, bounds };
        let text = section(2, &stage);
        assert!(text.contains("### 2. Small\n\nOne of each."), "{text}");
        assert!(text.contains("**150 actions a second: 3 000 active users, 450 calls a second.**"), "{text}");
        assert!(text.contains("**Redis**. More of Redis."), "{text}");
        assert!(text.contains("| gateways |                300 |"), "{text}");
        assert!(text.contains("30 %") && text.contains("60 %"), "{text}");
    }

    #[test]
    fn measured_scaling_is_listed() {
        assert_eq!(scaling(&[crate::results::tests::example()]), "");
        let columns = ["calls_per_second", "of_linear_percent"].map(|key| Column::new(key, key, 0));
        let mut table = Table::new(CLONES, columns.to_vec());
        table.row("1", None, vec![vec![80.0], vec![100.0]]);
        table.row("8", Some("1"), vec![vec![634.0], vec![99.0]]);
        let (benchmark, title) = ("scale".to_owned(), "Clones of jobs on Redis.".to_owned());
        let run = Results { benchmark, title, tables: vec![table], ..crate::results::tests::example() };
        let text = scaling(&[run]);
        assert!(
            text.contains("Clones of jobs on Redis. 8 of them: 630 calls a second, 99 % of linear"),
            "{text}"
        );
    }

    #[test]
    fn missing_figures_are_named() {
        let error = format!("{:#}", plan(&[]).expect_err("nothing to compute from"));
        assert!(error.contains("shoal bench mesh --json"), "{error}");
    }
}
