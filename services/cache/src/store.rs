//! The store trait: entries, and the leases that keep a load from filling what was deleted meanwhile.

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

/// The name of one load. Random, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl Token {
    /// Makes a new token.
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
    /// The time to live, at least a millisecond.
    pub ttl: Duration,
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Content.
    pub body: Body,
    /// Tags.
    pub tags: Tags,
    /// The time since it was stored; for a filled entry since its load began.
    pub age: Duration,
    /// The time at which it ends, the same for every reader.
    pub expires_at: SystemTime,
}

/// The result of a look at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// The entry is there.
    Record(Record),
    /// The entry is absent; another load may be under way.
    Absent {
        /// The load that holds the lease.
        lease: Option<Token>,
    },
}

/// The result of a request for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// The entry is there: no lease is needed.
    Record(Record),
    /// The lease was granted.
    Granted,
    /// Another load has it.
    Held {
        /// The token of that load.
        by: Token,
        /// The longest time for which it can keep the lease.
        left: Duration,
    },
}

/// The reason for which a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The engine did not do it, or is not known to have: a change whose outcome is unknown may still be made until the
    /// engine drops the connection.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine answered what it must not.
    #[error("store: {detail}")]
    Broken {
        /// The part that was wrong.
        detail: String,
    },
}

/// Entries and leases.
///
/// Each method is one atomic step for its key. A lost entry (evicted, flushed, gone with a restart) is a miss and refuses
/// fills; it never brings an older value back. A step whose outcome is unknown after a time-out does not weaken these
/// guarantees for steps that were answered.
pub(crate) trait Store: Send + Sync + 'static {
    /// Returns the entry, if it is there: never one that a `put`, `fill` or `delete` that returned before this call has
    /// replaced or removed.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// Returns the entry like `get`, and for an absent key the lease on it. A lease that is seen was not ended by any
    /// `put` or `delete` that returned before this call.
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

    /// Stores a loaded object, if the lease still holds; the lease ends with it. Returns `false` if it was refused,
    /// because the entry was changed or deleted since the load began, or the lease expired.
    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Completes when a lease on the key was ended after this call, by anyone; expiry does not count. The notice is a
    /// hint: it may come without a reason and may be lost, so the caller looks again after a while. Use it only after an
    /// `acquire` that found the lease held by another and that came after this call.
    fn ended(&self, key: &Key) -> BoxFuture<'static, ()>;

    /// Releases a lease, if it still holds.
    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>>;
}
