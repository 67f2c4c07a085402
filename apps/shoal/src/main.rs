//! The `shoal` binary: one command for the whole mesh, one for a single clone, one for health checks.

mod config;
mod engines;
mod health;
mod repair;
mod report;
mod serve;
mod up;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

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
  shoal top                                    every clone behind the gateway, live
  shoal data query orders customer-7           rows of a table
  shoal config print                           the settings that hold, and where each was given";

const COMPLETIONS_EXAMPLES: &str = "Examples:
  shoal completions bash > ~/.local/share/bash-completion/completions/shoal
  shoal completions zsh > ~/.zfunc/_shoal                     with ~/.zfunc in fpath
  shoal completions fish > ~/.config/fish/completions/shoal.fish";

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
    /// Read and write the tables of a data service
    #[command(subcommand)]
    Data(shoal_data_tool::DataCommand),
    /// Show the settings: those that hold, or all there are
    #[command(subcommand)]
    Config(config::Config),
    /// Say what can be kept of a damaged embedded database; keep that and give the rest up
    Repair(repair::RepairArgs),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// Shell that the script is for
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Measure Shoal beside its peers on this machine
    Bench(shoal_bench::BenchArgs),
}

/// Returns the command line as `--help` shows it: each command offers only what means something to it.
fn command_line() -> clap::Command {
    Cli::command()
        .mut_subcommand("serve", shoal_kit::cli::of_one)
        .mut_subcommand("up", |up| up.mut_arg("peer", |arg| arg.hide(true)))
}

fn parse() -> Cli {
    Cli::from_arg_matches(&command_line().get_matches()).unwrap_or_else(|error| error.exit())
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
            Command::Data(command) => report::done(shoal_data_tool::run(command).await),
            Command::Config(config) => report::done(config::run(config)),
            Command::Repair(args) => repair::run(args).await,
            Command::Completions { shell } => report::done(completions(shell)),
            Command::Bench(args) => report::done(shoal_bench::run(args).await),
        }
    });
    // Whatever still runs has been drained or is past its bound.
    runtime.shutdown_background();
    code
}

/// Prints the script of a shell; a closed pipe is not an error.
fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line(), "shoal", &mut script);
    report::line(String::from_utf8(script)?.trim_end());
    Ok(())
}
