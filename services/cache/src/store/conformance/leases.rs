//! Leases: one holder, fills under a lease only, and the end of a lease.

use std::time::Duration;

use futures::future::join_all;

use super::case::{Case, LONG, PATIENCE, draft, eventually};
use crate::key::Key;
use crate::store::{Acquired, Found, Token};

pub(super) async fn one_of_many_gets_the_lease(case: &Case) {
    let key = case.key("k");
    let asks = (0..50).map(|_| {
        let (store, key, token) = (case.store.clone(), key.clone(), Token::random());
        async move { (token, store.acquire(&key, token, LONG, false).await.expect("acquire")) }
    });
    let answers = join_all(asks).await;
    let granted: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Acquired::Granted { .. }))
        .map(|(token, _)| *token)
        .collect();
    assert_eq!(granted.len(), 1, "{answers:?}");
    for (_, answer) in &answers {
        if let Acquired::Held { by, left } = answer {
            assert_eq!(*by, granted[0]);
            assert!(*left <= LONG && *left > LONG - PATIENCE, "{left:?}");
        }
    }
    assert_eq!(lease_of(case, &key).await, Some(granted[0]));
    assert_eq!(
        case.acquire(&key, granted[0]).await,
        Acquired::Granted { previous: None },
        "asking again with the same token"
    );
}

pub(super) async fn fill_ends_its_lease(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    assert!(!case.fill(&key, Token::random(), "foreign").await);
    assert!(case.fill(&key, token, "v").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("v"));
    assert!(matches!(case.acquire(&key, Token::random()).await, Acquired::Record(_)));
    assert!(!case.fill(&key, token, "again").await, "a lease fills once");
    assert_eq!(case.value(&key).await.as_deref(), Some("v"));
}

/// Checks the guarantee that all others rest on.
pub(super) async fn writes_refuse_earlier_fills(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    case.delete(&key).await;
    assert_eq!(lease_of(case, &key).await, None, "the delete ends the lease");
    assert!(!case.fill(&key, token, "old").await);
    assert_eq!(case.value(&key).await, None);

    let token = case.granted(&key).await;
    case.put(&key, "new").await;
    assert!(!case.fill(&key, token, "old").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));

    case.delete(&key).await;
    let old = case.granted(&key).await;
    case.delete(&key).await;
    let new = case.granted(&key).await;
    assert!(!case.fill(&key, old, "old").await, "another load has the lease now");
    assert!(case.fill(&key, new, "new").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));
}

pub(super) async fn refused_put_keeps_the_lease(case: &Case) {
    let key = case.key("k");
    case.put(&key, "there").await;
    assert!(!case.store.put(&key, draft("v"), true).await.expect("put"));
    assert_eq!(case.value(&key).await.as_deref(), Some("there"));
}

pub(super) async fn only_holder_releases_lease(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    case.store.release(&key, Token::random()).await.expect("release");
    assert!(matches!(case.acquire(&key, Token::random()).await, Acquired::Held { .. }));
    case.store.release(&key, token).await.expect("release");
    assert!(!case.fill(&key, token, "late").await);
    case.granted(&key).await;
}

pub(super) async fn renewed_lease_outlives_its_limit(case: &Case) {
    let key = case.key("k");
    let (token, other) = (Token::random(), Token::random());
    let limit = Duration::from_millis(200);
    let granted = case.store.acquire(&key, token, limit, false).await.expect("acquire");
    assert_eq!(granted, Acquired::Granted { previous: None });
    assert!(case.store.renew(&key, token, PATIENCE).await.expect("renew"));
    assert!(!case.store.renew(&key, other, PATIENCE).await.expect("renew"), "it has no lease");
    tokio::time::sleep(2 * limit).await;
    assert!(matches!(case.acquire(&key, other).await, Acquired::Held { .. }));

    case.delete(&key).await;
    assert!(!case.store.renew(&key, token, PATIENCE).await.expect("renew"), "a delete ended it");
    assert!(!case.fill(&key, token, "old").await);
}

pub(super) async fn expired_lease_fills_nothing(case: &Case) {
    let key = case.key("k");
    let (dead, next) = (Token::random(), Token::random());
    let limit = Duration::from_millis(40);
    assert_eq!(case.store.acquire(&key, dead, limit, false).await, Ok(Acquired::Granted { previous: None }));
    eventually("the lease runs out", async || {
        matches!(case.acquire(&key, next).await, Acquired::Granted { .. })
    })
    .await;
    assert!(!case.fill(&key, dead, "late").await);
    assert!(case.fill(&key, next, "v").await);
}

pub(super) async fn lease_end_wakes_waiters(case: &Case) {
    for end in ["fill", "put", "delete", "release"] {
        let key = case.key(end);
        let token = case.granted(&key).await;
        let ended = case.store.ended(&key);
        for _ in 0..2 {
            assert!(matches!(case.acquire(&key, Token::random()).await, Acquired::Held { .. }));
        }
        match end {
            "fill" => assert!(case.fill(&key, token, "v").await),
            "put" => case.put(&key, "v").await,
            "delete" => case.delete(&key).await,
            _ => case.store.release(&key, token).await.expect("release"),
        }
        tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{end} told nobody"));
    }
}

pub(super) async fn filled_entry_ages_from_load(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    let began = tokio::time::Instant::now();
    eventually("some time passes", async || began.elapsed() > Duration::from_millis(20)).await;
    assert!(case.fill(&key, token, "v").await);
    let age = case.record(&key).await.expect("there").age;
    assert!(age >= Duration::from_millis(20) && age < PATIENCE, "{age:?}");
}

pub(super) async fn refresh_is_granted_beside_an_entry(case: &Case) {
    let key = case.key("k");
    case.put(&key, "old").await;
    let token = Token::random();
    let refresh = async |token| case.store.acquire(&key, token, LONG, true).await.expect("acquire");
    let Acquired::Granted { previous: Some(previous) } = refresh(token).await else { panic!("not granted") };
    assert_eq!((previous.stale, previous.body), (None, draft("old").body));
    assert!(matches!(refresh(Token::random()).await, Acquired::Held { by, .. } if by == token));
    assert_eq!(case.value(&key).await.as_deref(), Some("old"), "it is a hit meanwhile");
    assert!(case.fill(&key, token, "new").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));
}

async fn lease_of(case: &Case, key: &Key) -> Option<Token> {
    match case.store.find(key).await.expect("find") {
        Found::Absent { lease, .. } => lease,
        found => panic!("{found:?}"),
    }
}
