//! The embedded store: an ordered map in a directory of this process. It keeps what Cassandra keeps, with write timestamps
//! and tombstones, so that the same calls get the same answers.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `tables` | name | the definition |
//! | `rows` | partition, sort key | the last put or tombstone, with its timestamp |
//! | `ranges` | partition, first sort key | a deleted range |
//! | `applied` | partition, hash of a token | a conditional write that was applied |
//! | `changes` | table, place in the change feed | the record of a write |
//! | `feeds` | table | the last place in its change feed, and the one from which on none was removed |
//! | `builds` | view | how far its build is |
//! | `due` | time, then a key of `rows`, `ranges` or `applied` | what the sweeper looks at then |
//! | `page_keys` | id | a key that signs page tokens |
//!
//! Reads take a snapshot, so a page shows each write whole.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use shoal_embedded::{Database, Keyspace, Range, Tx};
use shoal_kit::EngineError;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::{Clock, WriteTimestamp};
use crate::error::Error;
use crate::store::TableStore;
use crate::table::{Definition, Table, TableChange, TableName};

mod conditional;
mod entry;
mod feed;
mod kept_clock;
mod keys;
mod layout;
mod range_tombstone;
mod read;
mod registry;
mod scan;
mod sweep;
#[cfg(test)]
mod tests;
mod view;
mod write;

use range_tombstone::RangeTombstone;
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
    clock: Arc<Clock>,
    /// The steps of scans that may run at the same time, each on a thread of its own.
    scan_turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct Keyspaces {
    tables: Keyspace,
    rows: Keyspace,
    ranges: Keyspace,
    applied: Keyspace,
    due: Keyspace,
    page_keys: Keyspace,
    changes: Keyspace,
    feeds: Keyspace,
    clock: Keyspace,
    builds: Keyspace,
}

/// Returns the number of steps of scans that run at the same time: they decode rows all the time, so on half of the cores they
/// leave the other half to the threads that serve calls.
fn scan_turns() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
}

impl EmbeddedStore {
    pub(crate) fn new(database: Database) -> Result<Self, Error> {
        let keyspaces = Keyspaces {
            tables: database.keyspace("tables")?,
            rows: database.keyspace("rows")?,
            ranges: database.keyspace("ranges")?,
            applied: database.keyspace("applied")?,
            due: database.keyspace("due")?,
            page_keys: database.keyspace("page_keys")?,
            changes: database.keyspace("changes")?,
            feeds: database.keyspace("feeds")?,
            clock: database.keyspace("clock")?,
            builds: database.keyspace("builds")?,
        };
        let clock = kept_clock::read(&keyspaces)?;
        Ok(Self {
            database,
            keyspaces: Arc::new(keyspaces),
            sweeping: Arc::default(),
            swept_until: Arc::default(),
            clock: Arc::new(clock),
            scan_turns: Arc::new(Semaphore::new(scan_turns())),
        })
    }

    /// Returns `Ok` if the store takes writes, else the reason why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.database.ready()
    }
}

impl TableStore for EmbeddedStore {
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
        created.await.map_err(write_failed)?
    }

    async fn table(&self, name: &TableName) -> Result<Arc<Table>, Error> {
        match self.keyspaces.tables.get(name.as_str())? {
            Some(record) => Ok(Arc::new(registry::decode(name.as_str(), &record)?)),
            None => Err(Error::TableNotFound(name.to_string())),
        }
    }

    async fn update_table(&self, name: &TableName, change: TableChange) -> Result<Table, Error> {
        let (keyspaces, name) = (self.keyspaces.clone(), name.to_string());
        let updated = self.database.write(move |tx| {
            let Some(record) = tx.get(&keyspaces.tables, &name)? else {
                return Err(Error::TableNotFound(name));
            };
            let mut table = registry::decode(&name, &record)?;
            let before = table.change_feed().map(|feed| feed.since);
            table.definition = change.applied_to(&table.definition);
            feed::changed(tx, &keyspaces, &mut table, before)?;
            tx.put(&keyspaces.tables, name, registry::encode(&table));
            Ok(table)
        });
        updated.await.map_err(write_failed)?
    }

    async fn drop_table(&self, name: &TableName, create_time: Option<WriteTimestamp>) -> Result<(), Error> {
        let (keyspaces, name) = (self.keyspaces.clone(), name.to_string());
        let dropped = self.database.write(move |tx| {
            let Some(record) = tx.get(&keyspaces.tables, &name)? else {
                return Err(Error::TableNotFound(name));
            };
            let table = registry::decode(&name, &record)?;
            if create_time.is_some_and(|at| at != table.create_time) {
                return Err(Error::TableChanged(name));
            }
            tx.delete(&keyspaces.tables, name);
            // The id is never used again, so its rows are cleared away whenever the sweeper comes to it.
            let views = table.definition.options.views.iter().map(|view| view.id);
            for id in views.chain([table.id]) {
                Due::Table.queue_key(tx, &keyspaces, WriteTimestamp::now(), id.as_bytes(), Vec::new());
                tx.delete(&keyspaces.builds, id.as_bytes().to_vec());
            }
            Ok(())
        });
        dropped.await.map_err(write_failed)?
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
}

/// Returns the table as it is defined now. Refuses to write rows of one that was dropped meanwhile, which nothing would clear away.
fn require_table(tx: &Tx<'_>, keyspaces: &Keyspaces, table: &Table) -> Result<Table, Error> {
    let name = table.definition.name.as_str();
    match tx.get(&keyspaces.tables, name)? {
        Some(record) => {
            let found = registry::decode(name, &record)?;
            if found.id == table.id { Ok(found) } else { Err(Error::TableNotFound(name.to_owned())) }
        }
        None => Err(Error::TableNotFound(name.to_owned())),
    }
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

fn write_failed(error: shoal_embedded::Error) -> Error {
    match error {
        // The disk failed during the write.
        shoal_embedded::Error::Engine(_) => Error::OutcomeUnknown { detail: error.to_string(), token: None },
        error => error.into(),
    }
}
