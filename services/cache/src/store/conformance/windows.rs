//! The times around an entry's expiry: a refresh that is due, and the time for which it is kept as stale.

use std::time::Duration;

use bytes::Bytes;

use super::case::{Case, LONG, draft, eventually, tagged};
use crate::store::{Acquired, Draft, MissReason, Token};

const SHORT: Duration = Duration::from_millis(60);

pub(super) async fn expired_entries_are_kept_as_stale(case: &Case) {
    let key = case.key("k");
    case.put_draft(&key, Draft { ttl: SHORT, stale: LONG, ..draft("v") }).await;
    eventually("it expires", async || case.value(&key).await.is_none()).await;
    assert_eq!(case.miss(&key).await, (MissReason::Expired, Some("v".to_owned())));
    assert!(case.store.put(&key, draft("w"), true).await.expect("put"), "what has expired is absent");
    case.put_draft(&key, Draft { ttl: SHORT, stale: LONG, ..draft("v") }).await;
    eventually("it expires", async || case.value(&key).await.is_none()).await;
    let token = Token::random();
    let Acquired::Granted { previous: Some(previous) } = case.acquire(&key, token).await else {
        panic!("the lease is granted, and knows what it replaces")
    };
    assert!(previous.stale.is_some_and(|stale| stale < LONG) && previous.body == draft("v").body);
    assert!(case.fill(&key, token, "new").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));

    case.put_draft(&key, Draft { ttl: SHORT, stale: SHORT, ..draft("v") }).await;
    eventually("it goes", async || case.miss_or_none(&key).await == Some(None)).await;
}

pub(super) async fn soft_entries_ask_for_a_refresh(case: &Case) {
    let key = case.key("k");
    let draft = draft("v");
    case.put_draft(&key, Draft { soft: Some(SHORT), ..draft }).await;
    assert!(!case.record(&key).await.expect("there").soft);
    eventually("a refresh is due", async || case.record(&key).await.expect("a hit").soft).await;
    assert_eq!(case.value(&key).await.as_deref(), Some("v"));
}

pub(super) async fn soft_stamps_expire_entries(case: &Case) {
    for stale in [Duration::ZERO, LONG] {
        let key = case.key(&format!("{stale:?}"));
        case.put_draft(&key, Draft { stale, ..tagged("v", &["t"]) }).await;
        assert_eq!(case.value(&key).await.as_deref(), Some("v"));
        case.expire_tag("t").await;
        // Redis would keep it for its ttl: how long it may be served is the namespace's to say.
        assert_eq!(case.miss(&key).await, (MissReason::Expired, Some("v".to_owned())));
        let token = case.granted(&key).await;
        assert!(case.fill(&key, token, "new").await);
        assert_eq!(case.value(&key).await.as_deref(), Some("new"));
    }
}

pub(super) async fn hard_stamps_leave_nothing_stale(case: &Case) {
    let key = case.key("k");
    case.put_draft(&key, Draft { ttl: SHORT, stale: LONG, ..tagged("v", &["t"]) }).await;
    case.expire_tag("t").await;
    case.invalidate("t").await;
    assert_eq!(case.miss(&key).await.1, None);
    eventually("it expires", async || {
        let miss = case.miss(&key).await;
        assert_eq!(miss.1, None);
        miss.0 != MissReason::Expired
    })
    .await;
    let acquired = case.acquire(&key, Token::random()).await;
    assert_eq!(acquired, Acquired::Granted { previous: None });
}

pub(super) async fn expired_keys_keep_their_window(case: &Case) {
    let (kept, gone, loading) = (case.key("kept"), case.key("gone"), case.key("loading"));
    case.put_draft(&kept, Draft { stale: LONG, ..draft("v") }).await;
    case.put_draft(&gone, draft("v")).await;
    let token = case.granted(&loading).await;
    for key in [&kept, &gone, &loading] {
        case.expire(key).await;
    }
    assert_eq!(case.miss(&kept).await, (MissReason::Expired, Some("v".to_owned())));
    assert_eq!(case.miss(&gone).await, (MissReason::Absent, None));
    assert!(!case.fill(&loading, token, "old").await, "it may have begun before what the caller knows of");
}

pub(super) async fn versions_come_back(case: &Case) {
    let key = case.key("k");
    let version = Bytes::from_static(b"v7");
    case.put_draft(&key, Draft { version: version.clone(), ..draft("v") }).await;
    assert_eq!(case.record(&key).await.expect("there").version, version);
    let token = Token::random();
    let acquired = case.store.acquire(&key, token, LONG, true).await.expect("acquire");
    assert!(
        matches!(acquired, Acquired::Granted { previous: Some(previous) } if previous.version == version)
    );
}
