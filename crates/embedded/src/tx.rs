//! Transactions: their reads see their own and all earlier writes, and their writes are kept or dropped whole.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fjall::{Readable, Slice};

use crate::error::Error;
use crate::keyspace::Keyspace;
use crate::range::{Range, bounds};
use crate::storage::{Engine, Storage};

/// The engine's limit for the length of a key.
const KEY_BYTES_MAX: usize = 65_535;

/// The maximum size of a transaction, which is held in memory until it is committed while every other writer waits.
const TX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The transaction of a closure given to [`Database::write`](crate::Database::write). Its reads see everything written by
/// earlier closures (committed or in the same group) and by the closure itself.
///
/// # Panics
///
/// The methods panic, and so fail the transaction, when given another database's keyspace.
pub struct Tx<'a> {
    storage: &'a Arc<Storage>,
    group: &'a mut Pending,
    engine: &'a Engine,
    snapshot: &'a fjall::Snapshot,
    /// The error that the transaction gets if it writes; `None` while the database takes writes.
    refusal: Option<&'a Error>,
    // What each of this transaction's writes replaced in the group, oldest first.
    undo: Vec<Undo>,
    bytes: usize,
    refused: Option<Error>,
    aborted: bool,
}

/// The uncommitted writes of one group of transactions, layered over the stored data.
#[derive(Default)]
pub(crate) struct Pending {
    keyspaces: HashMap<usize, Writes>,
    bytes: usize,
}

/// The last write of each key; `None` is a delete.
type Writes = BTreeMap<Slice, Option<Slice>>;

struct Undo {
    keyspace: usize,
    key: Slice,
    replaced: Option<Option<Slice>>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(
        storage: &'a Arc<Storage>,
        group: &'a mut Pending,
        engine: &'a Engine,
        snapshot: &'a fjall::Snapshot,
        refusal: Option<&'a Error>,
    ) -> Tx<'a> {
        Tx {
            storage,
            group,
            engine,
            snapshot,
            refusal,
            undo: Vec::new(),
            bytes: 0,
            refused: None,
            aborted: false,
        }
    }

    /// Returns the value of `key`.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        keyspace.expect_of(self.storage);
        let key = key.as_ref();
        match self.group.writes(keyspace).and_then(|writes| writes.get(key)) {
            Some(written) => Ok(written.clone()),
            None => match self.engine.space(keyspace.index) {
                Some(space) => Ok(self.snapshot.get(space, key)?),
                None => Ok(None),
            },
        }
    }

    /// Returns the pairs with keys in `range`, in order, as they are at this call. They can be read from both ends.
    pub fn range(&self, keyspace: &Keyspace, range: impl RangeBounds<Vec<u8>>) -> Range {
        keyspace.expect_of(self.storage);
        let Some((start, end)) = bounds(&range) else { return Range::empty() };
        let written = match self.group.writes(keyspace) {
            Some(writes) => writes
                .range::<[u8], _>((start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice)))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            None => VecDeque::new(),
        };
        let stored = self.engine.space(keyspace.index);
        Range::merged(stored.map(|space| self.snapshot.range(space, (start, end))), written)
    }

    /// Returns the pairs whose keys begin with `prefix`, in order, as they are at this call. They can be read from both ends.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range {
        keyspace.expect_of(self.storage);
        let prefix = prefix.as_ref();
        let written = match self.group.writes(keyspace) {
            Some(writes) => writes
                .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            None => VecDeque::new(),
        };
        let stored = self.engine.space(keyspace.index);
        Range::merged(stored.map(|space| self.snapshot.prefix(space, prefix)), written)
    }

    /// Sets `key` to `value`. A key that is empty or over 65 535 bytes, or a transaction over 64 MiB, fails
    /// the whole transaction with [`Error::Limit`].
    pub fn put(&mut self, keyspace: &Keyspace, key: impl Into<Slice>, value: impl Into<Slice>) {
        self.set(keyspace, key.into(), Some(value.into()));
    }

    /// Removes `key` if it exists. The limits are those of [`Tx::put`].
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl Into<Slice>) {
        self.set(keyspace, key.into(), None);
    }

    /// Drops all writes of this transaction, including those after this call.
    pub fn abort(&mut self) {
        self.aborted = true;
    }

    fn set(&mut self, keyspace: &Keyspace, key: Slice, value: Option<Slice>) {
        keyspace.expect_of(self.storage);
        if self.refused.is_some() {
            return;
        }
        self.bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
        self.refused = if key.is_empty() || key.len() > KEY_BYTES_MAX {
            Some(Error::Limit(format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len())))
        } else if self.bytes > TX_BYTES_MAX {
            Some(Error::Limit(format!("a transaction writes at most {TX_BYTES_MAX} bytes")))
        } else {
            None
        };
        if self.refused.is_none() {
            let replaced = self.group.writes_mut(keyspace).insert(key.clone(), value);
            self.undo.push(Undo { keyspace: keyspace.index, key, replaced });
        }
    }

    /// Keeps the transaction's writes in its group, unless it was aborted or refused.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if let Some(error) = self.refused.take() {
            self.roll_back();
            return Err(error);
        }
        if self.aborted {
            self.roll_back();
            return Ok(());
        }
        // A transaction that only reads succeeds even then.
        if let Some(refusal) = self.refusal.filter(|_| !self.undo.is_empty()) {
            let refusal = refusal.clone();
            self.storage.refused.store(true, Ordering::Release);
            self.roll_back();
            return Err(refusal);
        }
        self.group.bytes += self.bytes;
        Ok(())
    }

    pub(crate) fn roll_back(mut self) {
        while let Some(Undo { keyspace, key, replaced }) = self.undo.pop() {
            let Some(writes) = self.group.keyspaces.get_mut(&keyspace) else { continue };
            match replaced {
                Some(value) => writes.insert(key, value),
                None => writes.remove(&key),
            };
        }
    }
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx")
            .field("writes", &self.undo.len())
            .field("bytes", &self.bytes)
            .field("aborted", &self.aborted)
            .finish_non_exhaustive()
    }
}

impl Pending {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns every write, each key once, with the place of its keyspace.
    pub(crate) fn into_writes(self) -> impl Iterator<Item = (usize, Slice, Option<Slice>)> {
        self.keyspaces
            .into_iter()
            .flat_map(|(keyspace, writes)| writes.into_iter().map(move |(key, value)| (keyspace, key, value)))
    }

    fn writes(&self, keyspace: &Keyspace) -> Option<&Writes> {
        self.keyspaces.get(&keyspace.index)
    }

    fn writes_mut(&mut self, keyspace: &Keyspace) -> &mut Writes {
        self.keyspaces.entry(keyspace.index).or_default()
    }
}
