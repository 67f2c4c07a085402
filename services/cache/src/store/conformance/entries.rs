//! Entries: put, found, deleted, expired.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;

use super::case::{Case, LONG, PATIENCE, draft, eventually};
use crate::body::Body;
use crate::key::Tags;
use crate::store::{Draft, Found};

pub(super) async fn entries_are_found_until_deleted(case: &Case) {
    let key = case.key("k");
    assert_eq!(case.value(&key).await, None);
    let packed = Body::pack(Bytes::from(vec![b'x'; 100_000]), 10).await;
    assert!(matches!(packed, Body::Zstd { .. }));
    let large = Body::Plain(Bytes::from((0..1 << 20).map(|i: u32| i as u8).collect::<Vec<_>>()));
    for body in
        [Body::Plain(Bytes::from_static(b"v")), Body::Plain(Bytes::new()), packed, large, Body::Absent]
    {
        let tags = Tags::parse(vec!["a".into(), "user:ada".into()]).expect("valid");
        let before = SystemTime::now();
        let draft = Draft { body: body.clone(), tags: tags.clone(), ..draft("") };
        assert!(case.store.put(&key, draft, false).await.expect("put"));
        let record = case.record(&key).await.expect("there");
        assert_eq!((&record.body, &record.tags), (&body, &tags));
        assert!(record.age < PATIENCE, "{:?}", record.age);
        let ends_in = record.expires_at.duration_since(before).expect("in the future");
        assert!(ends_in.abs_diff(LONG) < PATIENCE, "{ends_in:?}");
        assert_eq!(case.store.find(&key).await.map(|found| matches!(found, Found::Record(_))), Ok(true));
    }
    case.delete(&key).await;
    assert_eq!(case.body(&key).await, None);
    case.delete(&key).await;
}

pub(super) async fn keys_and_namespaces_are_apart(case: &Case) {
    let other = Case::new(case.store.clone());
    for (index, name) in ["k", "K", "k}", "{k}", "e:k", "é\n\0", &"x".repeat(1024)].iter().enumerate() {
        case.put(&case.key(name), &index.to_string()).await;
        assert_eq!(other.value(&other.key(name)).await, None, "{name}");
    }
    for (index, name) in ["k", "K", "k}", "{k}", "e:k", "é\n\0", &"x".repeat(1024)].iter().enumerate() {
        assert_eq!(case.value(&case.key(name)).await, Some(index.to_string()), "{name}");
    }
}

pub(super) async fn only_if_absent_keeps_what_is_there(case: &Case) {
    let key = case.key("k");
    let set = async |value| case.store.put(&key, draft(value), true).await.expect("put");
    assert!(set("first").await);
    assert!(!set("second").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("first"));
    let negative = Draft { body: Body::Absent, ..draft("") };
    assert!(case.store.put(&key, negative, false).await.expect("put"));
    assert!(set("third").await, "a negative result is no value");
    assert_eq!(case.value(&key).await.as_deref(), Some("third"));
}

pub(super) async fn only_if_absent_is_one_step(case: &Case) {
    let key = case.key("k");
    let sets = (0..50).map(|index| {
        let (store, key) = (case.store.clone(), key.clone());
        async move { store.put(&key, draft(&index.to_string()), true).await.expect("put") }
    });
    let won = join_all(sets).await.into_iter().filter(|stored| *stored).count();
    assert_eq!(won, 1);
}

pub(super) async fn entries_end(case: &Case) {
    let key = case.key("k");
    let short = Draft { ttl: Duration::from_millis(40), ..draft("v") };
    assert!(case.store.put(&key, short, false).await.expect("put"));
    eventually("the entry ends", async || case.value(&key).await.is_none()).await;
    assert!(case.store.put(&key, draft("w"), true).await.expect("put"), "what has ended is absent");
}
