//! Clears away what no read can see any more: rows that ended, rows in deleted ranges, and tombstones past their grace.
//! Reads do not depend on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_embedded::Tx;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::row_codec;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::range_tombstone::RangeTombstone;
use crate::store::embedded::{EmbeddedStore, GRACE_SECONDS, Keyspaces, layout, write_failed};

/// Interval at which the queue of due entries is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// Entries handled in one write, which holds up every other writer.
const BATCH: usize = 256;
/// Rows looked at between two writes while a deleted range is cleared.
const LOOKED_MAX: usize = 4096;

/// Microseconds by which an entry may be queued late. The part of the queue that was swept before is not looked through again,
/// because that takes time.
const LATE_MAX: i64 = 60_000_000;

/// Work that is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A row ends: only its timestamp and end are kept.
    End = 1,
    /// The grace of a tombstone or an ended row is over.
    Forget = 2,
    /// The rows in a deleted range can be cleared away, and the range itself once its grace is over.
    Range = 3,
    /// A conditional write need not be remembered any longer.
    Applied = 4,
    /// A table was dropped, and its rows can be cleared away.
    Table = 5,
}

impl Due {
    /// Queues an entry of `rows`, which is handled only if it is still the same write then.
    pub(super) fn queue(
        self,
        tx: &mut Tx<'_>,
        keyspaces: &Keyspaces,
        at: WriteTimestamp,
        key: &[u8],
        entry: &Entry<'_>,
    ) -> Result<(), Error> {
        self.queue_key(tx, keyspaces, at, key, identity(entry)?);
        Ok(())
    }

    /// Queues a key.
    pub(super) fn queue_key(
        self,
        tx: &mut Tx<'_>,
        keyspaces: &Keyspaces,
        at: WriteTimestamp,
        key: &[u8],
        of: Vec<u8>,
    ) {
        tx.put(&keyspaces.due, [&due_until(at)[..], &[self as u8], key].concat(), of);
    }
}

/// Returns what tells writes of one row apart: the timestamp and the end.
fn identity(entry: &Entry<'_>) -> Result<Vec<u8>, Error> {
    let end = entry.expire_time()?.map_or(0, |at| at.0);
    Ok([entry.stamp().0.to_be_bytes(), end.to_be_bytes()].concat())
}

/// Returns the beginning of the queue's keys at a time; keys of earlier times are smaller.
fn due_until(at: WriteTimestamp) -> [u8; 8] {
    at.0.max(0).cast_unsigned().to_be_bytes()
}

/// Sweeps until dropped.
pub(crate) async fn sweep_forever(store: EmbeddedStore) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Clones share the database; one of them sweeps at a time.
        let Ok(_sweeping) = store.sweeping.try_lock() else { continue };
        loop {
            let now = WriteTimestamp::now();
            let swept = store.sweep(now).await;
            let trimmed = store.trim_feeds(now).await;
            match swept.and_then(|more| Ok(trimmed? || more)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "sweeping the embedded store failed; it is tried again");
                    break;
                }
            }
        }
    }
}

struct Queued {
    due_key: Vec<u8>,
    due: u8,
    key: Vec<u8>,
    of: Vec<u8>,
}

impl EmbeddedStore {
    /// Handles a batch of what is due at `now`. Returns whether there is more.
    pub(super) async fn sweep(&self, now: WriteTimestamp) -> Result<bool, Error> {
        let (mut rows, mut ranges, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        let from = WriteTimestamp(self.swept_until.load(Ordering::Relaxed));
        let keys = due_until(from).to_vec()..due_until(now).to_vec();
        for pair in self.keyspaces.due.range(keys).take(BATCH) {
            let (due_key, of) = pair?;
            let (due, key) = due_key.get(8..).and_then(<[u8]>::split_first).unwrap_or((&0, &[]));
            let queued = Queued { due_key: due_key.to_vec(), due: *due, key: key.to_vec(), of: of.to_vec() };
            match queued.due {
                due if due == Due::Range as u8 => ranges.push(queued),
                due if due == Due::Table as u8 => tables.push(queued),
                _ => rows.push(queued),
            }
        }
        let more = rows.len() + ranges.len() + tables.len() == BATCH;
        if !rows.is_empty() {
            self.sweep_rows(rows, now).await?;
        }
        for queued in ranges {
            self.sweep_range(queued, now).await?;
        }
        for queued in tables {
            self.sweep_table(queued).await?;
        }
        if !more {
            self.swept_until.store(now.0.saturating_sub(LATE_MAX), Ordering::Relaxed);
        }
        Ok(more)
    }

    async fn sweep_rows(&self, queue: Vec<Queued>, now: WriteTimestamp) -> Result<(), Error> {
        let keyspaces = self.keyspaces.clone();
        let swept = self.database.write(move |tx| {
            for Queued { due_key, due, key, of } in queue {
                tx.delete(&keyspaces.due, due_key);
                if due == Due::Applied as u8 {
                    tx.delete(&keyspaces.applied, key);
                    continue;
                }
                let Some(stored) = tx.get(&keyspaces.rows, &key)? else { continue };
                let entry = match Entry::decode(&stored).and_then(|entry| Ok((identity(&entry)?, entry))) {
                    Ok((identity, entry)) if identity == of => entry,
                    // A later write has taken its place and is queued by itself.
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::error!(%error, "a row was not swept");
                        continue;
                    }
                };
                if due == Due::Forget as u8 {
                    tx.delete(&keyspaces.rows, key);
                } else {
                    let Entry::Put { stamp, cell } = entry else { continue };
                    let cell = row_codec::emptied(cell)?;
                    let rest = Entry::Put { stamp, cell: &cell };
                    Due::Forget.queue(tx, &keyspaces, now.plus_seconds(GRACE_SECONDS), &key, &rest)?;
                    tx.put(&keyspaces.rows, key, rest.encode());
                }
            }
            Ok::<_, Error>(())
        });
        swept.await.map_err(write_failed)?
    }

