//! Prometheus metrics: one recorder a process, and the counters of each RPC method, made once and reused.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tonic::Code;

/// Seconds; RPCs on one machine take tens of microseconds, on a bad day seconds.
const BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// Distinct methods kept by one server; calls past it are counted as `other`.
const METHODS_MAX: usize = 256;

/// Installs the process's recorder; later calls return the same handle.
///
/// # Errors
/// When another recorder is installed.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new().set_buckets(&BUCKETS)?.install_recorder()?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Counters of the methods of one server (`rpc_server_call_duration_seconds`, `rpc_server_calls_total`).
pub struct Methods {
    role: &'static str,
    clone: String,
    by_path: RwLock<HashMap<String, Arc<Method>>>,
}

impl Methods {
    /// For one clone.
    pub fn new(role: &'static str, clone: String) -> Self {
        Self { role, clone, by_path: RwLock::default() }
    }

    /// The counters of `/package.Service/Method`.
    pub fn of(&self, path: &str) -> Arc<Method> {
        let known = |map: &HashMap<String, Arc<Method>>| map.get(path).cloned();
        if let Some(method) = self.by_path.read().ok().as_deref().and_then(known) {
            return method;
        }
        let Ok(mut map) = self.by_path.write() else { return Arc::new(self.method("other")) };
        let path = if map.len() < METHODS_MAX { path } else { "other" };
        map.entry(path.to_owned()).or_insert_with(|| Arc::new(self.method(path))).clone()
    }

    fn method(&self, path: &str) -> Method {
        let path = path.trim_start_matches('/').to_owned();
        Method {
            duration: metrics::histogram!("rpc_server_call_duration_seconds",
                "role" => self.role, "clone" => self.clone.clone(), "rpc_method" => path.clone()),
            codes: std::array::from_fn(|_| OnceLock::new()),
            role: self.role,
            clone: self.clone.clone(),
            path,
        }
    }
}

/// Counters of one method.
pub struct Method {
    duration: metrics::Histogram,
    codes: [OnceLock<metrics::Counter>; 17],
    role: &'static str,
    clone: String,
    path: String,
}

impl Method {
    /// Counts one finished call.
    pub fn record(&self, code: Code, elapsed: Duration) {
        self.duration.record(elapsed.as_secs_f64());
        if let Some(slot) = self.codes.get(code as usize) {
            slot.get_or_init(|| {
                metrics::counter!("rpc_server_calls_total",
                    "role" => self.role, "clone" => self.clone.clone(), "rpc_method" => self.path.clone(),
                    "grpc_code" => format!("{code:?}"))
            })
            .increment(1);
        }
    }
}
