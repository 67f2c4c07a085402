//! The whole life of a process that runs one clone, from its flags to its exit code.

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _};

use super::{admin, exit, open_files, shutdown};
use crate::role::Role;
use crate::serving::serve::{bind, serve};
use crate::serving::service::Service;
use crate::settings::Settings;
pub use crate::settings::{CommonArgs, serve_defaults};
use crate::telemetry::{self, metrics};

/// Hides the flags that mean nothing to a process that runs one clone.
#[must_use]
pub fn of_one(command: clap::Command) -> clap::Command {
    command.mut_arg("clones", |arg| arg.hide(true))
}

/// The settings of a service's thin binary, whose `--help` begins with `about`.
///
/// # Errors
/// As [`Settings::load_one`].
pub fn settings_of_one(about: &'static str) -> anyhow::Result<Settings> {
    let command = CommonArgs::augment_args(clap::Command::new("shoal")).about(about);
    let matches = of_one(command.version(env!("CARGO_PKG_VERSION"))).get_matches();
    Settings::load_one(&CommonArgs::from_arg_matches(&matches)?, serve_defaults())
}

/// The `main` of a service's thin binary: parses flags, runs one clone, and says what kept it from running.
pub fn single<F, Fut>(role: Role, build: F) -> ExitCode
where
    F: FnOnce(Settings) -> Fut,
    Fut: Future<Output = anyhow::Result<Service>>,
{
    let run = || {
        let settings = settings_of_one("One clone of one Shoal service")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run_one(role, settings, build))
    };
    exit::done(&format!("shoal-{role}"), run())
}

/// Runs one clone with its admin port until a signal, then drains.
///
/// # Errors
/// Whatever keeps the clone from running.
pub async fn run_one<F, Fut>(role: Role, settings: Settings, build: F) -> anyhow::Result<()>
where
    F: FnOnce(Settings) -> Fut,
    Fut: Future<Output = anyhow::Result<Service>>,
{
    settings.check_engine_named(role)?;
    let telemetry = telemetry::install(&settings.telemetry)?;
    open_files::raise_limit();
    settings.log_ignored_variables();
    let metrics = metrics::install()?;
    let shutdown = shutdown::on_signal()?;
    let listener = bind(settings.listen).await?;
    let admin_listener = bind(settings.admin).await?;
    let (address, drain) = (listener.local_addr()?, settings.drain);
    let admin_address = admin_listener.local_addr()?;
    let service = build(settings).await?;
    let probe = service.probe();
    let part = admin::Part::of_clone(role.to_string(), role, probe.clone());
    let measures = service.measure().into_iter().map(|measure| (role, measure)).collect();
    let admin = admin::Admin { metrics, parts: vec![part], shutdown: shutdown.clone(), measures };
    let admin = tokio::spawn(admin::serve(admin, admin_listener));
    tracing::info!(%role, %address, admin = %admin_address, engine = probe.engine(), "serving");
    serve(service, listener, drain, shutdown).await?;
    admin.abort();
    tracing::info!(%role, "drained");
    telemetry.flush().await;
    Ok(())
}
