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
use crate::store::cassandra::feed::{PAGE_BYTES, Times};
use crate::store::{FeedCursor, FeedHere, FeedPage, FeedRead};

/// Time for which several watches share what one of them has read.
const SHARED: Duration = Duration::from_millis(50);
/// Time after which an end that was not asked for is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Time for which the wall clock must be ahead of where the monotonic clock says it is, until the end is begun anew.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Most microseconds by which the wall clock is believed to be ahead of where the monotonic clock says it is.
const AHEAD_READ_MICROS: i64 = 600_000_000;
/// Interval at which a record that is late is looked for again.
const LATE_EVERY: Duration = Duration::from_secs(5);
/// Bytes of records after which a look ends.
const LOOK_BYTES: usize = 8 << 20;
/// Most bytes of records kept. Past it the first are forgotten, and watches that have not come to them read the log.
const KEPT_BYTES: usize = 64 << 20;
/// Most pointers kept whose records are not there yet, or not read. Later ones are read again by the next look.
pub(super) const WAITING_MAX: usize = 20_000;
/// Time for which records are kept at least, after the log before them no longer changes, for watches that are slow.
const KEEP: Duration = Duration::from_secs(3);

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
    /// The wall clock's time, as far as the monotonic clock bears it out.
    time: i64,
    /// When the wall clock was first found to be ahead of that, without an end since.
    ahead: Option<ClockReading>,
    /// The place before which all pointers have been read.
    settled: i64,
    /// The place from which on every record that was found is kept.
    kept_from: i64,
    /// The records by the order in which they were found.
    kept: BTreeMap<u64, Kept>,
    bytes: usize,
    /// The number of the last record found, and the highest of those no longer kept.
    last: u64,
    forgotten: u64,
    /// The records found behind `settled`.
    found: HashSet<Place>,
    /// The pointers whose records are not there yet, or not read.
    missing: BTreeMap<Place, Missing>,
}

#[derive(Debug)]
struct Kept {
    record: Arc<ChangeRecord>,
    found: ClockReading,
}

#[derive(Debug)]
struct Missing {
    pointer: Pointer,
    looked: Option<ClockReading>,
}

/// The next changes of a shard, or where to read them.
#[derive(Debug)]
pub(super) enum Next {
    /// The end has them.
    Page(FeedPage),
    /// A page of the past before a place comes first.
    Past {
        /// The place to read from, and what was delivered of the end.
        here: FeedHere,
        /// The place before which the log no longer changes.
        until: i64,
    },
}

impl Tail {
    /// Returns whether no call has asked for it lately.
    pub(super) fn is_idle(&self, now: ClockReading) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_none_or(|asked| now.since(&asked) > IDLE_MAX)
    }

    /// Returns what is new for a cursor.
    pub(super) async fn next<L: Log>(
        &self,
        log: &L,
        read: &FeedRead,
        times: Times,
        now: ClockReading,
    ) -> Result<Next, Error> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let mut state = self.state.lock().await;
        state.come_to(times, now);
        if state.looked.is_none_or(|looked| now.since(&looked) >= SHARED) {
            state.look(log, times, now).await?;
        }
        let here = match read.cursor.here {
            Some(here) if here.memory == state.memory && here.number >= state.forgotten => here,
            // What is found from now on has a higher number, and what was found before is in the log.
            _ => FeedHere {
                from: Place::first_at(read.cursor.position),
                memory: state.memory,
                number: state.last,
            },
        };
        if here.from.at >= state.kept_from {
            return Ok(Next::Page(state.page(read, here, Place::MAX)));
        }
        let late = state.page(read, here, here.from);
        let until = state.kept_from.min(state.settled);
        if late.more || !late.records.is_empty() || here.from.at >= until {
            return Ok(Next::Page(late));
        }
        Ok(Next::Past { here: late.cursor.here.unwrap_or(here), until })
    }

    /// Waits for records that the log points to and that are not there. Returns the place that a token has which is given to a
    /// watch at `here`.
    pub(super) async fn wait_for(
        &self,
        pointers: Vec<Pointer>,
        times: Times,
        now: ClockReading,
        here: &FeedHere,
    ) -> i64 {
        let mut state = self.state.lock().await;
        let oldest = state.time - times.wait;
        for pointer in pointers.into_iter().filter(|pointer| pointer.place.at >= oldest) {
            let looked = Some(now);
            state.missing.entry(pointer.place).or_insert(Missing { pointer, looked });
        }
        state.resume_from(here)
    }
}

