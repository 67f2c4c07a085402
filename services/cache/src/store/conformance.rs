//! The conformance suite: what every store must do, run on each of them.

mod case;
mod counters;
mod entries;
mod leases;
mod tags;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use self::case::PATIENCE;
pub(crate) use self::case::{Case, LONG, draft, eventually, record, tagged};
use super::{Acquired, MemoryStore, RedisStore, Store, StoreError, Token};

/// Runs every check on a store, each in a namespace of its own.
async fn all(store: Arc<dyn Store>) {
    macro_rules! run {
        ($($wing:ident::$check:ident),* $(,)?) => {
            $(
                eprintln!("  {}", stringify!($check));
                $wing::$check(&Case::new(store.clone())).await;
            )*
        };
    }
    run!(
        entries::entries_are_found_until_deleted,
        entries::keys_and_namespaces_are_apart,
        entries::only_if_absent_keeps_what_is_there,
        entries::only_if_absent_is_one_step,
        entries::entries_end,
        leases::one_of_many_gets_the_lease,
        leases::fill_ends_its_lease,
        leases::writes_refuse_earlier_fills,
        leases::refused_put_keeps_the_lease,
        leases::only_holder_releases_lease,
        leases::expired_lease_fills_nothing,
        leases::renewed_lease_outlives_its_limit,
        leases::lease_end_wakes_waiters,
        leases::filled_entry_ages_from_load,
        leases::refresh_is_granted_beside_an_entry,
        tags::invalidated_tags_hide_their_entries,
        tags::invalidation_refuses_fills_of_its_tags,
        tags::other_tags_stay,
        tags::changed_tags_are_judged_anew,
        tags::cleared_namespace_is_empty,
        tags::announced_writes_hide_what_is_loaded,
        tags::many_keys_are_found_in_order,
        windows::expired_entries_are_kept_as_stale,
        windows::soft_entries_ask_for_a_refresh,
        windows::soft_stamps_expire_entries,
        windows::hard_stamps_leave_nothing_stale,
        windows::expired_keys_keep_their_window,
        windows::versions_come_back,
        counters::increments_add_up,
        counters::increments_refuse_other_values,
        counters::touch_prolongs_what_is_there,
    );
}

/// Returns a store on the Redis that a variable names.
pub(crate) async fn redis_from(variable: &str) -> Option<Arc<RedisStore>> {
    let url = shoal_testing::engine_of(variable)?;
    let store = RedisStore::open(
        shoal_redis_link::LinkConfig::new(&url, "cache"),
        "shoal-test-cache:".to_owned(),
        crate::store::Bulk::default(),
    )
    .expect("a valid URL");
    // The subscription's first sign of life wakes everyone; a test that waits for a wake must come after it.
    let subscribed = store.ended(&Case::new(Arc::new(MemoryStore::new(1 << 20, 1))).key("k"));
    store.ready(PATIENCE).await.expect("redis answers");
    let _ = tokio::time::timeout(Duration::from_secs(2), subscribed).await;
    Some(Arc::new(store))
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    all(Arc::new(MemoryStore::new(64 << 20, 1 << 20))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_conforms() {
    let Some(store) = redis_from("SHOAL_TEST_REDIS").await else { return };
    all(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster_conforms() {
    let Some(store) = redis_from("SHOAL_TEST_REDIS_CLUSTER").await else { return };
    all(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_one_redis() {
    let (Some(one), Some(two)) = (redis_from("SHOAL_TEST_REDIS").await, redis_from("SHOAL_TEST_REDIS").await)
    else {
        return;
    };
    let one = Case::new(one);
    let two = Case { store: two, namespace: one.namespace.clone() };
    let key = one.key("k");
    let token = one.granted(&key).await;
    let ended = two.store.ended(&key);
    assert!(matches!(two.acquire(&key, Token::random()).await, Acquired::Held { by, .. } if by == token));
    one.store.release(&key, token).await.expect("release");
    tokio::time::timeout(PATIENCE, ended).await.expect("the other hears of it");
    let token = one.granted(&key).await;
    two.delete(&key).await;
    assert!(!one.fill(&key, token, "old").await, "the other's delete refuses the fill");
    two.put(&key, "v").await;
    assert_eq!(one.value(&key).await.as_deref(), Some("v"));
}

#[test]
fn engine_down_is_unavailable() {
    let error =
        StoreError::Engine(shoal_kit::EngineError::Unavailable { engine: "redis", detail: "x".into() });
    let fault = shoal_kit::ApiError::from(crate::error::Error::Store(error));
    assert_eq!((fault.code(), fault.reason().as_str()), (tonic::Code::Unavailable, "ENGINE_UNAVAILABLE"));
}
