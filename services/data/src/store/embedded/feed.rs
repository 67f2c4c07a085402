//! Change feeds: the record of a write is stored in the write's own transaction, at a place behind all earlier ones, so a feed has
//! one shard in the order of the commits. Which changes a place has before it depends on what was committed and removed, never on
//! the clock.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use shoal_embedded::{Range, Snapshot, Tx};
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

/// Both ends of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    /// The place from which on no change was removed.
    kept_from: i64,
    /// The place from which on no change is committed.
    next: i64,
}

impl Ends {
    /// Reads what is stored of a feed that is on since a place. `first` returns the key of its first record.
    fn read(
        stored: Option<&[u8]>,
        since: i64,
        first: impl FnOnce() -> Result<Option<i64>, Error>,
    ) -> Result<Self, Error> {
        let Some(stored) = stored else { return Ok(Self { kept_from: since, next: since }) };
        let (next, kept_from) = match stored.as_chunks::<8>() {
            ([last], []) => {
                // An earlier release kept no second place.
                let next = i64::from_be_bytes(*last) + 1;
                (next, first()?.unwrap_or(next))
            }
            ([last, kept_from], []) => (i64::from_be_bytes(*last) + 1, i64::from_be_bytes(*kept_from)),
            _ => return Err(Error::DataLoss("a place in a change feed".to_owned())),
        };
        Ok(Self { kept_from: kept_from.max(since), next: next.max(since) })
    }

    /// # Errors
    /// [`Error::ChangesGone`] when changes from the place on were removed.
    fn check(self, place: i64) -> Result<(), Error> {
        let oldest = WriteTimestamp(self.kept_from);
        if place < oldest.0 { Err(Error::ChangesGone { oldest }) } else { Ok(()) }
    }

    fn encode(self) -> Vec<u8> {
        [(self.next - 1).to_be_bytes(), self.kept_from.to_be_bytes()].concat()
    }
}

/// Returns the ends of a table's feed, as a transaction sees them.
fn ends_in(tx: &Tx<'_>, keyspaces: &Keyspaces, table: Uuid, since: i64) -> Result<Ends, Error> {
    let first = || first_of(tx.range(&keyspaces.changes, keys_from(table, 0)));
    Ends::read(tx.get(&keyspaces.feeds, table.as_bytes())?.as_deref(), since, first)
}

/// Returns the ends of a table's feed, as a snapshot sees them.
fn ends_at(snapshot: &Snapshot, keyspaces: &Keyspaces, table: Uuid, since: i64) -> Result<Ends, Error> {
    let first = || first_of(snapshot.range(&keyspaces.changes, keys_from(table, 0)));
    Ends::read(snapshot.get(&keyspaces.feeds, table.as_bytes())?.as_deref(), since, first)
}

fn first_of(mut records: Range) -> Result<Option<i64>, Error> {
    records.next().map(|pair| place(&pair?.0)).transpose()
}

/// Lets the feed of a changed table go on if it was on since `before`, end, or begin behind all that it had in an earlier time.
pub(super) fn changed(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    table: &mut Table,
    before: Option<WriteTimestamp>,
) -> Result<(), Error> {
    let id = table.id;
    match (before, &mut table.definition.options.change_feed) {
        (Some(since), Some(feed)) => feed.since = since,
        (Some(since), None) => {
            let Ends { next, .. } = ends_in(tx, keyspaces, id, since.0)?;
            tx.put(&keyspaces.feeds, id.as_bytes().to_vec(), Ends { kept_from: next, next }.encode());
        }
        // A watch of the earlier time has the place `next`, and has missed what was written since.
        (None, Some(feed)) => feed.since = WriteTimestamp(ends_in(tx, keyspaces, id, feed.since.0)?.next + 1),
        (None, None) => {}
    }
    Ok(())
}

fn since(table: &Table) -> i64 {
    table.change_feed().map_or(table.create_time, |feed| feed.since).0
}

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
    let ends = ends_in(tx, keyspaces, table.id, since(table))?;
    let at = now.0.max(ends.next);
    tx.put(&keyspaces.changes, key_from(table.id, at), record);
    tx.put(&keyspaces.feeds, table.id.as_bytes().to_vec(), Ends { next: at + 1, ..ends }.encode());
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

fn keys_from(table: Uuid, position: i64) -> RangeInclusive<Vec<u8>> {
    key_from(table, position)..=key_from(table, i64::MAX)
}

impl FeedStore for EmbeddedStore {
    fn feed_shards(&self, _: &ChangeFeed, _: Option<&PartitionKey>) -> Vec<u16> {
        vec![0]
    }

    fn feed_start(&self, table: &Table) -> Result<i64, Error> {
        Ok(ends_at(&self.database.snapshot(), &self.keyspaces, table.id, since(table))?.next)
    }

