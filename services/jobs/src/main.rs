//! The binary that runs one clone of the jobs service.

use std::process::ExitCode;

use shoal_jobs::Engine;
use shoal_kit::role::Role;

fn main() -> ExitCode {
    shoal_kit::cli::single(Role::Jobs, |settings| async move {
        let engine = Engine::open(&settings).await?;
        shoal_jobs::service(&settings, engine, settings.clone_name()).await
    })
}
