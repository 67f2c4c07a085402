//! Metrics of calls, and their labels.

use shoal_kit::metric;

use crate::harness::mesh::Mesh;
use crate::harness::upstream::{SAFE, Upstream, as_session};

#[tokio::test(flavor = "multi_thread")]
async fn only_known_methods_are_labels() {
    let metrics = metric::install().expect("a recorder");
    let upstream = Upstream::start(|call| async move { call.answer(b"ok").await }).await;
    let mesh = Mesh::start(&as_session(&[&upstream])).await;
    mesh.ready("session", 1).await;
    let caller = mesh.caller().await;
    assert_eq!(caller.call(SAFE, &[], b"").await.code(), 0);
    caller.call("/shoal.session.v1.SessionService/MadeUp", &[], b"").await;
    caller.call("/made.up.Service/Method", &[], b"").await;
    caller.call("/grpc.health.v1.Health/Check", &[], b"").await;
    caller.call("/grpc.health.v1.Health/MadeUp", &[], b"").await;

    let text = metrics.render();
    for (upstream, method) in [
        ("session", SAFE.trim_start_matches('/')),
        ("session", "shoal.session.v1.SessionService/unknown"),
        ("gateway", "unknown"),
        ("gateway", "grpc.health.v1.Health/Check"),
        ("gateway", "grpc.health.v1.Health/unknown"),
    ] {
        let labels = format!("upstream=\"{upstream}\",method=\"{method}\"");
        for family in ["shoal_gateway_calls_total", "shoal_gateway_call_duration_seconds_count"] {
            let counted = text.lines().any(|line| line.starts_with(family) && line.contains(&labels));
            assert!(counted, "{family} {labels} in\n{text}");
        }
    }
    for made_up in ["MadeUp", "made.up"] {
        assert!(!text.contains(made_up), "{made_up}");
    }
}
