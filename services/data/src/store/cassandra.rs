//! The store on Cassandra (or a database that speaks its protocol).
//!
//! A Shoal table is one CQL table, a row is one `cell`, and a Mutate is one unlogged batch in one partition, which Cassandra
//! applies whole and readers see whole. EVENTUAL reads at ONE; QUORUM, STRONG and all writes are LOCAL_QUORUM.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scylla::response::query_result::QueryResult;
use scylla::statement::Consistency as CqlConsistency;
use scylla::statement::batch::{Batch, BatchType};
use uuid::Uuid;

use crate::clock::WriteTimestamp;
use crate::coalesce::{Coalescer, Ticket};
use crate::config::Config;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::{Change, Write};
use crate::row::{Page, PageBuilder, Row};
use crate::store::{Consistency, Lookup, Query, Store};
use crate::table::{Definition, SortKeyType, Table, TableName};

mod failure;
mod link;
mod meter;
mod registry;
mod registry_statements;
mod schema;
mod statements;
#[cfg(test)]
mod tests;

use failure::{ENGINE, Intent};
use link::Link;
use registry::{answer, undecodable};
use statements::{Bind, Kind, Statements, lowest};

/// Time for which a definition is remembered without looking again.
const DEFINITION_FRESH: Duration = Duration::from_secs(5);
/// Most definitions remembered, each with its prepared statements. The one that was looked up longest ago goes first.
const DEFINITIONS_MAX: usize = 1024;
/// Bytes that a fetch of rows reads, by the size of the rows read lately.
const FETCH_BYTES: usize = 1 << 20;
/// Fewest rows of a fetch.
const FETCH_ROWS_MIN: usize = 16;
/// Seconds by which Cassandra's own TTL ends a row later than its cell says: the cell decides, the TTL clears away.
const TTL_SLACK_SECONDS: i64 = 2;
/// Latest end that Cassandra 5 keeps in its default storage mode. Rows that end later are left to their cells.
const TTL_END_MAX: i64 = (i32::MAX as i64) - 24 * 3600;

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

    async fn select(
        &self,
        statements: &Arc<Statements>,
        kind: Kind,
        consistency: Consistency,
        values: Vec<Bind>,
    ) -> Result<QueryResult, Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let mut statement = statements.get(kind, link, &connected.session).await?;
        statement.set_consistency(match consistency {
            Consistency::Eventual => CqlConsistency::One,
            Consistency::Quorum | Consistency::Strong => CqlConsistency::LocalQuorum,
        });
        let read = async move { answer(connected.session.execute_unpaged(&statement, values).await?) };
        link.run(Intent::Read, "SELECT", statements.table(), read).await
    }

    async fn read(self, lookup: Lookup) -> Result<Option<Row>, Error> {
        let Lookup { table, partition, sort_key, consistency } = lookup;
        let statements = self.statements(&table);
        let values = [Some(Bind::Text(partition.as_str().to_owned())), Bind::sort_key(&sort_key)];
        let values = values.into_iter().flatten().collect();
        let result = self.select(&statements, Kind::Get, consistency, values).await?;
        let result = result.into_rows_result().map_err(undecodable)?;
        let row: Option<(Option<&[u8]>, Option<i64>)> = result.maybe_first_row().map_err(undecodable)?;
        match row {
            Some((Some(cell), Some(write_time))) => {
                Row::of_cell(sort_key, cell, WriteTimestamp(write_time), WriteTimestamp::now())
            }
            _ => Ok(None),
        }
    }

    /// Reads rows from `range` until the page is full, a fetch at a time, so that neither side holds much more than a page in
    /// memory.
    async fn page(&self, query: Query) -> Result<Page, Error> {
        let Query { table, partition, mut range, descending, limit, consistency } = query;
        let of = table.definition.sort_key_type;
        let statements = self.statements(&table);
        let mut page = PageBuilder::new(limit, WriteTimestamp::now());
        loop {
            let (rows_left, bytes_left) = page.room();
            let by_bytes = bytes_left.min(FETCH_BYTES) / statements.row_bytes();
            // One row more than fits tells whether there is more.
            let fetch = (rows_left + 1).min(by_bytes.max(FETCH_ROWS_MIN));
            let kind = match (descending, range.end.is_some()) {
                (false, false) => Kind::AscendingFrom,
                (false, true) => Kind::AscendingFromTo,
                (true, false) => Kind::DescendingFrom,
                (true, true) => Kind::DescendingFromTo,
            };
            let start = range.start.clone().unwrap_or_else(|| lowest(of));
            let values = [
                Some(Bind::Text(partition.as_str().to_owned())),
                Bind::sort_key(&start),
                range.end.as_ref().and_then(Bind::sort_key),
                Some(Bind::Int(i32::try_from(fetch).unwrap_or(i32::MAX))),
            ];
            let values = values.into_iter().flatten().collect();
            let result = self.select(&statements, kind, consistency, values).await?;
            let Fetched { rows, bytes, last, full } = fill(&mut page, of, result)?;
            statements.learn(rows, bytes);
            if full {
                return Ok(page.finish(true));
            }
            let Some(last) = last.filter(|_| rows == fetch) else { return Ok(page.finish(false)) };
            let Some(rest) = range.behind(&last, descending) else { return Ok(page.finish(false)) };
            range = rest;
        }
    }
}

impl Store for CassandraStore {
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

