//! Files each span under an OpenTelemetry service and an instance of it: its role and its clone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::{Span as _, SpanId, TraceContextExt as _};
use opentelemetry::{Context, KeyValue, StringValue, Value};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Handle;

use super::{CLONE_ATTRIBUTE, ROLE_ATTRIBUTE};
use crate::role::Role;

/// Clones of one process that have an exporter of their own; spans of further ones are filed under the process.
const INSTANCES_MAX: usize = 512;

/// Says of every span within a call which clone took the call. The commands a store is sent do not know it.
#[derive(Debug)]
pub(super) struct NameClones<P> {
    next: P,
    /// The spans that have begun and not ended, of calls.
    open: Mutex<HashMap<SpanId, StringValue>>,
}

impl<P> NameClones<P> {
    pub(super) fn new(next: P) -> Self {
        Self { next, open: Mutex::default() }
    }

    fn clone_of(&self, span: SpanId) -> Option<StringValue> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&span).cloned()
    }
}

impl<P: SpanProcessor> SpanProcessor for NameClones<P> {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        let id = span.span_context().span_id();
        let parent = cx.span().span_context().clone();
        // A caller's span may be another clone's of this process.
        let inherited = if parent.is_remote() { None } else { self.clone_of(parent.span_id()) };
        let clone = match inherited {
            Some(clone) => {
                span.set_attribute(KeyValue::new(CLONE_ATTRIBUTE, clone.clone()));
                Some(clone)
            }
            None => span.exported_data().and_then(|data| attribute(&data, CLONE_ATTRIBUTE).cloned()),
        };
        if let Some(clone) = clone {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, clone);
        }
        self.next.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        let id = span.span_context.span_id();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.next.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

/// A role, and the clone of it that made a span; none: the process.
type Instance = (Option<&'static str>, Option<StringValue>);

/// Files every span under the service of the role that made it, and the clone as its instance: in `shoal up` five services
/// share one process, and a reader of traces wants to see five.
#[derive(Debug)]
pub(super) struct PerInstance {
    endpoint: String,
    /// The instance that the process is.
    process: String,
    /// Exporters connect on this runtime, and are made where there is none.
    runtime: Handle,
    exporters: Mutex<HashMap<Instance, Arc<opentelemetry_otlp::SpanExporter>>>,
}

impl PerInstance {
    /// Needs a tokio runtime.
    pub(super) fn new(endpoint: &str, process: &str) -> anyhow::Result<Self> {
        let new = Self {
            endpoint: endpoint.to_owned(),
            process: process.to_owned(),
            runtime: Handle::current(),
            exporters: Mutex::default(),
        };
        // A wrong endpoint is said at the start.
        new.exporter((None, None))?;
        Ok(new)
    }

    fn exporter(&self, instance: Instance) -> anyhow::Result<Arc<opentelemetry_otlp::SpanExporter>> {
        let mut exporters = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = if exporters.len() < INSTANCES_MAX { instance } else { (instance.0, None) };
        if let Some(exporter) = exporters.get(&instance) {
            return Ok(exporter.clone());
        }
        let _on_runtime = self.runtime.enter();
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&self.endpoint)
            .with_timeout(Duration::from_secs(5))
            .build()
            .with_context(|| format!("OTLP endpoint {} (example: http://127.0.0.1:4317)", self.endpoint))?;
        let service = instance.0.map_or_else(|| "shoal".to_owned(), |role| format!("shoal-{role}"));
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", self.id_of(&instance)))
            .build();
        exporter.set_resource(&resource);
        let exporter = Arc::new(exporter);
        exporters.insert(instance, exporter.clone());
        Ok(exporter)
    }

    /// A name that no other process's clone of that role has.
    fn id_of(&self, (role, clone): &Instance) -> String {
        match clone.as_ref().map(StringValue::as_str) {
            // A process's only clone is named as the process is, or as its role is.
            Some(clone) if clone != self.process && Some(clone) != *role => {
                format!("{}/{clone}", self.process)
            }
            _ => self.process.clone(),
        }
    }
}

impl SpanExporter for PerInstance {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut groups: HashMap<Instance, Vec<SpanData>> = HashMap::new();
        for span in batch {
            let role = attribute(&span, ROLE_ATTRIBUTE).and_then(|name| Role::parse(name.as_str()));
            let clone = attribute(&span, CLONE_ATTRIBUTE).cloned();
            groups.entry((role.map(Role::name), clone)).or_default().push(span);
        }
        for (instance, spans) in groups {
            let Ok(exporter) = self.exporter(instance) else { continue };
            exporter.export(spans).await?;
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        for exporter in self.exporters.lock().unwrap_or_else(PoisonError::into_inner).values() {
            exporter.shutdown_with_timeout(timeout)?;
        }
        Ok(())
    }
}

fn attribute<'s>(span: &'s SpanData, key: &str) -> Option<&'s StringValue> {
    let attribute = span.attributes.iter().find(|kv| kv.key.as_str() == key)?;
    match &attribute.value {
        Value::String(text) => Some(text),
        _ => None,
    }
}