#[cfg(test)]
impl Tail {
    /// Returns the bytes of the records that are kept.
    pub(super) async fn kept_bytes(&self) -> usize {
        self.state.lock().await.kept.values().map(|kept| kept.record.bytes()).sum()
    }

    /// Returns the number of pointers whose records are not there yet.
    pub(super) async fn waiting(&self) -> usize {
        self.state.lock().await.missing.len()
    }
}

impl State {
    /// Returns the place from which on another clone has to read so that nothing is missed that was not delivered at `here`.
    fn resume_from(&self, here: &FeedHere) -> i64 {
        let missing = self.missing.first_key_value().map(|(place, _)| place.at);
        let kept = self.kept.range(here.number + 1..).map(|(_, kept)| kept.record.place.at).min();
        let before = missing.into_iter().chain(kept).min().unwrap_or(i64::MAX);
        before.min(self.settled).min(here.from.at)
    }

    /// Returns the records that were found since `here`, and those behind its place; all of them before `until`.
    fn page(&self, read: &FeedRead, here: FeedHere, until: Place) -> FeedPage {
        let first = if here.from < until { 0 } else { here.number };
        let (mut records, mut bytes, mut number) = (Vec::new(), 0, self.last);
        for (of, Kept { record, .. }) in self.kept.range(first + 1..) {
            let new = *of > here.number || record.place >= here.from;
            let ours = read.partition.as_ref().is_none_or(|partition| *partition == record.partition);
            if !new || !ours || record.place >= until {
                continue;
            }
            if !records.is_empty() && bytes + record.bytes() > PAGE_BYTES {
                number = of - 1;
                break;
            }
            bytes += record.bytes();
            records.push(record.clone());
        }
        // With all of the end delivered its numbers are enough to go on.
        let from = if until == Place::MAX { until } else { here.from };
        let here = FeedHere { from, memory: self.memory, number };
        let since = read.table.change_feed().map_or(i64::MIN, |feed| feed.since.0);
        let position = self.resume_from(&here).max(since).max(read.cursor.position);
        let cursor = FeedCursor { position, here: Some(here) };
        FeedPage { records, cursor, more: number < self.last }
    }

    /// Moves the time on. The end is begun anew when it was not asked for for long, or when the wall clock was set ahead, once that
    /// lasts.
    fn come_to(&mut self, times: Times, now: ClockReading) {
        let idle = self.looked.is_none_or(|looked| now.since(&looked) > IDLE_MAX);
        let ahead = self.ahead.is_some_and(|ahead| now.since(&ahead) > AHEAD_MAX);
        if !idle && !ahead {
            return;
        }
        let start = now.wall.0 - times.settle;
        *self = State {
            memory: fastrand::u64(1..),
            time: now.wall.0,
            settled: start,
            kept_from: start,
            missing: std::mem::take(&mut self.missing),
            ..State::default()
        };
    }

