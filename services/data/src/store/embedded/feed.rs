//! Change feeds: the record of a write is stored in the write's own transaction, at a place behind all earlier ones, so a feed has
//! one shard in the order of the commits.

use std::collections::HashMap;

use shoal_embedded::Tx;
use uuid::Uuid;

use crate::change_record::{self, OldRows, OldRowsBudget, Place, RANGE_ROWS_MAX};
use crate::clock::WriteTimestamp;
use crate::conditional::{ConditionalWrite, Decision, Found};
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::mutation::{Change, Write};
use crate::row::Row;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::{EmbeddedStore, Keyspaces, last_tombstone, layout, registry, write_failed};
use crate::store::{FeedCursor, FeedPage, FeedRead, FeedStore};
use crate::table::{ChangeFeed, Table};

/// Most records of a page, wanted or passed over.
const PAGE_RECORDS: usize = 500;
/// Bytes of records after which a page ends.
const PAGE_BYTES: usize = 1 << 20;
/// Most records that are removed in one write, which holds up every other writer.
const TRIM_RECORDS: usize = 256;
/// Microseconds within which a transaction ends that has begun: no place further back is taken any more.
const COMMIT_MAX: i64 = 60_000_000;

/// Adds the record of a write to the feed of its table, if the table has one. `old_rows` are those from before the write.
pub(super) fn record(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    write: &Write,
    old_rows: Option<&OldRows>,
    now: WriteTimestamp,
) -> Result<(), Error> {
    let Some(feed) = write.table.change_feed() else { return Ok(()) };
    let old_rows = match old_rows.filter(|_| feed.old_rows) {
        Some(old_rows) => old_rows.clone(),
        None => OldRows::new(),
    };
    add(tx, keyspaces, &write.table, change_record::encode(write, old_rows), now)
}

/// Adds the record of a conditional write that is about to be applied to the feed of its table, if the table has one.
pub(super) fn record_conditional(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    write: &ConditionalWrite,
    decision: &Decision,
    found: &[Found],
    now: WriteTimestamp,
) -> Result<(), Error> {
    let Some(feed) = write.table.change_feed() else { return Ok(()) };
    let record = change_record::encode_conditional(write, decision, found, feed.old_rows)?;
    add(tx, keyspaces, &write.table, record, now)
}

fn add(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    table: &Table,
    record: Vec<u8>,
    now: WriteTimestamp,
) -> Result<(), Error> {
    let table = table.id.as_bytes();
    let last = tx.get(&keyspaces.feeds, table)?.map(|stored| place(&stored)).transpose()?;
    let at = now.0.max(last.map_or(0, |last| last + 1)).to_be_bytes();
    tx.put(&keyspaces.changes, [table, &at[..]].concat(), record);
    tx.put(&keyspaces.feeds, table.to_vec(), at.to_vec());
    Ok(())
}

/// Returns the rows that a write puts or deletes, as they are before it. `table` is the table as it is now.
///
/// # Errors
/// [`Error::RangeTooLarge`] when a deleted range holds too many, [`Error::OldRowsTooLarge`] when all have too many bytes.
pub(super) fn rows_before(
    tx: &Tx<'_>,
    keyspaces: &Keyspaces,
    write: &Write,
    table: &Table,
    now: WriteTimestamp,
) -> Result<OldRows, Error> {
    let prefix = layout::prefix(&write.table, &write.partition);
    let of = write.table.definition.sort_key_type;
    let mut old_rows = OldRows::with_capacity(write.changes.len());
    let budget = OldRowsBudget::of(table);
    for change in &write.changes {
        let mut rows = Vec::new();
        match change {
            Change::Put { sort_key, .. } | Change::Delete { sort_key } => {
                let row = row_at(tx, keyspaces, &prefix, sort_key, now)?;
                budget.take(row.as_slice())?;
                rows.extend(row);
            }
            Change::DeleteRange { range } => {
                let start = range.start.as_ref().map(SortKey::ordered_bytes).unwrap_or_default();
                let end = range.end.as_ref().map(SortKey::ordered_bytes);
                for pair in tx.range(&keyspaces.rows, layout::keys(&prefix, &start, end.as_deref())) {
                    let (key, stored) = pair?;
                    let at = &key[prefix.len()..];
                    let sort_key = SortKey::of_ordered_bytes(of, at)
                        .ok_or_else(|| Error::DataLoss("a stored sort key is of another type".to_owned()))?;
                    let shown = shown(tx, keyspaces, &prefix, (sort_key, at), &stored, now)?;
                    budget.take(shown.as_slice())?;
                    rows.extend(shown);
                    if rows.len() > RANGE_ROWS_MAX {
                        return Err(Error::RangeTooLarge { max: RANGE_ROWS_MAX });
                    }
                }
            }
        }
        old_rows.push(rows);
    }
    Ok(old_rows)
}