    fn check_places(&self, table: &Table, places: impl Iterator<Item = i64>) -> Result<(), Error> {
        let ends = ends_at(&self.database.snapshot(), &self.keyspaces, table.id, since(table))?;
        let now = WriteTimestamp::now().0;
        for place in places {
            ends.check(place)?;
            // An earlier release moved places up with the clock.
            if place > ends.next.max(now) {
                return Err(Error::ChangesAhead { ahead_micros: place - now });
            }
        }
        Ok(())
    }

    async fn changes(&self, read: FeedRead) -> Result<FeedPage, Error> {
        let (snapshot, keyspaces) = (self.database.snapshot(), self.keyspaces.clone());
        let looked = tokio::task::spawn_blocking(move || page(&snapshot, &keyspaces, &read));
        looked.await.map_err(|error| Error::Internal(format!("a read of a change feed: {error}")))?
    }
}

fn page(snapshot: &Snapshot, keyspaces: &Keyspaces, read: &FeedRead) -> Result<FeedPage, Error> {
    let FeedRead { table, cursor, partition, .. } = read;
    ends_at(snapshot, keyspaces, table.id, since(table))?.check(cursor.position)?;
    let of = table.definition.sort_key_type;
    let (mut records, mut bytes, mut position) = (Vec::new(), 0, cursor.position);
    let keys = keys_from(table.id, position);
    for (looked, pair) in snapshot.range(&keyspaces.changes, keys).enumerate() {
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
    // A quiet feed's place stays: what is committed from now on may have any place behind the last record.
    Ok(FeedPage { records, cursor: FeedCursor::at(position), more: false })
}

impl EmbeddedStore {
    /// Removes records past their retention, and all of tables that have no feed. Returns whether there is more.
    pub(super) async fn trim_feeds(&self, now: WriteTimestamp) -> Result<bool, Error> {
        let keyspaces = self.keyspaces.clone();
        let found = tokio::task::spawn_blocking(move || old_records(&keyspaces, now));
        let Old { records, ended, more } =
            found.await.map_err(|error| Error::Internal(format!("trimming change feeds: {error}")))??;
        if records.is_empty() && ended.is_empty() {
            return Ok(false);
        }
        let keyspaces = self.keyspaces.clone();
        let trimmed = self.database.write(move |tx| {
            let removed = remove(tx, &keyspaces, &records, &ended);
            if removed.is_err() {
                tx.abort();
            }
            removed
        });
        trimmed.await.map_err(write_failed)??;
        Ok(more)
    }
}

/// Records and feeds to remove.
#[derive(Debug, Default)]
struct Old {
    /// The places of records, those of a table in their order.
    records: Vec<(Uuid, i64)>,
    /// The tables that are no more.
    ended: Vec<Uuid>,
    /// Set if there is more to remove.
    more: bool,
}

fn remove(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    records: &[(Uuid, i64)],
    ended: &[Uuid],
) -> Result<(), Error> {
    for of_table in records.chunk_by(|one, other| one.0 == other.0) {
        let Some((table, last)) = of_table.last().copied() else { continue };
        let ends = ends_in(tx, keyspaces, table, 0)?;
        let kept_from = ends.kept_from.max(last + 1);
        tx.put(&keyspaces.feeds, table.as_bytes().to_vec(), Ends { kept_from, ..ends }.encode());
        for (_, at) in of_table {
            tx.delete(&keyspaces.changes, key_from(table, *at));
        }
    }
    for table in ended {
        tx.delete(&keyspaces.feeds, table.as_bytes().to_vec());
    }
    Ok(())
}

fn old_records(keyspaces: &Keyspaces, now: WriteTimestamp) -> Result<Old, Error> {
    let mut old = Old::default();
    let mut feeds: Option<HashMap<Uuid, Option<ChangeFeed>>> = None;
    for pair in keyspaces.feeds.range(..) {
        let (id, _) = pair?;
        let feeds = match &mut feeds {
            Some(feeds) => feeds,
            None => feeds.insert(feeds_of_tables(keyspaces)?),
        };
        let table = Uuid::from_slice(&id).map_err(|_| Error::DataLoss("a change feed's table".to_owned()))?;
        let feed = feeds.get(&table);
        let oldest = feed.copied().flatten().map_or(i64::MAX, |feed| feed.oldest(now).0);
        for pair in keyspaces.changes.range(key_from(table, 0)..key_from(table, oldest)) {
            if old.records.len() == TRIM_RECORDS {
                old.more = true;
                return Ok(old);
            }
            old.records.push((table, place(&pair?.0)?));
        }
        // Of a table whose feed is off the ends stay, behind which its next feed begins.
        if feed.is_none() {
            old.ended.push(table);
        }
    }
    Ok(old)
}

fn feeds_of_tables(keyspaces: &Keyspaces) -> Result<HashMap<Uuid, Option<ChangeFeed>>, Error> {
    let mut feeds = HashMap::new();
    for pair in keyspaces.tables.range(..) {
        let (name, stored) = pair?;
        let table = registry::decode(&String::from_utf8_lossy(&name), &stored)?;
        feeds.insert(table.id, table.change_feed().copied());
    }
    Ok(feeds)
}
