//! The store on Cassandra (or a database that speaks its protocol).
//!
//! A Shoal table is one CQL table, a row is one `cell`, and a Mutate is one statement, or one unlogged batch in one partition, which
//! Cassandra applies whole and readers see whole. EVENTUAL reads at ONE; QUORUM, STRONG and all writes are LOCAL_QUORUM. Of a conditional
//! table STRONG reads and writes are LOCAL_SERIAL.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::coalesce::Coalescer;
use crate::config::Config;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::row::Row;
use crate::store::{Consistency, TableStore};
use crate::table::{Definition, Table, TableChange, TableName};

mod agreement;
mod conditional;
mod connect;
mod definitions;
mod detach;
mod drift;
mod failure;
mod feed;
mod fetch_plan;
mod hedging;
mod keys;
mod keyspace;
mod link;
mod meter;
mod page;
mod read;
mod registry;
mod registry_changes;
mod registry_statements;
mod retry;
mod row_marks;
mod scan;
mod schema;
mod statements;
#[cfg(test)]
mod tests;
mod topology;
mod view;
mod write;

use conditional::PartitionLocks;
use definitions::Definitions;
use drift::ClockDrift;
use link::Link;
pub(crate) use statements::check_texts;

type ReadKey = (Uuid, PartitionKey, SortKey, Consistency);

/// The store on Cassandra. Its clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct CassandraStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    definitions: Definitions,
    reads: Coalescer<ReadKey, Result<Option<Row>, Error>>,
    partition_locks: PartitionLocks,
    drift: ClockDrift,
    feeds: feed::Feeds,
}

impl CassandraStore {
    /// Starts to connect in the background.
    pub(crate) fn start(config: Config, contact_points: Vec<String>) -> Self {
        let inner = Inner {
            drift: ClockDrift::new(config.clock_drift_max),
            link: Link::start(config, contact_points),
            definitions: Definitions::new(),
            reads: Coalescer::new(),
            partition_locks: PartitionLocks::default(),
            feeds: feed::Feeds::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.watch_clock();
        store
    }

    /// Returns `Ok` if Cassandra answers, else the reason why not.
    pub(crate) fn healthy(&self) -> Result<(), String> {
        self.inner.link.healthy()?;
        match self.inner.drift.is_compared() {
            true => Ok(()),
            false => Err("this clone's clock has not been compared with cassandra's yet".to_owned()),
        }
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
}

impl TableStore for CassandraStore {
    async fn create_table(&self, definition: Definition, now: WriteTimestamp) -> Result<Table, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let began = Instant::now();
        let table = registry::create(link, &connected, definition, now).await?;
        self.remember(table.clone(), began);
        Ok(table)
    }

    async fn table(&self, name: &TableName) -> Result<Arc<Table>, Error> {
        self.definition_to_write(name).await
    }

    async fn table_for(&self, name: &TableName, consistency: Consistency) -> Result<Arc<Table>, Error> {
        self.definition(name, consistency).await
    }

    async fn update_table(&self, name: &TableName, change: TableChange) -> Result<Table, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let began = Instant::now();
        let table = registry_changes::update(link, &connected, name, &change).await?;
        self.remember(table.clone(), began);
        Ok(table)
    }

    async fn drop_table(&self, name: &TableName, create_time: Option<WriteTimestamp>) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        self.forget(name);
        registry_changes::drop_table(link, &connected, name, create_time).await
    }

    async fn tables(&self, after: &str, limit: usize) -> Result<Vec<Table>, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        registry::list(link, &connected, after, limit).await
    }
}
