//! Tags: what a stamp hides, and what it leaves.

use std::time::Duration;

use super::case::{Case, LONG, draft, tagged};
use crate::store::{Filled, Found, MissReason};

fn invalidated(tag: &str) -> MissReason {
    MissReason::Invalidated { tag: Some(tag.to_owned()) }
}

pub(super) async fn invalidated_tags_hide_their_entries(case: &Case) {
    let keys: Vec<_> = (0..20).map(|index| case.key(&format!("k{index}"))).collect();
    for key in &keys {
        case.put_draft(key, tagged("v", &["all", key.name()])).await;
        assert_eq!(case.value(key).await.as_deref(), Some("v"));
    }
    case.invalidate("k3").await;
    assert_eq!(case.miss(&keys[3]).await.0, invalidated("k3"));
    assert_eq!(case.value(&keys[4]).await.as_deref(), Some("v"));
    case.invalidate("all").await;
    for key in &keys {
        assert!(matches!(case.miss(key).await.0, MissReason::Invalidated { .. } | MissReason::Absent));
    }
    case.put_draft(&keys[3], tagged("new", &["all", "k3"])).await;
    assert_eq!(case.value(&keys[3]).await.as_deref(), Some("new"));
}

pub(super) async fn invalidation_refuses_fills_of_its_tags(case: &Case) {
    let (key, other) = (case.key("k"), case.key("other"));
    let (token, unrelated) = (case.granted(&key).await, case.granted(&other).await);
    let ended = case.store.ended(&key);
    case.acquire(&key, crate::store::Token::random()).await;
    case.invalidate("t").await;
    let filled = async |key, token, tag| {
        case.store.fill(key, token, tagged("old", &["more", tag])).await.expect("fill")
    };
    assert_eq!(filled(&other, unrelated, "u").await, Filled::Stored);
    assert_eq!(filled(&key, token, "t").await, Filled::Invalidated);
    assert_eq!(case.value(&key).await, None);
    tokio::time::timeout(super::PATIENCE, ended).await.expect("those who wait are told");
    assert_eq!(filled(&key, token, "t").await, Filled::LeaseEnded, "it has ended with the refusal");
    let token = case.granted(&key).await;
    assert_eq!(filled(&key, token, "t").await, Filled::Stored);
}

pub(super) async fn other_tags_stay(case: &Case) {
    let key = case.key("k");
    // Names that the state of a shard has for itself.
    for tag in ["c", "e", "f", "r", "m", "#", "~t", "#t"] {
        case.put_draft(&key, tagged("v", &["t"])).await;
        case.invalidate(tag).await;
        assert_eq!(case.value(&key).await.as_deref(), Some("v"), "{tag}");
        case.put_draft(&key, tagged("v", &[tag])).await;
        assert_eq!(case.value(&key).await.as_deref(), Some("v"), "{tag}");
        case.invalidate(tag).await;
        assert_eq!(case.value(&key).await, None, "{tag}");
    }
    let other = Case::new(case.store.clone());
    case.put_draft(&key, tagged("v", &["t"])).await;
    other.invalidate("t").await;
    assert_eq!(case.value(&key).await.as_deref(), Some("v"), "of another namespace");
}

/// A clone guesses the tags of a key by those that it had last.
pub(super) async fn changed_tags_are_judged_anew(case: &Case) {
    let key = case.key("k");
    for (tags, stamped) in [(&["a", "b"][..], "b"), (&["b"][..], "b"), (&[][..], "b"), (&["c"][..], "c")] {
        case.put_draft(&key, tagged("v", tags)).await;
        assert_eq!(case.value(&key).await.as_deref(), Some("v"), "{tags:?}");
        case.invalidate(stamped).await;
        let there = case.value(&key).await.is_some();
        assert_eq!(there, !tags.contains(&stamped), "{tags:?}");
    }
}

pub(super) async fn cleared_namespace_is_empty(case: &Case) {
    let keys: Vec<_> = (0..20).map(|index| case.key(&format!("k{index}"))).collect();
    for key in &keys {
        case.put(key, "v").await;
    }
    let loading = case.key("loading");
    let token = case.granted(&loading).await;
    case.store.clock().clear(case.namespace.as_str()).await.expect("clear");
    for key in &keys {
        assert!(matches!(case.miss(key).await, (MissReason::Invalidated { tag: None }, None)));
    }
    let filled = case.store.fill(&loading, token, draft("old")).await;
    assert_eq!(filled, Ok(Filled::Invalidated));
    case.put(&keys[0], "new").await;
    assert_eq!(case.value(&keys[0]).await.as_deref(), Some("new"));
}

pub(super) async fn announced_writes_hide_what_is_loaded(case: &Case) {
    let key = case.key("id").routed("p");
    let tags = ["p".to_owned()];
    case.put_draft(&key, tagged("old", &["p"])).await;
    let clock = case.store.clock();
    let intent = clock.begin(case.namespace.as_str(), "p", &tags, LONG).await.expect("begin");
    assert_eq!(case.miss(&key).await, (invalidated("p"), None));
    let token = case.granted(&key).await;
    let filled = case.store.fill(&key, token, tagged("old", &["p"])).await;
    assert_eq!(filled, Ok(Filled::Invalidated), "it may have been read before the write");
    clock.end(intent).await.expect("end");
    let token = case.granted(&key).await;
    assert_eq!(case.store.fill(&key, token, tagged("new", &["p"])).await, Ok(Filled::Stored));
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));
}

pub(super) async fn many_keys_are_found_in_order(case: &Case) {
    let keys: Vec<_> = (0..30).map(|index| case.key(&format!("k{index}"))).collect();
    for (index, key) in keys.iter().enumerate().filter(|(index, _)| index % 2 == 0) {
        let draft = tagged(&index.to_string(), &[&format!("t{index}")]);
        case.put_draft(key, crate::store::Draft { stale: Duration::from_secs(index as u64), ..draft }).await;
    }
    let token = case.granted(&keys[1]).await;
    case.invalidate("t4").await;
    let found = case.store.look(&keys, true).await.expect("look");
    assert_eq!(found.len(), keys.len());
    for (index, found) in found.into_iter().enumerate() {
        match found {
            Found::Record(record) => assert_eq!(record.body, draft(&index.to_string()).body),
            Found::Absent { lease, why, stale } => {
                assert!(index == 4 || index % 2 == 1, "{index}");
                assert_eq!(lease, (index == 1).then_some(token));
                assert_eq!(why, if index == 4 { invalidated("t4") } else { MissReason::Absent });
                assert_eq!(stale, None);
            }
        }
    }
}
