//! Telemetry of a call: enough to find it, without a key or a value.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use metrics_exporter_prometheus::PrometheusBuilder;
use shoal_redis_link::{Link, LinkConfig, Script};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument as _, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::server::{Server, open, patient};

/// Tells this test's spans from those of the tests beside it.
const ROLE: &str = "telemetry";

/// Every span's fields, and everything else that was said.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Captured>>);

#[derive(Default)]
struct Captured {
    spans: Vec<BTreeMap<String, String>>,
    /// Ids are used again: each names the last span that had it.
    by_id: BTreeMap<u64, usize>,
    events: Vec<String>,
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "redis" {
            let mut captured = self.0.lock().unwrap();
            let index = captured.spans.len();
            captured.by_id.insert(id.into_u64(), index);
            captured.spans.push(BTreeMap::new());
            attributes.record(&mut Fields(&mut captured.spans[index]));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut captured = self.0.lock().unwrap();
        if let Some(&index) = captured.by_id.get(&id.into_u64()) {
            values.record(&mut Fields(&mut captured.spans[index]));
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        self.0.lock().unwrap().events.push(format!("{fields:?}"));
    }
}

#[test]
fn each_call_has_span_and_count() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let capture = Capture::default();
    // A subscriber of this thread alone can be missed by callsites that other tests reach at the same time.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(capture.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = metrics::with_local_recorder(&recorder, || runtime.block_on(calls()));
    let Some(port) = port else { return };

    let Captured { spans, events, .. } = std::mem::take(&mut *capture.0.lock().unwrap());
    let ours = |span: &BTreeMap<_, _>| span["shoal.role"] == ROLE && span["otel.name"] != "PING";
    let spans: Vec<_> = spans.into_iter().filter(ours).collect();
    let names: Vec<_> = spans.iter().map(|span| span["otel.name"].as_str()).collect();
    assert_eq!(names, ["SET", "GET", "PIPELINE GET", "PIPELINE", "refuse"]);
    for span in &spans {
        assert_eq!(span["otel.kind"], "client");
        assert_eq!(span["db.system.name"], "redis");
        assert_eq!(span["server.address"], "127.0.0.1");
        assert_eq!(span["server.port"], port.to_string());
    }
    assert_eq!(spans[2]["db.operation.batch.size"], "2");
    let refused = &spans[4];
    assert_eq!(refused["db.operation.name"], "EVALSHA");
    assert_eq!(refused["db.response.status_code"], "SHOAL");
    assert_eq!(refused["otel.status_code"], "ERROR");

    let metrics = handle.render();
    assert!(
        metrics.contains(r#"shoal_engine_calls_total{role="telemetry",engine="redis",outcome="server"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains("shoal_engine_call_duration_seconds"), "{metrics}");
    for text in [format!("{spans:?}"), format!("{events:?}"), metrics] {
        assert!(!text.contains("secret"), "{text}");
    }
}

async fn calls() -> Option<u16> {
    let server = Server::start().await?;
    let link = open(patient(LinkConfig::new(server.url(), ROLE))).await;
    let _: String = link.query(redis::cmd("ECHO").arg("outside of any span")).await.unwrap();
    calls_on(&link).instrument(tracing::info_span!("caller", shoal.role = "caller")).await;
    Some(server.port)
}

async fn calls_on(link: &Link) {
    let () = link.query(redis::cmd("SET").arg("secret-key").arg("secret-value")).await.unwrap();
    let _: String = link.query(redis::cmd("GET").arg("secret-key")).await.unwrap();
    let mut pipe = redis::pipe();
    pipe.cmd("GET").arg("secret-key").cmd("GET").arg("secret-key");
    let _: (String, String) = link.pipeline(&pipe).await.unwrap();
    pipe.cmd("PTTL").arg("secret-key");
    let _: (String, String, i64) = link.pipeline(&pipe).await.unwrap();
    let refuse = Script::new("refuse", "return redis.error_reply('SHOAL no')");
    link.script::<()>(&refuse, &[b"secret-key"], &[b"secret-value"]).await.unwrap_err();
}
