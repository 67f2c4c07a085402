//! Prometheus metrics: one recorder a process, and the counters of each RPC method that is served.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tonic::Code;

use crate::errors::code::code_name;
use crate::telemetry::families;

/// Seconds; RPCs on one machine take tens of microseconds, on a bad day seconds.
const BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// Calls of what is not here are counted under this: those names are the callers' to choose.
const UNKNOWN: &str = "unknown";

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
    families::describe();
    families::begin_serving();
    metrics::gauge!("shoal_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Counters of the methods of one server (`shoal_rpc_server_call_duration_seconds`, `shoal_rpc_server_calls_total`). What they are
/// is settled when the server starts: no call adds one, whatever names callers choose.
pub struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    /// Counters of calls to methods that a service does not have, by service, as `SERVICE/unknown`.
    unknown_of: HashMap<String, Arc<Method>>,
    /// Calls of services that are not here.
    unknown: Arc<Method>,
}

impl Methods {
    /// Makes the counters of one clone with these services, whose methods are at `paths`.
    pub fn new(role: &'static str, clone: &str, services: &[&str], paths: Vec<String>) -> Self {
        let method = |path: &str| Arc::new(Method::new(role, clone, path));
        // A method that is known has its counter from the start: its rate has a first value.
        let known = |path: &str| {
            let method = method(path);
            method.count(Code::Ok, 0);
            method
        };
        let unknown_of = |service: &&str| ((*service).to_owned(), method(&format!("/{service}/{UNKNOWN}")));
        Self {
            unknown_of: services.iter().map(unknown_of).collect(),
            unknown: method(UNKNOWN),
            by_path: paths.into_iter().map(|path| (path.clone(), known(&path))).collect(),
        }
    }

    /// The method at `/package.Service/Method`.
    pub fn of(&self, path: &str) -> Arc<Method> {
        let of_service = || {
            let (service, _) = path.strip_prefix('/')?.rsplit_once('/')?;
            self.unknown_of.get(service)
        };
        self.by_path.get(path).or_else(of_service).unwrap_or(&self.unknown).clone()
    }

    /// Returns the counters of calls to services that are not here.
    pub fn unknown(&self) -> Arc<Method> {
        self.unknown.clone()
    }
}

/// A method: its path, written down once for all its calls, and their counters.
pub struct Method {
    path: String,
    duration: OnceLock<metrics::Histogram>,
    codes: [OnceLock<metrics::Counter>; 17],
    role: &'static str,
    clone: String,
}

impl Method {
    fn new(role: &'static str, clone: &str, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            duration: OnceLock::new(),
            codes: std::array::from_fn(|_| OnceLock::new()),
            role,
            clone: clone.to_owned(),
        }
    }

    /// The path that callers call; of one that is not known, its service's name and `unknown`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The role and the clone that serve it.
    pub fn served_by(&self) -> (&'static str, &str) {
        (self.role, &self.clone)
    }

    fn label(&self) -> String {
        self.path.trim_start_matches('/').to_owned()
    }

    /// Counts one finished call.
    pub fn record(&self, code: Code, elapsed: Duration) {
        let duration = self.duration.get_or_init(|| {
            metrics::histogram!("shoal_rpc_server_call_duration_seconds",
                "role" => self.role, "clone" => self.clone.clone(), "method" => self.label())
        });
        duration.record(elapsed.as_secs_f64());
        self.count(code, 1);
    }

    fn count(&self, code: Code, calls: u64) {
        if let Some(slot) = self.codes.get(code as usize) {
            slot.get_or_init(|| {
                metrics::counter!("shoal_rpc_server_calls_total",
                    "role" => self.role, "clone" => self.clone.clone(),
                    "method" => self.label(), "code" => code_name(code))
            })
            .increment(calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_methods_share_one_counter() {
        let methods = Methods::new("test", "clone", &["a.S", "T"], vec!["/a.S/M".into(), "/a.S/N".into()]);
        for n in 0..1_000 {
            assert_eq!(methods.of(&format!("/a.S/{n}")).path(), "/a.S/unknown");
            assert_eq!(methods.of(&format!("/T/{n}")).path(), "/T/unknown");
            assert_eq!(methods.of(&format!("/{n}/M")).path(), "unknown");
        }
        let [m, n] = ["/a.S/M", "/a.S/N"].map(|path| methods.of(path));
        assert_eq!([m.path(), n.path(), &m.label()], ["/a.S/M", "/a.S/N", "a.S/M"]);
        for path in ["/a.S/M", "/a.S/x", "/x/M", ""] {
            assert!(Arc::ptr_eq(&methods.of(path), &methods.of(path)), "one for all calls: {path}");
        }
        assert!(Arc::ptr_eq(&methods.of("/x/M"), &methods.unknown()));
    }
}
