//! The binary that runs one clone of the data service.

use std::process::ExitCode;

use shoal_kit::role::Role;

fn main() -> ExitCode {
    shoal_kit::cli::single(Role::Data, |settings| async move {
        let engine = shoal_data::Engine::open(&settings).await?;
        shoal_data::service(&settings, engine, settings.clone_name()).await
    })
}
