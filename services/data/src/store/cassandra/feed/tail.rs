//! The end of a shard, where pointers and records still come in: read again and again while it is watched, once for all watches
//! of a clone.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::change_record::{ChangeRecord, Place, order_within_partitions};
use crate::clock::ClockReading;
use crate::error::Error;
use crate::store::cassandra::feed::log::{Log, POINTERS, Pointer, Stretch, bucket};
use crate::store::cassandra::feed::{SHARED, Times};
use crate::store::{FeedCursor, FeedPage, FeedRead};

/// Time after which an end that was not asked for is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Interval at which a record that is late is looked for again.
const LATE_EVERY: Duration = Duration::from_secs(5);
/// Most bytes of records read in one look.
const LOOK_BYTES: usize = 8 << 20;
/// Most bytes of records kept. Past it further ones are read once the first are old enough to go.
const KEPT_BYTES: usize = 64 << 20;
/// Microseconds for which records are kept after the log before them no longer changes, for watches that are slow.
const KEEP_MICROS: i64 = 3_000_000;

/// The end of a shard.
#[derive(Debug, Default)]
pub(super) struct Tail {
    state: Mutex<State>,
    /// When it was asked for last.
    asked: std::sync::Mutex<Option<ClockReading>>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of this memory, which no other one has; 0 before the first look.
    memory: u64,
    looked: Option<ClockReading>,
    /// The place before which all pointers have been read.
    settled: i64,
    /// The place from which on every record that was found is kept.
    kept_from: i64,
    /// The records by the order in which they were found.
    kept: BTreeMap<u64, Arc<ChangeRecord>>,
    bytes: usize,
    /// The number of the last record found, and the highest of those no longer kept.
    last: u64,
    forgotten: u64,
    /// The records found behind `settled`.
    found: HashSet<Place>,
    /// The pointers whose records are not there yet.
    missing: BTreeMap<Place, Missing>,
}

#[derive(Debug)]
struct Missing {
    pointer: Pointer,
    looked: Option<ClockReading>,
}

impl Tail {
    /// Returns whether no call has asked for it lately.
    pub(super) fn is_idle(&self, now: ClockReading) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_none_or(|asked| now.since(&asked) > IDLE_MAX)
    }

    /// Returns what is new for a cursor; or the place up to which the log has to be read before.
    pub(super) async fn changes<L: Log>(
        &self,
        log: &L,
        read: &FeedRead,
        times: Times,
        now: ClockReading,
    ) -> Result<Result<FeedPage, i64>, Error> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let mut state = self.state.lock().await;
        if state.looked.is_none_or(|looked| now.since(&looked) > IDLE_MAX) {
            let start = now.wall.0 - times.settle;
            *state = State {
                memory: fastrand::u64(1..),
                settled: start,
                kept_from: start,
                missing: std::mem::take(&mut state.missing),
                ..State::default()
            };
        }
        if state.looked.is_none_or(|looked| now.since(&looked) >= SHARED) {
            state.look(log, times, now).await?;
        }
        let FeedCursor { position, live } = read.cursor;
        let after = match live {
            Some((memory, last)) if memory == state.memory && last >= state.forgotten => Some(last),
            _ => None,
        };
        if after.is_none() && position < state.kept_from {
            return Ok(Err(state.kept_from));
        }
        let new = state.kept.range(after.unwrap_or(0) + 1..).map(|(_, record)| record);
        // Of a place from elsewhere what lies before it has been delivered.
        let new = new.filter(|record| after.is_some() || record.place.at >= position);
        let wanted = |record: &&Arc<ChangeRecord>| {
            read.partition.as_ref().is_none_or(|partition| *partition == record.partition)
        };
        let records = new.filter(wanted).cloned().collect();
        let since = read.table.change_feed().map_or(i64::MIN, |feed| feed.since.0);
        let position = state.resume_from().max(since);
        let cursor = FeedCursor { position, live: Some((state.memory, state.last)) };
        Ok(Ok(FeedPage { records, cursor, more: false }))
    }

    /// Waits for records that the log points to and that are not there.
    pub(super) async fn wait_for(&self, pointers: Vec<Pointer>, times: Times, now: ClockReading) {
        if pointers.is_empty() {
            return;
        }
        let mut state = self.state.lock().await;
        let oldest = now.wall.0 - times.wait;
        for pointer in pointers.into_iter().filter(|pointer| pointer.place.at >= oldest) {
            let looked = Some(now);
            state.missing.entry(pointer.place).or_insert(Missing { pointer, looked });
        }
    }
}

