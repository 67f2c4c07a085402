//! Runs one clone of the session service as a process of its own.

use std::process::ExitCode;

use shoal_kit::cli;
use shoal_kit::role::Role;
use shoal_session::{Engine, service};

fn main() -> ExitCode {
    cli::single(Role::Session, |settings| async move {
        let engine = Engine::open(&settings).await?;
        service(&settings, engine, settings.clone_name()).await
    })
}
