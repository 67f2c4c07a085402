//! The record of a write in a table's change feed: the place of the record, and the rows that the write put and deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message as _;

use crate::clock::WriteTimestamp;
use crate::conditional::{ConditionalWrite, Decision, Found, Replacement};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::{Change, Write};
use crate::row::Row;
use crate::table::{SortKeyType, Table};
use crate::value::Attributes;

/// Most rows that a deleted range may hold where each of them is read before it is deleted.
pub(crate) const RANGE_ROWS_MAX: usize = 1000;

/// Most bytes of the old rows of one write, with their keys. With the new rows, which are written and recorded and have
/// [`RECORDED_BYTES_MAX`](crate::mutation::RECORDED_BYTES_MAX), and all keys they fit into half a segment of 8 MiB of Cassandra's
/// commit log, and each change into a message of 4 MiB.
pub(crate) const OLD_ROWS_BYTES_MAX: usize = 3 << 19;

/// Most bytes of the rows that a write to a table with views changes, where no record keeps them.
pub(crate) const VIEWED_ROWS_BYTES_MAX: usize = 16 << 20;

/// Counts the old rows of a write.
#[derive(Debug)]
pub(crate) struct OldRowsBudget {
    max: usize,
    taken: AtomicUsize,
}

impl OldRowsBudget {
    /// Makes the budget of a write to this table.
    pub(crate) fn of(table: &Table) -> Self {
        let recorded = table.change_feed().is_some_and(|feed| feed.old_rows);
        let max = if recorded { OLD_ROWS_BYTES_MAX } else { VIEWED_ROWS_BYTES_MAX };
        Self { max, taken: AtomicUsize::new(0) }
    }

    /// Counts rows.
    ///
    /// # Errors
    /// [`Error::OldRowsTooLarge`] when they are too many with those before.
    pub(crate) fn take(&self, rows: &[Row]) -> Result<(), Error> {
        let bytes = rows.iter().map(row_bytes).sum::<usize>();
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.max {
            return Ok(());
        }
        Err(Error::OldRowsTooLarge { max: self.max })
    }
}

/// Place of a record in its shard: microseconds since 1970, and a number that tells records of one microsecond apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// The time of the record.
    pub(crate) at: i64,
    /// The number among the records of that time.
    pub(crate) id: i64,
}

impl Place {
    /// The place behind all others.
    pub(crate) const MAX: Place = Place { at: i64::MAX, id: i64::MAX };

    /// Returns the first place of a time.
    pub(crate) fn first_at(at: i64) -> Self {
        Self { at, id: i64::MIN }
    }

    /// Returns the place behind this one.
    pub(crate) fn next(self) -> Self {
        match self.id.checked_add(1) {
            Some(id) => Self { id, ..self },
            None => Self::first_at(self.at.saturating_add(1)),
        }
    }
}

/// A write as the feed shows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChangeRecord {
    /// The place of the record.
    pub(crate) place: Place,
    /// The partition that was written.
    pub(crate) partition: PartitionKey,
    /// The timestamp of the write.
    pub(crate) write_time: WriteTimestamp,
    /// The changes of rows.
    pub(crate) rows: Vec<RowChange>,
}

/// A change of rows, with the rows that were there before it, where the table keeps them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowChange {
    /// The change.
    pub(crate) kind: RowChangeKind,
    /// The rows before the change, in the order of their sort keys.
    pub(crate) old_rows: Vec<Row>,
}

/// Kind of a change of rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RowChangeKind {
    /// A row was put.
    Put(Row),
    /// A row was deleted.
    Delete(SortKey),
    /// The rows of a range were deleted.
    DeleteRange(SortRange),
}

