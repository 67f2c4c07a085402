//! What every store must do, run on each of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;

use super::{Acquired, Draft, Found, MemoryStore, Record, RedisStore, Store, StoreError, Token};
use crate::body::Body;
use crate::key::{Key, Namespace, Tags};

/// Longer than any test.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store and a namespace that no other test uses.
pub(super) struct Case {
    pub(super) store: Arc<dyn Store>,
    namespace: Namespace,
}

impl Case {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let namespace = Namespace::parse(&format!("t-{:016x}", fastrand::u64(..))).expect("valid");
        Self { store, namespace }
    }

    pub(super) fn key(&self, name: &str) -> Key {
        Key::parse(self.namespace.clone(), name).expect("valid")
    }

    pub(super) async fn put(&self, key: &Key, value: &str) {
        assert!(self.store.put(key, draft(value), false).await.expect("put"));
    }

    /// The value, without the rest of the record.
    pub(super) async fn value(&self, key: &Key) -> Option<String> {
        value(self.store.get(key).await.expect("get"))
    }

    async fn body(&self, key: &Key) -> Option<Body> {
        self.store.get(key).await.expect("get").map(|record| record.body)
    }

    pub(super) async fn acquire(&self, key: &Key, token: Token) -> Acquired {
        self.store.acquire(key, token, LONG).await.expect("acquire")
    }

    pub(super) async fn granted(&self, key: &Key) -> Token {
        let token = Token::random();
        assert_eq!(self.acquire(key, token).await, Acquired::Granted);
        token
    }

    pub(super) async fn fill(&self, key: &Key, token: Token, value: &str) -> bool {
        self.store.fill(key, token, draft(value)).await.expect("fill")
    }
}

pub(super) fn draft(value: &str) -> Draft {
    let body = Body::Plain(Bytes::copy_from_slice(value.as_bytes()));
    Draft { body, tags: Tags::default(), ttl: LONG }
}

fn value(record: Option<Record>) -> Option<String> {
    let bytes = record?.body.unpack().expect("not damaged")?;
    Some(String::from_utf8(bytes.into()).expect("text"))
}

async fn eventually(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !probe().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn what_is_put_is_found_until_it_is_deleted(case: &Case) {
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
        let draft = Draft { body: body.clone(), tags: tags.clone(), ttl: LONG };
        assert!(case.store.put(&key, draft, false).await.expect("put"));
        let record = case.store.get(&key).await.expect("get").expect("there");
        assert_eq!((&record.body, &record.tags), (&body, &tags));
        assert!(record.age < PATIENCE, "{:?}", record.age);
        let ends_in = record.expires_at.duration_since(before).expect("in the future");
        assert!(ends_in.abs_diff(LONG) < PATIENCE, "{ends_in:?}");
        assert_eq!(case.store.find(&key).await.map(|found| matches!(found, Found::Record(_))), Ok(true));
    }
    case.store.delete(&key).await.expect("delete");
    assert_eq!(case.body(&key).await, None);
    case.store.delete(&key).await.expect("deleting what is not there succeeds");
}

async fn keys_and_namespaces_are_apart(case: &Case) {
    let other = Case::new(case.store.clone());
    for (index, name) in ["k", "K", "k}", "{k}", "e:k", "é\n\0", &"x".repeat(1024)].iter().enumerate() {
        case.put(&case.key(name), &index.to_string()).await;
        assert_eq!(other.value(&other.key(name)).await, None, "{name}");
    }
    for (index, name) in ["k", "K", "k}", "{k}", "e:k", "é\n\0", &"x".repeat(1024)].iter().enumerate() {
        assert_eq!(case.value(&case.key(name)).await, Some(index.to_string()), "{name}");
    }
}

async fn only_if_absent_keeps_what_is_there(case: &Case) {
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

async fn only_if_absent_is_one_step(case: &Case) {
    let key = case.key("k");
    let sets = (0..50).map(|index| {
        let (store, key) = (case.store.clone(), key.clone());
        async move { store.put(&key, draft(&index.to_string()), true).await.expect("put") }
    });
    let won = join_all(sets).await.into_iter().filter(|stored| *stored).count();
    assert_eq!(won, 1);
}

async fn entries_end(case: &Case) {
    let key = case.key("k");
    let short = Draft { ttl: Duration::from_millis(40), ..draft("v") };
    assert!(case.store.put(&key, short, false).await.expect("put"));
    eventually("the entry ends", async || case.value(&key).await.is_none()).await;
    assert!(case.store.put(&key, draft("w"), true).await.expect("put"), "what has ended is absent");
}

async fn one_of_many_gets_the_lease_and_the_others_see_whose_it_is(case: &Case) {
    let key = case.key("k");
    let asks = (0..50).map(|_| {
        let (store, key, token) = (case.store.clone(), key.clone(), Token::random());
        async move { (token, store.acquire(&key, token, LONG).await.expect("acquire")) }
    });
    let answers = join_all(asks).await;
    let granted: Vec<_> =
        answers.iter().filter(|(_, answer)| *answer == Acquired::Granted).map(|(token, _)| *token).collect();
    assert_eq!(granted.len(), 1, "{answers:?}");
    for (_, answer) in &answers {
        if let Acquired::Held { by, left } = answer {
            assert_eq!(*by, granted[0]);
            assert!(*left <= LONG && *left > LONG - PATIENCE, "{left:?}");
        }
    }
    assert_eq!(case.store.find(&key).await, Ok(Found::Absent { lease: Some(granted[0]) }));
    assert_eq!(case.acquire(&key, granted[0]).await, Acquired::Granted, "asking again with the same token");
}

async fn a_fill_stores_under_its_lease_and_ends_it(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    assert!(!case.fill(&key, Token::random(), "foreign").await);
    assert!(case.fill(&key, token, "v").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("v"));
    assert!(matches!(case.acquire(&key, Token::random()).await, Acquired::Record(_)));
    assert!(!case.fill(&key, token, "again").await, "a lease fills once");
    assert_eq!(case.value(&key).await.as_deref(), Some("v"));
}

/// I1: the heart of the matter.
async fn a_write_or_delete_refuses_every_fill_that_began_before_it(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    case.store.delete(&key).await.expect("delete");
    assert_eq!(case.store.find(&key).await, Ok(Found::Absent { lease: None }), "the delete ends the lease");
    assert!(!case.fill(&key, token, "old").await);
    assert_eq!(case.value(&key).await, None);

    let token = case.granted(&key).await;
    case.put(&key, "new").await;
    assert!(!case.fill(&key, token, "old").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));

    case.store.delete(&key).await.expect("delete");
    let old = case.granted(&key).await;
    case.store.delete(&key).await.expect("delete");
    let new = case.granted(&key).await;
    assert!(!case.fill(&key, old, "old").await, "another load has the lease now");
    assert!(case.fill(&key, new, "new").await);
    assert_eq!(case.value(&key).await.as_deref(), Some("new"));
}

