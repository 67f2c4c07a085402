//! The gateway as a process of its own.

use std::process::ExitCode;

use shoal_kit::{cli, exit};
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exit::done("shoal-gateway", run())
}

fn run() -> anyhow::Result<()> {
    let settings = cli::settings_of_one("The one address of a mesh of gRPC services")?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(shoal_gateway::run_process(settings))
}
