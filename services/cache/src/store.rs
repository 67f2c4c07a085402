//! What the cache asks of an engine: entries, and the leases that keep a load from filling what was deleted meanwhile.

use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use shoal_kit::EngineError;

use crate::body::Body;
use crate::key::{Key, Tags};

#[cfg(test)]
pub(crate) mod conformance;
mod memory;
mod redis;
mod wake;

pub(crate) use memory::MemoryStore;
pub(crate) use redis::{Bulk, RedisStore};

/// Names one load. Random, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl Token {
    /// A new one.
    pub(crate) fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// An entry to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    /// Content.
    pub body: Body,
    /// Tags.
    pub tags: Tags,
    /// Lives this long, at least a millisecond.
    pub ttl: Duration,
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Content.
    pub body: Body,
    /// Tags.
    pub tags: Tags,
    /// Since it was stored; for a filled entry since its load began.
    pub age: Duration,
    /// When it ends; the same for every reader.
    pub expires_at: SystemTime,
}

/// What is known about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is there.
    Record(Record),
    /// It is not; somebody may be loading it.
    Absent {
        /// The load that holds the lease.
        lease: Option<Token>,
    },
}

/// What a request for a lease brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// No lease is needed: the entry is there.
    Record(Record),
    /// The lease is ours.
    Granted,
    /// Another load has it.
    Held {
        /// Which.
        by: Token,
        /// The longest it can keep it.
        left: Duration,
    },
}

/// Why the engine did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The engine did not do it, or is not known to have: a change of which nothing is known may still be made until the engine
    /// drops the connection.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine answered what it must not.
    #[error("store: {detail}")]
    Broken {
        /// What was wrong.
        detail: String,
    },
}

/// Entries and leases.
///
/// Each method is one atomic step for its key. What is lost (evicted, flushed, gone with a restart) is a miss and refuses
/// fills; it never brings an older value back. A step that a time-out left unknown changes nothing of these guarantees for
/// steps whose answer came.
pub(crate) trait Store: Send + Sync + 'static {
    /// The entry, if it is there: never one that a `put`, `fill` or `delete` that returned before this call has replaced or
    /// removed.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// Like `get`; for a key that is not there also the lease on it. A lease that is seen was not ended by any `put` or
    /// `delete` that returned before this call.
    fn find<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Found, StoreError>>;

    /// Stores an entry and ends the lease on its key, so that a load which began before it cannot replace it. With
    /// `only_if_absent` an entry that is there stays and the answer is `false`; a negative result counts as absent.
    fn put<'a>(
        &'a self,
        key: &'a Key,
        draft: Draft,
        only_if_absent: bool,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Removes the entry and ends the lease on its key. After `Ok` no load that began before it can fill.
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Asks for the right to fill a key, for at most `limit`. Asking again with the same token is granted while it holds.
    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>>;

    /// Stores what was loaded, if the lease still holds; the lease ends with it. `false`: refused, because the entry was
    /// changed or deleted since the load began, or the lease ran out.
    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Ends when a lease on the key was ended after this call, whoever ended it; running out is no end. A hint: it may come
    /// without a reason and may be lost, so who waits looks again after a while. Only for who found the lease held by
    /// another in an `acquire` after this call.
    fn ended(&self, key: &Key) -> BoxFuture<'static, ()>;

    /// Gives a lease back, if it still holds.
    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>>;
}
