//! One clone of the data service.

use shoal_kit::role::Role;

fn main() -> anyhow::Result<()> {
    shoal_kit::cli::single(Role::Data, |settings| async move {
        let engine = shoal_data::Engine::open(&settings).await?;
        shoal_data::service(&settings, engine, settings.clone_name()).await
    })
}
