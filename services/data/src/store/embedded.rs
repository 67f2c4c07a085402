//! The embedded store: an ordered map in a directory of this process. It keeps what Cassandra keeps, with write timestamps
//! and tombstones, so that the same calls get the same answers.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `tables` | name | the definition |
//! | `rows` | partition, sort key | the last put or tombstone, with its timestamp |
//! | `ranges` | partition, first sort key | a deleted range |
//! | `due` | time, then a key of `rows` or `ranges` | what the sweeper looks at then |
//!
//! Reads take a snapshot, so a page shows each write whole.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use shoal_embedded::{Database, Keyspace, Range, Snapshot, Tx};
use shoal_kit::EngineError;
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::SortKey;
use crate::mutation::{Change, Write};
use crate::row::{Page, PageBuilder, Row};
use crate::store::{Lookup, Query, Store};
use crate::table::{Definition, Table, TableName};

mod entry;
mod layout;
mod range_tombstone;
mod registry;
mod sweep;
#[cfg(test)]
mod tests;

use entry::Entry;
use range_tombstone::{RangeTombstone, overlay};
use sweep::Due;
pub(crate) use sweep::sweep_forever;

/// Seconds for which a tombstone hides older puts that come later, the same as Cassandra's default.
const GRACE_SECONDS: u32 = 10 * 24 * 3600;

/// The store in this process. Its clones share one database.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddedStore {
    database: Database,
    keyspaces: Arc<Keyspaces>,
    sweeping: Arc<tokio::sync::Mutex<()>>,
    swept_until: Arc<AtomicI64>,
}

#[derive(Debug)]
struct Keyspaces {
    tables: Keyspace,
    rows: Keyspace,
    ranges: Keyspace,
    due: Keyspace,
}

impl EmbeddedStore {
    pub(crate) fn new(database: Database) -> Result<Self, Error> {
        let keyspaces = Keyspaces {
            tables: database.keyspace("tables")?,
            rows: database.keyspace("rows")?,
            ranges: database.keyspace("ranges")?,
            due: database.keyspace("due")?,
        };
        Ok(Self {
            database,
            keyspaces: Arc::new(keyspaces),
            sweeping: Arc::default(),
            swept_until: Arc::default(),
        })
    }

    /// Returns `Ok` if the store takes writes, else the reason why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.database.ready()
    }
}

impl Store for EmbeddedStore {
    async fn create_table(&self, definition: Definition, now: WriteTimestamp) -> Result<Table, Error> {
        let keyspaces = self.keyspaces.clone();
        let created = self.database.write(move |tx| {
            let name = definition.name.to_string();
            if let Some(record) = tx.get(&keyspaces.tables, &name)? {
                return registry::decode(&name, &record)?.if_same(&definition);
            }
            let table = Table { definition, id: Uuid::new_v4(), create_time: now };
            tx.put(&keyspaces.tables, name, registry::encode(&table));
            Ok(table)
        });
        created.await.map_err(|error| write_failed(error, None))?
    }

    async fn table(&self, name: &TableName) -> Result<Arc<Table>, Error> {
        match self.keyspaces.tables.get(name.as_str())? {
            Some(record) => Ok(Arc::new(registry::decode(name.as_str(), &record)?)),
            None => Err(Error::TableNotFound(name.to_string())),
        }
    }