    async fn get(&self, lookup: Lookup) -> Result<Option<Row>, Error> {
        let key = (lookup.table.id, lookup.partition.clone(), lookup.sort_key.clone(), lookup.consistency);
        let receiver = match self.inner.reads.join(key) {
            Ticket::Follow(receiver) => receiver,
            Ticket::Lead(leader, receiver) => {
                let store = self.clone();
                self.inner.link.spawn(leader.run(move || store.clone().read(lookup.clone())));
                receiver
            }
        };
        let timeout = self.inner.link.config().statement_timeout;
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Internal("a read's task was lost".to_owned())),
            Err(_) => {
                Err(Error::ReadFailed { engine: ENGINE, detail: format!("no answer within {timeout:?}") })
            }
        }
    }

    async fn query(&self, query: Query) -> Result<Page, Error> {
        if query.table.definition.sort_key_type != SortKeyType::None {
            return self.page(query).await;
        }
        let Query { table, partition, consistency, .. } = query;
        let row = self.get(Lookup { table, partition, sort_key: SortKey::Unit, consistency }).await?;
        Ok(Page { rows: row.into_iter().collect(), next: None })
    }

    async fn mutate(&self, write: Write) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let statements = self.statements(&write.table);
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        batch.set_consistency(CqlConsistency::LocalQuorum);
        let mut values = Vec::with_capacity(write.changes.len());
        let now = WriteTimestamp::now();
        for change in &write.changes {
            let (kind, bound) = bind(&write, change, now);
            batch.append_statement(statements.get(kind, link, &connected.session).await?);
            values.push(bound);
        }
        let run = async move { answer(connected.session.batch(&batch, values).await?) };
        link.run(Intent::Write(write.stamp), "BATCH", statements.table(), run).await?;
        Ok(())
    }
}

/// Result of one fetch of rows.
struct Fetched {
    rows: usize,
    bytes: usize,
    last: Option<SortKey>,
    full: bool,
}

/// Puts fetched rows into a page.
fn fill(page: &mut PageBuilder, of: SortKeyType, result: QueryResult) -> Result<Fetched, Error> {
    type Cell<'a> = (Option<&'a [u8]>, Option<i64>);
    let result = result.into_rows_result().map_err(undecodable)?;
    let mut fetched = Fetched { rows: result.rows_num(), bytes: 0, last: None, full: false };
    let mut take = |sort_key: SortKey, (cell, write_time): Cell<'_>| {
        let taken = match (cell, write_time) {
            (Some(cell), Some(write_time)) => {
                fetched.bytes += cell.len();
                page.offer(sort_key.clone(), cell, WriteTimestamp(write_time))?
            }
            _ => page.pass_over(sort_key.clone()),
        };
        fetched.last = Some(sort_key);
        fetched.full = !taken;
        Ok::<bool, Error>(taken)
    };
    macro_rules! each {
        ($type:ty, $key:expr) => {
            for row in result.rows::<($type, Option<&[u8]>, Option<i64>)>().map_err(undecodable)? {
                let (key, cell, write_time) = row.map_err(undecodable)?;
                if !take($key(key), (cell, write_time))? {
                    break;
                }
            }
        };
    }
    match of {
        SortKeyType::String => each!(&str, |text: &str| SortKey::Text(text.to_owned())),
        SortKeyType::Int64 => each!(i64, SortKey::Int),
        SortKeyType::Bytes => each!(&[u8], |bytes: &[u8]| SortKey::Bytes(bytes.to_vec().into())),
        SortKeyType::None => {}
    }
    Ok(fetched)
}

/// Returns the statement of a change, and the values bound to it.
fn bind(write: &Write, change: &Change, now: WriteTimestamp) -> (Kind, Vec<Bind>) {
    let partition = || Bind::Text(write.partition.as_str().to_owned());
    match change {
        Change::Put { sort_key, cell, expire_time } => {
            let mut values = vec![partition()];
            values.extend(Bind::sort_key(sort_key));
            let ttl = engine_ttl(*expire_time, now);
            values.extend([Bind::Blob(cell.clone()), Bind::BigInt(write.stamp.0), Bind::Int(ttl)]);
            (Kind::Put, values)
        }
        Change::Delete { sort_key } => {
            let mut values = vec![Bind::BigInt(write.stamp.0), partition()];
            values.extend(Bind::sort_key(sort_key));
            (Kind::Delete, values)
        }
        Change::DeleteRange { range: SortRange { start, end } } => {
            let mut values = vec![Bind::BigInt(write.range_stamp().0), partition()];
            if start.is_none() && end.is_none() {
                return (Kind::DeletePartition, values);
            }
            let start = start.clone().unwrap_or_else(|| lowest(write.table.definition.sort_key_type));
            values.extend(Bind::sort_key(&start));
            let end = end.as_ref().and_then(Bind::sort_key);
            let kind = if end.is_some() { Kind::DeleteFromTo } else { Kind::DeleteFrom };
            values.extend(end);
            (kind, values)
        }
    }
}

/// Returns the seconds for `USING TTL`; 0 stands for ever. A put that has ended is written all the same, because it hides older
/// puts.
fn engine_ttl(expire_time: Option<WriteTimestamp>, now: WriteTimestamp) -> i32 {
    match expire_time {
        None => 0,
        Some(end) if end.0 / 1_000_000 > TTL_END_MAX => 0,
        Some(end) => {
            // Whole seconds on both sides, as Cassandra adds them: a repeat at another moment ends the row at the same second.
            let left = end.0.div_euclid(1_000_000) - now.0.div_euclid(1_000_000) + TTL_SLACK_SECONDS;
            i32::try_from(left.max(1)).unwrap_or(0)
        }
    }
}
