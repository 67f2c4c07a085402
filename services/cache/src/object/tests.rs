//! Tests of objects over the store in RAM: who waits for which load, and what becomes of its result.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use shoal_kit::EngineError;
use shoal_tag_clock::{MemoryClock, TagClock};
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use super::*;
use crate::body::Body;
use crate::config::Config;
use crate::key::NamespaceName;
use crate::key::Tags;
use crate::loader::{Lifetime, LoadError, Loaded, Loader, Loads, Wanted};
use crate::store::conformance::record;
use crate::store::{Acquired, Draft, Filled, Incremented, MemoryStore, Token};

const KIND: &str = "page";
const PATIENCE: Duration = Duration::from_secs(10);

/// A loader whose answer and moment of answering a test decides.
pub(super) struct Desk {
    answer: Mutex<Result<Loaded, LoadError>>,
    /// The ids of each call.
    asked: Mutex<Vec<Vec<String>>>,
    /// A permit for each load that may answer.
    gate: Semaphore,
    begun: AtomicUsize,
    running: AtomicUsize,
    running_most: AtomicUsize,
}

impl Desk {
    /// Loads wait for `open`.
    fn closed(value: &str) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(Ok(page(value))),
            asked: Mutex::default(),
            gate: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            running_most: AtomicUsize::new(0),
        })
    }

    fn open(value: &str) -> Arc<Self> {
        let desk = Self::closed(value);
        desk.gate.add_permits(1000);
        desk
    }

    fn answers(&self, answer: Result<Loaded, LoadError>) {
        *self.answer.lock().expect("no panic") = answer;
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

/// The loader reads when it is asked and answers when it may.
struct Behind(Arc<Desk>);

impl Loader for Behind {
    fn load(&self, _kind: &str, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Loads, LoadError>> {
        let desk = self.0.clone();
        async move {
            let answer = desk.answer.lock().expect("no panic").clone();
            desk.asked
                .lock()
                .expect("no panic")
                .push(wanted.iter().map(|wanted| wanted.id.clone()).collect());
            desk.begun.fetch_add(1, Ordering::SeqCst);
            let running = desk.running.fetch_add(1, Ordering::SeqCst) + 1;
            desk.running_most.fetch_max(running, Ordering::SeqCst);
            desk.gate.acquire().await.expect("never closed").forget();
            desk.running.fetch_sub(1, Ordering::SeqCst);
            Ok(vec![Ok(answer?); wanted.len()])
        }
        .boxed()
    }
}

fn behind(desk: &Arc<Desk>) -> Arc<dyn Loader> {
    Arc::new(Behind(desk.clone()))
}

fn page(value: &str) -> Loaded {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Loaded::Object { value, tags: Tags::default(), lifetime: Lifetime::OfKind, version: Bytes::new() }
}

/// Starts a clone with the kind `page`, whose section has `toml` in it.
pub(super) fn clone_of(store: Arc<dyn Store>, loader: &Arc<dyn Loader>, toml: &str) -> Arc<Objects> {
    let toml = format!("flights_max = 50\n[object.{KIND}]\nloader = 'http://127.0.0.1:1'\n{toml}");
    let config: Config = toml::from_str(&toml).expect("valid");
    let kinds = Kinds::new("test", &config, |_, _, _| Ok(loader.clone()), None).expect("valid");
    let namespaces = Arc::new(Namespaces::new("test", &config).expect("valid"));
    Objects::new(store, namespaces, kinds, config.flights_max, TaskTracker::new(), CancellationToken::new())
}

pub(super) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(64 << 20, 1 << 20))
}

struct Harness {
    store: Arc<dyn Store>,
    desk: Arc<Desk>,
    objects: Arc<Objects>,
}

impl Harness {
    fn new(desk: Arc<Desk>, toml: &str) -> Self {
        let store = memory();
        let objects = clone_of(store.clone(), &behind(&desk), toml);
        Self { store, desk, objects }
    }

    /// Starts another clone on the same store.
    fn sibling(&self, toml: &str) -> Arc<Objects> {
        clone_of(self.store.clone(), &behind(&self.desk), toml)
    }

