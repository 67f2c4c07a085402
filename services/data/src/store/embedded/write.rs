//! Writes of rows: each is one closure on the writer thread.

use std::sync::Arc;

use shoal_embedded::Tx;

use crate::clock::{Clock, WriteTimestamp};
use crate::conditional::{ConditionalWrite, Outcome};
use crate::error::Error;
use crate::key::SortKey;
use crate::mutation::{Change, Write};
use crate::store::WriteStore;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::kept_clock;
use crate::store::embedded::range_tombstone::{RangeTombstone, overlay};
use crate::store::embedded::sweep::Due;
use crate::store::embedded::{
    EmbeddedStore, GRACE_SECONDS, Keyspaces, feed, last_tombstone, layout, require_table, view, write_failed,
};

impl WriteStore for EmbeddedStore {
    fn clock(&self) -> Arc<Clock> {
        self.clock.clone()
    }

    async fn mutate(&self, write: Write) -> Result<(), Error> {
        let (keyspaces, clock) = (self.keyspaces.clone(), self.clock.clone());
        let token = write.token.clone();
        let written = self.database.write(move |tx| {
            let applied = apply(tx, &keyspaces, &write, WriteTimestamp::now())
                .and_then(|()| kept_clock::keep(tx, &keyspaces, &clock));
            if applied.is_err() {
                tx.abort();
            }
            applied
        });
        written.await.map_err(|error| write_failed(error).of_write(&token))?
    }

    async fn write_conditionally(&self, write: ConditionalWrite) -> Result<Outcome, Error> {
        self.write_conditional(write).await
    }
}

/// Applies a write. The order of its changes does not matter, because timestamps decide.
fn apply(tx: &mut Tx<'_>, keyspaces: &Keyspaces, write: &Write, now: WriteTimestamp) -> Result<(), Error> {
    let table = require_table(tx, keyspaces, &write.table)?;
    let prefix = layout::prefix(&write.table, &write.partition);
    let reads = table.has_views() || table.change_feed().is_some_and(|feed| feed.old_rows);
    let old_rows = if reads { Some(feed::rows_before(tx, keyspaces, write, &table, now)?) } else { None };
    feed::record(tx, keyspaces, write, old_rows.as_ref(), now)?;
    for change in &write.changes {
        match change {
            Change::Put { sort_key, cell, .. } => {
                let entry = Entry::Put { stamp: write.stamp(), cell };
                write_row(tx, keyspaces, &prefix, &sort_key.ordered_bytes(), &entry, now)?;
            }
            Change::Delete { sort_key } => {
                let entry = Entry::Tombstone { stamp: write.stamp() };
                write_row(tx, keyspaces, &prefix, &sort_key.ordered_bytes(), &entry, now)?;
            }
            Change::DeleteRange { range } => {
                let new = RangeTombstone {
                    start: range.start.as_ref().map(SortKey::ordered_bytes).unwrap_or_default(),
                    end: range.end.as_ref().map(SortKey::ordered_bytes),
                    stamp: write.range_stamp(),
                    deleted_at: now,
                };
                delete_range(tx, keyspaces, &prefix, &new)?;
            }
        }
    }
    match old_rows {
        Some(old_rows) => view::keep(tx, keyspaces, &table, write, old_rows, now),
        None => Ok(()),
    }
}

/// Writes an entry, unless what is stored supersedes it.
pub(super) fn write_row(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    at: &[u8],
    entry: &Entry<'_>,
    now: WriteTimestamp,
) -> Result<(), Error> {
    let key = layout::key(prefix, at);
    let deleted = last_tombstone(tx.range(&keyspaces.ranges, prefix.to_vec()..=key.clone()), prefix)?;
    let hidden = deleted.is_some_and(|deleted| deleted.contains(at) && deleted.stamp >= entry.stamp());
    // Hidden puts must not be stored: they would appear when the range is forgotten.
    if hidden && matches!(entry, Entry::Put { .. }) {
        return Ok(());
    }
    if let Some(stored) = tx.get(&keyspaces.rows, &key)?
        && !entry.supersedes(&Entry::decode(&stored)?)?
    {
        return Ok(());
    }
    match (entry, entry.expire_time()?) {
        (_, Some(end)) => Due::End.queue(tx, keyspaces, end.max(now), &key, entry)?,
        (Entry::Put { .. }, None) => {}
        (Entry::Tombstone { .. }, None) => {
            Due::Forget.queue(tx, keyspaces, now.plus_seconds(GRACE_SECONDS), &key, entry)?;
        }
    }
    tx.put(&keyspaces.rows, key, entry.encode());
    Ok(())
}

/// Lays a deleted range over the ranges that are there.
fn delete_range(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    new: &RangeTombstone,
) -> Result<(), Error> {
    let keys = layout::keys(prefix, &new.start, new.end.as_deref());
    let before = last_tombstone(tx.range(&keyspaces.ranges, prefix.to_vec()..keys.start.clone()), prefix)?;
    let mut touched = Vec::from_iter(before.filter(|before| before.reaches(&new.start)));
    for pair in tx.range(&keyspaces.ranges, keys) {
        let (key, stored) = pair?;
        touched.push(RangeTombstone::decode(&key[prefix.len()..], &stored)?);
    }
    for old in &touched {
        tx.delete(&keyspaces.ranges, layout::key(prefix, &old.start));
    }
    for piece in overlay(&touched, new) {
        let key = layout::key(prefix, &piece.start);
        // Queued as of now, also what was cut from an older range: the queue may be swept up to now already.
        Due::Range.queue_key(tx, keyspaces, new.deleted_at, &key, Vec::new());
        tx.put(&keyspaces.ranges, key, piece.encode());
    }
    Ok(())
}
