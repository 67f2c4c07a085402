//! Entries of views: the hidden rows that stand for rows of a table under their keys in a view, and what a write changes of them.
//!
//! The partition key of an entry is the view's. Its sort key is bytes: the view's sort key in an encoding that keeps the order, then
//! the partition key and the sort key of the row, so that no two rows have one entry. Its attributes are those that the view has,
//! and beside them, without a name, when the row was written and when the entry was.

use bytes::Bytes;

use crate::clock::WriteTimestamp;
use crate::conditional::{ConditionalWrite, Decision, Found, Replacement};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey, SortRange};
use crate::mutation::{Change, Write};
use crate::row::Row;
use crate::row_codec::{self, Draft, WriteId};
use crate::table::{RowRef, SortKeyType, View};
use crate::value::{Attributes, Value};

/// Name of the attribute that callers cannot give: names have at least one byte.
const TIMES: &str = "";
/// Bytes that end a text or bytes in a sort key. A zero byte inside is followed by [`ESCAPE`], which is larger.
const END: [u8; 2] = [0, 0];
const ESCAPE: u8 = 0xff;

/// Key of an entry in the hidden table of its view.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EntryKey {
    /// The partition key.
    pub(crate) partition: PartitionKey,
    /// The sort key.
    pub(crate) sort_key: SortKey,
}

/// A row that belongs into an entry.
#[derive(Debug, Clone)]
pub(crate) struct EntryRow<'a> {
    /// The attributes of the row.
    pub(crate) attributes: &'a Attributes,
    /// The time when the row ends.
    pub(crate) expire_time: Option<WriteTimestamp>,
    /// The timestamp of the row.
    pub(crate) write_time: WriteTimestamp,
    /// The identity of its write.
    pub(crate) write: WriteId,
}

/// Order in which a row and its entry are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryOrder {
    /// Both in one step.
    Together,
    /// The entry first, so that the row is never without it. A row that is not there may still come.
    EntryFirst,
}

/// A change of a view's entries.
#[derive(Debug, Clone)]
pub(crate) struct EntryChange<'a> {
    /// The view.
    pub(crate) view: &'a View,
    /// The key of the entry.
    pub(crate) key: EntryKey,
    /// The timestamp of the change.
    pub(crate) stamp: WriteTimestamp,
    /// The cell and end of an entry that is put; none if it is deleted.
    pub(crate) put: Option<(Bytes, Option<WriteTimestamp>)>,
}

impl EntryChange<'_> {
    /// Returns about how many bytes the change has.
    pub(crate) fn bytes(&self) -> usize {
        const OVERHEAD: usize = 64;
        let SortKey::Bytes(sort_key) = &self.key.sort_key else { return OVERHEAD };
        let cell = self.put.as_ref().map_or(0, |(cell, _)| cell.len());
        OVERHEAD + self.key.partition.as_str().len() + sort_key.len() + cell
    }
}

/// An entry that was read.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The partition of the row.
    pub(crate) partition: PartitionKey,
    /// The row, as far as the view has it.
    pub(crate) row: Row,
    /// The sort key in the view.
    pub(crate) view_sort_key: Option<Value>,
    /// The time when the entry was written, by the clock of the clone that wrote it.
    pub(crate) entered: WriteTimestamp,
    /// The order in which it was written.
    pub(crate) order: EntryOrder,
    /// The timestamp of the entry in its hidden table.
    pub(crate) stamp: WriteTimestamp,
    /// The key of the entry.
    pub(crate) key: EntryKey,
}

/// Returns the key of a row's entry; none if the row is not in the view.
pub(crate) fn key_of(
    view: &View,
    partition: &PartitionKey,
    sort_key: &SortKey,
    attributes: &Attributes,
) -> Option<EntryKey> {
    let own = sort_key.clone().into_value();
    let row = RowRef { partition: partition.as_str(), sort_key: own.as_ref(), attributes };
    let key = view.key(row)?;
    let mut bytes = Vec::new();
    if let Some(value) = &key.sort_key {
        bytes.extend(ordered(value));
    }
    escape(&mut bytes, partition.as_str().as_bytes());
    bytes.extend(END);
    bytes.extend(sort_key.ordered_bytes());
    Some(EntryKey {
        partition: PartitionKey::parse(key.partition).ok()?,
        sort_key: SortKey::Bytes(bytes.into()),
    })
}

