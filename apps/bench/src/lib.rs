//! Measures Shoal beside its peers, in one run, interleaved, several times, and reports medians and ratios.
//!
//! CPU time per request is the figure to trust on a small machine; throughput and latency are said beside it. All load
//! stays on loopback, is bounded, and ends.

pub mod echo;
mod engine;
mod gateway;
mod load;
mod mesh;
mod peer;
mod process;
mod report;
mod round;
mod session;

use clap::Subcommand;

const EXAMPLES: &str = "Examples:
  shoal bench mesh --redis redis://127.0.0.1:6379 --cassandra 127.0.0.1:9042
  shoal bench session --rounds 5 --seconds 2
  shoal bench engine --calls 20000
  shoal bench gateway --peers haproxy,envoy";

/// Subject of a measurement.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Bench {
    /// Cost of a call of every service, at a clone and through the gateway, beside a bare tonic echo
    Mesh(mesh::MeshArgs),
    /// Cost of GetSession at 1, 64 and 256 in flight, beside a bare tonic echo with a Redis GET
    Session(session::SessionArgs),
    /// Redis commands and CPU time of each operation, and the memory of each stored object
    Engine(engine::EngineArgs),
    /// Cost and latency of our gateway beside Envoy, HAProxy and nginx, at one core and two
    Gateway(gateway::GatewayArgs),
    /// The peer: a bare tonic server (used by the other benchmarks)
    #[command(hide = true)]
    Echo(echo::EchoArgs),
}

/// Runs a benchmark and prints its report.
///
/// # Errors
/// When a process does not start or a call fails.
pub async fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Mesh(args) => mesh::run(&args).await,
        Bench::Session(args) => session::run(&args).await,
        Bench::Engine(args) => engine::run(&args).await,
        Bench::Gateway(args) => gateway::run(&args).await,
        Bench::Echo(args) => echo::run(args).await,
    }
}