    async fn tables(&self, after: &str, limit: usize) -> Result<Vec<Table>, Error> {
        // The first name that could follow, because no name has a zero byte.
        let from = [after.as_bytes(), &[0]].concat();
        let names = self.keyspaces.tables.range(from..).take(limit);
        names
            .map(|pair| {
                let (name, record) = pair?;
                registry::decode(&String::from_utf8_lossy(&name), &record)
            })
            .collect()
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Row>, Error> {
        // Nothing here waits, but a caller in a loop must let others have the thread all the same.
        tokio::task::coop::consume_budget().await;
        let Lookup { table, partition, sort_key, .. } = lookup;
        let prefix = layout::prefix(&table, &partition);
        let at = sort_key.ordered_bytes();
        let snapshot = self.database.snapshot();
        let stored = snapshot.get(&self.keyspaces.rows, layout::key(&prefix, &at))?;
        let Some(stored) = stored else { return Ok(None) };
        let Entry::Put { stamp, cell } = Entry::decode(&stored)? else { return Ok(None) };
        let deleted = DeletedRanges::new(&snapshot, &self.keyspaces, &prefix).at(&at)?;
        if deleted >= Some(stamp) {
            return Ok(None);
        }
        Row::of_cell(sort_key, cell, stamp, WriteTimestamp::now())
    }

    async fn query(&self, query: Query) -> Result<Page, Error> {
        let snapshot = self.database.snapshot();
        let keyspaces = self.keyspaces.clone();
        // A page may look at thousands of rows that are not in memory, which must not block a thread that serves calls.
        let read = tokio::task::spawn_blocking(move || page(&snapshot, &keyspaces, &query));
        read.await.map_err(|error| Error::Internal(format!("a query's task: {error}")))?
    }

    async fn mutate(&self, write: Write) -> Result<(), Error> {
        let keyspaces = self.keyspaces.clone();
        let stamp = write.stamp;
        let written = self.database.write(move |tx| {
            let applied = apply(tx, &keyspaces, &write, WriteTimestamp::now());
            if applied.is_err() {
                tx.abort();
            }
            applied
        });
        written.await.map_err(|error| write_failed(error, Some(stamp)))?
    }
}

fn page(snapshot: &Snapshot, keyspaces: &Keyspaces, query: &Query) -> Result<Page, Error> {
    let of = query.table.definition.sort_key_type;
    let prefix = layout::prefix(&query.table, &query.partition);
    let bound = |key: &Option<SortKey>| key.as_ref().map(SortKey::ordered_bytes);
    let start = bound(&query.range.start).unwrap_or_default();
    let keys = layout::keys(&prefix, &start, bound(&query.range.end).as_deref());

    let mut deleted = DeletedRanges::new(snapshot, keyspaces, &prefix);
    let mut page = PageBuilder::new(query.limit, WriteTimestamp::now());
    let mut rows = snapshot.range(&keyspaces.rows, keys);
    while let Some(pair) = if query.descending { rows.next_back() } else { rows.next() } {
        let (key, stored) = pair?;
        let at = &key[prefix.len()..];
        let sort_key = SortKey::of_ordered_bytes(of, at)
            .ok_or_else(|| Error::DataLoss("a stored sort key is of another type".to_owned()))?;
        let taken = match Entry::decode(&stored)? {
            Entry::Put { stamp, cell } if deleted.at(at)? < Some(stamp) => {
                page.offer(sort_key, cell, stamp)?
            }
            Entry::Put { .. } | Entry::Tombstone { .. } => page.pass_over(sort_key),
        };
        if !taken {
            return Ok(page.finish(true));
        }
    }
    Ok(page.finish(false))
}

/// The deleted ranges of a partition, looked up along a scan.
struct DeletedRanges<'a> {
    snapshot: &'a Snapshot,
    keyspaces: &'a Keyspaces,
    prefix: &'a [u8],
    last: Option<RangeTombstone>,
}

impl<'a> DeletedRanges<'a> {
    fn new(snapshot: &'a Snapshot, keyspaces: &'a Keyspaces, prefix: &'a [u8]) -> Self {
        Self { snapshot, keyspaces, prefix, last: None }
    }

    /// Returns the timestamp of the deleted range at a place.
    fn at(&mut self, place: &[u8]) -> Result<Option<WriteTimestamp>, Error> {
        if !self.last.as_ref().is_some_and(|last| last.contains(place)) {
            let upto = self.prefix.to_vec()..=layout::key(self.prefix, place);
            let last = last_tombstone(self.snapshot.range(&self.keyspaces.ranges, upto), self.prefix)?;
            self.last = last.filter(|last| last.contains(place));
        }
        Ok(self.last.as_ref().map(|tombstone| tombstone.stamp))
    }
}

/// Applies a write. The order of its changes does not matter, because timestamps decide.
fn apply(tx: &mut Tx<'_>, keyspaces: &Keyspaces, write: &Write, now: WriteTimestamp) -> Result<(), Error> {
    let prefix = layout::prefix(&write.table, &write.partition);
    for change in &write.changes {
        match change {
            Change::Put { sort_key, cell, .. } => {
                let entry = Entry::Put { stamp: write.stamp, cell };
                write_row(tx, keyspaces, &prefix, &sort_key.ordered_bytes(), &entry, now)?;
            }
            Change::Delete { sort_key } => {
                let entry = Entry::Tombstone { stamp: write.stamp };
                write_row(tx, keyspaces, &prefix, &sort_key.ordered_bytes(), &entry, now)?;
            }
            Change::DeleteRange { range } => {
                let new = RangeTombstone {
                    start: range.start.as_ref().map(SortKey::ordered_bytes).unwrap_or_default(),
                    end: range.end.as_ref().map(SortKey::ordered_bytes),
                    stamp: write.range_stamp(),
                    deleted_at: now,
                };
                delete_range(tx, keyspaces, &prefix, &new)?;
            }
        }
    }
    Ok(())
}

