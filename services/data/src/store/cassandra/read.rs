//! Reads of rows: one row, and the pages of a partition.

use scylla::response::query_result::QueryResult;
use scylla::statement::Consistency as CqlConsistency;

use std::sync::Arc;

use crate::clock::WriteTimestamp;
use crate::coalesce::Ticket;
use crate::error::Error;
use crate::key::SortKey;
use crate::row::{Page, PageBuilder, Row};
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::statements::{Bind, Kind, Statements, lowest};
use crate::store::{Consistency, Lookup, Query, ReadStore};
use crate::table::SortKeyType;

/// Bytes that a fetch of rows reads, by the size of the rows read lately.
const FETCH_BYTES: usize = 1 << 20;
/// Fewest rows of a fetch.
const FETCH_ROWS_MIN: usize = 16;

impl CassandraStore {
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

impl ReadStore for CassandraStore {
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
            let table = query.table.clone();
            return match self.page(query).await {
                Err(error) => Err(self.explained(&table, error).await),
                page => page,
            };
        }
        let Query { table, partition, consistency, .. } = query;
        let row = self.get(Lookup { table, partition, sort_key: SortKey::Unit, consistency }).await?;
        Ok(Page { rows: row.into_iter().collect(), next: None })
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
