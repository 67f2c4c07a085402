//! Runs one clone of the cache as a process of its own.

use std::process::ExitCode;

use shoal_kit::cli;
use shoal_kit::role::Role;

fn main() -> ExitCode {
    cli::single(Role::Cache, |settings| async move {
        let engine = shoal_cache::Engine::open(&settings).await?;
        shoal_cache::service(&settings, engine, settings.clone_name()).await
    })
}