/// Makes the cell of a row's entry, written at `now`.
pub(crate) fn cell_of(view: &View, row: &EntryRow<'_>, order: EntryOrder, now: WriteTimestamp) -> Bytes {
    let mut attributes = view.projected(row.attributes);
    let first = u8::from(order == EntryOrder::EntryFirst);
    let times = [&row.write_time.0.to_be_bytes()[..], &now.0.to_be_bytes(), &[first]].concat();
    attributes.insert(TIMES.to_owned(), Value::Bytes(times.into()));
    Draft::new(&attributes, row.expire_time).seal(row.write).into()
}

/// Reads the row of a hidden table.
///
/// # Errors
/// DATA_LOSS when it is no entry.
pub(crate) fn read(view: &View, of: SortKeyType, partition: &PartitionKey, row: Row) -> Result<Entry, Error> {
    let lost = |what: &str| Error::DataLoss(format!("an entry of view `{}`: {what}", view.name));
    let Row { sort_key: at, mut attributes, write_time: stamp, expire_time } = row;
    let SortKey::Bytes(bytes) = &at else { return Err(lost("its key")) };
    let (view_sort_key, rest) = match view.sort_key_type {
        SortKeyType::None => (None, &bytes[..]),
        SortKeyType::Int64 => {
            let (int, rest) = bytes.split_at_checked(size_of::<i64>()).ok_or_else(|| lost("its sort key"))?;
            let int = SortKey::of_ordered_bytes(SortKeyType::Int64, int).and_then(SortKey::into_value);
            (int, rest)
        }
        text_or_bytes => {
            let (value, rest) = unescape(bytes).ok_or_else(|| lost("its sort key"))?;
            let value = SortKey::of_ordered_bytes(text_or_bytes, &value).and_then(SortKey::into_value);
            (Some(value.ok_or_else(|| lost("its sort key"))?), rest)
        }
    };
    let (row_partition, sort_key) = unescape(rest).ok_or_else(|| lost("its row's partition"))?;
    let row_partition = String::from_utf8(row_partition).ok().and_then(|key| PartitionKey::parse(key).ok());
    let sort_key = SortKey::of_ordered_bytes(of, sort_key).ok_or_else(|| lost("its row's sort key"))?;
    let times = attributes.remove(TIMES);
    let times = match &times {
        Some(Value::Bytes(times)) => times.split_first_chunk().and_then(|(written, rest)| {
            let (entered, order) = rest.split_first_chunk()?;
            let order = if *order.first()? == 0 { EntryOrder::Together } else { EntryOrder::EntryFirst };
            let (written, entered) = (i64::from_be_bytes(*written), i64::from_be_bytes(*entered));
            Some((WriteTimestamp(written), WriteTimestamp(entered), order))
        }),
        _ => None,
    };
    let (write_time, entered, order) = times.ok_or_else(|| lost("its times"))?;
    Ok(Entry {
        partition: row_partition.ok_or_else(|| lost("its row's partition"))?,
        row: Row { sort_key, attributes, write_time, expire_time },
        view_sort_key,
        entered,
        order,
        stamp,
        key: EntryKey { partition: partition.clone(), sort_key: at.clone() },
    })
}

/// Returns the sort keys of the entries whose view's sort keys are in a range.
pub(crate) fn range(range: &SortRange) -> SortRange {
    let bound = |key: &SortKey| key.clone().into_value().map(|value| SortKey::Bytes(ordered(&value).into()));
    SortRange { start: range.start.as_ref().and_then(bound), end: range.end.as_ref().and_then(bound) }
}