    fn call(&self, id: &str) -> tokio::task::JoinHandle<Result<Object, Error>> {
        let (objects, id) = (self.objects.clone(), id.to_owned());
        tokio::spawn(async move { objects.get(KIND, &id, None).await })
    }

    async fn get(&self, id: &str) -> Result<Object, Error> {
        self.objects.get(KIND, id, None).await
    }

    fn count(&self, event: Event) -> u64 {
        counted(&self.objects, event)
    }

    async fn loads_begun(&self, loads: usize) {
        until("loads begin", || self.desk.begun() >= loads).await;
        assert_eq!(self.desk.begun(), loads);
    }
}

pub(super) fn counted(objects: &Objects, event: Event) -> u64 {
    objects.namespaces.of(&NamespaceName::of_kind(KIND).expect("valid")).counters.get(event)
}

fn key(id: &str) -> Key {
    Key::of_object(NamespaceName::of_kind(KIND).expect("valid"), id).expect("valid")
}

async fn until(what: &str, probe: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < deadline, "never: {what}");
        yield_now().await;
    }
}

fn text(object: &Object) -> &str {
    std::str::from_utf8(&object.value).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_are_one_load() {
    let harness = Harness::new(Desk::closed("v"), "");
    let calls: Vec<_> = (0..100).map(|_| harness.call("a")).collect();
    until("all wait", || harness.count(Event::Coalesced) == 99).await;
    harness.desk.gate.add_permits(1);
    for answer in join_all(calls).await {
        let object = answer.expect("no panic").expect("loaded");
        assert_eq!((text(&object), object.from_cache), ("v", false));
    }
    assert_eq!((harness.desk.begun(), harness.count(Event::Load)), (1, 1));
    let object = harness.get("a").await.expect("cached");
    assert_eq!((text(&object), object.from_cache), ("v", true));
    assert_eq!(harness.objects.flights(), 0);
}

#[tokio::test]
async fn load_outlives_its_first_caller() {
    let harness = Harness::new(Desk::closed("v"), "");
    let first = harness.call("a");
    harness.loads_begun(1).await;
    let second = harness.call("a");
    until("the second waits", || harness.count(Event::Coalesced) == 1).await;
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    harness.desk.gate.add_permits(1);
    assert_eq!(text(&second.await.expect("no panic").expect("loaded")), "v");
    assert_eq!(harness.desk.begun(), 1);
}

#[tokio::test]
async fn abandoned_load_still_fills() {
    let harness = Harness::new(Desk::closed("v"), "");
    let only = harness.call("a");
    harness.loads_begun(1).await;
    only.abort();
    harness.desk.gate.add_permits(1);
    until("it lands", || harness.objects.flights() == 0).await;
    assert!(harness.get("a").await.expect("cached").from_cache);
}

#[tokio::test]
async fn callers_after_delete_load_anew() {
    let harness = Harness::new(Desk::closed("old"), "");
    let before = harness.call("a");
    harness.loads_begun(1).await;
    harness.store.delete_key(&key("a")).await.expect("deleted");
    harness.desk.answers(Ok(page("new")));
    let after = harness.call("a");
    harness.loads_begun(2).await;

    harness.desk.gate.add_permits(2);
    assert_eq!(text(&before.await.expect("no panic").expect("loaded")), "old", "it waited already");
    assert_eq!(text(&after.await.expect("no panic").expect("loaded")), "new");
    assert_eq!(harness.count(Event::RefusedFill), 1);
    let object = harness.get("a").await.expect("cached");
    assert_eq!((text(&object), object.from_cache), ("new", true));
}

#[tokio::test]
async fn set_during_load_stays() {
    let harness = Harness::new(Desk::closed("old"), "");
    let before = harness.call("a");
    harness.loads_begun(1).await;
    let body = Body::Plain(Bytes::from_static(b"set"));
    let draft = Draft::new(body, Tags::default(), Duration::from_secs(60));
    assert!(harness.store.put(&key("a"), draft, false).await.expect("put"));
    harness.desk.gate.add_permits(1);
    before.await.expect("no panic").expect("loaded");
    assert_eq!(text(&harness.get("a").await.expect("cached")), "set");
}

#[tokio::test]
async fn errors_reach_all_uncached() {
    let harness = Harness::new(Desk::closed("v"), "");
    harness.desk.answers(Err(LoadError::Unreachable { detail: "gone".into() }));
    let calls: Vec<_> = (0..10).map(|_| harness.call("a")).collect();
    until("all wait", || harness.count(Event::Coalesced) == 9).await;
    harness.desk.answers(Ok(page("v")));
    harness.desk.gate.add_permits(1000);
    for answer in join_all(calls).await {
        let error = answer.expect("no panic").expect_err("the loader failed");
        assert!(error.to_string().contains("gone"), "{error}");
    }
    assert_eq!(text(&harness.get("a").await.expect("loaded again")), "v");
    assert_eq!((harness.desk.begun(), harness.count(Event::LoadFailure)), (2, 1));
}

#[tokio::test]
async fn negative_results_have_own_ttl() {
    let harness = Harness::new(Desk::open("v"), "negative_ttl = '30ms'");
    harness.desk.answers(Ok(Loaded::Missing { tags: Tags::default() }));
    for _ in 0..2 {
        let error = harness.get("a").await.expect_err("there is none");
        assert!(matches!(error, Error::ObjectNotFound { .. }), "{error}");
    }
    assert_eq!(harness.desk.begun(), 1, "the second time from the cache");
    harness.desk.answers(Ok(page("v")));
    let deadline = Instant::now() + PATIENCE;
    while harness.get("a").await.is_err() {
        assert!(Instant::now() < deadline, "the negative result never ends");
        yield_now().await;
    }
}

#[tokio::test]
async fn kind_timeout_ends_load_for_all() {
    let harness = Harness::new(Desk::closed("v"), "load_timeout = '30ms'");
    let (one, two) = (harness.call("a"), harness.call("a"));
    for call in [one, two] {
        let fault = shoal_kit::ApiError::from(call.await.expect("no panic").expect_err("too slow"));
        assert_eq!(fault.reason(), "LOADER_TIMED_OUT");
        assert!(fault.message().contains("30ms") && fault.message().contains("127.0.0.1:1"), "{fault:?}");
    }
    harness.desk.gate.add_permits(1000);
    assert_eq!(text(&harness.get("a").await.expect("the lease was given back")), "v");
}

#[tokio::test]
async fn loads_of_a_kind_take_turns() {
    let harness = Harness::new(Desk::closed("v"), "loads_max = 2");
    let calls: Vec<_> = (0..10).map(|id| harness.call(&id.to_string())).collect();
    for turn in 1..=10 {
        harness.desk.gate.add_permits(1);
        until("a turn ends", || harness.desk.begun() >= (turn + 2).min(10)).await;
    }
    for call in calls {
        call.await.expect("no panic").expect("loaded");
    }
    assert_eq!(harness.desk.running_most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn overdue_waiters_are_told_busy() {
    let harness = Harness::new(Desk::closed("v"), "loads_max = 1\nload_timeout = '100ms'");
    // The first has not ended when the others have waited for half of the time that a load may take.
    let calls: Vec<_> = ["a", "b", "c"].into_iter().map(|id| harness.call(id)).collect();
    let mut reasons = Vec::new();
    for call in calls {
        reasons.push(shoal_kit::ApiError::from(call.await.expect("no panic").expect_err("stuck")).reason());
    }
    assert_eq!(reasons, ["LOADER_TIMED_OUT", "TOO_MANY_LOADS", "TOO_MANY_LOADS"]);
}

#[tokio::test]
async fn flights_of_a_clone_are_bounded() {
    let harness = Harness::new(Desk::closed("v"), "loads_max = 100");
    let calls: Vec<_> = (0..50).map(|index| harness.call(&index.to_string())).collect();
    harness.loads_begun(50).await;
    let error = harness.get("one more").await.expect_err("full");
    assert!(matches!(error, Error::Busy { loads_max: 50, .. }), "{error}");
    harness.desk.gate.add_permits(1000);
    for call in calls {
        call.await.expect("no panic").expect("loaded");
    }
    harness.get("one more").await.expect("there is room again");
}

#[tokio::test]
async fn too_large_object_stays_uncached() {
    let harness = Harness::new(Desk::open("12345"), "max_value = 4");
    for load in 1..=2 {
        let object = harness.get("a").await.expect("loaded");
        assert_eq!((text(&object), object.from_cache), ("12345", false));
        assert_eq!((harness.desk.begun(), harness.count(Event::Oversized)), (load, load as u64));
    }
}

#[tokio::test]
async fn loader_sets_the_ttl() {
    let harness = Harness::new(Desk::open("v"), "ttl = '10m'\njitter = 0.0");
    let mut ends = Vec::new();
    for (id, lifetime) in [
        ("kind", Lifetime::OfKind),
        ("own", Lifetime::Own(Duration::from_secs(7200))),
        ("at most", Lifetime::AtMost(Duration::from_secs(60))),
        ("never", Lifetime::Own(Duration::ZERO)),
    ] {
        let (tags, version) = (Tags::default(), Bytes::new());
        harness.desk.answers(Ok(Loaded::Object { value: Bytes::new(), tags, lifetime, version }));
        harness.get(id).await.expect("loaded");
        let found = harness.store.get(&key(id)).await.expect("get");
        ends.push(record(found).map(|record| {
            let left = record.expires_at.duration_since(std::time::SystemTime::now()).expect("in the future");
            left.as_secs_f64().round() as u64
        }));
    }
    assert_eq!(ends, [Some(600), Some(7200), Some(60), None]);
}

#[tokio::test]
async fn two_clones_are_one_load() {
    let harness = Harness::new(Desk::closed("v"), "");
    let sibling = harness.sibling("");
    let first = harness.call("a");
    harness.loads_begun(1).await;
    let follower = sibling.clone();
    let second = tokio::spawn(async move { follower.get(KIND, "a", None).await });
    until("the sibling follows", || sibling.flights() == 1).await;
    // Who comes to the sibling now has seen the same lease, and follows with the first.
    let follower = sibling.clone();
    let third = tokio::spawn(async move { follower.get(KIND, "a", None).await });
    until("the third waits too", || counted(&sibling, Event::Coalesced) == 1).await;
    harness.desk.gate.add_permits(1);
    assert!(!first.await.expect("no panic").expect("loaded").from_cache);
    for follower in [second, third] {
        let object = follower.await.expect("no panic").expect("filled by the other clone");
        assert_eq!((text(&object), object.from_cache), ("v", true));
    }
    assert_eq!(harness.desk.begun(), 1);
}

#[tokio::test]
async fn followers_learn_of_load_timeout() {
    let harness = Harness::new(Desk::closed("v"), "load_timeout = '300ms'");
    let sibling = harness.sibling("load_timeout = '300ms'");
    let first = harness.call("a");
    harness.loads_begun(1).await;
    let followers: Vec<_> = (0..3)
        .map(|_| {
            let follower = sibling.clone();
            tokio::spawn(async move { follower.get(KIND, "a", None).await })
        })
        .collect();
    until("the sibling follows", || sibling.flights() == 1).await;
    for call in followers.into_iter().chain([first]) {
        let fault = shoal_kit::ApiError::from(call.await.expect("no panic").expect_err("too slow"));
        assert_eq!(fault.reason(), "LOADER_TIMED_OUT");
    }
    assert_eq!(harness.desk.begun(), 1, "they fail together, not one after the other");
    harness.desk.gate.add_permits(1000);
    assert_eq!(text(&sibling.get(KIND, "a", None).await.expect("the lease was given back")), "v");
}

#[tokio::test]
async fn delete_during_followed_load_reloads() {
    let harness = Harness::new(Desk::closed("v"), "load_timeout = '5s'");
    let sibling = harness.sibling("load_timeout = '5s'");
    let first = harness.call("a");
    harness.loads_begun(1).await;
    let follower = sibling.clone();
    let second = tokio::spawn(async move { follower.get(KIND, "a", None).await });
    until("the sibling follows", || sibling.flights() == 1).await;
    harness.store.delete_key(&key("a")).await.expect("deleted");
    harness.loads_begun(2).await;
    harness.desk.gate.add_permits(1000);
    for call in [first, second] {
        assert_eq!(text(&call.await.expect("no panic").expect("loaded")), "v");
    }
}

#[tokio::test]
async fn long_load_keeps_its_lease() {
    let harness = Harness::new(Desk::closed("v"), "load_timeout = '30s'");
    let sibling = harness.sibling("load_timeout = '30s'");
    let first = harness.call("a");
    harness.loads_begun(1).await;
    let second = tokio::spawn(async move { sibling.get(KIND, "a", None).await });
    // Longer than a lease lasts by itself.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(harness.desk.begun(), 1, "the lease was renewed");
    harness.desk.gate.add_permits(1000);
    for call in [first, second] {
        assert_eq!(text(&call.await.expect("no panic").expect("loaded")), "v");
    }
    assert_eq!(harness.desk.begun(), 1);
}

fn tagged(value: &str, tag: &str) -> Loaded {
    let tags = Tags::parse(vec![tag.to_owned()]).expect("valid");
    let value = Bytes::copy_from_slice(value.as_bytes());
    Loaded::Object { value, tags, lifetime: Lifetime::OfKind, version: Bytes::new() }
}

async fn invalidate(harness: &Harness, tag: &str) {
    let namespace = NamespaceName::of_kind(KIND).expect("valid");
    harness.store.clock().invalidate(namespace.as_str(), &[tag.to_owned()]).await.expect("invalidated");
}

#[tokio::test]
async fn caller_after_invalidation_gets_no_refused_value() {
    let harness = Harness::new(Desk::closed("-"), "");
    harness.desk.answers(Ok(tagged("old", "t")));
    let before = harness.call("a");
    harness.loads_begun(1).await;
    invalidate(&harness, "t").await;
    harness.desk.answers(Ok(tagged("new", "t")));
    // It sees the lease of the load, which the invalidation of a tag does not end.
    let after = harness.call("a");
    until("it joins", || harness.count(Event::Coalesced) == 1).await;
    harness.desk.gate.add_permits(1000);
    assert_eq!(text(&before.await.expect("no panic").expect("loaded")), "old", "it waited already");
    assert_eq!(text(&after.await.expect("no panic").expect("loaded")), "new");
    assert_eq!(harness.count(Event::RefusedFill), 1);
    let object = harness.get("a").await.expect("cached");
    assert_eq!((text(&object), object.from_cache), ("new", true));
}

#[tokio::test]
async fn tag_reveals_what_was_missing() {
    let harness = Harness::new(Desk::open("-"), "negative_ttl = '1h'\nstale_if_error = '1h'");
    let tags = Tags::parse(vec!["t".to_owned()]).expect("valid");
    harness.desk.answers(Ok(Loaded::Missing { tags }));
    harness.get("a").await.expect_err("there is none");
    harness.desk.answers(Ok(page("made")));
    invalidate(&harness, "t").await;
    let object = harness.get("a").await.expect("made meanwhile");
    assert_eq!((text(&object), object.from_cache), ("made", false));
    assert_eq!(object.why, Some(crate::store::MissReason::Invalidated { tag: Some("t".into()) }));
}

#[tokio::test]
async fn invalidated_object_is_never_stale() {
    let harness = Harness::new(Desk::open("-"), "stale_if_error = '1h'");
    harness.desk.answers(Ok(tagged("v", "t")));
    harness.get("a").await.expect("loaded");
    invalidate(&harness, "t").await;
    harness.desk.answers(Err(LoadError::Unreachable { detail: "gone".into() }));
    harness.get("a").await.expect_err("not even while the loader is away");
}

#[tokio::test]
async fn dead_holder_costs_one_lease() {
    let harness = Harness::new(Desk::open("v"), "");
    let limit = Duration::from_millis(60);
    harness.store.acquire(&key("a"), Token::random(), limit, false).await.expect("acquired");
    let began = Instant::now();
    assert_eq!(text(&harness.get("a").await.expect("loaded")), "v");
    assert!(began.elapsed() >= limit && began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

/// A store that cannot be reached.
struct Down(TagClock);

impl Down {
    fn new() -> Arc<Self> {
        Arc::new(Self(TagClock::Memory(MemoryClock::new(1))))
    }
}

fn down<T>() -> BoxFuture<'static, Result<T, StoreError>>
where
    T: Send + 'static,
{
    futures::future::ready(Err(EngineError::Unavailable { engine: "redis", detail: "down".into() }.into()))
        .boxed()
}

impl Store for Down {
    fn look<'a>(&'a self, _: &'a [Key], _: bool) -> BoxFuture<'a, Result<Vec<Found>, StoreError>> {
        down()
    }
    fn put<'a>(&'a self, _: &'a Key, _: Draft, _: bool) -> BoxFuture<'a, Result<bool, StoreError>> {
        down()
    }
    fn delete<'a>(&'a self, _: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        down()
    }
    fn expire<'a>(&'a self, _: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        down()
    }
    fn clock(&self) -> &TagClock {
        &self.0
    }
    fn touch<'a>(&'a self, _: &'a Key, _: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        down()
    }
    fn increment<'a>(
        &'a self,
        _: &'a Key,
        _: i64,
        _: i64,
        _: Duration,
    ) -> BoxFuture<'a, Result<Incremented, StoreError>> {
        down()
    }
    fn acquire<'a>(
        &'a self,
        _: &'a Key,
        _: Token,
        _: Duration,
        _: bool,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        down()
    }
    fn fill<'a>(&'a self, _: &'a Key, _: Token, _: Draft) -> BoxFuture<'a, Result<Filled, StoreError>> {
        down()
    }
    fn renew<'a>(&'a self, _: &'a Key, _: Token, _: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        down()
    }
    fn ended(&self, _: &Key) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }
    fn release<'a>(&'a self, _: &'a Key, _: Token) -> BoxFuture<'a, Result<(), StoreError>> {
        down()
    }
}

