//! Places in the log, and the records that are written at them.
//!
//! Watches believe that a pointer is in the log within [`Times::placed`] of its place, and its record within [`Times::done`]. A
//! process may be paused at any moment and its clock be set, so both are checked when the engine has answered, by both clocks.

use bytes::Bytes;
use scylla::statement::Consistency as CqlConsistency;

use crate::change_record::{self, OldRows, Place};
use crate::clock::{ClockReading, WriteTimestamp};
use crate::conditional::{ConditionalWrite, Decision, Found};
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::Write;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::feed::log::bucket;
use crate::store::cassandra::feed::{NEAR_MICROS, TTL_SLACK_SECONDS, Times, aux, shard};
use crate::store::cassandra::registry::answer;
use crate::store::cassandra::schema::CHANGES;
use crate::store::cassandra::statements::{Bind, Kind, lowest};
use crate::table::{ChangeFeed, Table, WriteMode};

/// Most places that a write takes because its pointer or its answer came late.
const PLACES_MAX: usize = 3;

/// A place that was taken in the log, and when.
#[derive(Debug, Clone, Copy)]
pub(in crate::store::cassandra) struct Placed {
    pub(in crate::store::cassandra) place: Place,
    taken: ClockReading,
}

impl Placed {
    /// Takes a place for a write: its timestamp, unless that is of another time.
    pub(in crate::store::cassandra) fn take(stamp: WriteTimestamp, now: ClockReading) -> Self {
        let near = (now.wall.0 - NEAR_MICROS..=now.wall.0).contains(&stamp.0);
        let at = if near { stamp.0 } else { now.wall.0 };
        Self { place: Place { at, id: fastrand::i64(..) }, taken: now }
    }

    /// Returns the microseconds since the place, by the clock that says more.
    fn age(&self, now: ClockReading) -> i64 {
        let passed = i64::try_from(now.since(&self.taken).as_micros()).unwrap_or(i64::MAX / 4);
        (now.wall.0 - self.place.at).max(passed + self.taken.wall.0 - self.place.at)
    }

    /// Returns whether the pointer is where watches look for it, if it is in the log at `now`.
    pub(super) fn is_in_log_in_time(&self, times: Times, now: ClockReading) -> bool {
        self.age(now) <= times.placed
    }

    /// Returns whether watches still look for the record, if it is there at `now`.
    pub(super) fn is_done_in_time(&self, times: Times, now: ClockReading) -> bool {
        self.age(now) <= times.done
    }
}

/// Returns the seconds for which pointers and records are kept.
fn ttl(feed: &ChangeFeed) -> i32 {
    i32::try_from(feed.retention_seconds + TTL_SLACK_SECONDS).unwrap_or(i32::MAX)
}

/// Returns the values of [`Kind::PutRecord`]. The record of a conditional write stands beside the rows, because a conditional batch
/// cannot write to another table.
fn values(
    table: &Table,
    feed: &ChangeFeed,
    partition: &PartitionKey,
    place: Place,
    record: Bytes,
) -> Vec<Bind> {
    let mut values = vec![Bind::Text(partition.as_str().to_owned())];
    if table.definition.write_mode == WriteMode::Conditional {
        values.push(Bind::Blob(aux(place)));
        values.extend(Bind::sort_key(&lowest(table.definition.sort_key_type)));
    } else {
        values.extend([Bind::BigInt(place.at), Bind::BigInt(place.id)]);
    }
    values.extend([Bind::Blob(record), Bind::Int(ttl(feed))]);
    values
}

impl CassandraStore {
    /// Makes the record of a write; none if the table has no change feed.
    pub(in crate::store::cassandra) fn record(write: &Write, old_rows: Option<OldRows>) -> Option<Bytes> {
        let feed = write.table.change_feed()?;
        let old_rows = old_rows.filter(|_| feed.old_rows).unwrap_or_default();
        Some(change_record::encode(write, old_rows).into())
    }

    /// Makes the record of a conditional write; none if the table has no change feed.
    ///
    /// # Errors
    /// [`Error::OldRowsTooLarge`].
    pub(in crate::store::cassandra) fn record_conditional(
        write: &ConditionalWrite,
        decision: &Decision,
        found: &[Found],
    ) -> Result<Option<Bytes>, Error> {
        let Some(feed) = write.table.change_feed() else { return Ok(None) };
        Ok(Some(change_record::encode_conditional(write, decision, found, feed.old_rows)?.into()))
    }

