//! Pages of a partition's rows.

use scylla::response::query_result::QueryResult;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::SortKey;
use crate::row::{Page, PageBuilder};
use crate::store::Query;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::fetch_plan::FetchPlan;
use crate::store::cassandra::registry::undecodable;
use crate::store::cassandra::statements::{Bind, Kind, lowest};
use crate::table::SortKeyType;

impl CassandraStore {
    /// Reads a page, a fetch at a time. The rows of the page come from its last fetch alone, which Cassandra answers from one
    /// state of the partition: a page never shows parts of two writes.
    pub(super) async fn page(&self, query: Query) -> Result<Page, Error> {
        let of = query.table.definition.sort_key_type;
        let statements = self.statements(&query.table);
        let partition = query.partition.as_str();
        let seen = query.seen.or_else(|| statements.sizes().of_partition(partition));
        let mut plan = FetchPlan::new(query.limit, seen, statements.sizes().largest());
        let mut page = PageBuilder::new(query.limit, WriteTimestamp::now());
        let mut range = query.range.clone();
        let more = loop {
            let fetch = plan.rows();
            let kind = match (query.descending, range.end.is_some()) {
                (false, false) => Kind::AscendingFrom,
                (false, true) => Kind::AscendingFromTo,
                (true, false) => Kind::DescendingFrom,
                (true, true) => Kind::DescendingFromTo,
            };
            let start = range.start.clone().unwrap_or_else(|| lowest(of));
            let values = [
                Some(Bind::Text(partition.to_owned())),
                Bind::sort_key(&start),
                range.end.as_ref().and_then(Bind::sort_key),
                Some(Bind::Int(i32::try_from(fetch).unwrap_or(i32::MAX))),
            ];
            let values = values.into_iter().flatten().collect();
            let result = self.select(&statements, kind, query.consistency, values).await?;
            let Fetched { rows, bytes, largest, last, full } = fill(&mut page, of, result)?;
            plan.fetched(rows, bytes, largest);
            statements.sizes().note(largest);
            if full {
                break true;
            }
            let Some(last) = last.filter(|_| rows >= fetch) else { break false };
            if page.rows() == 0 {
                // Every row of the fetch had ended. It shows nothing, so the page may go on behind it.
                let Some(rest) = range.behind(&last, query.descending) else { break false };
                if plan.is_spent() || query.is_late() {
                    break true;
                }
                range = rest;
            } else if plan.is_worth_more(rows, rows.saturating_sub(page.rows())) && !query.is_late() {
                page.restart();
            } else {
                break true;
            }
        };
        if let Some(seen) = plan.seen() {
            statements.sizes().remember(partition, seen);
        }
        Ok(Page { seen: plan.seen(), ..page.finish(more) })
    }
}

/// Result of one fetch of rows.
struct Fetched {
    rows: usize,
    bytes: usize,
    largest: usize,
    last: Option<SortKey>,
    full: bool,
}

/// Puts fetched rows into a page.
fn fill(page: &mut PageBuilder, of: SortKeyType, result: QueryResult) -> Result<Fetched, Error> {
    let mut fetched = Fetched { rows: 0, bytes: 0, largest: 0, last: None, full: false };
    each_row(of, result, |sort_key, cell| {
        fetched.rows += 1;
        let bytes = cell.map_or(0, |(cell, _)| cell.len());
        fetched.bytes += bytes;
        fetched.largest = fetched.largest.max(bytes);
        if fetched.full {
            // The rows behind a full page were fetched all the same.
            return Ok(());
        }
        fetched.full = !match cell {
            Some((cell, write_time)) => page.offer(sort_key.clone(), cell, write_time)?,
            None => page.pass_over(sort_key.clone()),
        };
        fetched.last = Some(sort_key);
        Ok(())
    })?;
    Ok(fetched)
}

/// Calls `take` for each row of a result with columns `sk, cell, WRITETIME(cell)`. A row without a cell is
/// gone.
pub(super) fn each_row(
    of: SortKeyType,
    result: QueryResult,
    mut take: impl FnMut(SortKey, Option<(&[u8], WriteTimestamp)>) -> Result<(), Error>,
) -> Result<(), Error> {
    let result = result.into_rows_result().map_err(undecodable)?;
    macro_rules! each {
        ($type:ty, $key:expr) => {
            for row in result.rows::<($type, Option<&[u8]>, Option<i64>)>().map_err(undecodable)? {
                let (key, cell, write_time) = row.map_err(undecodable)?;
                take($key(key), cell.zip(write_time.map(WriteTimestamp)))?;
            }
        };
    }
    match of {
        SortKeyType::String => each!(&str, |text: &str| SortKey::Text(text.to_owned())),
        SortKeyType::Int64 => each!(i64, SortKey::Int),
        SortKeyType::Bytes => each!(&[u8], |bytes: &[u8]| SortKey::Bytes(bytes.to_vec().into())),
        SortKeyType::None => {}
    }
    Ok(())
}