    /// Clears the rows in a deleted range, then forgets the range if its grace is over. No row that it hides can appear
    /// meanwhile, because the range is still there to refuse it.
    async fn sweep_range(&self, queued: Queued, now: WriteTimestamp) -> Result<(), Error> {
        let Some((prefix, start)) = layout::split(&queued.key) else {
            return Err(Error::DataLoss("a queued key names no partition".to_owned()));
        };
        let stored = self.keyspaces.ranges.get(&queued.key)?;
        let fragment = stored.map(|stored| RangeTombstone::decode(start, &stored)).transpose()?;
        if let Some(fragment) = &fragment {
            let mut keys = layout::keys(prefix, start, fragment.end.as_deref());
            while let Some(last) = self.clear(keys.clone(), fragment.stamp).await? {
                keys.start = [&last, &[0][..]].concat();
            }
        }
        let keyspaces = self.keyspaces.clone();
        let swept = self.database.write(move |tx| {
            let stored = tx.get(&keyspaces.ranges, &queued.key)?;
            tx.delete(&keyspaces.due, queued.due_key);
            // A range that was cut or laid over meanwhile is queued by itself.
            let same = stored.as_deref() == fragment.as_ref().map(RangeTombstone::encode).as_deref();
            let Some(fragment) = fragment.filter(|_| same) else { return Ok(()) };
            let over = fragment.deleted_at.plus_seconds(GRACE_SECONDS);
            if over <= now {
                tx.delete(&keyspaces.ranges, queued.key);
            } else {
                Due::Range.queue_key(tx, &keyspaces, over, &queued.key, Vec::new());
            }
            Ok::<_, Error>(())
        });
        swept.await.map_err(write_failed)?
    }

    /// Clears away all that a dropped table had, a part at a time.
    async fn sweep_table(&self, queued: Queued) -> Result<(), Error> {
        let keys = layout::keys(&queued.key, &[], None);
        for keyspace in [&self.keyspaces.rows, &self.keyspaces.ranges, &self.keyspaces.applied] {
            loop {
                let (source, keys) = (keyspace.clone(), keys.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    let found = source.range(keys).take(LOOKED_MAX).map(|pair| Ok(pair?.0.to_vec()));
                    found.collect::<Result<Vec<_>, Error>>()
                });
                let found =
                    looked.await.map_err(|error| Error::Internal(format!("a sweep's task: {error}")))??;
                if found.is_empty() {
                    break;
                }
                let keyspace = keyspace.clone();
                let cleared = self.database.write(move |tx| {
                    found.into_iter().for_each(|key| tx.delete(&keyspace, key));
                    Ok::<_, Error>(())
                });
                cleared.await.map_err(write_failed)??;
            }
        }
        let keyspaces = self.keyspaces.clone();
        let swept = self.database.write(move |tx| {
            tx.delete(&keyspaces.due, queued.due_key);
            Ok::<_, Error>(())
        });
        swept.await.map_err(write_failed)?
    }

    /// Deletes the first of the rows put at `stamp` or before. Returns the last key looked at, if there are more.
    async fn clear(
        &self,
        keys: std::ops::Range<Vec<u8>>,
        stamp: WriteTimestamp,
    ) -> Result<Option<Vec<u8>>, Error> {
        let rows = self.keyspaces.rows.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let (mut hidden, mut last) = (Vec::new(), None);
            for (looked, pair) in rows.range(keys).enumerate() {
                if looked == LOOKED_MAX || hidden.len() == BATCH {
                    return Ok((hidden, last));
                }
                let (key, stored) = pair?;
                if Entry::decode(&stored)?.stamp() <= stamp {
                    hidden.push(key.to_vec());
                }
                last = Some(key.to_vec());
            }
            Ok::<_, Error>((hidden, None))
        });
        let (hidden, last) = looked.await.map_err(|error| Error::Internal(format!("a sweep: {error}")))??;
        let keyspaces = self.keyspaces.clone();
        let cleared = self.database.write(move |tx| {
            for key in hidden {
                let stored = tx.get(&keyspaces.rows, &key)?;
                if let Some(stored) = stored
                    && Entry::decode(&stored)?.stamp() <= stamp
                {
                    tx.delete(&keyspaces.rows, key);
                }
            }
            Ok::<_, Error>(())
        });
        cleared.await.map_err(write_failed)??;
        Ok(last)
    }
}