    /// Takes a place for a record and logs a pointer to it. The write has to be sent at once then. Returns the values of
    /// [`Kind::PutRecord`] besides.
    ///
    /// # Errors
    /// The write must not be sent then.
    pub(in crate::store::cassandra) async fn place(
        &self,
        table: &Table,
        partition: &PartitionKey,
        stamp: WriteTimestamp,
        record: &Bytes,
    ) -> Result<(Placed, Vec<Bind>), Error> {
        let feed = table.change_feed().ok_or_else(|| Error::Internal("a place without a feed".to_owned()))?;
        // Prepared first: only the time of the statement itself is counted on.
        self.append_statement().await?;
        for _ in 0..PLACES_MAX {
            let now = ClockReading::now();
            self.inner.drift.check(now)?;
            let placed = Placed::take(stamp, now);
            self.append(table, feed, placed.place, partition, record.len()).await?;
            let now = ClockReading::now();
            self.inner.drift.check(now)?;
            if placed.is_in_log_in_time(self.feed_times(), now) {
                let values = values(table, feed, partition, placed.place, record.clone());
                return Ok((placed, values));
            }
        }
        let detail = format!("the log of the change feed took too long {PLACES_MAX} times");
        Err(Error::Unavailable { engine: ENGINE, detail })
    }

    /// Returns the values of [`Kind::PutRecord`] for another attempt at a write that has a place. Without one, or when too much time
    /// has passed since, a place is taken.
    ///
    /// # Errors
    /// The attempt must not be sent then.
    pub(in crate::store::cassandra) async fn place_attempt(
        &self,
        write: &ConditionalWrite,
        stamp: WriteTimestamp,
        record: &Bytes,
        places: &mut Vec<Placed>,
    ) -> Result<Vec<Bind>, Error> {
        let (table, partition) = (&write.table, &write.partition);
        let now = ClockReading::now();
        self.inner.drift.check(now)?;
        if let (Some(feed), Some(placed)) = (table.change_feed(), places.last())
            && placed.is_in_log_in_time(self.feed_times(), now)
        {
            return Ok(values(table, feed, partition, placed.place, record.clone()));
        }
        let (placed, values) = self.place(table, partition, stamp, record).await?;
        places.push(placed);
        Ok(values)
    }

    /// Writes the record of a write that was done again, at a new place, if the answer came too late for watches that wait for it.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] when that does not come to an end: the write was done, and its record may be shown to nobody.
    pub(in crate::store::cassandra) async fn record_in_time(
        &self,
        table: &Table,
        partition: &PartitionKey,
        stamp: WriteTimestamp,
        record: &Bytes,
        mut placed: Placed,
    ) -> Result<(), Error> {
        let unknown = |error: Error| Error::OutcomeUnknown { detail: error.to_string(), token: None };
        for _ in 0..PLACES_MAX {
            if placed.is_done_in_time(self.feed_times(), ClockReading::now()) {
                return Ok(());
            }
            tracing::warn!(
                "a write was answered late, by a clone that was paused or whose clock was set; its change is written again"
            );
            let (again, values) = self.place(table, partition, stamp, record).await.map_err(unknown)?;
            self.put_record(table, values).await.map_err(unknown)?;
            placed = again;
        }
        Err(unknown(Error::Internal("the change feed took too long".to_owned())))
    }

    /// Says at the places of a conditional write that nothing was done and that nothing will be, so that watches need not wait.
    pub(in crate::store::cassandra) fn abandon(&self, write: &ConditionalWrite, places: &[Placed]) {
        let Some(feed) = write.table.change_feed() else { return };
        for placed in places {
            let (store, table) = (self.clone(), write.table.clone());
            let values = values(&table, feed, &write.partition, placed.place, Bytes::new());
            self.inner.link.spawn(async move {
                // A pointer without an answer is waited for until its time is over.
                let _ = store.put_record(&table, values).await;
            });
        }
    }

    async fn put_record(&self, table: &Table, values: Vec<Bind>) -> Result<(), Error> {
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let statements = self.statements(table);
        let mut statement = statements.get(Kind::PutRecord, link, &connected.session).await?;
        statement.set_consistency(CqlConsistency::LocalQuorum);
        let run = async move { answer(statement.execute(&connected.session, values).await?) };
        link.run(Intent::Write, "INSERT", statements.table(), run).await.map(drop)
    }

    /// Logs a pointer to a record of about this size.
    async fn append(
        &self,
        table: &Table,
        feed: &ChangeFeed,
        Place { at, id }: Place,
        partition: &PartitionKey,
        size: usize,
    ) -> Result<(), Error> {
        let (link, statement) = (&self.inner.link, self.append_statement().await?);
        let partition = partition.as_str();
        let (shard, size) = (i32::from(shard(feed, partition)), i32::try_from(size).unwrap_or(i32::MAX));
        let values = (table.id, shard, bucket(at), at, id, partition.to_owned(), size, ttl(feed));
        let connected = link.connected().await?;
        let run = async move { answer(connected.session.execute_unpaged(&statement, values).await?) };
        match link.run(Intent::Read, "INSERT", CHANGES, run).await {
            Ok(_) => Ok(()),
            // The write itself was not sent, and a pointer alone means nothing.
            Err(Error::ReadFailed { engine, detail }) => Err(Error::Unavailable { engine, detail }),
            Err(error) => Err(error),
        }
    }
}
