//! Spans as the assertions see them, whatever they were read from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, span::SpanKind};

/// A span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    /// The clone that sent it.
    pub(crate) instance: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) links: Vec<(String, String)>,
}

/// The spans of one trace.
pub(crate) struct Tree(pub(crate) Vec<Span>);

impl Tree {
    pub(crate) fn spans(&self) -> &[Span] {
        &self.0
    }

    pub(crate) fn has(&self, service: &str) -> bool {
        self.0.iter().any(|span| span.service == service)
    }

    /// Returns whether every call that was made has its other side: each service sends its spans by itself.
    pub(crate) fn is_whole(&self) -> bool {
        let calls = self.0.iter().filter(|span| span.kind == "client" && span.name.contains('/'));
        calls
            .into_iter()
            .all(|call| self.0.iter().any(|span| span.kind == "server" && span.parent == call.id))
    }

    /// Returns the only span of that service, name and parent.
    pub(crate) fn span(&self, service: &str, name: &str, parent: Option<&Span>) -> &Span {
        self.only(&format!("{service} `{name}` under {:?}", parent.map(|p| &p.name)), |span| {
            span.service == service
                && span.name == name
                && parent.is_none_or(|parent| span.parent == parent.id)
        })
    }

    /// Returns the only child of that kind.
    pub(crate) fn child_of_kind(&self, service: &str, parent: &Span, kind: &str) -> &Span {
        self.only(&format!("{service} {kind} under {}", parent.name), |span| {
            span.service == service && span.kind == kind && span.parent == parent.id
        })
    }

    /// Returns the first span below `ancestor` that fits.
    pub(crate) fn descendant(&self, ancestor: &Span, fits: impl Fn(&Span) -> bool) -> &Span {
        self.0
            .iter()
            .find(|span| fits(span) && self.is_below(span, ancestor))
            .unwrap_or_else(|| panic!("nothing that fits below {}:\n{self}", ancestor.name))
    }

    pub(crate) fn is_below(&self, span: &Span, ancestor: &Span) -> bool {
        let mut parent = span.parent.clone();
        for _ in 0..self.0.len() {
            if parent == ancestor.id {
                return true;
            }
            match self.0.iter().find(|span| span.id == parent) {
                Some(span) => parent.clone_from(&span.parent),
                None => return false,
            }
        }
        false
    }

    fn only(&self, what: &str, fits: impl Fn(&Span) -> bool) -> &Span {
        let mut found = self.0.iter().filter(|span| fits(span));
        match (found.next(), found.next()) {
            (Some(span), None) => span,
            (None, _) => panic!("no {what}:\n{self}"),
            (Some(_), Some(_)) => panic!("more than one {what}:\n{self}"),
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn below(tree: &Tree, parent: &str, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for span in tree.0.iter().filter(|span| span.parent == parent) {
                writeln!(f, "{:depth$}{} {} [{}]", "", span.service, span.name, span.kind)?;
                below(tree, &span.id, depth + 2, f)?;
            }
            Ok(())
        }
        for root in self.0.iter().filter(|span| !self.0.iter().any(|other| other.id == span.parent)) {
            writeln!(f, "{} {} [{}]", root.service, root.name, root.kind)?;
            below(self, &root.id, 2, f)?;
        }
        Ok(())
    }
}

/// The caller, with a trace of its own whose root span it exports itself.
pub(crate) struct Caller {
    name: &'static str,
    pub(crate) trace_id: String,
    span_id: String,
    begun: SystemTime,
}

impl Caller {
    pub(crate) fn new(name: &'static str) -> Self {
        let trace_id = format!("{:032x}", fastrand::u128(1..));
        let span_id = format!("{:016x}", fastrand::u64(1..));
        Self { name, trace_id, span_id, begun: SystemTime::now() }
    }

    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }

    pub(crate) async fn export(&self, otlp: &str) {
        let nanos = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let name = AnyValue { value: Some(any_value::Value::StringValue("caller".to_owned())) };
        let span = OtlpSpan {
            trace_id: unhex(&self.trace_id),
            span_id: unhex(&self.span_id),
            name: self.name.to_owned(),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: nanos(self.begun),
            end_time_unix_nano: nanos(SystemTime::now()),
            ..OtlpSpan::default()
        };
        let resource = Resource {
            attributes: vec![KeyValue {
                key: "service.name".to_owned(),
                value: Some(name),
                ..KeyValue::default()
            }],
            ..Resource::default()
        };
        let spans = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        let mut client = TraceServiceClient::connect(otlp.to_owned()).await.expect("the OTLP endpoint");
        client.export(ExportTraceServiceRequest { resource_spans: vec![spans] }).await.expect("exported");
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}
