//! The store on Cassandra (or a database that speaks its protocol).
//!
//! A Shoal table is one CQL table, a row is one `cell`, and a Mutate is one unlogged batch in one partition, which Cassandra
//! applies whole and readers see whole. EVENTUAL reads at ONE; QUORUM, STRONG and all writes are LOCAL_QUORUM. Of a conditional
//! table STRONG reads and writes are LOCAL_SERIAL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::coalesce::{Coalescer, Ticket};
use crate::config::Config;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::row::Row;
use crate::store::{Consistency, TableStore};
use crate::table::{Definition, Table, TableName};

mod conditional;
mod failure;
mod link;
mod meter;
mod read;
mod registry;
mod registry_statements;
mod schema;
mod statements;
#[cfg(test)]
mod tests;
mod write;

use conditional::PartitionLocks;
use link::Link;
use statements::Statements;
pub(crate) use statements::check_texts;

/// Time for which a definition is remembered without looking again.
const DEFINITION_FRESH: Duration = Duration::from_secs(5);
/// Most definitions remembered, each with its prepared statements. The one that was looked up longest ago goes first.
const DEFINITIONS_MAX: usize = 1024;

type ReadKey = (Uuid, PartitionKey, SortKey, Consistency);

/// The store on Cassandra. Its clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct CassandraStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    known: Mutex<HashMap<TableName, Known>>,
    lookups: Coalescer<TableName, Result<Arc<Table>, Error>>,
    reads: Coalescer<ReadKey, Result<Option<Row>, Error>>,
    partition_locks: PartitionLocks,
}

#[derive(Debug)]
struct Known {
    table: Arc<Table>,
    statements: Arc<Statements>,
    looked_up: Instant,
}

impl CassandraStore {
    /// Starts to connect in the background.
    pub(crate) fn start(config: Config, contact_points: Vec<String>) -> Self {
        let inner = Inner {
            link: Link::start(config, contact_points),
            known: Mutex::default(),
            lookups: Coalescer::new(),
            reads: Coalescer::new(),
            partition_locks: PartitionLocks::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns `Ok` if Cassandra answers, else the reason why not.
    pub(crate) fn healthy(&self) -> Result<(), String> {
        self.inner.link.healthy()
    }

    /// Returns the keyspace's name of itself, and gives it one if it has none. Returns `None` when Cassandra answers but refuses
    /// this user.
    ///
    /// # Errors
    /// When Cassandra does not answer.
    pub(crate) async fn name(&self) -> Result<Option<String>, String> {
        let link = &self.inner.link;
        link.healthy()?;
        let connected = link.connected().await.map_err(|error| error.to_string())?;
        match registry::store_name(link, &connected).await {
            Ok(name) => Ok(Some(name.simple().to_string())),
            Err(error) => {
                tracing::debug!(%error, "the keyspace has no name of itself");
                link.healthy().map(|()| None)
            }
        }
    }

    /// Ends the connection after the statements in flight.
    pub(crate) async fn close(&self) {
        self.inner.link.close().await;
    }

    /// Remembers a table. The prepared statements of the same table are kept.
    fn remember(&self, table: Table) -> Arc<Table> {
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = table.definition.name.clone();
        if !known.contains_key(&name) && known.len() >= DEFINITIONS_MAX {
            let oldest = known.iter().min_by_key(|(_, known)| known.looked_up).map(|(name, _)| name.clone());
            oldest.map(|name| known.remove(&name));
        }
        let statements = match known.get(&name) {
            Some(known) if known.table.id == table.id => known.statements.clone(),
            _ => Arc::new(Statements::new(&self.inner.link.config().keyspace, &table)),
        };
        let table = Arc::new(table);
        known.insert(name, Known { table: table.clone(), statements, looked_up: Instant::now() });
        table
    }

    fn remembered(&self, name: &TableName) -> Option<Arc<Table>> {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(name)?;
        (known.looked_up.elapsed() < DEFINITION_FRESH).then(|| known.table.clone())
    }

    fn statements(&self, table: &Table) -> Arc<Statements> {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&table.definition.name) {
            Some(known) if known.table.id == table.id => known.statements.clone(),
            // The definition was forgotten between the lookup and now.
            _ => Arc::new(Statements::new(&self.inner.link.config().keyspace, table)),
        }
    }
}

impl TableStore for CassandraStore {
    async fn create_table(&self, definition: Definition, now: WriteTimestamp) -> Result<Table, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let table = registry::create(link, &connected, definition, now).await?;
        self.remember(table.clone());
        Ok(table)
    }

    async fn table(&self, name: &TableName) -> Result<Arc<Table>, Error> {
        if let Some(table) = self.remembered(name) {
            return Ok(table);
        }
        let receiver = match self.inner.lookups.join(name.clone()) {
            Ticket::Follow(receiver) => receiver,
            Ticket::Lead(leader, receiver) => {
                let (store, name) = (self.clone(), name.clone());
                self.inner.link.spawn(leader.run(move || {
                    let (store, name) = (store.clone(), name.clone());
                    async move {
                        let link = &store.inner.link;
                        let connected = link.connected().await?;
                        match registry::find(link, &connected, name.as_str()).await? {
                            Some(table) => Ok(store.remember(table)),
                            None => Err(Error::TableNotFound(name.to_string())),
                        }
                    }
                }));
                receiver
            }
        };
        receiver.await.unwrap_or_else(|_| Err(Error::Internal("a lookup's task was lost".to_owned())))
    }

    async fn tables(&self, after: &str, limit: usize) -> Result<Vec<Table>, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        registry::list(link, &connected, after, limit).await
    }
}