/// The rows before a write, for each of its changes; empty where the table does not keep them.
pub(crate) type OldRows = Vec<Vec<Row>>;

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRecord {
    #[prost(string, tag = "1")]
    partition: String,
    #[prost(int64, tag = "2")]
    write_time: i64,
    #[prost(message, repeated, tag = "3")]
    rows: Vec<StoredChange>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredChange {
    /// The sort key, or the start of the range, as ordered bytes.
    #[prost(bytes = "bytes", optional, tag = "1")]
    key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    end: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    cell: Option<Bytes>,
    #[prost(bool, tag = "4")]
    range: bool,
    #[prost(message, repeated, tag = "5")]
    old_rows: Vec<StoredRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRow {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(message, optional, tag = "2")]
    attributes: Option<Attributes>,
    #[prost(int64, tag = "3")]
    write_time: i64,
    #[prost(int64, optional, tag = "4")]
    expire_time: Option<i64>,
}

/// Encodes the record of a write.
pub(crate) fn encode(write: &Write, old_rows: OldRows) -> Vec<u8> {
    let mut old_rows = old_rows.into_iter();
    let changes = write.changes.iter().map(|change| {
        let old_rows = old_rows.next().unwrap_or_default();
        match change {
            Change::Put { sort_key, cell, .. } => stored_change(sort_key, Some(cell), old_rows),
            Change::Delete { sort_key } => stored_change(sort_key, None, old_rows),
            Change::DeleteRange { range } => StoredChange {
                key: range.start.as_ref().map(ordered),
                end: range.end.as_ref().map(ordered),
                range: true,
                ..stored_change(&SortKey::Unit, None, old_rows)
            },
        }
    });
    stored_record(&write.partition, write.stamp(), changes.collect())
}

/// Encodes the record of a conditional write that is about to be applied.
///
/// # Errors
/// [`Error::OldRowsTooLarge`].
pub(crate) fn encode_conditional(
    write: &ConditionalWrite,
    decision: &Decision,
    found: &[Found],
    old_rows: bool,
) -> Result<Vec<u8>, Error> {
    let old = |place: usize| found.get(place).and_then(|found| found.row.as_ref()).filter(|_| old_rows);
    let budget = OldRowsBudget::of(&write.table);
    for row in decision.changes.iter().filter_map(|(place, _)| old(*place)) {
        budget.take(std::slice::from_ref(row))?;
    }
    let changes = decision.changes.iter().filter_map(|(place, replacement)| {
        let old = old(*place).cloned();
        let cell = match replacement {
            Replacement::Put { cell, .. } => Some(cell),
            Replacement::Delete => None,
        };
        Some(stored_change(write.rows.get(*place)?, cell, old.into_iter().collect()))
    });
    Ok(stored_record(&write.partition, decision.write_time, changes.collect()))
}

fn ordered(key: &SortKey) -> Bytes {
    key.ordered_bytes().into()
}

fn stored_change(key: &SortKey, cell: Option<&Bytes>, old_rows: Vec<Row>) -> StoredChange {
    let old_rows = old_rows.into_iter().map(stored_row).collect();
    StoredChange { key: Some(ordered(key)), cell: cell.cloned(), old_rows, ..StoredChange::default() }
}

fn stored_record(partition: &PartitionKey, stamp: WriteTimestamp, rows: Vec<StoredChange>) -> Vec<u8> {
    let partition = partition.as_str().to_owned();
    StoredRecord { partition, write_time: stamp.0, rows }.encode_to_vec()
}

/// Reads the record at a place.
///
/// # Errors
/// DATA_LOSS when it cannot be read.
pub(crate) fn decode(of: SortKeyType, place: Place, stored: &[u8]) -> Result<Arc<ChangeRecord>, Error> {
    let lost = |what: &str| Error::DataLoss(format!("a record of the change feed: {what}"));
    let record = StoredRecord::decode(stored).map_err(|error| lost(&error.to_string()))?;
    let write_time = WriteTimestamp(record.write_time);
    let key = |bytes: &[u8]| SortKey::of_ordered_bytes(of, bytes).ok_or_else(|| lost("a sort key"));
    let mut rows = Vec::with_capacity(record.rows.len());
    for change in record.rows {
        let kind = if change.range {
            let bound = |bytes: Option<Bytes>| bytes.map(|bytes| key(&bytes)).transpose();
            RowChangeKind::DeleteRange(SortRange { start: bound(change.key)?, end: bound(change.end)? })
        } else {
            let sort_key = key(&change.key.unwrap_or_default())?;
            match change.cell {
                None => RowChangeKind::Delete(sort_key),
                Some(cell) => {
                    // The record shows the row as it was written, also when it has ended since.
                    let row = Row::of_cell(sort_key, &cell, write_time, WriteTimestamp(i64::MIN))?;
                    RowChangeKind::Put(row.ok_or_else(|| lost("a row"))?)
                }
            }
        };
        let mut old_rows = Vec::with_capacity(change.old_rows.len());
        for old in change.old_rows {
            old_rows.push(Row {
                sort_key: key(&old.key)?,
                attributes: old.attributes.unwrap_or_default(),
                write_time: WriteTimestamp(old.write_time),
                expire_time: old.expire_time.map(WriteTimestamp),
            });
        }
        rows.push(RowChange { kind, old_rows });
    }
    let partition = PartitionKey::parse(record.partition).map_err(|_| lost("its partition key"))?;
    Ok(Arc::new(ChangeRecord { place, partition, write_time, rows }))
}

fn stored_row(row: Row) -> StoredRow {
    StoredRow {
        key: row.sort_key.ordered_bytes().into(),
        attributes: Some(row.attributes),
        write_time: row.write_time.0,
        expire_time: row.expire_time.map(|at| at.0),
    }
}

impl ChangeRecord {
    /// Returns about how many bytes the record takes.
    pub(crate) fn bytes(&self) -> usize {
        self.partition.as_str().len() + self.rows.iter().map(RowChange::bytes).sum::<usize>()
    }
}

impl RowChange {
    /// Returns about how many bytes the change takes.
    pub(crate) fn bytes(&self) -> usize {
        let new = if let RowChangeKind::Put(new) = &self.kind { row_bytes(new) } else { OVERHEAD };
        new + self.old_rows.iter().map(row_bytes).sum::<usize>()
    }
}

/// Bytes that a row takes besides its key and its attributes.
const OVERHEAD: usize = 64;

fn row_bytes(row: &Row) -> usize {
    OVERHEAD + row.sort_key.ordered_len() + row.attributes.encoded_len()
}

/// Puts the records of each partition in the order of their write times, in the places that the partition has.
pub(crate) fn order_within_partitions(records: &mut [Arc<ChangeRecord>]) {
    let mut places: std::collections::HashMap<PartitionKey, Vec<usize>> = std::collections::HashMap::new();
    for (at, record) in records.iter().enumerate() {
        places.entry(record.partition.clone()).or_default().push(at);
    }
    for places in places.into_values().filter(|places| places.len() > 1) {
        let mut ordered: Vec<_> = places.iter().map(|at| records[*at].clone()).collect();
        ordered.sort_by_key(|record| record.write_time);
        for (at, record) in places.into_iter().zip(ordered) {
            records[at] = record;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation::{Mutation, RECORDED_BYTES_MAX};
    use crate::store::conformance::{holding, table, text};
    use crate::table::ChangeFeed;
    use crate::write_token::WriteToken;

    fn record(partition: &str, at: i64, write_time: i64) -> Arc<ChangeRecord> {
        let partition = PartitionKey::parse(partition.to_owned()).unwrap();
        let (place, write_time) = (Place { at, id: 0 }, WriteTimestamp(write_time));
        Arc::new(ChangeRecord { place, partition, write_time, rows: Vec::new() })
    }

    #[test]
    fn records_decode_as_encoded() {
        let mutations = vec![
            Mutation::Put { sort_key: text("a"), attributes: holding("1"), ttl: None },
            Mutation::Delete { sort_key: text("b") },
            Mutation::DeleteRange { start: text("c"), end: None },
        ];
        let partition = PartitionKey::parse("p".to_owned()).unwrap();
        let stamp = WriteTimestamp(1_000);
        let token = WriteToken::generate(stamp);
        let table = Arc::new(table("t", SortKeyType::String));
        let write = Write::parse(table, partition.clone(), token, mutations).unwrap();
        let old = Row {
            sort_key: SortKey::Text("d".to_owned()),
            attributes: holding("0"),
            write_time: WriteTimestamp(7),
            expire_time: Some(WriteTimestamp(9)),
        };
        let stored = encode(&write, vec![vec![], vec![], vec![old.clone()]]);
        let place = Place { at: 5, id: -5 };
        let record = decode(SortKeyType::String, place, &stored).unwrap();
        assert_eq!((record.place, &record.partition, record.write_time), (place, &partition, stamp));
        let [put, delete, range] = &record.rows[..] else { panic!("{record:?}") };
        assert!(matches!(&put.kind, RowChangeKind::Put(row) if row.attributes == holding("1")));
        assert_eq!(delete.kind, RowChangeKind::Delete(SortKey::Text("b".to_owned())));
        let start = Some(SortKey::Text("c".to_owned()));
        assert_eq!(range.kind, RowChangeKind::DeleteRange(SortRange { start, end: None }));
        assert_eq!(range.old_rows, [old]);
        for len in 0..stored.len() {
            let cut = decode(SortKeyType::Int64, place, &stored[..len]);
            assert!(cut.is_ok() || matches!(cut, Err(Error::DataLoss(_))), "{cut:?}");
        }
    }

    #[test]
    fn largest_record_fits_one_write() {
        /// Half a segment of 8 MiB.
        const ENGINE_BYTES_MAX: usize = 4 << 20;
        /// Bytes that Cassandra keeps of a statement of a batch besides its keys and its cell.
        const STATEMENT: usize = 128;
        let key = |at: usize| text(&format!("{at:0>1024}"));
        let large = "x".repeat(RECORDED_BYTES_MAX / 2 - 64);
        let puts =
            (0..2).map(|at| Mutation::Put { sort_key: key(at), attributes: holding(&large), ttl: None });
        let ranges = (2..100).map(|at| Mutation::DeleteRange { start: key(at * 2), end: key(at * 2 + 1) });
        let partition = PartitionKey::parse("p".repeat(1024)).unwrap();
        let token = WriteToken::generate(WriteTimestamp(1_000));
        let mut table = table("t", SortKeyType::String);
        table.definition.options.change_feed = ChangeFeed::parse(true, None, WriteTimestamp(1_000)).ok();
        let table = Arc::new(table);
        let write = Write::parse(table.clone(), partition, token, puts.chain(ranges).collect()).unwrap();
        for value in [0, 100, 100_000] {
            let row = |at: usize| Row {
                sort_key: SortKey::Text(format!("{at:0>1024}")),
                attributes: holding(&"o".repeat(value)),
                write_time: WriteTimestamp(i64::MAX),
                expire_time: Some(WriteTimestamp(i64::MAX)),
            };
            let budget = OldRowsBudget::of(&table);
            let old: Vec<_> =
                (0..).map(row).take_while(|row| budget.take(std::slice::from_ref(row)).is_ok()).collect();
            let record = encode(&write, vec![vec![], vec![], old]).len();
            let rows: usize = write.changes.iter().map(|change| change_bytes(change) + STATEMENT).sum();
            let all = record + rows + 2 * (1024 + STATEMENT);
            assert!(all <= ENGINE_BYTES_MAX, "{all} bytes with old rows of {value}");
        }
    }

    fn change_bytes(change: &Change) -> usize {
        match change {
            Change::Put { sort_key, cell, .. } => sort_key.ordered_len() + cell.len(),
            Change::Delete { sort_key } => sort_key.ordered_len(),
            Change::DeleteRange { range } => {
                [&range.start, &range.end].into_iter().flatten().map(SortKey::ordered_len).sum()
            }
        }
    }

    #[test]
    fn only_partitions_are_put_in_order() {
        let mut records = vec![record("a", 1, 9), record("b", 2, 8), record("a", 3, 5), record("b", 4, 9)];
        order_within_partitions(&mut records);
        let order: Vec<_> =
            records.iter().map(|record| (record.partition.as_str(), record.write_time.0)).collect();
        assert_eq!(order, [("a", 5), ("b", 8), ("a", 9), ("b", 9)]);
    }
}
