//! Reads of rows: one row, or several of one partition with one statement. Concurrent reads of a row are one.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use scylla::response::query_result::QueryResult;
use scylla::statement::Consistency as CqlConsistency;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::clock::WriteTimestamp;
use crate::coalesce::{Leader, Ticket};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::row::{Page, Row};
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::fetch_plan::FetchPlan;
use crate::store::cassandra::page::each_row;
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::statements::{Bind, Kind, Statements};
use crate::store::cassandra::{CassandraStore, ReadKey};
use crate::store::{Consistency, Lookup, Lookups, Query, ReadStore};
use crate::table::{SortKeyType, Table, WriteMode};

/// Bytes of the rows that are read at once for several keys, if all are as large as the largest that was seen in the table.
const MANY_BYTES: usize = 4 << 20;
/// Keys that are read at once from a table of which no row was seen.
const MANY_ROWS_UNKNOWN: usize = 16;

type ReadLeader = Leader<ReadKey, Result<Option<Row>, Error>>;
type ReadAnswer = oneshot::Receiver<Result<Option<Row>, Error>>;

impl CassandraStore {
    pub(super) async fn select(
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
            Consistency::Strong if statements.conditional() => CqlConsistency::LocalSerial,
            Consistency::Quorum | Consistency::Strong => CqlConsistency::LocalQuorum,
        });
        let read = async move { answer(statement.execute(&connected.session, values).await?) };
        link.run(Intent::Read, "SELECT", statements.table(), read).await
    }

    async fn read(self, lookup: Lookup) -> Result<Option<Row>, Error> {
        let Lookup { table, partition, sort_key, consistency } = lookup;
        let statements = self.statements(&table);
        let values = [Some(Bind::Text(partition.as_str().to_owned())), Bind::sort_key(&sort_key)];
        let values = values.into_iter().flatten().collect();
        let result = match self.select(&statements, Kind::Get, consistency, values).await {
            Err(error) => return Err(self.explained(&table, error).await),
            Ok(result) => result,
        };
        let result = result.into_rows_result().map_err(undecodable)?;
        let row: Option<(Option<&[u8]>, Option<i64>)> = result.maybe_first_row().map_err(undecodable)?;
        match row {
            Some((Some(cell), Some(write_time))) => {
                statements.sizes().note(cell.len());
                Row::of_cell(sort_key, cell, WriteTimestamp(write_time), WriteTimestamp::now())
            }
            _ => Ok(None),
        }
    }

    /// Joins the reads of a row. The caller that comes first gets the right to run them.
    fn join(&self, lookup: &Lookup) -> (Option<ReadLeader>, ReadAnswer) {
        let Lookup { table, partition, sort_key, consistency } = lookup;
        match self.inner.reads.join((table.id, partition.clone(), sort_key.clone(), *consistency)) {
            Ticket::Follow(receiver) => (None, receiver),
            Ticket::Lead(leader, receiver) => (Some(leader), receiver),
        }
    }

    /// Runs the reads of a row in a task of its own.
    fn lead(&self, leader: ReadLeader, lookup: Lookup) {
        let store = self.clone();
        self.inner.link.spawn(leader.run(move || store.clone().read(lookup.clone())));
    }

    async fn answered(&self, receiver: ReadAnswer) -> Result<Option<Row>, Error> {
        let timeout = self.inner.link.config().statement_timeout;
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Internal("a read's task was lost".to_owned())),
            Err(_) => {
                Err(Error::ReadFailed { engine: ENGINE, detail: format!("no answer within {timeout:?}") })
            }
        }
    }

    /// Reads rows of one partition with few statements, for all who wait for them: the first reads few rows, and the next ones
    /// as many as the sizes of those allow.
    async fn read_group(
        self,
        table: Arc<Table>,
        partition: PartitionKey,
        consistency: Consistency,
        mut group: Vec<(SortKey, ReadLeader)>,
    ) {
        tokio::task::yield_now().await;
        let statements = self.statements(&table);
        let mut plan = FetchPlan::new(
            group.len(),
            statements.sizes().of_partition(partition.as_str()),
            statements.sizes().largest(),
            statements.sizes().rows_max(),
        );
        while !group.is_empty() {
            let mut chunk: Vec<_> = group.drain(..plan.rows().min(group.len())).collect();
            let spans: Vec<_> = chunk.iter_mut().map(|(_, leader)| leader.send()).collect();
            let keys = chunk.iter().map(|(key, _)| key);
            let read = self.read_keys(&statements, &table, &partition, consistency, keys, &mut plan);
            let span = spans.into_iter().next().unwrap_or_else(tracing::Span::none);
            let mut rows = match read.instrument(span).await {
                Err(error) => Err(self.explained(&table, error).await),
                rows => rows,
            };
            for (sort_key, leader) in chunk {
                let value = match &mut rows {
                    Ok(rows) => Ok(rows.remove(&sort_key)),
                    Err(error) => Err(error.clone()),
                };
                if let Some(leader) = leader.answer(value) {
                    let (table, partition) = (table.clone(), partition.clone());
                    self.lead(leader, Lookup { table, partition, sort_key, consistency });
                }
            }
        }
    }

    /// Reads rows of one partition with one statement.
    async fn read_keys(
        &self,
        statements: &Arc<Statements>,
        table: &Table,
        partition: &PartitionKey,
        consistency: Consistency,
        keys: impl Iterator<Item = &SortKey>,
        plan: &mut FetchPlan,
    ) -> Result<HashMap<SortKey, Row>, Error> {
        let keys: Vec<Bind> = keys.filter_map(Bind::sort_key).collect();
        let asked = keys.len();
        let values = vec![Bind::Text(partition.as_str().to_owned()), Bind::List(keys)];
        let result = self.select(statements, Kind::GetMany, consistency, values).await?;
        let (now, mut rows) = (WriteTimestamp::now(), HashMap::new());
        let (mut bytes, mut largest) = (0, 0);
        each_row(table.definition.sort_key_type, result, |sort_key, cell| {
            if let Some((cell, write_time)) = cell {
                bytes += cell.len();
                largest = largest.max(cell.len());
                if let Some(row) = Row::of_cell(sort_key.clone(), cell, write_time, now)? {
                    rows.insert(sort_key, row);
                }
            }
            Ok(())
        })?;
        plan.fetched(asked, bytes, largest);
        statements.sizes().note(largest);
        Ok(rows)
    }
}

