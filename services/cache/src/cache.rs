//! Entries that callers set: policies, limits, packing and counting around the store.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use shoal_kit::Invalid;
use shoal_kit::reason;

use crate::body::Body;
use crate::error::Error;
use crate::key::{Key, Tags};
use crate::limit::{TTL_MAX, TTL_MIN};
use crate::namespace::{Event, Namespaces};
use crate::store::{Draft, Found, Store, StoreError};

/// A found entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) value: Bytes,
    pub(crate) tags: Tags,
    pub(crate) age: Duration,
    pub(crate) expires_at: SystemTime,
}

/// An entry to set.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) key: Key,
    pub(crate) value: Bytes,
    /// The time to live; `None`: the namespace's.
    pub(crate) ttl: Option<Duration>,
    pub(crate) tags: Tags,
    pub(crate) only_if_absent: bool,
}

/// Entries of one clone.
pub(crate) struct Cache {
    store: Arc<dyn Store>,
    namespaces: Arc<Namespaces>,
}

impl Cache {
    pub(crate) fn new(store: Arc<dyn Store>, namespaces: Arc<Namespaces>) -> Self {
        Self { store, namespaces }
    }

    /// Returns the value of a key. A negative result of a loader is `None`.
    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let namespace = self.namespaces.of(key.namespace());
        let found = self.store.get(key).await?;
        let Found::Record(record) = found else {
            namespace.counters.count(Event::Miss);
            return Ok(None);
        };
        namespace.counters.count(Event::Hit);
        let value = record.body.unpack().map_err(|error| StoreError::Broken { detail: error.to_string() })?;
        let entry =
            |value| Value { value, tags: record.tags, age: record.age, expires_at: record.expires_at };
        Ok(value.map(entry))
    }

    /// Stores a value. Returns false if it was to be stored only if absent, and one is there.
    pub(crate) async fn set(&self, set: Set) -> Result<bool, Error> {
        let namespace = self.namespaces.of(set.key.namespace());
        let policy = &namespace.policy;
        if set.value.len() > policy.value_bytes_max {
            return Err(Error::ValueTooLarge {
                namespace: set.key.namespace().as_str().to_owned(),
                bytes: set.value.len(),
                bytes_max: policy.value_bytes_max,
            });
        }
        let ttl = match set.ttl {
            None => policy.jittered(policy.ttl),
            Some(ttl) if (TTL_MIN..=TTL_MAX).contains(&ttl) => ttl,
            Some(ttl) => {
                let problem =
                    format!("must be 1 ms to 30 days, not {ttl:?}; leave it out for the namespace's");
                return Err(Invalid::new(reason::INVALID_TTL, "ttl", problem).into());
            }
        };
        let body = Body::pack(set.value, policy.compress_above).await;
        let draft = Draft::new(body, set.tags, ttl);
        Ok(self.store.put(&set.key, draft, set.only_if_absent).await?)
    }

    /// Removes a key, and refuses every load of it that began before.
    pub(crate) async fn delete(&self, key: &Key) -> Result<(), Error> {
        Ok(self.store.delete_key(key).await?)
    }
}
