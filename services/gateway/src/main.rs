//! The gateway as a process of its own.

use clap::Parser as _;
use shoal_kit::cli::{CommonArgs, serve_defaults};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
/// The one address of a mesh of gRPC services
#[derive(clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> anyhow::Result<()> {
    let settings = shoal_kit::Settings::load(&Args::parse().common, serve_defaults())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(shoal_gateway::run_process(settings))
}