async fn a_refused_conditional_put_leaves_the_lease_alone(case: &Case) {
    let key = case.key("k");
    case.put(&key, "there").await;
    assert!(!case.store.put(&key, draft("v"), true).await.expect("put"));
    assert_eq!(case.value(&key).await.as_deref(), Some("there"));
}

async fn a_lease_is_given_back_by_its_holder_only(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    case.store.release(&key, Token::random()).await.expect("release");
    assert!(matches!(case.acquire(&key, Token::random()).await, Acquired::Held { .. }));
    case.store.release(&key, token).await.expect("release");
    assert!(!case.fill(&key, token, "late").await);
    case.granted(&key).await;
}

async fn a_lease_that_ran_out_fills_nothing(case: &Case) {
    let key = case.key("k");
    let (dead, next) = (Token::random(), Token::random());
    let limit = Duration::from_millis(40);
    assert_eq!(case.store.acquire(&key, dead, limit).await, Ok(Acquired::Granted));
    eventually("the lease runs out", async || case.acquire(&key, next).await == Acquired::Granted).await;
    assert!(!case.fill(&key, dead, "late").await);
    assert!(case.fill(&key, next, "v").await);
}

async fn who_waits_for_a_lease_hears_of_its_end(case: &Case) {
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
            "delete" => case.store.delete(&key).await.expect("delete"),
            _ => case.store.release(&key, token).await.expect("release"),
        }
        tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{end} told nobody"));
    }
}

async fn a_filled_entry_is_as_old_as_its_load(case: &Case) {
    let key = case.key("k");
    let token = case.granted(&key).await;
    let began = tokio::time::Instant::now();
    eventually("some time passes", async || began.elapsed() > Duration::from_millis(20)).await;
    assert!(case.fill(&key, token, "v").await);
    let age = case.store.get(&key).await.expect("get").expect("there").age;
    assert!(age >= Duration::from_millis(20) && age < PATIENCE, "{age:?}");
}

/// Runs every check on a store, each in a namespace of its own.
async fn all(store: Arc<dyn Store>) {
    macro_rules! run {
        ($($check:ident),* $(,)?) => {
            $(
                eprintln!("  {}", stringify!($check));
                $check(&Case::new(store.clone())).await;
            )*
        };
    }
    run!(
        what_is_put_is_found_until_it_is_deleted,
        keys_and_namespaces_are_apart,
        only_if_absent_keeps_what_is_there,
        only_if_absent_is_one_step,
        entries_end,
        one_of_many_gets_the_lease_and_the_others_see_whose_it_is,
        a_fill_stores_under_its_lease_and_ends_it,
        a_write_or_delete_refuses_every_fill_that_began_before_it,
        a_refused_conditional_put_leaves_the_lease_alone,
        a_lease_is_given_back_by_its_holder_only,
        a_lease_that_ran_out_fills_nothing,
        who_waits_for_a_lease_hears_of_its_end,
        a_filled_entry_is_as_old_as_its_load,
    );
}

/// A store on the Redis that a variable names.
pub(crate) async fn redis_from(variable: &str) -> Option<Arc<RedisStore>> {
    let Ok(url) = std::env::var(variable) else {
        assert!(
            std::env::var("SHOAL_TEST_REQUIRE").is_err(),
            "{variable} is not set, and SHOAL_TEST_REQUIRE is"
        );
        eprintln!("SKIPPED: {variable} names no Redis");
        return None;
    };
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
async fn two_clones_on_one_redis_see_each_other() {
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
    two.store.delete(&key).await.expect("delete");
    assert!(!one.fill(&key, token, "old").await, "the other's delete refuses the fill");
    two.put(&key, "v").await;
    assert_eq!(one.value(&key).await.as_deref(), Some("v"));
}

#[test]
fn an_engine_that_is_down_is_said_to_be_so() {
    let error =
        StoreError::Engine(shoal_kit::EngineError::Unavailable { engine: "redis", detail: "x".into() });
    let fault = shoal_kit::ApiError::from(crate::error::Error::Store(error));
    assert_eq!((fault.code(), fault.reason().as_str()), (tonic::Code::Unavailable, "ENGINE_UNAVAILABLE"));
}
