//! The admin port: `/metrics`, `/livez`, `/readyz`, `/status`, and a page that names them. `docs/probes.md` says who asks which.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::figures;
use crate::role::Role;
use crate::serving::backing::Probe;
use crate::serving::service::Measure;

/// The state that the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// The clones in the process, and its gateway.
    pub parts: Vec<Part>,
    /// Cancelled when the process begins to drain: no longer ready.
    pub shutdown: CancellationToken,
    /// Work before the metrics are shown, by role.
    pub measures: BTreeMap<Role, Measure>,
}

/// The least time between two readings of what costs something to measure, whoever asks for metrics and how often.
pub const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// The longest wait of a scrape for such a reading; then it shows what is known.
const MEASURE_WITHIN: Duration = Duration::from_secs(2);

/// A clone or a gateway in the process.
#[derive(Clone)]
pub struct Part {
    /// The name of the part in this process, for example `session-2`.
    pub name: String,
    /// Looks at it.
    pub look: Arc<dyn Fn() -> Look + Send + Sync>,
}

/// A part as it is in one moment.
pub struct Look {
    /// `Ok` if the part can take calls, else the reason why not.
    pub ready: Result<(), String>,
    /// The trouble of a part that takes calls all the same.
    pub note: Option<String>,
    /// An object for `/status`, to which the name and the above are added.
    pub status: Value,
}

impl Part {
    /// A clone of a role, by its engine.
    #[must_use]
    pub fn of_clone(name: String, role: Role, probe: Probe) -> Part {
        let look = move || {
            let ready = probe.takes_calls();
            let well = probe.well();
            let state = match (&ready, &well) {
                (_, Ok(())) => "ok",
                (Ok(()), Err(_)) => "unwell",
                (Err(_), Err(_)) if probe.was_reached() => "failed",
                (Err(_), Err(_)) => "not reached",
            };
            let engine = probe.engine();
            let named = |why: String| if engine.is_empty() { why } else { format!("{engine}: {why}") };
            let mut status = json!({ "role": role.name() });
            if !engine.is_empty() {
                let store = probe.store();
                status["engine"] = json!({ "name": engine, "state": state, "store": store });
            }
            let note = if ready.is_ok() { well.err().map(named) } else { None };
            Look { ready: ready.map_err(named), note, status }
        };
        Part { name, look: Arc::new(look) }
    }
}

/// Between two upkeeps of the metrics.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>Shoal</title><h1>Shoal</h1>\
<ul><li><a href=/metrics>/metrics</a> Prometheus metrics<li><a href=/livez>/livez</a> the process answers\
<li><a href=/readyz>/readyz</a> this process can take calls\
<li><a href=/status>/status</a> its engines, and what stands behind it</ul>";

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
        .route("/status", get(status))
        .with_state(admin.clone())
        .merge(Router::new().route("/metrics", get(metrics)).with_state((admin, Arc::default())));
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

/// Reads what costs something to measure, unless that was done a moment ago.
async fn measure(admin: &Admin, measured: &Mutex<Option<Instant>>) {
    {
        let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.is_some_and(|at| at.elapsed() < MEASURE_EVERY) {
            return;
        }
        *measured = Some(Instant::now());
    }
    let readings = futures::future::join_all(admin.measures.values().map(|measure| measure()));
    if tokio::time::timeout(MEASURE_WITHIN, readings).await.is_err() {
        tracing::debug!("metrics are shown without what could not be read within {MEASURE_WITHIN:?}");
    }
}

async fn metrics(State((admin, measured)): State<(Admin, Arc<Mutex<Option<Instant>>>)>) -> impl IntoResponse {
    measure(&admin, &measured).await;
    admin.metrics.run_upkeep();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        admin.metrics.render() + &figures::render(),
    )
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let (ready, lines) = readiness(&admin.parts, admin.shutdown.is_cancelled());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}

/// Returns whether every part can take calls, and a line for each.
fn readiness(parts: &[Part], draining: bool) -> (bool, String) {
    let (mut ready, mut lines) = (!draining, String::new());
    if draining {
        lines.push_str("draining\n");
    }
    for part in parts {
        let look = (part.look)();
        ready &= look.ready.is_ok();
        let (state, note) = match (look.ready, look.note) {
            (Err(why), _) => (why, String::new()),
            (Ok(()), note) => ("ok".to_owned(), note.map_or(String::new(), |note| format!("; {note}"))),
        };
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{}: {state}{note}", part.name);
    }
    (ready, lines)
}

async fn status(State(admin): State<Admin>) -> impl IntoResponse {
    let status = status_of(&admin.parts, admin.shutdown.is_cancelled());
    ([(header::CONTENT_TYPE, "application/json")], format!("{status:#}\n"))
}

fn status_of(parts: &[Part], draining: bool) -> Value {
    let mut all = !draining;
    let parts: Vec<Value> = parts
        .iter()
        .map(|part| {
            let Look { ready, note, mut status } = (part.look)();
            all &= ready.is_ok();
            status["name"] = json!(part.name);
            status["ready"] = json!(ready.is_ok());
            if let Some(why) = ready.err().or(note) {
                status["why"] = json!(why);
            }
            status
        })
        .collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "ready": all, "draining": draining, "parts": parts })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::serving::backing::Backing;

    fn part(name: &str, own: bool, well: Result<(), String>) -> Part {
        let backing = match own {
            true => Backing::own("memory", "f00"),
            false => Backing::shared("redis a:1", || Box::pin(async { Ok(None) })),
        };
        let probe = Probe::of(&backing, Arc::new(move || well.clone()));
        if !own && name != "new" {
            probe.set_reached();
        }
        Part::of_clone(name.to_owned(), Role::Session, probe)
    }

    #[tokio::test]
    async fn many_scrapes_measure_once() {
        let readings = Arc::new(AtomicUsize::new(0));
        let counted = readings.clone();
        let reading: Measure = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {})
        });
        let admin = Admin {
            metrics: metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle(),
            parts: Vec::new(),
            shutdown: CancellationToken::new(),
            measures: BTreeMap::from([(Role::Jobs, reading)]),
        };
        let measured = Mutex::default();
        for _ in 0..10 {
            measure(&admin, &measured).await;
        }
        assert_eq!(readings.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn readiness_follows_ability_to_take_calls() {
        let away = || Err("does not answer".to_owned());
        for (part, ready, line, state) in [
            (part("s", true, Ok(())), true, "s: ok\n", "ok"),
            (part("s", false, Ok(())), true, "s: ok\n", "ok"),
            (part("s", false, away()), true, "s: ok; redis a:1: does not answer\n", "unwell"),
            (
                part("new", false, away()),
                false,
                "new: redis a:1: not reached since the start: does not answer\n",
                "not reached",
            ),
            (part("s", true, away()), false, "s: memory: does not answer\n", "failed"),
        ] {
            let status = status_of(std::slice::from_ref(&part), false);
            assert_eq!(status["parts"][0]["engine"]["state"], state, "{status}");
            assert_eq!(status["ready"], ready, "{status}");
            let parts = [part];
            assert_eq!(readiness(&parts, false), (ready, line.to_owned()));
            assert_eq!(readiness(&parts, true), (false, format!("draining\n{line}")));
        }
    }
}
