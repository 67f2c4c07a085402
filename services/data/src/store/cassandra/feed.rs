//! Change feeds. The record of a write is a row of `o_NAME` under the partition key of the write, so it is part of the same
//! mutation: a replica has both or neither, whatever their size. Before the write is sent, a pointer to the record goes into the
//! log `changes`, by time and shard. In a conditional table the record stands beside the rows, in the same conditional batch. A pointer whose record is not there belongs to a write that is under way, or was never done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use scylla::statement::Consistency as CqlConsistency;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::OnceCell;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::change_record::Place;
use crate::clock::ClockReading;
use crate::error::Error;
use crate::key::PartitionKey;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::schema::CHANGES;
use crate::store::{FeedCursor, FeedHere, FeedPage, FeedRead, FeedStore};
use crate::table::{ChangeFeed, Table};

mod log;
mod old_rows;
mod past;
mod place;
mod tail;
#[cfg(test)]
mod tests;

use log::{Log, ShardLog};
use past::{PastPage, past};
pub(super) use place::Placed;
use tail::{Next, Tail};

/// Time for which the log of one shard goes into one partition.
const BUCKET_MICROS: i64 = 60_000_000;
/// Bytes of records after which a page of the past ends.
const PAGE_BYTES: usize = 1 << 20;
/// Microseconds by which a write's timestamp may be behind the clone's clock and still be its place in the log.
const NEAR_MICROS: i64 = 1_000_000;
/// Microseconds for which a write that is not there is waited for: its outcome was unknown, or its clone has died.
const WAIT_MICROS: i64 = 60_000_000;
/// Seconds for which pointers and records are kept beyond the retention.
const TTL_SLACK_SECONDS: u32 = 3600;
/// First byte of `aux` in the records of a conditional table; the place follows.
const RECORD: u8 = 2;

/// Times that the promises of a feed rest on, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// The most time between a place and the moment when its pointer is known to be in the log. A write whose pointer took longer
    /// takes another place.
    pub(super) placed: i64,
    /// The time after which every pointer is in the log whose write may still be done.
    pub(super) settle: i64,
    /// The most by which the clocks of two clones differ that do not refuse writes.
    pub(super) apart: i64,
    /// The most time between a place and the answer of its write. The record of a write that took longer is written again.
    pub(super) done: i64,
    /// The time for which a record is waited for whose pointer is there.
    pub(super) wait: i64,
}

/// State that a clone keeps of change feeds.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    tails: Mutex<HashMap<(Uuid, u16), Arc<Tail>>>,
    append: OnceCell<PreparedStatement>,
    ascending: OnceCell<PreparedStatement>,
    descending: OnceCell<PreparedStatement>,
}

/// Returns what stands for a place in the key of a conditional table.
fn aux(place: Place) -> Bytes {
    [&[RECORD][..], &place.at.to_be_bytes(), &place.id.to_be_bytes()].concat().into()
}

impl Times {
    fn new(statement_timeout: Duration, clock_drift_max: Duration) -> Self {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 8);
        let apart = micros(clock_drift_max) * 2;
        let placed = micros(statement_timeout) + NEAR_MICROS;
        Self { placed, settle: placed + apart, apart, done: WAIT_MICROS, wait: WAIT_MICROS + apart }
    }
}

fn shard(feed: &ChangeFeed, partition: &str) -> u16 {
    let shard = xxh3_64(partition.as_bytes()) % u64::from(feed.shards.max(1));
    u16::try_from(shard).unwrap_or_default()
}

impl CassandraStore {
    /// Returns the times that the promises of a feed rest on.
    pub(super) fn feed_times(&self) -> Times {
        let config = self.inner.link.config();
        Times::new(config.statement_timeout, config.clock_drift_max)
    }

    async fn append_statement(&self) -> Result<PreparedStatement, Error> {
        let text = |keyspace: &str| {
            format!(
                "INSERT INTO {keyspace}.{CHANGES} (feed, shard, bucket, at, id, pk, size) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ?"
            )
        };
        self.feed_statement(&self.inner.feeds.append, text).await
    }

    async fn feed_statement(
        &self,
        cell: &OnceCell<PreparedStatement>,
        text: impl Fn(&str) -> String,
    ) -> Result<PreparedStatement, Error> {
        let link = &self.inner.link;
        let prepare = || async {
            let (connected, text) = (link.connected().await?, text(&link.config().keyspace));
            let prepared = async move {
                let mut statement = connected.session.prepare(text).await?;
                statement.set_is_idempotent(true);
                statement.set_consistency(CqlConsistency::LocalQuorum);
                Ok((statement, None))
            };
            link.run(Intent::Read, "PREPARE", CHANGES, prepared).await
        };
        cell.get_or_try_init(prepare).await.cloned()
    }

    /// Returns the end of a shard that this clone keeps, and forgets those that nobody asks for.
    fn tail(&self, table: Uuid, shard: u16) -> Arc<Tail> {
        let mut tails = self.inner.feeds.tails.lock().unwrap_or_else(PoisonError::into_inner);
        if !tails.contains_key(&(table, shard)) {
            let now = ClockReading::now();
            tails.retain(|_, tail| Arc::strong_count(tail) > 1 || !tail.is_idle(now));
        }
        tails.entry((table, shard)).or_default().clone()
    }
}

impl FeedStore for CassandraStore {
    fn feed_shards(&self, feed: &ChangeFeed, partition: Option<&PartitionKey>) -> Vec<u16> {
        match partition {
            Some(partition) => vec![shard(feed, partition.as_str())],
            None => (0..feed.shards).collect(),
        }
    }

    fn feed_start(&self, table: &Table) -> Result<i64, Error> {
        let since = table.change_feed().map_or(table.create_time, |feed| feed.since);
        let now = ClockReading::now();
        self.inner.drift.check(now)?;
        Ok((now.wall.0 - self.feed_times().settle).max(since.0))
    }

    fn check_places(&self, table: &Table, places: impl Iterator<Item = i64>) -> Result<(), Error> {
        let now = ClockReading::now();
        self.inner.drift.check(now)?;
        let oldest = table.change_feed().map_or(table.create_time, |feed| feed.oldest(now.wall));
        // No clone that may give tokens has a clock that is further ahead.
        let latest = now.wall.0 + self.feed_times().apart;
        for place in places {
            if place < oldest.0 {
                return Err(Error::ChangesGone { oldest });
            }
            if place > latest {
                return Err(Error::ChangesAhead { ahead_micros: place - now.wall.0 });
            }
        }
        Ok(())
    }

    async fn changes(&self, read: FeedRead) -> Result<FeedPage, Error> {
        let log = ShardLog { store: self, table: &read.table, shard: read.shard };
        let tail = self.tail(read.table.id, read.shard);
        let now = ClockReading::now();
        self.inner.drift.check(now)?;
        changes(&log, &tail, &read, self.feed_times(), now).await
    }
}

/// Returns the next changes of a shard: those that its end keeps, or a page of the past.
async fn changes<L: Log>(
    log: &L,
    tail: &Tail,
    read: &FeedRead,
    times: Times,
    now: ClockReading,
) -> Result<FeedPage, Error> {
    match tail.next(log, read, times, now).await? {
        Next::Page(page) => Ok(page),
        Next::Past { here, until } => {
            let PastPage { records, next, missing } =
                past(log, read.partition.as_ref(), here.from, until).await?;
            let here = FeedHere { from: next, ..here };
            let position = tail.wait_for(missing, times, now, &here).await.max(read.cursor.position);
            let cursor = FeedCursor { position, here: Some(here) };
            Ok(FeedPage { records, cursor, more: true })
        }
    }
}