/// Writes an entry, unless what is stored supersedes it.
fn write_row(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    at: &[u8],
    entry: &Entry<'_>,
    now: WriteTimestamp,
) -> Result<(), Error> {
    let key = layout::key(prefix, at);
    let deleted = last_tombstone(tx.range(&keyspaces.ranges, prefix.to_vec()..=key.clone()), prefix)?;
    let hidden = deleted.is_some_and(|deleted| deleted.contains(at) && deleted.stamp >= entry.stamp());
    // Hidden puts must not be stored: they would appear when the range is forgotten.
    if hidden && matches!(entry, Entry::Put { .. }) {
        return Ok(());
    }
    if let Some(stored) = tx.get(&keyspaces.rows, &key)?
        && !entry.supersedes(&Entry::decode(&stored)?)?
    {
        return Ok(());
    }
    match (entry, entry.expire_time()?) {
        (_, Some(end)) => Due::End.queue(tx, keyspaces, end.max(now), &key, entry)?,
        (Entry::Put { .. }, None) => {}
        (Entry::Tombstone { .. }, None) => {
            Due::Forget.queue(tx, keyspaces, now.plus_seconds(GRACE_SECONDS), &key, entry)?;
        }
    }
    tx.put(&keyspaces.rows, key, entry.encode());
    Ok(())
}

/// Lays a deleted range over the ranges that are there.
fn delete_range(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    new: &RangeTombstone,
) -> Result<(), Error> {
    let keys = layout::keys(prefix, &new.start, new.end.as_deref());
    let before = last_tombstone(tx.range(&keyspaces.ranges, prefix.to_vec()..keys.start.clone()), prefix)?;
    let mut touched = Vec::from_iter(before.filter(|before| before.reaches(&new.start)));
    for pair in tx.range(&keyspaces.ranges, keys) {
        let (key, stored) = pair?;
        touched.push(RangeTombstone::decode(&key[prefix.len()..], &stored)?);
    }
    for old in &touched {
        tx.delete(&keyspaces.ranges, layout::key(prefix, &old.start));
    }
    for piece in overlay(&touched, new) {
        let key = layout::key(prefix, &piece.start);
        // Queued as of now, also what was cut from an older range: the queue may be swept up to now already.
        Due::Range.queue_key(tx, keyspaces, new.deleted_at, &key, Vec::new());
        tx.put(&keyspaces.ranges, key, piece.encode());
    }
    Ok(())
}

/// Returns the last of some range tombstones of a partition.
fn last_tombstone(mut tombstones: Range, prefix: &[u8]) -> Result<Option<RangeTombstone>, Error> {
    let Some(pair) = tombstones.next_back() else { return Ok(None) };
    let (key, stored) = pair?;
    RangeTombstone::decode(&key[prefix.len()..], &stored).map(Some)
}

const ENGINE: &str = "the embedded database";

impl From<shoal_embedded::Error> for Error {
    fn from(error: shoal_embedded::Error) -> Self {
        use shoal_embedded::Error as Embedded;
        let (engine, text) = (ENGINE, error.to_string());
        Error::Engine(match error {
            Embedded::Closed | Embedded::Reopening => EngineError::Unavailable { engine, detail: text },
            Embedded::Full(detail) => EngineError::Full { engine, detail, remedy: "free space on its disk" },
            Embedded::Failed(detail) => EngineError::ReadOnly { engine, detail },
            Embedded::Panicked(_) | Embedded::Limit(_) | Embedded::Engine(_) => return Error::Internal(text),
        })
    }
}

fn write_failed(error: shoal_embedded::Error, stamp: Option<WriteTimestamp>) -> Error {
    match error {
        // The disk failed during the write.
        shoal_embedded::Error::Engine(_) => Error::OutcomeUnknown { detail: error.to_string(), stamp },
        error => error.into(),
    }
}