impl State {
    /// Returns the place from which on another clone has to read so that nothing is missed.
    fn resume_from(&self) -> i64 {
        let missing = self.missing.first_key_value().map_or(i64::MAX, |(place, _)| place.at);
        self.settled.min(missing)
    }

    /// Reads what is new in the log, and the records that are there by now.
    async fn look<L: Log>(&mut self, log: &L, times: Times, now: ClockReading) -> Result<(), Error> {
        let settled = (now.wall.0 - times.settle).max(self.settled);
        self.read_pointers(log, now.wall.0 + times.apart).await?;

        let (mut wanted, mut bytes) = (Vec::new(), 0);
        for missing in self.missing.values() {
            let late = missing.pointer.place.at < settled;
            if late && missing.looked.is_some_and(|looked| now.since(&looked) < LATE_EVERY) {
                continue;
            }
            let size = missing.pointer.bytes();
            if !wanted.is_empty() && (bytes + size > LOOK_BYTES || self.bytes + bytes + size > KEPT_BYTES) {
                break;
            }
            bytes += size;
            wanted.push(missing.pointer.clone());
        }
        // A look for late records settles what became of their writes.
        let (late, recent): (Vec<_>, Vec<_>) =
            wanted.iter().cloned().partition(|pointer: &Pointer| pointer.place.at < settled);
        let mut found = log.records(&recent, false).await?;
        found.extend(log.records(&late, true).await?);
        for pointer in wanted {
            if let Some(missing) = self.missing.get_mut(&pointer.place) {
                missing.looked = Some(now);
            }
        }
        let mut records: Vec<_> = found.into_values().collect();
        order_within_partitions(&mut records);
        for record in records {
            self.missing.remove(&record.place);
            self.found.insert(record.place);
            self.last += 1;
            self.bytes += record.bytes();
            self.kept.insert(self.last, record);
        }
        self.missing.retain(|place, missing| missing.looked.is_none() || place.at >= now.wall.0 - times.wait);
        self.settled = settled;
        self.found.retain(|place| place.at >= settled);
        self.forget(self.resume_from().min(settled - KEEP_MICROS));
        self.looked = Some(now);
        Ok(())
    }

    /// Reads the log from the newest pointer back. So of two writes of which one was answered before the other was sent, the first
    /// is found with the second, or before it.
    async fn read_pointers<L: Log>(&mut self, log: &L, until: i64) -> Result<(), Error> {
        let from = Place { at: self.settled, id: i64::MIN };
        for bucket in (bucket(from.at)..=bucket(until)).rev() {
            let mut before = Place { at: i64::MAX, id: i64::MAX };
            loop {
                let stretch = Stretch { bucket, from, before, descending: true };
                let pointers = log.pointers(stretch).await?;
                let last = pointers.last().map(|pointer| pointer.place);
                let full = pointers.len() == POINTERS;
                for pointer in pointers.into_iter().filter(|pointer| !self.found.contains(&pointer.place)) {
                    self.missing.entry(pointer.place).or_insert(Missing { pointer, looked: None });
                }
                match last {
                    Some(last) if full => before = last,
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Forgets the records before a place.
    fn forget(&mut self, before: i64) {
        if before <= self.kept_from {
            return;
        }
        self.kept_from = before;
        let (bytes, forgotten) = (&mut self.bytes, &mut self.forgotten);
        self.kept.retain(|number, record| {
            let keep = record.place.at >= before;
            if !keep {
                *bytes = bytes.saturating_sub(record.bytes());
                *forgotten = (*forgotten).max(*number);
            }
            keep
        });
    }
}
