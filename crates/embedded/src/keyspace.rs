//! Reading: a keyspace by itself, or several as they were at one instant.

use std::ops::RangeBounds;
use std::sync::Arc;

use fjall::{Readable, Slice};

use crate::database::Storage;
use crate::error::Error;
use crate::range::{Range, bounds};

/// One ordered map of keys to values. Reads see what is durable, and each sees transactions whole.
///
/// Reads run on the calling thread and mostly find what they need in memory; a long scan belongs on
/// `spawn_blocking`.
#[derive(Clone)]
pub struct Keyspace {
    // Before the storage: an ephemeral directory goes when nothing in it is open.
    pub(crate) inner: fjall::Keyspace,
    pub(crate) storage: Arc<Storage>,
}

/// The whole database as it was at one instant. Its methods panic when given another database's keyspace.
#[derive(Clone)]
pub struct Snapshot {
    inner: fjall::Snapshot,
    storage: Arc<Storage>,
}

impl Keyspace {
    /// The value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        self.now().get(self, key)
    }

    /// The pairs with keys in `range`, in order, as they are at this call; from both ends.
    pub fn range(&self, range: impl RangeBounds<Vec<u8>>) -> Range {
        self.now().range(self, range)
    }

    /// The pairs whose keys begin with `prefix`, in order, as they are at this call; from both ends.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.now().prefix(self, prefix)
    }

    /// Keyspaces are told apart by a number that each database counts for itself.
    pub(crate) fn expect_of(&self, storage: &Arc<Storage>) {
        assert!(Arc::ptr_eq(&self.storage, storage), "{self:?} belongs to another database");
    }

    // The engine's own reads outside a snapshot can see half of a batch.
    fn now(&self) -> Snapshot {
        Snapshot::new(&self.storage)
    }
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keyspace").field(&&**self.inner.name()).finish()
    }
}

impl Snapshot {
    pub(crate) fn new(storage: &Arc<Storage>) -> Snapshot {
        Snapshot { inner: storage.engine.snapshot(), storage: Arc::clone(storage) }
    }

    /// The value of `key`.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        keyspace.expect_of(&self.storage);
        Ok(self.inner.get(&keyspace.inner, key)?)
    }

    /// The pairs with keys in `range`, in order, from both ends.
    pub fn range(&self, keyspace: &Keyspace, range: impl RangeBounds<Vec<u8>>) -> Range {
        keyspace.expect_of(&self.storage);
        match bounds(&range) {
            Some(bounds) => Range::stored(self.inner.range(&keyspace.inner, bounds)),
            None => Range::empty(),
        }
    }

    /// The pairs whose keys begin with `prefix`, in order, from both ends.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        keyspace.expect_of(&self.storage);
        Range::stored(self.inner.prefix(&keyspace.inner, prefix))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