/// Returns a row as it is now, if a read would show it.
pub(super) fn row_at(
    tx: &Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    sort_key: &SortKey,
    now: WriteTimestamp,
) -> Result<Option<Row>, Error> {
    let at = sort_key.ordered_bytes();
    match tx.get(&keyspaces.rows, layout::key(prefix, &at))? {
        Some(stored) => shown(tx, keyspaces, prefix, (sort_key.clone(), &at), &stored, now),
        None => Ok(None),
    }
}

/// Returns the row of a stored entry, if a read would show it.
fn shown(
    tx: &Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    (sort_key, at): (SortKey, &[u8]),
    stored: &[u8],
    now: WriteTimestamp,
) -> Result<Option<Row>, Error> {
    let Entry::Put { stamp, cell } = Entry::decode(stored)? else { return Ok(None) };
    let key = layout::key(prefix, at);
    let deleted = last_tombstone(tx.range(&keyspaces.ranges, prefix.to_vec()..=key), prefix)?;
    if deleted.is_some_and(|deleted| deleted.contains(at) && deleted.stamp >= stamp) {
        return Ok(None);
    }
    Row::of_cell(sort_key, cell, stamp, now)
}

fn place(stored: &[u8]) -> Result<i64, Error> {
    let bytes = stored.last_chunk().ok_or_else(|| Error::DataLoss("a place in a change feed".to_owned()))?;
    Ok(i64::from_be_bytes(*bytes))
}

fn key_from(table: Uuid, position: i64) -> Vec<u8> {
    [table.as_bytes(), &position.max(0).to_be_bytes()[..]].concat()
}

impl FeedStore for EmbeddedStore {
    fn feed_shards(&self, _: &ChangeFeed, _: Option<&PartitionKey>) -> Vec<u16> {
        vec![0]
    }

    fn feed_start(&self, table: &Table) -> Result<i64, Error> {
        let last = self.keyspaces.feeds.get(table.id.as_bytes())?;
        let since = table.change_feed().map_or(table.create_time, |feed| feed.since);
        Ok(last.map(|stored| place(&stored)).transpose()?.map_or(since.0, |last| last + 1))
    }

    fn check_places(&self, table: &Table, mut places: impl Iterator<Item = i64>) -> Result<(), Error> {
        let oldest = table.change_feed().map(|feed| feed.oldest(WriteTimestamp::now()));
        match oldest.filter(|oldest| places.any(|place| place < oldest.0)) {
            Some(oldest) => Err(Error::ChangesGone { oldest }),
            None => Ok(()),
        }
    }

    async fn changes(&self, read: FeedRead) -> Result<FeedPage, Error> {
        let keyspaces = self.keyspaces.clone();
        let looked = tokio::task::spawn_blocking(move || page(&keyspaces, &read));
        looked.await.map_err(|error| Error::Internal(format!("a read of a change feed: {error}")))?
    }
}

