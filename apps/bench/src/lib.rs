//! Measures Shoal beside its peers, in one run, interleaved, several times, and reports medians and ratios.
//!
//! CPU time per request is the figure to trust on a small machine; throughput and latency are said beside it. All load
//! stays on loopback, is bounded, and ends.

mod clones;
mod cql;
mod data;
mod diff;
mod echo;
mod engine;
mod gateway;
mod generator;
mod known;
mod live_view;
mod load;
mod machine;
mod mesh;
mod method;
mod pace;
mod pacing;
mod page;
mod peer;
mod plan;
mod process;
mod report;
mod results;
mod round;
mod run;
mod scale;
mod scale_command;
mod scale_service;
mod session;
mod single_load;

use clap::{Args, Subcommand};

const EXAMPLES: &str = "Examples:
  shoal bench mesh --redis redis://127.0.0.1:6379 --cassandra 127.0.0.1:9042
  shoal bench session --rounds 5 --seconds 2
  shoal bench data --cassandra 127.0.0.1:9042
  shoal bench engine --calls 20000
  shoal bench gateway --peers haproxy,envoy
  shoal bench load --target 127.0.0.1:7000 --method shoal.cache.v1.CacheService/Get --data '{\"namespace\":\"n\",\"key\":\"k\"}' --rate 500
  shoal bench scale --target 127.0.0.1:7000 --method shoal.cache.v1.CacheService/Get --data '{\"namespace\":\"n\",\"key\":\"k\"}' --html scale.html
  shoal bench diff before.json after.json --fail-if 'p99>+10%'";

/// A benchmark, or the list of them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Benchmark to run; without it all are listed
    #[command(subcommand)]
    bench: Option<Bench>,
}

/// Subject of a measurement.
#[derive(Debug, Subcommand)]
enum Bench {
    /// Cost of a call of every service, at a clone and through the gateway, beside a bare tonic echo
    Mesh(mesh::MeshArgs),
    /// Cost of GetSession at 1, 64 and 256 in flight, beside a bare tonic echo with a Redis GET
    Session(session::SessionArgs),
    /// Cost of reads and writes of rows at 1, 64 and 256 in flight, beside the scylla driver with the same statements
    Data(data::DataArgs),
    /// Redis commands and CPU time of each operation, and the memory of each stored object
    Engine(engine::EngineArgs),
    /// Cost and latency of our gateway beside Envoy, HAProxy and nginx, at one core and two
    #[command(long_about = gateway::ABOUT)]
    Gateway(gateway::GatewayArgs),
    /// The load generator beside ghz: the same service times, and what a call costs it
    #[command(long_about = generator::ABOUT)]
    Generator(generator::GeneratorArgs),
    /// Scalability of any gRPC service: which problem it has, and the highest load that meets an objective
    #[command(long_about = scale_command::ABOUT)]
    Scale(scale_command::ScaleArgs),
    /// One load on any gRPC service, at a rate or from a number of callers
    #[command(long_about = single_load::ABOUT)]
    Load(single_load::LoadArgs),
    /// Ratios of two scale reports with intervals, and thresholds on them
    Diff(diff::DiffArgs),
    /// Draws the page of a scale report from its JSON file again
    #[command(hide = true)]
    Render(diff::RenderArgs),
    /// Prints the page of results, docs/benchmarks.md, from files that `--json` wrote
    #[command(hide = true)]
    Page(page::PageArgs),
    /// Prints the paper plan, docs/scale.md, computed from files that `--json` wrote
    #[command(hide = true)]
    Plan(plan::PlanArgs),
    /// A server whose scalability is known beforehand (used by tests)
    #[command(hide = true)]
    Known(known::KnownArgs),
    /// A machine of bounded capacity in front of a clone (used by the scale report)
    #[command(hide = true)]
    Pace(pace::PaceArgs),
    /// The peer of the data service: its statements, sent by the scylla driver (used by the data benchmark)
    #[command(hide = true)]
    Cql(cql::CqlArgs),
    /// The peer: a bare tonic server (used by the other benchmarks)
    #[command(hide = true)]
    Echo(echo::EchoArgs),
}

/// Runs a benchmark and prints its report.
///
/// # Errors
/// When a process does not start or a call fails.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let Some(bench) = args.bench else {
        report::line(&list());
        return Ok(());
    };
    match bench {
        Bench::Mesh(args) => mesh::run(&args).await,
        Bench::Session(args) => session::run(&args).await,
        Bench::Data(args) => data::run(&args).await,
        Bench::Engine(args) => engine::run(&args).await,
        Bench::Gateway(args) => gateway::run(&args).await,
        Bench::Generator(args) => generator::run(&args).await,
        Bench::Scale(args) => scale_command::run(&args).await,
        Bench::Load(args) => single_load::run(&args).await,
        Bench::Diff(args) => diff::diff(&args),
        Bench::Render(args) => diff::render(&args),
        Bench::Page(args) => page::run(&args),
        Bench::Plan(args) => plan::run(&args),
        Bench::Known(args) => known::run(args).await,
        Bench::Pace(args) => pace::run(args).await,
        Bench::Cql(args) => cql::run(args).await,
        Bench::Echo(args) => echo::run(args).await,
    }
}

/// Returns a line for each benchmark, and what they have in common.
fn list() -> String {
    let command = Bench::augment_subcommands(clap::Command::new("bench"));
    let shown = command.get_subcommands().filter(|benchmark| !benchmark.is_hide_set());
    let lines = shown.map(|benchmark| {
        let about = benchmark.get_about().map(ToString::to_string).unwrap_or_default();
        format!("  {:<9}  {about}\n", benchmark.get_name())
    });
    format!(
        "Benchmarks:\n{}\nEach warms up, repeats what it measures in interleaved rounds (--rounds), and prints medians with their \
         range\nand the ratio to its peer, beside facts about the machine. --json FILE keeps it all. `shoal bench NAME --help` has\n\
         the flags; docs/benchmarks.md has results, docs/load.md says how to measure other services.",
        lines.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_help_says_what_is_measured() {
        let command = Bench::augment_subcommands(clap::Command::new("bench"));
        for name in ["gateway", "generator", "scale", "load"] {
            let benchmark = command.find_subcommand(name).expect("a benchmark");
            let long = benchmark.get_long_about().map(ToString::to_string).unwrap_or_default();
            assert!(long.len() > 200, "{name}: {long}");
        }
    }

    #[test]
    fn all_benchmarks_are_listed() {
        let list = list();
        for name in ["mesh", "session", "engine", "gateway", "generator", "scale", "load"] {
            assert!(list.contains(&format!("\n  {name} ")), "{name}:\n{list}");
        }
        assert!(!list.contains("\n  echo "), "{list}");
    }
}
