//! Conditional writes: each is one closure on the writer thread, which no other write comes between.

use shoal_embedded::Tx;

use crate::clock::WriteTimestamp;
use crate::conditional::{APPLIED_SECONDS, ConditionalWrite, Decision, Found, Outcome, Replacement};
use crate::error::Error;
use crate::key::SortKey;
use crate::row::Row;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::kept_clock;
use crate::store::embedded::sweep::Due;
use crate::store::embedded::write::write_row;
use crate::store::embedded::{EmbeddedStore, Keyspaces, feed, layout, require_table, view, write_failed};

impl EmbeddedStore {
    pub(super) async fn write_conditional(&self, write: ConditionalWrite) -> Result<Outcome, Error> {
        let (keyspaces, clock) = (self.keyspaces.clone(), self.clock.clone());
        let token = write.token.clone();
        let written = self.database.write(move |tx| {
            let outcome = apply(tx, &keyspaces, &write, WriteTimestamp::now())
                .and_then(|outcome| kept_clock::keep(tx, &keyspaces, &clock).map(|()| outcome));
            if outcome.is_err() {
                tx.abort();
            }
            outcome
        });
        written.await.map_err(|error| write_failed(error).of_write(&token))?
    }
}

fn apply(
    tx: &mut Tx<'_>,
    keyspaces: &Keyspaces,
    write: &ConditionalWrite,
    now: WriteTimestamp,
) -> Result<Outcome, Error> {
    let table = require_table(tx, keyspaces, &write.table)?;
    let prefix = layout::prefix(&write.table, &write.partition);
    let remembered = layout::key(&prefix, &write.hash());
    if let Some(stored) = tx.get(&keyspaces.applied, &remembered)? {
        let lost = || Error::DataLoss("what is remembered of a write is too short".to_owned());
        let (write_time, applied) = stored.split_first_chunk().ok_or_else(lost)?;
        return write.remembered(WriteTimestamp(i64::from_be_bytes(*write_time)), applied);
    }
    let found: Vec<Found> =
        write.rows.iter().map(|key| find(tx, keyspaces, &prefix, key, now)).collect::<Result<_, _>>()?;
    let decision = match write.decide(&found, now)? {
        Ok(decision) => decision,
        Err(condition) => return Ok(ConditionalWrite::refused(condition, found)),
    };
    feed::record_conditional(tx, keyspaces, write, &decision, &found, now)?;
    let Decision { write_time: stamp, changes, applied } = decision;
    let changed: Vec<usize> = changes.iter().map(|(place, _)| *place).collect();
    for (place, replacement) in changes {
        let at = write.rows[place].ordered_bytes();
        let entry = match &replacement {
            Replacement::Put { cell, .. } => Entry::Put { stamp, cell },
            Replacement::Delete => Entry::Tombstone { stamp },
        };
        write_row(tx, keyspaces, &prefix, &at, &entry, now)?;
    }
    for place in changed {
        let (sort_key, old) = (&write.rows[place], found[place].row.as_ref());
        view::keep_row(tx, keyspaces, &table, (&write.partition, sort_key), old, now)?;
    }
    Due::Applied.queue_key(tx, keyspaces, now.plus_seconds(APPLIED_SECONDS), &remembered, Vec::new());
    tx.put(&keyspaces.applied, remembered, [&stamp.0.to_be_bytes()[..], &applied].concat());
    write.remembered(stamp, &applied)
}

/// Reads a row. Tables whose writes are conditional have no deleted ranges.
fn find(
    tx: &Tx<'_>,
    keyspaces: &Keyspaces,
    prefix: &[u8],
    key: &SortKey,
    now: WriteTimestamp,
) -> Result<Found, Error> {
    let Some(stored) = tx.get(&keyspaces.rows, layout::key(prefix, &key.ordered_bytes()))? else {
        return Ok(Found::default());
    };
    let entry = Entry::decode(&stored)?;
    let row = match entry {
        Entry::Put { stamp, cell } => Row::of_cell(key.clone(), cell, stamp, now)?,
        Entry::Tombstone { .. } => None,
    };
    Ok(Found { row, last_write: Some(entry.stamp()) })
}