fn page(keyspaces: &Keyspaces, read: &FeedRead) -> Result<FeedPage, Error> {
    let FeedRead { table, cursor, partition, .. } = read;
    // Taken before the read: what is committed from now on has a later place than this.
    let settled = WriteTimestamp::now().0 - COMMIT_MAX;
    let of = table.definition.sort_key_type;
    let (mut records, mut bytes, mut position) = (Vec::new(), 0, cursor.position);
    let keys = key_from(table.id, position)..=key_from(table.id, i64::MAX);
    for (looked, pair) in keyspaces.changes.range(keys).enumerate() {
        if looked == PAGE_RECORDS || bytes >= PAGE_BYTES {
            return Ok(FeedPage { records, cursor: FeedCursor::at(position), more: true });
        }
        let (key, stored) = pair?;
        let at = place(&key)?;
        position = at + 1;
        let record = change_record::decode(of, Place { at, id: 0 }, &stored)?;
        if partition.as_ref().is_none_or(|partition| *partition == record.partition) {
            bytes += stored.len();
            records.push(record);
        }
    }
    // A quiet feed's place moves on, so that it does not fall behind what is kept.
    Ok(FeedPage { records, cursor: FeedCursor::at(position.max(settled)), more: false })
}

impl EmbeddedStore {
    /// Removes records past their retention, and all of tables that have no feed. Returns whether there is more.
    pub(super) async fn trim_feeds(&self, now: WriteTimestamp) -> Result<bool, Error> {
        let keyspaces = self.keyspaces.clone();
        let found = tokio::task::spawn_blocking(move || old_records(&keyspaces, now));
        let (old, ended, more) =
            found.await.map_err(|error| Error::Internal(format!("trimming change feeds: {error}")))??;
        if old.is_empty() && ended.is_empty() {
            return Ok(false);
        }
        let keyspaces = self.keyspaces.clone();
        let trimmed = self.database.write(move |tx| {
            for key in old {
                tx.delete(&keyspaces.changes, key);
            }
            for key in ended {
                tx.delete(&keyspaces.feeds, key);
            }
        });
        trimmed.await.map_err(write_failed)?;
        Ok(more)
    }
}

/// Keys of records to remove, of feeds that end with them, and whether there are more.
type Old = (Vec<Vec<u8>>, Vec<Vec<u8>>, bool);

fn old_records(keyspaces: &Keyspaces, now: WriteTimestamp) -> Result<Old, Error> {
    let (mut old, mut ended) = (Vec::new(), Vec::new());
    let mut feeds: Option<HashMap<Uuid, ChangeFeed>> = None;
    for pair in keyspaces.feeds.range(..) {
        let (id, _) = pair?;
        let feeds = match &mut feeds {
            Some(feeds) => feeds,
            None => feeds.insert(feeds_of_tables(keyspaces)?),
        };
        let table = Uuid::from_slice(&id).map_err(|_| Error::DataLoss("a change feed's table".to_owned()))?;
        let oldest = feeds.get(&table).map_or(i64::MAX, |feed| feed.oldest(now).0);
        for pair in keyspaces.changes.range(key_from(table, 0)..key_from(table, oldest)) {
            if old.len() == TRIM_RECORDS {
                return Ok((old, ended, true));
            }
            old.push(pair?.0.to_vec());
        }
        if !feeds.contains_key(&table) {
            ended.push(id.to_vec());
        }
    }
    Ok((old, ended, false))
}

fn feeds_of_tables(keyspaces: &Keyspaces) -> Result<HashMap<Uuid, ChangeFeed>, Error> {
    let mut feeds = HashMap::new();
    for pair in keyspaces.tables.range(..) {
        let (name, stored) = pair?;
        let table = registry::decode(&String::from_utf8_lossy(&name), &stored)?;
        feeds.extend(table.change_feed().map(|feed| (table.id, *feed)));
    }
    Ok(feeds)
}
