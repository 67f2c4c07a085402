//! The admin port: `/metrics`, `/livez`, `/readyz`, and a page that names them.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::service::ReadyCheck;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// Name and check of each clone in the process.
    pub checks: Vec<(String, ReadyCheck)>,
    /// Cancelled when the process begins to drain: no longer ready.
    pub shutdown: CancellationToken,
}

/// Between two upkeeps of the metrics.
const UPKEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>Shoal</title><h1>Shoal</h1>\
<ul><li><a href=/metrics>/metrics</a> Prometheus metrics<li><a href=/livez>/livez</a> the process answers\
<li><a href=/readyz>/readyz</a> every clone in it can serve</ul>";

/// Serves until the process drains.
///
/// # Errors
/// When the listener fails.
pub async fn serve(admin: Admin, listener: TcpListener) -> std::io::Result<()> {
    let (shutdown, metrics_handle) = (admin.shutdown.clone(), admin.metrics.clone());
    let router = Router::new()
        .route("/", get(|| async { ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE) }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin);
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()) => served,
        () = upkeep(&metrics_handle) => Ok(()),
    }
}

/// Samples of histograms pile up until someone reads them; nobody may ever ask for `/metrics`.
async fn upkeep(metrics: &PrometheusHandle) {
    let mut every = tokio::time::interval(UPKEEP_EVERY);
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    admin.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let mut ready = !admin.shutdown.is_cancelled();
    let mut lines = String::new();
    for (name, check) in &admin.checks {
        let line = match check() {
            Ok(()) => format!("{name}: ok\n"),
            Err(why) => {
                ready = false;
                format!("{name}: {why}\n")
            }
        };
        lines.push_str(&line);
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}
