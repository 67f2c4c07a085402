//! Change feeds. The record of a write is a row of `o_NAME` under the partition key of the write, so it is part of the same
//! mutation: a replica has both or neither, whatever their size. Before the write is sent, a pointer to the record goes into the
//! log `changes`, by time and shard. In a conditional table the record stands beside the rows, in the same conditional batch. A pointer whose record is not there belongs to a write that is under way, or was never done.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use scylla::statement::Consistency as CqlConsistency;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::OnceCell;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::change_record::{self, ChangeRecord, OldRows, Place, RANGE_ROWS_MAX};
use crate::clock::WriteTimestamp;
use crate::conditional::{ConditionalWrite, Decision, Found};
use crate::error::Error;
use crate::key::PartitionKey;
use crate::mutation::{Change, Write};
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::{ENGINE, Intent};
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::schema::CHANGES;
use crate::store::cassandra::statements::{Bind, Kind, lowest};
use crate::store::{Consistency, FeedCursor, FeedPage, FeedRead, FeedStore, Lookup, Query, ReadStore};
use crate::table::{ChangeFeed, Table};

mod tail;

use tail::Tail;

/// Time for which the log of one shard goes into one partition.
const BUCKET_MICROS: i64 = 60_000_000;
/// Most pointers read at once.
const POINTERS: usize = 1000;
/// Buckets of the log that a page looks through when they hold little.
const BUCKETS: i64 = 256;
/// Buckets read at the same time.
const BUCKET_READS: usize = 8;
/// Bytes of records after which a page of the past ends.
const PAGE_BYTES: usize = 1 << 20;
/// Most records read with one statement, and most bytes of them if they are several.
const RECORDS_READ: usize = 50;
/// Statements that read records at the same time.
const RECORD_READS: usize = 16;
/// Most old rows read at the same time.
const OLD_ROW_READS: usize = 32;
/// Microseconds by which a write's timestamp may be behind the clone's clock and still be its place in the log.
const NEAR_MICROS: i64 = 1_000_000;
/// Microseconds for which a write that is not there is waited for: its outcome was unknown, or its clone has died.
const WAIT_MICROS: i64 = 60_000_000;
/// Seconds for which pointers and records are kept beyond the retention.
const TTL_SLACK_SECONDS: u32 = 3600;
/// First byte of `aux` in the records of a conditional table; the place follows.
const RECORD: u8 = 2;

/// What a clone keeps of change feeds.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    tails: Mutex<HashMap<(Uuid, u16), Arc<Tail>>>,
    append: OnceCell<PreparedStatement>,
    ascending: OnceCell<PreparedStatement>,
    descending: OnceCell<PreparedStatement>,
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pointer {
    place: Place,
    partition: String,
    size: i32,
}

/// Part of the log in one bucket of a shard.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    feed: Uuid,
    shard: u16,
    bucket: i64,
    from: Place,
    before: Place,
    descending: bool,
}

fn bucket(at: i64) -> i64 {
    at.div_euclid(BUCKET_MICROS)
}

/// Returns the place of a write's record in the log: its timestamp, unless that is of another time.
fn new_place(stamp: WriteTimestamp) -> Place {
    let now = WriteTimestamp::now().0;
    let near = (now - NEAR_MICROS..=now).contains(&stamp.0);
    Place { at: if near { stamp.0 } else { now }, id: fastrand::i64(..) }
}

/// Returns the seconds for which pointers and records are kept.
fn ttl(feed: &ChangeFeed) -> i32 {
    i32::try_from(feed.retention_seconds + TTL_SLACK_SECONDS).unwrap_or(i32::MAX)
}

/// Returns what stands for a place in the key of a conditional table.
fn aux(place: Place) -> Bytes {
    [&[RECORD][..], &place.at.to_be_bytes(), &place.id.to_be_bytes()].concat().into()
}

/// Reads a place from the key of a conditional table.
fn place_of(aux: &[u8]) -> Result<Place, Error> {
    let place = || {
        let (at, id) = aux.strip_prefix(&[RECORD])?.split_first_chunk()?;
        Some(Place { at: i64::from_be_bytes(*at), id: i64::from_be_bytes(id.try_into().ok()?) })
    };
    place().ok_or_else(|| Error::DataLoss("the place of a record in a change feed".to_owned()))
}

