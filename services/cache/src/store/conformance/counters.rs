//! Entries that hold integers, and new lives of entries.

use std::time::Duration;

use futures::future::join_all;

use super::case::{Case, LONG, eventually, tagged};
use crate::store::{Draft, Incremented};

pub(super) async fn increments_add_up(case: &Case) {
    let key = case.key("k");
    let add =
        async |delta, initial| case.store.increment(&key, delta, initial, LONG).await.expect("increment");
    assert_eq!(add(-2, 40).await, Incremented::Done(38));
    assert_eq!(add(4, 7).await, Incremented::Done(42));
    assert_eq!(case.value(&key).await.as_deref(), Some("42"));
    let one = (0..50).map(|_| case.store.increment(&key, 1, 0, LONG));
    assert!(join_all(one).await.into_iter().all(|done| matches!(done, Ok(Incremented::Done(_)))));
    assert_eq!(case.value(&key).await.as_deref(), Some("92"));

    case.put_draft(&key, tagged(&(i64::MAX - 1).to_string(), &["t"])).await;
    assert_eq!(add(1, 0).await, Incremented::Done(i64::MAX), "beyond what a double holds");
    assert_eq!(case.record(&key).await.expect("there").tags.as_slice(), ["t"]);
    case.invalidate("t").await;
    assert_eq!(add(1, 5).await, Incremented::Done(6), "what was invalidated is absent");
    let token = case.granted(&case.key("loading")).await;
    case.store.increment(&case.key("loading"), 1, 0, LONG).await.expect("increment");
    assert!(!case.fill(&case.key("loading"), token, "old").await);
}

pub(super) async fn increments_refuse_other_values(case: &Case) {
    let key = case.key("k");
    let add = async |delta| case.store.increment(&key, delta, 0, LONG).await.expect("increment");
    for value in ["", "x", "1.5", "1 ", " 1", "+1", "01", "-", "99999999999999999999"] {
        case.put(&key, value).await;
        assert_eq!(add(1).await, Incremented::NoInteger, "{value:?}");
        assert_eq!(case.value(&key).await.as_deref(), Some(value));
    }
    case.put(&key, &i64::MIN.to_string()).await;
    assert_eq!(add(-1).await, Incremented::Overflow);
    assert_eq!(case.value(&key).await, Some(i64::MIN.to_string()));
}

pub(super) async fn touch_prolongs_what_is_there(case: &Case) {
    let key = case.key("k");
    let touch = async |ttl| case.store.touch(&key, ttl).await.expect("touch");
    assert!(!touch(LONG).await);
    let short = Duration::from_millis(60);
    case.put_draft(&key, Draft { stale: short, ..tagged("v", &["t"]) }).await;
    assert!(touch(short).await);
    eventually("it expires", async || case.value(&key).await.is_none()).await;
    assert!(!touch(LONG).await, "what has expired is absent");
    case.put_draft(&key, Draft { ttl: short, ..tagged("v", &["t"]) }).await;
    assert!(touch(LONG).await);
    let left =
        case.record(&key).await.expect("there").expires_at.duration_since(std::time::SystemTime::now());
    assert!(left.expect("in the future") > LONG / 2);
    case.invalidate("t").await;
    assert!(!touch(LONG).await);
}
