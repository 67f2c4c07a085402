//! A store under test with a namespace of its own, and what checks do with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::body::Body;
use crate::key::{Key, NamespaceName, Tags};
use crate::store::{Acquired, Draft, Filled, Found, MissReason, Record, Store, Token};

/// A time to live longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// The longest wait of a test for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A store and a namespace that no other test uses.
pub(crate) struct Case {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) namespace: NamespaceName,
}

impl Case {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let namespace = NamespaceName::parse(&format!("t-{:016x}", fastrand::u64(..))).expect("valid");
        Self { store, namespace }
    }

    pub(crate) fn key(&self, name: &str) -> Key {
        Key::parse(self.namespace.clone(), name).expect("valid")
    }

    pub(crate) async fn put(&self, key: &Key, value: &str) {
        assert!(self.store.put(key, draft(value), false).await.expect("put"));
    }

    /// Returns the value, without the rest of the record.
    pub(crate) async fn value(&self, key: &Key) -> Option<String> {
        value(self.record(key).await)
    }

    pub(crate) async fn body(&self, key: &Key) -> Option<Body> {
        self.record(key).await.map(|record| record.body)
    }

    pub(crate) async fn record(&self, key: &Key) -> Option<Record> {
        record(self.found(key).await)
    }

    pub(crate) async fn found(&self, key: &Key) -> Found {
        self.store.get(key).await.expect("get")
    }

    /// Returns the reason of a miss, and the value that has expired.
    pub(crate) async fn miss(&self, key: &Key) -> (MissReason, Option<String>) {
        match self.found(key).await {
            Found::Absent { why, stale, .. } => (why, value(stale)),
            found => panic!("{found:?} is no miss"),
        }
    }

    /// Returns the value that has expired, unless the key is a hit.
    pub(crate) async fn miss_or_none(&self, key: &Key) -> Option<Option<String>> {
        match self.found(key).await {
            Found::Absent { stale, .. } => Some(value(stale)),
            Found::Record(_) => None,
        }
    }

    pub(crate) async fn delete(&self, key: &Key) {
        self.store.delete_key(key).await.expect("delete");
    }

    pub(crate) async fn expire(&self, key: &Key) {
        self.store.expire(std::slice::from_ref(key)).await.expect("expire");
    }

    pub(crate) async fn put_draft(&self, key: &Key, draft: Draft) {
        assert!(self.store.put(key, draft, false).await.expect("put"));
    }

    pub(crate) async fn invalidate(&self, tag: &str) {
        let clock = self.store.clock();
        clock.invalidate(self.namespace.as_str(), &[tag.to_owned()]).await.expect("invalidate");
    }

    pub(crate) async fn expire_tag(&self, tag: &str) {
        self.store.clock().expire(self.namespace.as_str(), &[tag.to_owned()]).await.expect("expire");
    }

    pub(crate) async fn acquire(&self, key: &Key, token: Token) -> Acquired {
        self.store.acquire(key, token, LONG, false).await.expect("acquire")
    }

    pub(crate) async fn granted(&self, key: &Key) -> Token {
        let token = Token::random();
        let acquired = self.acquire(key, token).await;
        assert!(matches!(acquired, Acquired::Granted { .. }), "{acquired:?}");
        token
    }

    pub(crate) async fn fill(&self, key: &Key, token: Token, value: &str) -> bool {
        self.store.fill(key, token, draft(value)).await.expect("fill") == Filled::Stored
    }
}

pub(crate) fn draft(value: &str) -> Draft {
    let body = Body::Plain(Bytes::copy_from_slice(value.as_bytes()));
    Draft { body, tags: Tags::default(), ttl: LONG, soft: None, stale: Duration::ZERO, version: Bytes::new() }
}

pub(crate) fn tagged(value: &str, tags: &[&str]) -> Draft {
    let tags = Tags::parse(tags.iter().map(|tag| (*tag).to_owned()).collect()).expect("valid");
    Draft { tags, ..draft(value) }
}

pub(crate) fn record(found: Found) -> Option<Record> {
    match found {
        Found::Record(record) => Some(record),
        Found::Absent { .. } => None,
    }
}

fn value(record: Option<Record>) -> Option<String> {
    let bytes = record?.body.unpack().expect("not damaged")?;
    Some(String::from_utf8(bytes.into()).expect("text"))
}

pub(crate) async fn eventually(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !probe().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
