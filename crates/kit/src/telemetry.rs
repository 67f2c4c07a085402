//! Traces: W3C context in, OTLP out, one OpenTelemetry service per role and one instance per clone.
//!
//! Without an OTLP endpoint no span is made at all, so tracing costs nothing when it is off.

pub mod access;
pub(crate) mod current_call;
mod export;
pub mod families;
pub mod logs;
pub mod metrics;
pub mod sampling;
pub mod seldom;

use std::time::Duration;

use anyhow::Context as _;
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::role::Role;
use crate::telemetry::logs::{LogFormat, Logs};
use crate::telemetry::sampling::{Root, TRACEPARENT};
use export::{NameClones, PerInstance};

/// Span attribute that says which role made a span; the exporter files it under that role's service name.
pub const ROLE_ATTRIBUTE: &str = "shoal.role";
/// Span attribute that says which clone took the call that a span is of; the exporter files it under that instance.
pub const CLONE_ATTRIBUTE: &str = "shoal.clone";

/// Settings of logs and traces.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `http://host:4317`; none: no traces.
    pub otlp: Option<String>,
    /// Fraction of traces begun here that are kept; a caller's own decision is followed.
    pub sample_ratio: f64,
    /// The name of this process among all: spans have it as `service.instance.id`.
    pub instance: String,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Filter in `tracing` syntax, e.g. `info,shoal_gateway=debug`.
    pub log_filter: String,
    /// Set if each call that ended has a line ([`access`]).
    pub access_log: bool,
}

/// Flushes what is left when dropped.
#[must_use]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Exports what is still buffered, bounded.
    pub async fn flush(self) {
        let Some(provider) = self.provider else { return };
        let shutdown =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(Duration::from_secs(2)));
        if let Ok(Err(error)) = shutdown.await {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

/// Installs the process's subscriber. Needs a tokio runtime when `otlp` is set.
///
/// # Errors
/// On a bad filter or endpoint, or if a subscriber is installed already.
pub fn install(config: &TelemetryConfig) -> anyhow::Result<Telemetry> {
    let registry = tracing_subscriber::registry().with(logs(config, filter(config)?));
    let Some(endpoint) = &config.otlp else {
        registry.try_init()?;
        return Ok(Telemetry { provider: None });
    };
    let batches = BatchSpanProcessor::builder(PerInstance::new(endpoint, &config.instance)?).build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Root::new(config.sample_ratio))))
        .with_span_processor(NameClones::new(batches))
        .build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("shoal"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|meta| meta.is_span() && meta.target().starts_with("shoal")));
    registry.with(spans).try_init()?;
    Ok(Telemetry { provider: Some(provider) })
}

/// Targets that tell of single HTTP/2 frames and of each step of a connection: off, unless the filter names them.
const FRAMES: [&str; 3] = ["h2", "hyper", "hyper_util"];

/// The filter as it was asked for, and the access log by its own switch. What names a target is left as it is.
fn filter(config: &TelemetryConfig) -> anyhow::Result<Targets> {
    let asked = &config.log_filter;
    let parsed = asked.parse::<Targets>();
    let mut filter =
        parsed.with_context(|| format!("log filter `{asked}` (example: info,shoal_gateway=debug)"))?;
    let named =
        |target: &str| asked.split(',').any(|part| part.split('=').next().map(str::trim) == Some(target));
    let access = [(access::TARGET, if config.access_log { LevelFilter::INFO } else { LevelFilter::OFF })];
    for (target, level) in FRAMES.map(|target| (target, LevelFilter::OFF)).into_iter().chain(access) {
        if !named(target) || (config.access_log && target == access::TARGET) {
            filter = filter.with_target(target, level);
        }
    }
    Ok(filter)
}

/// Log lines. Spans are for traces only, and a line needs nothing of what this layer would write down of each: it wants
/// none, so that without an endpoint no callsite of one is enabled.
fn logs<S>(config: &TelemetryConfig, filter: Targets) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Where nothing can be written, because the terminal is gone, saying so would panic.
        .log_internal_errors(false)
        .event_format(Logs::new(config.log_format))
        // One filter of two: a filter around a filtered layer leaves every span enabled.
        .with_filter(filter.and(filter_fn(|meta| !meta.is_span())))
}