impl ReadStore for CassandraStore {
    fn achieved(&self, table: &Table, asked: Consistency) -> Consistency {
        match (asked, table.definition.write_mode) {
            (Consistency::Strong, WriteMode::LastWriteWins) => Consistency::Quorum,
            (asked, _) => asked,
        }
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Row>, Error> {
        let (leader, receiver) = self.join(&lookup);
        let answer = self.answered(receiver);
        let Some(leader) = leader else { return answer.await };
        let store = self.clone();
        let reads = self.inner.link.detaching(leader.run(move || store.clone().read(lookup.clone())));
        tokio::pin!(answer);
        // The reads go on without this caller for those who came after it.
        tokio::select! {
            biased;
            () = reads => answer.await,
            outcome = &mut answer => outcome,
        }
    }

    async fn get_many(&self, lookups: Lookups) -> Result<Vec<Option<Row>>, Error> {
        let Lookups { table, mut keys, consistency } = lookups;
        let window = match self.statements(&table).sizes().largest() {
            0 => MANY_ROWS_UNKNOWN,
            largest => (MANY_BYTES / largest).max(2),
        };
        keys.truncate(window);
        let mut groups: HashMap<PartitionKey, Vec<(SortKey, ReadLeader)>> = HashMap::new();
        let mut receivers = Vec::with_capacity(keys.len());
        for (partition, sort_key) in keys {
            let lookup = Lookup { table: table.clone(), partition, sort_key, consistency };
            let (leader, receiver) = self.join(&lookup);
            receivers.push(receiver);
            if let Some(leader) = leader {
                groups.entry(lookup.partition).or_default().push((lookup.sort_key, leader));
            }
        }
        for (partition, mut group) in groups {
            if group.len() > 1 {
                let group = self.clone().read_group(table.clone(), partition, consistency, group);
                self.inner.link.spawn(group);
            } else if let Some((sort_key, leader)) = group.pop() {
                self.lead(leader, Lookup { table: table.clone(), partition, sort_key, consistency });
            }
        }
        let answers = join_all(receivers.into_iter().map(|receiver| self.answered(receiver))).await;
        answers.into_iter().collect()
    }

    async fn query(&self, query: Query) -> Result<Page, Error> {
        if query.table.definition.sort_key_type != SortKeyType::None {
            let table = query.table.clone();
            return match self.page(query).await {
                Err(error) => Err(self.explained(&table, error).await),
                page => page,
            };
        }
        let Query { table, partition, consistency, .. } = query;
        let row = self.get(Lookup { table, partition, sort_key: SortKey::Unit, consistency }).await?;
        Ok(Page { rows: row.into_iter().collect(), ..Page::default() })
    }
}