    /// Reads what is new in the log, and the records that are there by now.
    async fn look<L: Log>(&mut self, log: &L, times: Times, now: ClockReading) -> Result<(), Error> {
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.since(&looked));
        let passed = i64::try_from(passed.as_micros()).unwrap_or(i64::MAX / 4);
        let time = now.wall.0.min(self.time + passed).max(self.time);
        let ahead = now.wall.0 - time;
        let until = time + ahead.clamp(0, AHEAD_READ_MICROS) + times.apart;
        let left_out = self.read_pointers(log, until).await?;
        let settled = left_out.map_or(i64::MAX, |place| place.at).min(time - times.settle).max(self.settled);
        let left = self.read_records(log, settled, now).await?;
        if left || left_out.is_some() {
            metrics::counter!("shoal_data_feed_backlogs_total").increment(1);
        }
        // A record is looked for once more after its time is over.
        let over = |place: &Place, looked: ClockReading| looked.wall.0.min(time) >= place.at + times.wait;
        self.missing.retain(|place, missing| missing.looked.is_none_or(|looked| !over(place, looked)));
        self.ahead = (ahead > times.apart).then(|| self.ahead.unwrap_or(now));
        (self.time, self.settled, self.looked) = (time, settled, Some(now));
        self.found.retain(|place| place.at >= settled);
        self.forget(now);
        Ok(())
    }

    /// Reads the log from the newest pointer back. So of two writes of which one was answered before the other was sent, the first
    /// is found with the second, or before it. Returns the first place that is left for the next look.
    async fn read_pointers<L: Log>(&mut self, log: &L, until: i64) -> Result<Option<Place>, Error> {
        let from = Place::first_at(self.settled);
        let mut left: Option<Place> = None;
        for bucket in (bucket(from.at)..=bucket(until)).rev() {
            let mut before = Place::MAX;
            loop {
                let stretch = Stretch { bucket, from, before, descending: true };
                let pointers = log.pointers(stretch).await?;
                let last = pointers.last().map(|pointer| pointer.place);
                let full = pointers.len() == POINTERS;
                for pointer in pointers.into_iter().filter(|pointer| !self.found.contains(&pointer.place)) {
                    self.missing.entry(pointer.place).or_insert(Missing { pointer, looked: None });
                }
                while self.missing.len() > WAITING_MAX {
                    let last = self.missing.pop_last().map(|(place, _)| place);
                    left = left.into_iter().chain(last).min();
                }
                match last {
                    Some(last) if full => before = last,
                    _ => break,
                }
            }
        }
        Ok(left)
    }

    /// Reads the records of pointers, the first ones first, until there are [`LOOK_BYTES`] of them. Returns whether any are left.
    async fn read_records<L: Log>(
        &mut self,
        log: &L,
        settled: i64,
        now: ClockReading,
    ) -> Result<bool, Error> {
        let is_due = |missing: &Missing| {
            let late = missing.pointer.place.at < settled;
            !late || missing.looked.is_none_or(|looked| now.since(&looked) >= LATE_EVERY)
        };
        let due = self.missing.values().filter(|missing| is_due(missing));
        let mut due = due.map(|missing| missing.pointer.clone()).collect::<Vec<_>>().into_iter().peekable();
        let (mut records, mut found_bytes) = (Vec::new(), 0);
        while found_bytes < LOOK_BYTES && due.peek().is_some() {
            // By what the pointers say: those of writes that were never done have no record.
            let (mut wanted, mut bytes) = (Vec::new(), 0);
            while let Some(pointer) =
                due.next_if(|next| wanted.is_empty() || bytes + next.bytes() <= LOOK_BYTES)
            {
                bytes += pointer.bytes();
                wanted.push(pointer);
            }
            for pointer in &wanted {
                if let Some(missing) = self.missing.get_mut(&pointer.place) {
                    missing.looked = Some(now);
                }
            }
            // A look for late records settles what became of their writes.
            let (late, recent): (Vec<_>, Vec<_>) =
                wanted.into_iter().partition(|pointer: &Pointer| pointer.place.at < settled);
            let mut found = log.records(&recent, false).await?;
            found.extend(log.records(&late, true).await?);
            for (place, record) in found {
                self.missing.remove(&place);
                self.found.insert(place);
                found_bytes += record.as_ref().map_or(0, |record| record.bytes());
                records.extend(record);
            }
        }
        order_within_partitions(&mut records);
        for record in records {
            self.last += 1;
            self.bytes += record.bytes();
            self.kept.insert(self.last, Kept { record, found: now });
        }
        Ok(due.peek().is_some())
    }

    /// Forgets the first records that were found: those that have been kept for long enough, and more while they have too many
    /// bytes.
    fn forget(&mut self, now: ClockReading) {
        let keep = i64::try_from(KEEP.as_micros()).unwrap_or(i64::MAX / 4);
        self.kept_from = self.kept_from.max(self.settled - keep);
        while let Some(first) = self.kept.first_entry() {
            let Kept { record, found } = first.get();
            let old = record.place.at < self.kept_from && now.since(found) >= KEEP;
            if !old && self.bytes <= KEPT_BYTES {
                return;
            }
            self.kept_from = self.kept_from.max(record.place.at + 1);
            self.bytes = self.bytes.saturating_sub(record.bytes());
            self.forgotten = *first.key();
            first.remove();
        }
    }
}
