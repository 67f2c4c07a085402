//! Spans and their W3C context, as seen by a test exporter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{SpanId, SpanKind, TracerProvider};
use opentelemetry_sdk::trace::{SdkTracerProvider, Span as SdkSpan, SpanData, SpanProcessor};
use shoal_balance::{Channel, ChannelOptions};
use tonic::{Code, Request};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

use crate::peer::{Peer, Upstream, answer_status};
use crate::raw;

#[derive(Clone, Debug, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut SdkSpan, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }
}

impl Ended {
    fn named(&self, name: &str) -> Vec<SpanData> {
        self.0.lock().unwrap().iter().filter(|span| span.name == name).cloned().collect()
    }
}

fn attribute(span: &SpanData, key: &str) -> String {
    span.attributes
        .iter()
        .find(|kv| kv.key.as_str() == key)
        .map(|kv| kv.value.to_string())
        .unwrap_or_default()
}

#[tokio::test]
async fn attempt_span_context_is_sent() {
    let ended = Ended::default();
    let provider = SdkTracerProvider::builder().with_span_processor(ended.clone()).build();
    // While there is one dispatcher alone, a call site that another test reaches first is disabled for this thread too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = heard.clone();
    let peer = Peer::h2(move |request, mut respond| {
        let mut heard = hear.lock().unwrap();
        heard.push(request.headers()["traceparent"].to_str().unwrap().to_owned());
        let first = heard.len() == 1;
        async move {
            if first {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                answer_status(&mut respond, Code::NotFound);
            }
        }
    });
    let upstream = Upstream::of(&[peer.address]);
    let channel = Channel::new(upstream.balancer.clone(), ChannelOptions::default());
    let caller = tracing::info_span!("caller");
    let status = raw::unary(&channel, Request::new(vec![1])).instrument(caller.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    drop(caller);

    let caller = &ended.named("caller")[0];
    let attempts = ended.named("test.v1.Fish/Swim");
    assert_eq!(attempts.len(), 2);
    for (attempt, status) in attempts.iter().zip(["14", "5"]) {
        assert_eq!(attempt.span_kind, SpanKind::Client);
        assert_eq!(attempt.parent_span_id, caller.span_context.span_id());
        for (key, value) in [
            ("rpc.system", "grpc"),
            ("rpc.service", "test.v1.Fish"),
            ("rpc.method", "Swim"),
            ("server.address", "127.0.0.1"),
            ("server.port", &peer.address.port().to_string()),
            ("rpc.grpc.status_code", status),
            ("shoal.role", "test"),
        ] {
            assert_eq!(attribute(attempt, key), value, "{key}");
        }
        assert!(matches!(attempt.status, opentelemetry::trace::Status::Error { .. }));
    }
    let sent: Vec<String> = attempts
        .iter()
        .map(|a| format!("00-{}-{}-01", a.span_context.trace_id(), a.span_context.span_id()))
        .collect();
    assert_eq!(*heard.lock().unwrap(), sent);
    assert_ne!(caller.span_context.span_id(), SpanId::INVALID);
}

#[test]
fn caller_context_passes_without_span() {
    let mut headers = http::HeaderMap::new();
    let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", http::HeaderValue::from_static(sent));
    shoal_balance::inject(&mut headers);
    assert_eq!(headers["traceparent"], sent);
}