/// Services that processes call all the time by themselves: such calls begin no trace, but they join one.
const BACKGROUND: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The span of one incoming call, child of the caller's.
pub fn server_span(role: Role, clone: &str, service: &str, method: &str, headers: &HeaderMap) -> Span {
    if BACKGROUND.contains(&service) && !headers.contains_key(TRACEPARENT) {
        return Span::none();
    }
    let span = tracing::info_span!(
        "rpc",
        otel.name = format_args!("{service}/{method}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = tracing::field::Empty,
        shoal.role = role.name(),
        shoal.clone = clone,
    );
    if !span.is_disabled() {
        // Fails only when the span was started already, which a new one is not.
        let _ = span.set_parent(parent_of(headers));
    }
    span
}

/// The caller's W3C trace context.
pub fn parent_of(headers: &HeaderMap) -> opentelemetry::Context {
    TraceContextPropagator::new().extract(&Headers(headers))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// Lets one test at a time have a subscriber of its own: whether a call site is of interest is one
    /// answer for the whole process, and two threads that register the same one at once may keep the
    /// answer of the other's subscriber.
    fn only_subscriber() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn a_span_is_made_only_for_a_trace() {
        let _only = only_subscriber();
        let config = TelemetryConfig {
            otlp: None,
            sample_ratio: 1.0,
            instance: String::new(),
            log_format: LogFormat::default(),
            log_filter: String::new(),
            access_log: false,
        };
        let logs = tracing_subscriber::registry().with(logs(&config, "info".parse().unwrap()));
        let disabled =
            || server_span(Role::Session, "clone", "service", "method", &HeaderMap::new()).is_disabled();
        assert!(tracing::subscriber::with_default(logs, disabled));
    }

    #[test]
    fn driver_lines_are_off_by_default() {
        let _only = only_subscriber();
        let filter = crate::settings::serve_defaults().log.parse::<Targets>().unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
            assert!(!tracing::enabled!(target: "scylla::cluster::worker", tracing::Level::ERROR));
            assert!(tracing::enabled!(target: "shoal_data::store::cassandra::link", tracing::Level::INFO));
        });
    }

    #[test]
    fn frames_and_calls_are_logged_on_demand() {
        let _only = only_subscriber();
        let enabled = |log_filter: &str, access_log| {
            let config = TelemetryConfig {
                otlp: None,
                sample_ratio: 1.0,
                instance: String::new(),
                log_format: LogFormat::default(),
                log_filter: log_filter.to_owned(),
                access_log,
            };
            let filter = filter(&config).expect("a filter");
            tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
                (
                    tracing::enabled!(target: "h2::codec::framed_read", tracing::Level::DEBUG),
                    tracing::enabled!(target: "shoal::access", tracing::Level::INFO),
                    tracing::enabled!(target: "shoal_gateway", tracing::Level::DEBUG),
                )
            })
        };
        assert_eq!(enabled("debug", false), (false, false, true));
        assert_eq!(enabled("debug,h2=debug", false), (true, false, true));
        assert_eq!(enabled("warn", true), (false, true, false));
        assert_eq!(enabled("info,shoal::access=info", false), (false, true, false));
        assert_eq!(enabled("trace", false), (false, false, true));
    }

    #[test]
    fn warnings_name_their_call() {
        use std::io::Write;
        use std::sync::Arc;

        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);
        impl Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let _only = only_subscriber();
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(Logs::new(LogFormat::Pretty));
        let methods = metrics::Methods::new("session", "clone-7", &["a.S"], vec!["/a.S/M".to_owned()]);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            current_call::within_sync(methods.of("/a.S/M"), || {
                tracing::error!("in a call");
                tracing::warn!(clone = "its own", "in a call that says its clone");
                tracing::info!("no warning");
            });
            tracing::warn!("outside");
        });
        let text = String::from_utf8(written.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let text = text.expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("in a call method=a.S/M clone=clone-7"), "{text}");
        assert!(lines[1].ends_with("says its clone clone=its own method=a.S/M"), "{text}");
        assert!(lines[2].ends_with("no warning") && lines[3].ends_with("outside"), "{text}");
    }

    #[test]
    fn health_checks_begin_no_trace_of_their_own() {
        let _only = only_subscriber();
        let none = |service: &str, headers: &HeaderMap| {
            server_span(Role::Session, "clone", service, "Check", headers).is_none()
        };
        let mut traced = HeaderMap::new();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        traced.insert(TRACEPARENT, parent.parse().unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            assert!(none("grpc.health.v1.Health", &HeaderMap::new()));
            assert!(none("grpc.reflection.v1.ServerReflection", &HeaderMap::new()));
            assert!(!none("grpc.health.v1.Health", &traced), "a caller follows it");
            assert!(!none("shoal.session.v1.SessionService", &HeaderMap::new()));
        });
    }
}
