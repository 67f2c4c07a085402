//! The store trait: entries, and the leases that keep a load from filling what was deleted meanwhile.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use shoal_kit::EngineError;
use shoal_tag_clock::TagClock;

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
    /// The time after which a refresh is due, while the entry is still a hit; `None`: never.
    pub soft: Option<Duration>,
    /// The time for which the entry is kept after it expired, to be served while its loader fails.
    pub stale: Duration,
    /// The version that its loader gave it, at most 64 bytes.
    pub version: Bytes,
}

impl Draft {
    /// Makes an entry without a window around its expiry, and without a version.
    pub(crate) fn new(body: Body, tags: Tags, ttl: Duration) -> Self {
        Self { body, tags, ttl, soft: None, stale: Duration::ZERO, version: Bytes::new() }
    }
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
    /// The time at which it expires, the same for every reader.
    pub expires_at: SystemTime,
    /// The version that its loader gave it.
    pub version: Bytes,
    /// True if a refresh is due; the entry is still a hit.
    pub soft: bool,
    /// The time since it expired, by its ttl or by `expire`; `None`: it has not.
    pub stale: Option<Duration>,
}

/// The result of a look at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// The entry is there.
    Record(Record),
    /// The entry is absent; another load may be under way.
    Absent {
        /// The load that holds the lease, if leases were asked for.
        lease: Option<Token>,
        /// The reason for which it is absent.
        why: MissReason,
        /// The entry that expired: never one that was invalidated.
        stale: Option<Record>,
    },
}

/// The reason for which a key is a miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MissReason {
    /// There is no entry: it never was there, was deleted or evicted, or it expired and was not kept.
    Absent,
    /// The entry has expired, by its ttl or by a SOFT stamp.
    Expired,
    /// The entry was invalidated HARD.
    Invalidated {
        /// The tag; `None`: the whole namespace, or more tags than are remembered.
        tag: Option<String>,
    },
    /// The store lost the state of the shard, so that all of its entries are misses.
    Epoch,
    /// The entry has expired; the namespace would let it be served still, and the caller does not.
    TooOldForCaller,
    /// The store does not answer.
    StoreAway,
}

/// The result of a request for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// The entry is there: no lease is needed.
    Record(Record),
    /// The lease was granted.
    Granted {
        /// The entry that the load replaces: one that expired, or in a refresh one that is fresh; never one that was invalidated.
        previous: Option<Record>,
    },
    /// Another load has it.
    Held {
        /// The token of that load.
        by: Token,
        /// The longest time for which it can keep the lease.
        left: Duration,
    },
}

/// The result of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// The entry is stored.
    Stored,
    /// The lease had ended: the entry was changed or deleted since the load began, or the lease expired.
    LeaseEnded,
    /// A tag of the entry, or its namespace, was invalidated since the load began. The lease has ended.
    Invalidated,
}

/// The result of an increment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incremented {
    /// The new value.
    Done(i64),
    /// The entry holds no integer.
    NoInteger,
    /// The sum is no 64-bit integer.
    Overflow,
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

impl StoreError {
    /// Returns the error of a step that changed nothing which matters if it was not answered.
    pub(crate) fn of_read(self) -> Self {
        match self {
            Self::Engine(error) => Self::Engine(error.of_read()),
            broken => broken,
        }
    }
}

/// Entries and leases.
///
/// Each method is one atomic step for each of its keys. A lost entry (evicted, flushed, gone with a restart) is a miss and refuses
/// fills; it never brings an older value back. A step whose outcome is unknown after a time-out does not weaken these
/// guarantees for steps that were answered.
pub(crate) trait Store: Send + Sync + 'static {
    /// Looks at keys of one namespace, in order, and with `leases` at the leases on those that are absent. Never returns an entry that a
    /// `put`, `fill`, `delete`, `invalidate` or `clear` that returned before this call has replaced or removed. A lease that is seen
    /// was not ended by any `put` or `delete` that returned before this call; it may be older than an invalidation of tags.
    fn look<'a>(&'a self, keys: &'a [Key], leases: bool) -> BoxFuture<'a, Result<Vec<Found>, StoreError>>;

    /// Stores an entry and ends the lease on its key, so that a load which began before it cannot replace it. With
    /// `only_if_absent` an entry that is there stays and the answer is `false`; a negative result counts as absent, and so does an
    /// entry that has expired.
    fn put<'a>(
        &'a self,
        key: &'a Key,
        draft: Draft,
        only_if_absent: bool,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Removes entries of one namespace and ends the leases on their keys. After `Ok` no load that began before it can fill.
    fn delete<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Makes entries of one namespace expire now, and ends the leases on their keys.
    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Returns the clock of the tags, by which all entries of a tag or of a namespace are invalidated or expired.
    fn clock(&self) -> &TagClock;

    /// Gives an entry that is there a new time to live from now. Returns false if it is absent.
    fn touch<'a>(&'a self, key: &'a Key, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Adds to the integer that an entry holds as decimal text; it keeps its tags and its expiry. An absent one begins with
    /// `initial` and lives for `ttl`. Ends the lease on the key.
    fn increment<'a>(
        &'a self,
        key: &'a Key,
        delta: i64,
        initial: i64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Incremented, StoreError>>;

    /// Asks for the right to fill a key, for at most `limit`. Asking again with the same token is granted while it holds. With
    /// `refresh` it is granted also while the entry is there.
    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
        refresh: bool,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>>;

    /// Lets a lease that still holds hold for another `limit`; it stays as old as it is. Returns false if it has ended.
    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Stores a loaded object, if the lease still holds and none of its tags was invalidated since it was granted; the lease ends
    /// with it. What was refused must reach only those who waited before the load asked for its lease.
    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<Filled, StoreError>>;

    /// Completes when a lease on the key was ended after this call, by anyone; expiry does not count. The notice is a
    /// hint: it may come without a reason and may be lost, so the caller looks again after a while. Use it only after an
    /// `acquire` that found the lease held by another and that came after this call.
    fn ended(&self, key: &Key) -> BoxFuture<'static, ()>;

    /// Releases a lease, if it still holds.
    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>>;
}

impl dyn Store {
    /// Looks at one key, without its lease.
    pub(crate) async fn get(&self, key: &Key) -> Result<Found, StoreError> {
        one(self.look(std::slice::from_ref(key), false).await?)
    }

    /// Looks at one key and its lease.
    #[cfg(test)]
    pub(crate) async fn find(&self, key: &Key) -> Result<Found, StoreError> {
        one(self.look(std::slice::from_ref(key), true).await?)
    }

    /// Removes one key.
    pub(crate) async fn delete_key(&self, key: &Key) -> Result<(), StoreError> {
        self.delete(std::slice::from_ref(key)).await
    }
}

fn one(found: Vec<Found>) -> Result<Found, StoreError> {
    let nothing = || StoreError::Broken { detail: "no answer for a key".to_owned() };
    found.into_iter().next().ok_or_else(nothing)
}