#[tokio::test]
async fn uncoordinated_loads_take_turns() {
    let desk = Desk::closed("old");
    let objects = clone_of(Down::new(), &behind(&desk), "");
    let harness = Harness { store: Down::new(), desk, objects };
    let before = harness.call("a");
    harness.loads_begun(1).await;
    harness.desk.answers(Ok(page("new")));
    // A write may have returned since the first load began: nobody who comes now may have its result.
    let after: Vec<_> = (0..50).map(|_| harness.call("a")).collect();
    until("they wait together", || harness.count(Event::Coalesced) == 49).await;
    assert_eq!((harness.desk.begun(), harness.objects.flights()), (1, 2));
    harness.desk.gate.add_permits(2);
    assert_eq!(text(&before.await.expect("no panic").expect("loaded")), "old");
    for call in after {
        let object = call.await.expect("no panic").expect("loaded");
        assert_eq!((text(&object), object.from_cache), ("new", false));
    }
    assert_eq!((harness.desk.begun(), harness.desk.running_most.load(Ordering::SeqCst)), (2, 1));
    assert_eq!(harness.count(Event::Bypass), 2);
}

#[tokio::test]
async fn undeclared_kind_error_explains_declaration() {
    let harness = Harness::new(Desk::open("v"), "");
    let reason = async |kind: &str| {
        let error = harness.objects.get(kind, "a", None).await.expect_err(kind);
        shoal_kit::ApiError::from(error)
    };
    let fault = reason("user").await;
    assert_eq!(
        (fault.code(), fault.reason().as_str()),
        (tonic::Code::FailedPrecondition, "KIND_NOT_DECLARED")
    );
    assert!(fault.message().contains("[cache.object.\"user\"]"), "{}", fault.message());
    assert_eq!(reason("data.users").await.reason(), "NO_DATA_PEER");
    assert_eq!(reason("data.No Such").await.reason(), "INVALID_NAME");
    assert_eq!(reason("data.Users").await.reason(), "INVALID_NAME");
    assert_eq!(reason("").await.reason(), "INVALID_NAME");
}