/// Returns what a last-write-wins write changes of the entries of its table's views; `old_rows` has the rows before each of its
/// changes. The order does not matter.
///
/// An entry is deleted a microsecond before the write, never at its own timestamp: of two writes at one timestamp the one that
/// stays in the table keeps its entry, whatever the other one has found.
///
/// # Errors
/// DATA_LOSS when a cell cannot be read.
pub(crate) fn of_write<'a>(
    write: &'a Write,
    old_rows: &[Vec<Row>],
    order: EntryOrder,
    now: WriteTimestamp,
) -> Result<Vec<EntryChange<'a>>, Error> {
    let stamp = write.stamp();
    let mut changes = Vec::new();
    for (change, old_rows) in write.changes.iter().zip(old_rows) {
        match change {
            Change::Put { sort_key, cell, expire_time } => {
                let old = old_rows.first();
                if old.is_some_and(|old| old.write_time > stamp) {
                    // The row that is there stays.
                    continue;
                }
                let attributes = row_codec::decode(cell)?;
                let row = EntryRow {
                    attributes: &attributes,
                    expire_time: *expire_time,
                    write_time: stamp,
                    write: row_codec::write_id(cell),
                };
                let old = old.filter(|old| old.write_time < stamp);
                for view in write.table.kept_views() {
                    let at = (&write.partition, sort_key);
                    replace(&mut changes, view, at, (old, Some(&row)), write.range_stamp(), (order, now));
                }
            }
            Change::Delete { .. } => {
                for old in old_rows.iter().filter(|old| old.write_time <= stamp) {
                    let at = old.write_time.max(write.range_stamp());
                    deleted(&mut changes, write, old, at);
                }
            }
            Change::DeleteRange { .. } => {
                for old in old_rows.iter().filter(|old| old.write_time <= write.range_stamp()) {
                    deleted(&mut changes, write, old, write.range_stamp());
                }
            }
        }
    }
    Ok(changes)
}

fn deleted<'a>(changes: &mut Vec<EntryChange<'a>>, write: &'a Write, old: &Row, stamp: WriteTimestamp) {
    for view in write.table.kept_views() {
        if let Some(key) = key_of(view, &write.partition, &old.sort_key, &old.attributes) {
            changes.push(EntryChange { view, key, stamp, put: None });
        }
    }
}

/// Returns what a conditional write that is about to be applied changes of the entries of its table's views.
///
/// # Errors
/// DATA_LOSS when a cell cannot be read.
pub(crate) fn of_conditional<'a>(
    write: &'a ConditionalWrite,
    decision: &Decision,
    found: &[Found],
    now: WriteTimestamp,
) -> Result<Vec<EntryChange<'a>>, Error> {
    let order = EntryOrder::EntryFirst;
    let mut changes = Vec::new();
    for (place, replacement) in &decision.changes {
        let (Some(sort_key), Some(found)) = (write.rows.get(*place), found.get(*place)) else { continue };
        let attributes = match replacement {
            Replacement::Put { cell, .. } => Some(row_codec::decode(cell)?),
            Replacement::Delete => None,
        };
        let row = match (&attributes, replacement) {
            (Some(attributes), Replacement::Put { expire_time, .. }) => Some(EntryRow {
                attributes,
                expire_time: *expire_time,
                write_time: decision.write_time,
                write: WriteId::default(),
            }),
            _ => None,
        };
        for view in write.table.kept_views() {
            let (old, new) = (found.row.as_ref(), row.as_ref());
            let before = WriteTimestamp(decision.write_time.0 - 1);
            replace(&mut changes, view, (&write.partition, sort_key), (old, new), before, (order, now));
        }
    }
    Ok(changes)
}

/// Replaces the entry of an old row, at `before`, by that of a new one.
fn replace<'a>(
    changes: &mut Vec<EntryChange<'a>>,
    view: &'a View,
    (partition, sort_key): (&PartitionKey, &SortKey),
    (old, new): (Option<&Row>, Option<&EntryRow<'_>>),
    before: WriteTimestamp,
    (order, now): (EntryOrder, WriteTimestamp),
) {
    let new_key = new.and_then(|row| key_of(view, partition, sort_key, row.attributes));
    let old_key = old.and_then(|old| key_of(view, partition, sort_key, &old.attributes));
    if let Some(key) = old_key.filter(|key| Some(key) != new_key.as_ref()) {
        changes.push(EntryChange { view, key, stamp: before, put: None });
    }
    if let (Some(key), Some(row)) = (new_key, new) {
        let put = Some((cell_of(view, row, order, now), row.expire_time));
        changes.push(EntryChange { view, key, stamp: row.write_time, put });
    }
}

