//! A real OTLP gRPC receiver.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::view::{Span, Tree, hex};

/// Spans by trace id.
type Spans = Arc<Mutex<Vec<(String, Span)>>>;

pub(crate) struct Receiver {
    pub(crate) endpoint: String,
    spans: Spans,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let spans = Spans::default();
        let service = TraceServiceServer::new(Collect(spans.clone()));
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("served");
        });
        Self { endpoint, spans, server }
    }

    /// Returns the root spans received so far.
    pub(crate) fn roots(&self) -> Vec<Span> {
        let spans = self.spans.lock().expect("not poisoned");
        spans.iter().map(|(_, span)| span).filter(|span| span.parent.is_empty()).cloned().collect()
    }

    /// Returns the part of a trace received so far.
    pub(crate) fn trace(&self, id: &str) -> Tree {
        let spans = self.spans.lock().expect("not poisoned");
        Tree(spans.iter().filter(|(trace, _)| trace == id).map(|(_, span)| span.clone()).collect())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Collect(Spans);

#[tonic::async_trait]
impl TraceService for Collect {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().expect("not poisoned");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let of = |key: &str| {
                attributes.iter().find(|attribute| attribute.key == key).map(text).unwrap_or_default()
            };
            let (service, instance) = (of("service.name"), of("service.instance.id"));
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let kind = match span.kind() {
                    SpanKind::Server => "server",
                    SpanKind::Client => "client",
                    SpanKind::Producer => "producer",
                    SpanKind::Consumer => "consumer",
                    SpanKind::Internal | SpanKind::Unspecified => "internal",
                };
                spans.push((
                    hex(&span.trace_id),
                    Span {
                        service: service.clone(),
                        instance: instance.clone(),
                        kind: kind.to_owned(),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        attributes: span.attributes.iter().map(|kv| (kv.key.clone(), text(kv))).collect(),
                        links: span.links.iter().map(|l| (hex(&l.trace_id), hex(&l.span_id))).collect(),
                        name: span.name,
                    },
                ));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(n)) => n.to_string(),
        Some(any_value::Value::BoolValue(b)) => b.to_string(),
        Some(any_value::Value::DoubleValue(d)) => d.to_string(),
        other => format!("{other:?}"),
    }
}