fn shard(feed: &ChangeFeed, partition: &str) -> u16 {
    let shard = xxh3_64(partition.as_bytes()) % u64::from(feed.shards.max(1));
    u16::try_from(shard).unwrap_or_default()
}

impl CassandraStore {
    /// Returns the microseconds by which the clocks of two clones may differ that do not refuse writes.
    fn clocks_apart_micros(&self) -> i64 {
        i64::try_from(self.inner.link.config().clock_drift_max.as_micros())
            .map_or(i64::MAX / 4, |one| one * 2)
    }

    /// Returns the microseconds after which every pointer is in the log whose write may still be done.
    pub(super) fn settle_micros(&self) -> i64 {
        let timeout = self.inner.link.config().statement_timeout;
        let timeout = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX / 4);
        timeout + NEAR_MICROS + self.clocks_apart_micros()
    }

    /// Prepares the record of a write, and logs a pointer to it. Returns what the write's batch has to hold besides; none if the
    /// table has no change feed.
    ///
    /// # Errors
    /// Nothing was done then.
    pub(super) async fn record(&self, write: &Write) -> Result<Option<(Kind, Vec<Bind>)>, Error> {
        let Some(feed) = write.table.change_feed() else { return Ok(None) };
        let old_rows = if feed.old_rows { self.rows_before(write).await? } else { OldRows::new() };
        let record = change_record::encode(write, old_rows);
        let place = new_place(write.stamp());
        self.append(&write.table, feed, place, &write.partition, record.len()).await?;
        let values = vec![
            Bind::Text(write.partition.as_str().to_owned()),
            Bind::BigInt(place.at),
            Bind::BigInt(place.id),
            Bind::Blob(record.into()),
            Bind::Int(ttl(feed)),
        ];
        Ok(Some((Kind::PutRecord, values)))
    }

    /// Prepares the record of a conditional write. All attempts at it have one place, which is logged before the first. The record
    /// stands beside the rows, because a conditional batch cannot write to another table.
    ///
    /// # Errors
    /// The attempt must not be sent then.
    pub(super) async fn record_conditional(
        &self,
        write: &ConditionalWrite,
        decision: &Decision,
        found: &[Found],
        place: &mut Option<Place>,
    ) -> Result<Option<(Kind, Vec<Bind>)>, Error> {
        let Some(feed) = write.table.change_feed() else { return Ok(None) };
        let record = change_record::encode_conditional(write, decision, found, feed.old_rows);
        let place = match *place {
            Some(place) => place,
            None => {
                let new = new_place(decision.write_time);
                self.append(&write.table, feed, new, &write.partition, record.len()).await?;
                *place.insert(new)
            }
        };
        let mut values = vec![Bind::Text(write.partition.as_str().to_owned()), Bind::Blob(aux(place))];
        values.extend(Bind::sort_key(&lowest(write.table.definition.sort_key_type)));
        values.extend([Bind::Blob(record.into()), Bind::Int(ttl(feed))]);
        Ok(Some((Kind::PutRecord, values)))
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
        let statement = self.feed_statement(&self.inner.feeds.append, |keyspace| {
            format!(
                "INSERT INTO {keyspace}.{CHANGES} (feed, shard, bucket, at, id, pk, size) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ?"
            )
        });
        let (link, statement) = (&self.inner.link, statement.await?);
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

    /// Reads the rows that a write puts or deletes.
    ///
    /// # Errors
    /// [`Error::RangeTooLarge`] when a deleted range holds too many, and those of the reads: nothing was done then.
    pub(super) async fn rows_before(&self, write: &Write) -> Result<OldRows, Error> {
        let reads = write.changes.iter().map(|change| async move {
            let (table, partition) = (write.table.clone(), write.partition.clone());
            let consistency = Consistency::Quorum;
            match change {
                Change::Put { sort_key, .. } | Change::Delete { sort_key } => {
                    let lookup = Lookup { table, partition, sort_key: sort_key.clone(), consistency };
                    Ok(self.get(lookup).await?.into_iter().collect())
                }
                Change::DeleteRange { range } => {
                    let (mut rows, mut range) = (Vec::new(), range.clone());
                    loop {
                        let page = self.query(Query {
                            table: table.clone(),
                            partition: partition.clone(),
                            range: range.clone(),
                            descending: false,
                            limit: RANGE_ROWS_MAX + 1,
                            consistency,
                            seen: None,
                            until: None,
                        });
                        let page = page.await?;
                        rows.extend(page.rows);
                        if rows.len() > RANGE_ROWS_MAX {
                            return Err(Error::RangeTooLarge { max: RANGE_ROWS_MAX });
                        }
                        match page.next.and_then(|last| range.behind(&last, false)) {
                            Some(rest) => range = rest,
                            None => return Ok(rows),
                        }
                    }
                }
            }
        });
        // Collected first: the compiler cannot tell that the closure's futures may be sent to other threads.
        let reads: Vec<_> = reads.collect();
        let rows = stream::iter(reads).buffered(OLD_ROW_READS).try_collect().await;
        rows.map_err(|error| match error {
            Error::ReadFailed { detail, .. } => Error::Unavailable { engine: ENGINE, detail },
            error => error,
        })
    }

    /// Reads pointers of a stretch, at most [`POINTERS`].
    async fn pointers(&self, stretch: Stretch) -> Result<Vec<Pointer>, Error> {
        let Stretch { feed, shard, bucket, from, before, descending } = stretch;
        let feeds = &self.inner.feeds;
        let cell = if descending { &feeds.descending } else { &feeds.ascending };
        let order = if descending { "DESC" } else { "ASC" };
        let statement = self.feed_statement(cell, |keyspace| {
            format!(
                "SELECT at, id, pk, size FROM {keyspace}.{CHANGES} WHERE feed = ? AND shard = ? AND bucket = ? \
                 AND (at, id) >= (?, ?) AND (at, id) < (?, ?) ORDER BY at {order} LIMIT ?"
            )
        });
        let statement = statement.await?;
        let limit = i32::try_from(POINTERS).unwrap_or(i32::MAX);
        let values = (feed, i32::from(shard), bucket, from.at, from.id, before.at, before.id, limit);
        let link = &self.inner.link;
        let connected = link.connected().await?;
        let run = async move { answer(connected.session.execute_unpaged(&statement, values).await?) };
        let result = link.run(Intent::Read, "SELECT", CHANGES, run).await?;
        let result = result.into_rows_result().map_err(undecodable)?;
        let rows = result.rows::<(i64, i64, String, i32)>().map_err(undecodable)?;
        rows.map(|row| {
            let (at, id, partition, size) = row.map_err(undecodable)?;
            Ok(Pointer { place: Place { at, id }, partition, size })
        })
        .collect()
    }

    /// Reads the records that pointers name, as far as they are there. With `settle` a conditional write that is half done is done
    /// or ended before.
    async fn records(
        &self,
        table: &Arc<Table>,
        pointers: &[Pointer],
        settle: bool,
    ) -> Result<BTreeMap<Place, Arc<ChangeRecord>>, Error> {
        let mut partitions: HashMap<&str, Vec<&Pointer>> = HashMap::new();
        for pointer in pointers {
            partitions.entry(&pointer.partition).or_default().push(pointer);
        }
        let mut reads = Vec::new();
        for (partition, pointers) in partitions {
            let (mut places, mut bytes) = (Vec::new(), 0);
            for pointer in pointers {
                let size = usize::try_from(pointer.size).unwrap_or_default();
                if places.len() == RECORDS_READ || (bytes > 0 && bytes + size > PAGE_BYTES) {
                    reads.push((partition, std::mem::take(&mut places)));
                    bytes = 0;
                }
                places.push((pointer.place.at, pointer.place.id));
                bytes += size;
            }
            reads.push((partition, places));
        }
        let reads = reads.into_iter().map(|(partition, places)| async move {
            let statements = self.statements(table);
            let conditional = statements.conditional();
            let places = match conditional {
                true => Bind::Blobs(places.into_iter().map(|(at, id)| aux(Place { at, id })).collect()),
                false => Bind::Places(places),
            };
            let values = vec![Bind::Text(partition.to_owned()), places];
            let consistency = if settle { Consistency::Strong } else { Consistency::Quorum };
            let result = self.select(&statements, Kind::GetRecords, consistency, values).await?;
            let result = result.into_rows_result().map_err(undecodable)?;
            let of = table.definition.sort_key_type;
            if conditional {
                let rows = result.rows::<(&[u8], &[u8])>().map_err(undecodable)?;
                let records = rows.map(|row| {
                    let (aux, record) = row.map_err(undecodable)?;
                    let place = place_of(aux)?;
                    Ok((place, change_record::decode(of, place, record)?))
                });
                return records.collect();
            }
            let rows = result.rows::<(i64, i64, &[u8])>().map_err(undecodable)?;
            rows.map(|row| {
                let (at, id, record) = row.map_err(undecodable)?;
                let place = Place { at, id };
                Ok((place, change_record::decode(of, place, record)?))
            })
            .collect::<Result<Vec<_>, Error>>()
        });
        let reads: Vec<_> = reads.collect();
        let found: Vec<_> = stream::iter(reads).buffer_unordered(RECORD_READS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Returns a page of the past: records from a place on, before `until`, where the log no longer changes.
    async fn past(&self, read: &FeedRead, tail: &Tail, until: i64) -> Result<FeedPage, Error> {
        let FeedRead { table, shard, cursor, partition } = read;
        let from = cursor.position;
        let last_bucket = bucket(until - 1).min(bucket(from) + BUCKETS - 1);
        let stretch = |bucket| Stretch {
            feed: table.id,
            shard: *shard,
            bucket,
            from: Place { at: from, id: i64::MIN },
            before: Place { at: until, id: i64::MIN },
            descending: false,
        };
        let buckets = stream::iter(bucket(from)..=last_bucket).map(|bucket| self.pointers(stretch(bucket)));
        let mut buckets = Box::pin(buckets.buffered(BUCKET_READS));
        let (mut wanted, mut bytes, mut position) = (Vec::new(), 0, until);
        let mut looked = 0;
        'buckets: while let Some(pointers) = buckets.next().await {
            let mut pointers = pointers?;
            let cut = pointers.len() == POINTERS;
            if let (true, Some(last)) = (cut, pointers.last().map(|pointer| pointer.place.at)) {
                // The last time may have more pointers than were read.
                if pointers.first().is_some_and(|first| first.place.at < last) {
                    pointers.retain(|pointer| pointer.place.at < last);
                }
            }
            for pointer in pointers {
                looked += 1;
                position = pointer.place.at + 1;
                if partition.as_ref().is_none_or(|partition| partition.as_str() == pointer.partition) {
                    bytes += usize::try_from(pointer.size).unwrap_or_default();
                    wanted.push(pointer);
                }
            }
            if cut || bytes >= PAGE_BYTES || looked >= POINTERS {
                break 'buckets;
            }
            position = until;
        }
        if position == until {
            position = until.min((last_bucket + 1) * BUCKET_MICROS);
        }
        let mut found = self.records(table, &wanted, false).await?;
        let mut records = Vec::with_capacity(found.len());
        let mut missing = Vec::new();
        for pointer in wanted {
            match found.remove(&pointer.place) {
                Some(record) => records.push(record),
                None => missing.push(pointer),
            }
        }
        tail.wait_for(missing).await;
        change_record::order_within_partitions(&mut records);
        Ok(FeedPage { records, cursor: FeedCursor::at(position), more: true })
    }

    /// Returns the end of a shard that this clone keeps, and forgets those that nobody asks for.
    fn tail(&self, table: Uuid, shard: u16) -> Arc<Tail> {
        let mut tails = self.inner.feeds.tails.lock().unwrap_or_else(PoisonError::into_inner);
        if !tails.contains_key(&(table, shard)) {
            tails.retain(|_, tail| Arc::strong_count(tail) > 1 || !tail.is_idle());
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
        Ok((WriteTimestamp::now().0 - self.settle_micros()).max(since.0))
    }

    async fn changes(&self, read: FeedRead) -> Result<FeedPage, Error> {
        let tail = self.tail(read.table.id, read.shard);
        match tail.changes(self, &read).await? {
            Ok(page) => Ok(page),
            Err(until) => self.past(&read, &tail, until).await,
        }
    }
}

/// Time for which several watches share what one of them has read.
const SHARED: Duration = Duration::from_millis(50);