/// Returns bytes that sort like the sort keys of a view.
fn ordered(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    match value {
        Value::Int(int) => return SortKey::Int(*int).ordered_bytes(),
        Value::String(text) => escape(&mut bytes, text.as_bytes()),
        Value::Bytes(of) => escape(&mut bytes, of),
        // No view has such sort keys.
        Value::Double(_) | Value::Bool(_) | Value::Time(_) | Value::List(_) => {}
    }
    bytes.extend(END);
    bytes
}

fn escape(into: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        into.push(*byte);
        if *byte == 0 {
            into.push(ESCAPE);
        }
    }
}

/// Takes an escaped value and its end from the front. Returns it with what follows.
fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut value, mut rest) = (Vec::new(), bytes);
    loop {
        match rest {
            [0, 0, after @ ..] => return Some((value, after)),
            [0, ESCAPE, after @ ..] => {
                value.push(0);
                rest = after;
            }
            [byte, after @ ..] if *byte != 0 => {
                value.push(*byte);
                rest = after;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{NewView, ViewState};

    #[test]
    fn encoded_sort_keys_keep_their_order() {
        let texts = ["\0", "\0\0", "\0a", "a", "a\0", "a\0\0", "a\0b", "a\u{1}", "aa", "b", "\u{10ffff}"];
        for pair in texts.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|text| ordered(&Value::String(text.to_owned())));
            assert!(a < b, "{pair:?}");
            let (value, rest) = unescape(&a).unwrap();
            assert_eq!((&value[..], rest), (pair[0].as_bytes(), &[][..]));
        }
        let ints = [i64::MIN, -1, 0, 1, i64::MAX].map(|int| ordered(&Value::Int(int)));
        assert!(ints.is_sorted());
        for broken in [&b"a"[..], b"a\0", b"\0\x01"] {
            assert_eq!(unescape(broken), None);
        }
    }

    #[test]
    fn entries_read_as_they_were_made() {
        for (of, value) in [
            (SortKeyType::None, Value::Int(0)),
            (SortKeyType::String, Value::String("s\0t".to_owned())),
            (SortKeyType::Int64, Value::Int(-5)),
            (SortKeyType::Bytes, Value::Bytes(Bytes::from_static(&[0, 255, 0]))),
        ] {
            let declared = NewView {
                name: "v".to_owned(),
                partition: "p".to_owned(),
                sort: if of == SortKeyType::None { String::new() } else { "s".to_owned() },
                sort_key_type: Some(of),
                attributes: vec!["s".to_owned()],
                ..NewView::default()
            };
            let view = View::parse(declared, "view", uuid::Uuid::nil(), ViewState::Ready).unwrap();
            let attributes: Attributes =
                [("p".to_owned(), Value::String("in".to_owned())), ("s".to_owned(), value.clone())]
                    .into_iter()
                    .collect();
            let (partition, sort_key) = (PartitionKey::parse("ro\0w".to_owned()).unwrap(), SortKey::Int(7));
            let key = key_of(&view, &partition, &sort_key, &attributes).unwrap();
            assert_eq!(key.partition.as_str(), "in");
            let (write_time, expire_time, write) = (WriteTimestamp(3), Some(WriteTimestamp(9)), [1; 9]);
            let row = EntryRow { attributes: &attributes, expire_time, write_time, write };
            let cell = cell_of(&view, &row, EntryOrder::EntryFirst, WriteTimestamp(4));
            let stored = Row::of_cell(key.sort_key.clone(), &cell, WriteTimestamp(3), WriteTimestamp(0));
            let entry = read(&view, SortKeyType::Int64, &key.partition, stored.unwrap().unwrap()).unwrap();
            assert_eq!((&entry.partition, &entry.row.sort_key), (&partition, &sort_key));
            assert_eq!((entry.row.write_time, entry.row.expire_time), (write_time, expire_time));
            assert_eq!((entry.entered, entry.row.attributes.len()), (WriteTimestamp(4), 1));
            assert_eq!(entry.order, EntryOrder::EntryFirst);
            assert_eq!(entry.view_sort_key, (of != SortKeyType::None).then_some(value));
        }
    }
}
