//! Views: the entries of the rows that a write changes are replaced in the write's own transaction, so they always fit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use shoal_embedded::Tx;
use uuid::Uuid;

use crate::change_record::OldRows;
use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::mutation::{Change, Write};
use crate::row::Row;
use crate::row_codec::WriteId;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::sweep::Due;
use crate::store::embedded::{EmbeddedStore, Keyspaces, feed, layout, require_table, write_failed};
use crate::store::{Build, ViewStore};
use crate::table::{Table, View};
use crate::view_entry::{EntryKey, EntryOrder, EntryRow, cell_of, key_of};

/// Rows whose entries are added in one write, which holds up every other writer.
const ADDED: usize = 256;

/// Replaces the entries of the rows that a write has changed; `old_rows` are those from before it. `table` has the views as they
/// are now.
pub(super) fn keep(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    table: &Table,
    write: &Write,
    old_rows: OldRows,
    now: WriteTimestamp,
) -> Result<(), Error> {
    if !table.has_views() {
        return Ok(());
    }
    let mut rows: BTreeMap<SortKey, Option<Row>> = BTreeMap::new();
    for (change, old_rows) in write.changes.iter().zip(old_rows) {
        if let Change::Put { sort_key, .. } | Change::Delete { sort_key } = change {
            rows.entry(sort_key.clone()).or_default();
        }
        for old in old_rows {
            rows.insert(old.sort_key.clone(), Some(old));
        }
    }
    for (sort_key, old) in rows {
        keep_row(tx, keyspaces, table, (&write.partition, &sort_key), old.as_ref(), now)?;
    }
    Ok(())
}

/// Replaces the entries of a row that was `old` before the write.
pub(super) fn keep_row(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    table: &Table,
    (partition, sort_key): (&PartitionKey, &SortKey),
    old: Option<&Row>,
    now: WriteTimestamp,
) -> Result<(), Error> {
    if !table.has_views() {
        return Ok(());
    }
    let new = feed::row_at(tx, keyspaces, &layout::prefix(table, partition), sort_key, now)?;
    for view in table.kept_views() {
        let key = |row: &Row| key_of(view, partition, sort_key, &row.attributes);
        let (old, new_key) = (old.and_then(key), new.as_ref().and_then(key));
        if let Some(old) = old.filter(|old| Some(old) != new_key.as_ref()) {
            tx.delete(&keyspaces.rows, entry_at(view, &old));
        }
        if let (Some(key), Some(row)) = (new_key, &new) {
            put(tx, keyspaces, view, &key, row, now)?;
        }
    }
    Ok(())
}

/// Puts the entry of a row as it is now, whatever stood there: writes come one after the other.
fn put(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    view: &View,
    key: &EntryKey,
    row: &Row,
    now: WriteTimestamp,
) -> Result<(), Error> {
    let (attributes, expire_time) = (&row.attributes, row.expire_time);
    let entry = EntryRow { attributes, expire_time, write_time: row.write_time, write: WriteId::default() };
    let cell = cell_of(view, &entry, EntryOrder::Together, now);
    let (at, entry) = (entry_at(view, key), Entry::Put { stamp: row.write_time, cell: &cell });
    if let Some(end) = expire_time {
        Due::End.queue(tx, keyspaces, end.max(now), &at, &entry)?;
    }
    tx.put(&keyspaces.rows, at, entry.encode());
    Ok(())
}

fn entry_at(view: &View, key: &EntryKey) -> Vec<u8> {
    layout::key(&layout::prefix(&view.table(), &key.partition), &key.sort_key.ordered_bytes())
}

impl ViewStore for EmbeddedStore {
    /// Returns no time: a write looks the views up in its own transaction.
    fn view_settle_time(&self) -> Duration {
        Duration::ZERO
    }

    async fn make_view(&self, _table: &Table, _view: &View) -> Result<(), Error> {
        Ok(())
    }

    async fn drop_view(&self, view: &View) -> Result<(), Error> {
        let (keyspaces, id) = (self.keyspaces.clone(), view.id);
        let dropped = self.database.write(move |tx| {
            Due::Table.queue_key(tx, &keyspaces, WriteTimestamp::now(), id.as_bytes(), Vec::new());
        });
        dropped.await.map_err(write_failed)
    }

    async fn add_entries(
        &self,
        table: Arc<Table>,
        view: &View,
        rows: Vec<(PartitionKey, Row)>,
    ) -> Result<usize, Error> {
        let mut added = 0;
        for chunk in rows.chunks(ADDED) {
            let keys: Vec<_> =
                chunk.iter().map(|(partition, row)| (partition.clone(), row.sort_key.clone())).collect();
            let (keyspaces, table, id) = (self.keyspaces.clone(), table.clone(), view.id);
            let written = self.database.write(move |tx| add(tx, &keyspaces, &table, id, keys));
            added += written.await.map_err(write_failed)??;
        }
        Ok(added)
    }

    /// Removes nothing: an entry that does not fit its row was read before a write of the row, and the row after it.
    async fn remove_entries(&self, _: &View, _: Vec<(EntryKey, WriteTimestamp)>) -> Result<(), Error> {
        Ok(())
    }

    async fn build(&self, view: Uuid) -> Result<Option<Build>, Error> {
        self.keyspaces.builds.get(view.as_bytes())?.map(|stored| decode(&stored)).transpose()
    }

    async fn replace_build(
        &self,
        view: Uuid,
        found: Option<Build>,
        build: Option<Build>,
    ) -> Result<bool, Error> {
        let keyspaces = self.keyspaces.clone();
        let replaced = self.database.write(move |tx| {
            let stored =
                tx.get(&keyspaces.builds, view.as_bytes())?.map(|stored| decode(&stored)).transpose()?;
            if stored != found {
                return Ok(false);
            }
            match build {
                Some(build) => tx.put(&keyspaces.builds, view.as_bytes().to_vec(), build.encode_to_vec()),
                None => tx.delete(&keyspaces.builds, view.as_bytes().to_vec()),
            }
            Ok(true)
        });
        replaced.await.map_err(write_failed)?
    }
}

/// Adds the entries of rows as they are now.
fn add(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    table: &Table,
    view: Uuid,
    rows: Vec<(PartitionKey, SortKey)>,
) -> Result<usize, Error> {
    let table = require_table(tx, keyspaces, table)?;
    let Some(view) = table.kept_views().find(|kept| kept.id == view) else { return Ok(0) };
    let (now, mut added) = (WriteTimestamp::now(), 0);
    for (partition, sort_key) in rows {
        let prefix = layout::prefix(&table, &partition);
        let Some(row) = feed::row_at(tx, keyspaces, &prefix, &sort_key, now)? else { continue };
        if let Some(key) = key_of(view, &partition, &sort_key, &row.attributes) {
            put(tx, keyspaces, view, &key, &row, now)?;
            added += 1;
        }
    }
    Ok(added)
}

fn decode(stored: &[u8]) -> Result<Build, Error> {
    Build::decode(stored).map_err(|_| Error::DataLoss("the build of a view cannot be read".to_owned()))
}
