//! A store under test with a namespace of its own, and what checks do with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::body::Body;
use crate::key::{Key, NamespaceName, Tags};
use crate::store::{Acquired, Draft, Record, Store, Token};

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
        value(self.store.get(key).await.expect("get"))
    }

    pub(crate) async fn body(&self, key: &Key) -> Option<Body> {
        self.store.get(key).await.expect("get").map(|record| record.body)
    }

    pub(crate) async fn acquire(&self, key: &Key, token: Token) -> Acquired {
        self.store.acquire(key, token, LONG).await.expect("acquire")
    }

    pub(crate) async fn granted(&self, key: &Key) -> Token {
        let token = Token::random();
        assert_eq!(self.acquire(key, token).await, Acquired::Granted);
        token
    }

    pub(crate) async fn fill(&self, key: &Key, token: Token, value: &str) -> bool {
        self.store.fill(key, token, draft(value)).await.expect("fill")
    }
}

pub(crate) fn draft(value: &str) -> Draft {
    let body = Body::Plain(Bytes::copy_from_slice(value.as_bytes()));
    Draft { body, tags: Tags::default(), ttl: LONG }
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
