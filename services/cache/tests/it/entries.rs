//! Get, Set and Delete over gRPC: what comes back, and what is refused with which words.

use std::time::{Duration, SystemTime};

use shoal_proto::cache::v1 as pb;
use tonic::Code;

use crate::harness::{Clone, reason, settings};

fn set(namespace: &str, key: &str, value: &[u8]) -> pb::SetRequest {
    pb::SetRequest {
        namespace: namespace.into(),
        key: key.into(),
        value: value.to_vec().into(),
        ..Default::default()
    }
}

fn ttl(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn set_value_returns_with_tags() {
    let clone = Clone::start("").await;
    let value: Vec<u8> = b"compressible ".repeat(1000);
    let tags = vec!["a".to_owned(), "b".to_owned()];
    let request = pb::SetRequest { ttl: ttl(60), tags: tags.clone(), ..set("pages", "home", &value) };
    assert!(clone.set(request).await.expect("set").stored);
    let entry = clone.get("pages", "home").await.expect("get").expect("there");
    assert_eq!((entry.value.as_ref(), entry.tags), (value.as_slice(), tags));
    let ends = SystemTime::try_from(entry.expire_time.expect("an end")).expect("valid");
    let left = ends.duration_since(SystemTime::now()).expect("in the future");
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    assert!(Duration::try_from(entry.age.expect("an age")).expect("valid") < Duration::from_secs(10));

    assert_eq!(clone.get("pages", "other").await.expect("get"), None);
    assert_eq!(clone.get("other", "home").await.expect("get"), None);
    clone.delete("pages", "home").await.expect("deleted");
    clone.delete("pages", "home").await.expect("deleting again succeeds");
    assert_eq!(clone.get("pages", "home").await.expect("get"), None);
    clone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_if_absent_reports_refusal() {
    let clone = Clone::start("").await;
    let request = pb::SetRequest { only_if_absent: true, ..set("n", "k", b"first") };
    assert!(clone.set(request.clone()).await.expect("set").stored);
    let answer =
        clone.set(pb::SetRequest { value: b"second".to_vec().into(), ..request }).await.expect("set");
    assert_eq!((answer.stored, answer.refusal()), (false, pb::RefusalReason::Exists));
    assert_eq!(clone.get("n", "k").await.expect("get").expect("there").value.as_ref(), b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_process_share_entries() {
    let settings = settings("");
    let engine = shoal_cache::Engine::open(&settings).await.expect("an engine");
    assert_eq!(engine.describe(), "memory");
    let one = Clone::on(&settings, engine.for_clone(&settings).await.expect("shared")).await;
    let two = Clone::on(&settings, engine.for_clone(&settings).await.expect("shared")).await;
    one.set(set("n", "k", b"v")).await.expect("set");
    assert!(two.get("n", "k").await.expect("get").is_some());
    two.delete("n", "k").await.expect("deleted");
    assert_eq!(one.get("n", "k").await.expect("get"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_its_own_policy() {
    let clone = Clone::start(
        "[cache.namespace.small]\nmax_value = 10\nttl = '5s'\njitter = 0.0\n[cache.default]\nmax_value = 100\n",
    )
    .await;
    clone.set(set("small", "k", &[0; 10])).await.expect("at the limit");
    let entry = clone.get("small", "k").await.expect("get").expect("there");
    let ends = SystemTime::try_from(entry.expire_time.expect("an end")).expect("valid");
    assert!(ends <= SystemTime::now() + Duration::from_secs(5));
    for (namespace, size) in [("small", 11), ("other", 101)] {
        let status = clone.set(set(namespace, "k", &vec![0; size])).await.expect_err("over the limit");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "VALUE_TOO_LARGE"));
        let (limit, given) = ((size - 1).to_string(), size.to_string());
        assert!(status.message().contains(&limit) && status.message().contains(&given), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_are_named() {
    let clone = Clone::start("").await;
    let valid = set("n", "k", b"v");
    let largest = pb::SetRequest { value: vec![7; 1 << 20].into(), ..valid.clone() };
    clone.set(largest).await.expect("the largest value");
    for (name, request, wanted) in [
        ("namespace", pb::SetRequest { namespace: String::new(), ..valid.clone() }, "INVALID_NAME"),
        ("namespace", pb::SetRequest { namespace: "a b".into(), ..valid.clone() }, "INVALID_NAME"),
        ("namespace", pb::SetRequest { namespace: "n".repeat(65), ..valid.clone() }, "INVALID_NAME"),
        ("key", pb::SetRequest { key: String::new(), ..valid.clone() }, "INVALID_KEY"),
        ("key", pb::SetRequest { key: "k".repeat(1025), ..valid.clone() }, "INVALID_KEY"),
        (
            "value",
            pb::SetRequest { value: vec![0; (1 << 20) + 1].into(), ..valid.clone() },
            "VALUE_TOO_LARGE",
        ),
        ("ttl", pb::SetRequest { ttl: ttl(0), ..valid.clone() }, "INVALID_TTL"),
        ("ttl", pb::SetRequest { ttl: ttl(-1), ..valid.clone() }, "INVALID_TTL"),
        ("ttl", pb::SetRequest { ttl: ttl(30 * 86_400 + 1), ..valid.clone() }, "INVALID_TTL"),
        ("tags", pb::SetRequest { tags: vec!["t".into(); 17], ..valid.clone() }, "TOO_MANY_TAGS"),
        ("tags", pb::SetRequest { tags: vec![String::new()], ..valid.clone() }, "INVALID_TAG"),
        ("tags", pb::SetRequest { tags: vec!["t".repeat(257)], ..valid }, "INVALID_TAG"),
    ] {
        let status = clone.set(request).await.expect_err(name);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, wanted), "{status:?}");
        assert!(status.message().starts_with(name), "{status:?}");
    }
    let status = clone.get("a b", "k").await.expect_err("namespace");
    assert_eq!(reason(&status), "INVALID_NAME");
    let status = clone.delete("n", "").await.expect_err("key");
    assert_eq!(reason(&status), "INVALID_KEY");
    let far_over = pb::SetRequest { value: vec![0; 2 << 20].into(), ..set("n", "k", b"") };
    let status = clone.set(far_over).await.expect_err("not even read");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
}
