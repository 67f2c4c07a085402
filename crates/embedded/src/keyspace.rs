//! Reads of one keyspace, or of several as they were at one instant.

use std::ops::RangeBounds;
use std::sync::Arc;

use fjall::{Readable, Slice};

use crate::error::Error;
use crate::range::{Range, bounds};
use crate::storage::{Engine, Storage};

/// An ordered map of keys to values. Reads see only durable writes, and each read sees a transaction whole or not at all.
///
/// Reads run on the calling thread and mostly find their data in memory; run a long scan on `spawn_blocking`.
#[derive(Clone)]
pub struct Keyspace {
    /// The keyspace's place in the engine, which stays the same when the engine is opened again.
    pub(crate) index: usize,
    pub(crate) name: Arc<str>,
    pub(crate) storage: Arc<Storage>,
}

/// The whole database as it was at one instant. Its methods panic when given another database's keyspace.
#[derive(Clone)]
pub struct Snapshot {
    // The snapshot is dropped before the engine, which may be closed with its last handle. An error if no engine is open.
    inner: Result<(fjall::Snapshot, Arc<Engine>), Error>,
    storage: Arc<Storage>,
}

impl Keyspace {
    /// Returns the value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        self.now().get(self, key)
    }

    /// Returns the pairs with keys in `range`, in order, as they are at this call. They can be read from both ends.
    pub fn range(&self, range: impl RangeBounds<Vec<u8>>) -> Range {
        self.now().range(self, range)
    }

    /// Returns the pairs whose keys begin with `prefix`, in order, as they are at this call. They can be read from both ends.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.now().prefix(self, prefix)
    }

    /// Panics if the keyspace belongs to another database: each database numbers its keyspaces by itself.
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
        f.debug_tuple("Keyspace").field(&self.name).finish()
    }
}

impl Snapshot {
    pub(crate) fn new(storage: &Arc<Storage>) -> Snapshot {
        let inner = storage.engine().map(|engine| (engine.snapshot(), engine));
        Snapshot { inner, storage: Arc::clone(storage) }
    }

    /// Returns the value of `key`.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        match self.of(keyspace)? {
            Some((snapshot, space)) => Ok(snapshot.get(space, key)?),
            None => Ok(None),
        }
    }

    /// Returns the pairs with keys in `range`, in order. They can be read from both ends.
    pub fn range(&self, keyspace: &Keyspace, range: impl RangeBounds<Vec<u8>>) -> Range {
        match (self.of(keyspace), bounds(&range)) {
            (Ok(Some((snapshot, space))), Some(bounds)) => Range::stored(snapshot.range(space, bounds)),
            (Ok(_), _) => Range::empty(),
            (Err(error), _) => Range::failed(error),
        }
    }

    /// Returns the pairs whose keys begin with `prefix`, in order. They can be read from both ends.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        match self.of(keyspace) {
            Ok(Some((snapshot, space))) => Range::stored(snapshot.prefix(space, prefix)),
            Ok(None) => Range::empty(),
            Err(error) => Range::failed(error),
        }
    }

    /// Returns the engine's snapshot and keyspace; `None` for a keyspace that is younger than the snapshot, which is empty in it.
    fn of(&self, keyspace: &Keyspace) -> Result<Option<(&fjall::Snapshot, &fjall::Keyspace)>, Error> {
        keyspace.expect_of(&self.storage);
        let (snapshot, engine) = self.inner.as_ref().map_err(Clone::clone)?;
        Ok(engine.space(keyspace.index).map(|space| (snapshot, space)))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}
