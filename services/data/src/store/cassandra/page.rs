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
        let sizes = statements.sizes();
        let mut plan = FetchPlan::new(query.limit, seen, sizes.largest(), sizes.rows_max());
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
            let result = self.select(&statements, kind, query.consistency, values).await;
            let fetched = fill(&mut page, of, sizes.judged(fetch, result)?)?;
            sizes.note(fetched.largest);
            match next_fetch(&mut plan, &mut page, fetch, fetched, query.is_late()) {
                NextFetch::None { more } => break more,
                NextFetch::Again => page.restart(),
                NextFetch::Behind(last) => match range.behind(&last, query.descending) {
                    Some(rest) => range = rest,
                    None => break false,
                },
            }
        };
        if let Some(seen) = plan.seen() {
            statements.sizes().remember(partition, seen);
        }
        Ok(Page { seen: plan.seen(), ..page.finish(more) })
    }
}

/// Result of one fetch of rows.
#[derive(Debug, Default)]
struct Fetched {
    rows: usize,
    bytes: usize,
    largest: usize,
    last: Option<SortKey>,
    full: bool,
}

/// Step of a page after a fetch.
#[derive(Debug, PartialEq)]
enum NextFetch {
    /// The page is complete.
    None {
        /// Set if there may be more rows behind it.
        more: bool,
    },
    /// The same rows are read again, with more behind them.
    Again,
    /// The rows behind a sort key are read. The page shows none yet.
    Behind(SortKey),
}

/// Decides what a page does after a fetch of so many rows.
fn next_fetch(
    plan: &mut FetchPlan,
    page: &mut PageBuilder,
    fetch: usize,
    fetched: Fetched,
    late: bool,
) -> NextFetch {
    let Fetched { rows, bytes, largest, last, full } = fetched;
    plan.fetched(rows, bytes, largest);
    if full {
        return NextFetch::None { more: true };
    }
    let Some(last) = last.filter(|_| rows >= fetch) else { return NextFetch::None { more: false } };
    if page.rows() == 0 {
        // Every row of the fetch had ended. It shows nothing, so the page may go on behind it.
        return if plan.is_spent() || late {
            NextFetch::None { more: true }
        } else {
            NextFetch::Behind(last)
        };
    }
    // Rows that are read again count again, so a page that has looked at many would show fewer of them, or none.
    let worth_more = plan.is_worth_more(rows, rows.saturating_sub(page.rows()));
    if worth_more && !late && page.may_look_at(plan.rows()) {
        return NextFetch::Again;
    }
    NextFetch::None { more: true }
}

/// Puts fetched rows into a page.
fn fill(page: &mut PageBuilder, of: SortKeyType, result: QueryResult) -> Result<Fetched, Error> {
    let mut fetched = Fetched::default();
    each_row(of, result, |sort_key, cell| take(&mut fetched, page, sort_key, cell))?;
    Ok(fetched)
}

/// Puts a fetched row into a page, if it is not full.
fn take(
    fetched: &mut Fetched,
    page: &mut PageBuilder,
    sort_key: SortKey,
    cell: Option<(&[u8], WriteTimestamp)>,
) -> Result<(), Error> {
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
        SortKeyType::Bytes | SortKeyType::Composite(_) => {
            each!(&[u8], |bytes: &[u8]| SortKey::of_blob(of, bytes.to_vec().into()));
        }
        SortKeyType::None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{LOOKED_MAX, Seen};
    use crate::row_codec;
    use crate::value::Value;

    /// Rows of a partition in order: the cell of each, none of a deleted one.
    type Rows = Vec<Option<Vec<u8>>>;

    fn cell(bytes: usize, ended: bool) -> Vec<u8> {
        let attributes = [("v".to_owned(), Value::Bytes(vec![7; bytes].into()))].into_iter().collect();
        row_codec::encode(&attributes, ended.then_some(WriteTimestamp(1)))
    }

    /// Reads a page as the store does, from rows instead of Cassandra. Returns it and the rows of each fetch.
    fn page(rows: &Rows, from: usize, limit: usize, seen: Option<Seen>) -> (Page, Vec<usize>) {
        let mut plan = FetchPlan::new(limit, seen, 0, usize::MAX);
        let mut page = PageBuilder::new(limit, WriteTimestamp(100));
        let (mut at, mut fetches) = (from, Vec::new());
        loop {
            let fetch = plan.rows();
            fetches.push(fetch);
            let mut fetched = Fetched::default();
            for (key, cell) in rows.iter().enumerate().skip(at).take(fetch) {
                let cell = cell.as_ref().map(|cell| (&cell[..], WriteTimestamp(5)));
                take(&mut fetched, &mut page, SortKey::Int(i64::try_from(key).unwrap()), cell).unwrap();
            }
            match next_fetch(&mut plan, &mut page, fetch, fetched, false) {
                NextFetch::None { more } => return (page.finish(more), fetches),
                NextFetch::Again => page.restart(),
                NextFetch::Behind(SortKey::Int(last)) => at = usize::try_from(last).unwrap() + 1,
                NextFetch::Behind(other) => panic!("{other:?}"),
            }
        }
    }

    /// Reads all rows page by page. Returns their keys.
    fn all(what: &str, rows: &Rows, limit: usize, seen: Option<Seen>) -> Vec<usize> {
        let (mut from, mut found, mut pages) = (0, Vec::new(), 0);
        loop {
            let (page, fetches) = page(rows, from, limit, seen);
            assert!(fetches.iter().sum::<usize>() <= 4 * LOOKED_MAX, "{what}: {fetches:?}");
            let key = |key: &SortKey| match key {
                SortKey::Int(key) => usize::try_from(*key).unwrap(),
                other => panic!("{other:?}"),
            };
            found.extend(page.rows.iter().map(|row| key(&row.sort_key)));
            let Some(next) = page.next else { return found };
            assert!(key(&next) + 1 > from, "{what}: the page goes on");
            from = key(&next) + 1;
            pages += 1;
            assert!(pages <= rows.len() + 1, "{what}: it comes to an end");
        }
    }

    #[test]
    fn pages_of_mixed_rows_are_whole() {
        let live = |rows: &Rows| {
            let live = |cell: &Option<Vec<u8>>| {
                cell.as_ref().is_some_and(|cell| row_codec::expire_time(cell).unwrap().is_none())
            };
            (0..rows.len()).filter(|at| live(&rows[*at])).collect::<Vec<_>>()
        };
        // Fetches of 1000, 2750 and 6250 rows: exactly as many as a page looks at.
        let mut exact: Rows = vec![Some(cell(40, false)); 125];
        exact.extend(vec![None; 12_000]);
        let seen = Some(Seen { rows: 1000, largest: 80 });
        assert_eq!(all("exact", &exact, 999, seen), live(&exact));
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut rows = Rows::new();
            while rows.len() < 14_000 {
                let most = [10, 200, 6_000][rng.usize(..3)];
                let some = rng.usize(1..most);
                let kind = rng.u8(..4);
                rows.extend((0..some).map(|_| match kind {
                    0 => Some(cell(20, false)),
                    1 => Some(cell(20, true)),
                    _ => None,
                }));
            }
            let limit = [1, 7, 100, 999, 1000][rng.usize(..5)];
            let seen = rng.bool().then(|| Seen { rows: rng.usize(1..2_000), largest: 60 });
            assert_eq!(all(&format!("seed {seed}"), &rows, limit, seen), live(&rows), "seed {seed}");
        }
    }
}
