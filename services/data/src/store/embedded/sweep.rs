//! Clears away what nobody can see any more: rows that ended, rows in deleted ranges, and tombstones past their grace.
//! Reads do not depend on it.

use std::time::Duration;

use crate::cell;
use crate::clock::Micros;
use crate::error::Error;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::fragment::Fragment;
use crate::store::embedded::{Embedded, GRACE_SECONDS, place, write_failed};

/// How often the queue of due entries is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// Entries dealt with in one write: it holds up every other writer.
const BATCH: usize = 256;
/// Rows looked at between two writes while a deleted range is cleared.
const LOOKED_MAX: usize = 4096;

/// Which keyspace a due entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A row that ends or a tombstone.
    Row = 1,
    /// A deleted range.
    Range = 2,
}

/// Sweeps until it is dropped.
pub(crate) async fn sweep_forever(store: Embedded) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Clones share the database; one sweeps at a time.
        let Ok(_sweeping) = store.sweeping.try_lock() else { continue };
        loop {
            match store.sweep(Micros::now()).await {
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

/// Key of a due entry.
pub(super) fn due_key(at: Micros, kind: Kind, key: &[u8]) -> Vec<u8> {
    let at = at.0.max(0).cast_unsigned().to_be_bytes();
    [&at, &[kind as u8][..], key].concat()
}

struct Due {
    due_key: Vec<u8>,
    key: Vec<u8>,
    stamp: Micros,
}

impl Embedded {
    /// Deals with a batch of what is due at `now`; whether there is more.
    pub(super) async fn sweep(&self, now: Micros) -> Result<bool, Error> {
        let (mut rows, mut ranges) = (Vec::new(), Vec::new());
        for pair in self.spaces.due.range(..due_key(now, Kind::Row, &[])).take(BATCH) {
            let (due_key, stamp) = pair?;
            let stamp = stamp.as_ref().try_into().map(i64::from_be_bytes).unwrap_or_default();
            let (kind, key) = due_key.get(8..).and_then(<[u8]>::split_first).unwrap_or((&0, &[]));
            let due = Due { due_key: due_key.to_vec(), key: key.to_vec(), stamp: Micros(stamp) };
            if *kind == Kind::Range as u8 { ranges.push(due) } else { rows.push(due) }
        }
        let more = rows.len() + ranges.len() == BATCH;
        if !rows.is_empty() {
            self.sweep_rows(rows, now).await?;
        }
        for due in ranges {
            self.sweep_range(due, now).await?;
        }
        Ok(more)
    }

    async fn sweep_rows(&self, dues: Vec<Due>, now: Micros) -> Result<(), Error> {
        let spaces = self.spaces.clone();
        let swept = self.database.write(move |tx| {
            for Due { due_key: old, key, stamp } in dues {
                let stored = tx.get(&spaces.rows, &key)?;
                tx.delete(&spaces.due, old);
                let Some(stored) = stored else { continue };
                match Entry::decode(&stored)? {
                    // A later write has taken its place, and is due by itself.
                    entry if entry.stamp() != stamp => {}
                    Entry::Put { cell, .. } => {
                        if cell::expire_time(cell)?.is_none_or(|at| at > now) {
                            continue;
                        }
                        let entry = Entry::Tombstone { stamp, deleted_at: now };
                        let at = now.plus_seconds(GRACE_SECONDS);
                        tx.put(&spaces.due, due_key(at, Kind::Row, &key), stamp.0.to_be_bytes());
                        tx.put(&spaces.rows, key, entry.encode());
                    }
                    Entry::Tombstone { deleted_at, .. } => {
                        if deleted_at.plus_seconds(GRACE_SECONDS) <= now {
                            tx.delete(&spaces.rows, key);
                        }
                    }
                }
            }
            Ok::<_, Error>(())
        });
        swept.await.map_err(|error| write_failed(error, None))?
    }

    /// Clears the rows in a deleted range, then forgets the range if its grace is over. New rows that it hides cannot
    /// appear meanwhile: it is still there to refuse them.
    async fn sweep_range(&self, due: Due, now: Micros) -> Result<(), Error> {
        let Some((prefix, start)) = place::split(&due.key) else {
            return Err(Error::DataLoss("a due entry names no partition".to_owned()));
        };
        let stored = self.spaces.ranges.get(&due.key)?;
        let fragment = stored.map(|stored| Fragment::decode(start, &stored)).transpose()?;
        if let Some(fragment) = &fragment {
            let mut keys = place::keys(prefix, start, fragment.end.as_deref());
            while let Some(last) = self.clear(keys.clone(), fragment.stamp).await? {
                keys.start = [&last, &[0][..]].concat();
            }
        }
        let spaces = self.spaces.clone();
        let swept = self.database.write(move |tx| {
            let stored = tx.get(&spaces.ranges, &due.key)?;
            tx.delete(&spaces.due, due.due_key);
            // One that was cut or laid over meanwhile is due by itself.
            let same = stored.as_deref() == fragment.as_ref().map(Fragment::encode).as_deref();
            let Some(fragment) = fragment.filter(|_| same) else { return Ok(()) };
            let over = fragment.deleted_at.plus_seconds(GRACE_SECONDS);
            if over <= now {
                tx.delete(&spaces.ranges, due.key);
            } else {
                tx.put(&spaces.due, due_key(over, Kind::Range, &due.key), fragment.stamp.0.to_be_bytes());
            }
            Ok::<_, Error>(())
        });
        swept.await.map_err(|error| write_failed(error, None))?
    }

    /// Deletes the first of the rows put at `stamp` or before; the last key looked at, if there are more.
    async fn clear(&self, keys: std::ops::Range<Vec<u8>>, stamp: Micros) -> Result<Option<Vec<u8>>, Error> {
        let rows = self.spaces.rows.clone();
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
        let spaces = self.spaces.clone();
        let cleared = self.database.write(move |tx| {
            for key in hidden {
                let stored = tx.get(&spaces.rows, &key)?;
                if let Some(stored) = stored
                    && Entry::decode(&stored)?.stamp() <= stamp
                {
                    tx.delete(&spaces.rows, key);
                }
            }
            Ok::<_, Error>(())
        });
        cleared.await.map_err(|error| write_failed(error, None))??;
        Ok(last)
    }
}
