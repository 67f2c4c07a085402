//! The whole life of a process that is a gateway and nothing else.

use std::collections::BTreeMap;

use shoal_kit::admin::{self, Admin};
use shoal_kit::{Settings, metric, open_files, serve, shutdown, telemetry};

use crate::Gateway;

/// Serves the gateway with its admin port until a signal, then drains.
///
/// # Errors
/// Whatever keeps the gateway from running.
pub async fn run_process(settings: Settings) -> anyhow::Result<()> {
    let telemetry = telemetry::install(&settings.telemetry)?;
    open_files::raise_limit();
    settings.log_ignored_variables();
    let metrics = metric::install()?;
    let shutdown = shutdown::on_signal()?;
    let gateway = Gateway::bind(&settings)?;
    let listener = serve::bind(settings.admin).await?;
    tracing::info!(admin = %listener.local_addr()?, "admin port");
    let readiness = gateway.readiness();
    let admin = tokio::spawn(admin::serve(
        Admin {
            metrics,
            parts: vec![readiness.part()],
            shutdown: shutdown.clone(),
            measures: BTreeMap::new(),
        },
        listener,
    ));
    let ended = gateway.run(&settings, shutdown).await;
    admin.abort();
    telemetry.flush().await;
    ended
}
