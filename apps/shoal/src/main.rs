//! The `shoal` binary: one command for the whole mesh, one for a single clone, one for health checks.

mod engines;
mod health;
mod report;
mod serve;
mod up;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str =
    "Every flag of `up` and `serve` is also a variable (--log-format: SHOAL_LOG_FORMAT) and a key of the TOML file given with \
--config (log_format; --data is data_dir there). Flags beat the environment, which beats the file.

Examples:
  shoal up                                     the whole mesh on embedded engines
  shoal up --redis redis://127.0.0.1:6379 --cassandra 127.0.0.1:9042
  shoal serve session --redis redis://127.0.0.1:6379 --listen 127.0.0.1:7101 --admin 127.0.0.1:7201
  shoal health --addr 127.0.0.1:7000
  shoal top                                    every clone behind the gateway, live";

/// A gRPC backend mesh: sessions, cache, data and jobs as clones behind one gateway.
#[derive(Parser)]
#[command(name = "shoal", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole mesh in one process: a gateway and two clones of every service
    Up(up::UpArgs),
    /// Run one clone of one role in this process
    Serve(serve::ServeArgs),
    /// Ask a gateway or a clone whether it serves; the exit code tells
    Health(health::HealthArgs),
    /// Show every clone behind a gateway: state, rates, latencies
    Top(shoal_top::TopArgs),
    /// Measure Shoal beside its peers on this machine
    #[command(subcommand)]
    Bench(shoal_bench::Bench),
}

/// What was asked for; each command's `--help` offers only what means something to it.
fn parse() -> Cli {
    let command = Cli::command()
        .mut_subcommand("serve", shoal_kit::cli::of_one)
        .mut_subcommand("up", |up| up.mut_arg("peer", |arg| arg.hide(true)));
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn main() -> std::process::ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failed(&anyhow::anyhow!(error)),
    };
    let code = runtime.block_on(async {
        match parse().command {
            Command::Up(args) => report::done(up::run(args).await),
            Command::Serve(args) => report::done(serve::run(args).await),
            Command::Health(args) => health::run(args).await,
            Command::Top(args) => report::done(shoal_top::run(args).await),
            Command::Bench(bench) => report::done(shoal_bench::run(bench).await),
        }
    });
    // Whatever still runs has been drained or is past its bound.
    runtime.shutdown_background();
    code
}
