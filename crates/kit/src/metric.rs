//! Prometheus metrics: one recorder a process, and the counters of each RPC method, made once and reused.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tonic::Code;

/// Seconds; RPCs on one machine take tens of microseconds, on a bad day seconds.
const BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// Distinct methods kept by one server; calls past it are counted as [`OTHER`].
const METHODS_MAX: usize = 256;
const OTHER: &str = "other";

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

    /// The method at `/package.Service/Method`.
    pub fn of(&self, path: &str) -> Arc<Method> {
        if let Ok(map) = self.by_path.read()
            && let Some(method) = map.get(path)
        {
            return method.clone();
        }
        let Ok(mut map) = self.by_path.write() else { return Arc::new(self.method(OTHER)) };
        if map.len() < METHODS_MAX {
            return map.entry(path.to_owned()).or_insert_with(|| Arc::new(self.method(path))).clone();
        }
        let other = map.entry(OTHER.to_owned()).or_insert_with(|| Arc::new(self.method(OTHER)));
        Arc::new(Method { path: path.to_owned(), counters: other.counters.clone() })
    }

    fn method(&self, path: &str) -> Method {
        let label = path.trim_start_matches('/').to_owned();
        let counters = Counters {
            duration: metrics::histogram!("rpc_server_call_duration_seconds",
                "role" => self.role, "clone" => self.clone.clone(), "rpc_method" => label.clone()),
            codes: std::array::from_fn(|_| OnceLock::new()),
            role: self.role,
            clone: self.clone.clone(),
            label,
        };
        Method { path: path.to_owned(), counters: Arc::new(counters) }
    }
}

/// One method: its path, written down once for all its calls, and what counts them.
pub struct Method {
    path: String,
    counters: Arc<Counters>,
}

struct Counters {
    duration: metrics::Histogram,
    codes: [OnceLock<metrics::Counter>; 17],
    role: &'static str,
    clone: String,
    label: String,
}

impl Method {
    /// The path that callers call.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Counts one finished call.
    pub fn record(&self, code: Code, elapsed: Duration) {
        let counters = &self.counters;
        counters.duration.record(elapsed.as_secs_f64());
        if let Some(slot) = counters.codes.get(code as usize) {
            slot.get_or_init(|| {
                metrics::counter!("rpc_server_calls_total",
                    "role" => counters.role, "clone" => counters.clone.clone(),
                    "rpc_method" => counters.label.clone(), "grpc_code" => format!("{code:?}"))
            })
            .increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_past_the_limit_share_counters_and_keep_their_paths() {
        let methods = Methods::new("test", "clone".to_owned());
        let known: Vec<_> = (0..METHODS_MAX).map(|n| methods.of(&format!("/s/{n}"))).collect();
        assert!(Arc::ptr_eq(&known[0], &methods.of("/s/0")), "one for all calls");
        let [a, b] = ["/s/a", "/s/b"].map(|path| methods.of(path));
        assert_eq!([a.path(), b.path()], ["/s/a", "/s/b"]);
        assert!(Arc::ptr_eq(&a.counters, &b.counters) && a.counters.label == OTHER);
        assert!(!Arc::ptr_eq(&a.counters, &known[0].counters));
    }
}
