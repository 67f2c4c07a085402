//! The log of a shard and the records that it points to, as they stand in Cassandra.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::change_record::{self, ChangeRecord, Place};
use crate::error::Error;
use crate::store::Consistency;
use crate::store::cassandra::CassandraStore;
use crate::store::cassandra::failure::Intent;
use crate::store::cassandra::feed::{BUCKET_MICROS, PAGE_BYTES, RECORD, aux};
use crate::store::cassandra::registry::{answer, undecodable};
use crate::store::cassandra::schema::CHANGES;
use crate::store::cassandra::statements::{Bind, Kind};
use crate::table::{SortKeyType, Table};

/// Most pointers read at once.
pub(super) const POINTERS: usize = 1000;
/// Most records read with one statement, and most bytes of them if they are several.
const RECORDS_READ: usize = 50;
/// Statements that read records at the same time.
const RECORD_READS: usize = 16;

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    /// The place of the record.
    pub(super) place: Place,
    /// The key of the partition that has the record.
    pub(super) partition: String,
    /// About how many bytes the record has.
    pub(super) size: i32,
}

/// Part of the log of a shard in one of its buckets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    /// The bucket.
    pub(super) bucket: i64,
    /// The first place.
    pub(super) from: Place,
    /// The place after the last.
    pub(super) before: Place,
    /// Set to read from the last place back.
    pub(super) descending: bool,
}

/// The records of pointers; none for a pointer of a write that ended without being done.
pub(super) type Records = BTreeMap<Place, Option<Arc<ChangeRecord>>>;

/// The log of one shard.
pub(super) trait Log: Sync {
    /// Reads pointers of a stretch, at most [`POINTERS`].
    fn pointers(&self, stretch: Stretch) -> impl Future<Output = Result<Vec<Pointer>, Error>> + Send;

    /// Reads the records that pointers name, as far as they are there. With `settle` a conditional write that is half done is
    /// done or ended before.
    fn records(
        &self,
        pointers: &[Pointer],
        settle: bool,
    ) -> impl Future<Output = Result<Records, Error>> + Send;
}

impl Pointer {
    /// Returns about how many bytes the record has.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.size).unwrap_or_default()
    }
}

/// Returns the bucket of the log that a time falls into.
pub(super) fn bucket(at: i64) -> i64 {
    at.div_euclid(BUCKET_MICROS)
}

/// The log of a shard in Cassandra.
#[derive(Debug)]
pub(super) struct ShardLog<'a> {
    /// The store.
    pub(super) store: &'a CassandraStore,
    /// The table of the feed.
    pub(super) table: &'a Arc<Table>,
    /// The shard.
    pub(super) shard: u16,
}

impl Log for ShardLog<'_> {
    async fn pointers(&self, stretch: Stretch) -> Result<Vec<Pointer>, Error> {
        let Stretch { bucket, from, before, descending } = stretch;
        let (store, feed, shard) = (self.store, self.table.id, self.shard);
        let feeds = &store.inner.feeds;
        let cell = if descending { &feeds.descending } else { &feeds.ascending };
        let order = if descending { "DESC" } else { "ASC" };
        let statement = store.feed_statement(cell, |keyspace| {
            format!(
                "SELECT at, id, pk, size FROM {keyspace}.{CHANGES} WHERE feed = ? AND shard = ? AND bucket = ? \
                 AND (at, id) >= (?, ?) AND (at, id) < (?, ?) ORDER BY at {order} LIMIT ?"
            )
        });
        let statement = statement.await?;
        let limit = i32::try_from(POINTERS).unwrap_or(i32::MAX);
        let values = (feed, i32::from(shard), bucket, from.at, from.id, before.at, before.id, limit);
        let link = &store.inner.link;
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

    async fn records(&self, pointers: &[Pointer], settle: bool) -> Result<Records, Error> {
        let (store, table) = (self.store, self.table);
        let mut partitions: HashMap<&str, Vec<&Pointer>> = HashMap::new();
        for pointer in pointers {
            partitions.entry(&pointer.partition).or_default().push(pointer);
        }
        let mut reads = Vec::new();
        for (partition, pointers) in partitions {
            let (mut places, mut bytes) = (Vec::new(), 0);
            for pointer in pointers {
                let size = pointer.bytes();
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
            let statements = store.statements(table);
            let conditional = statements.conditional();
            let places = match conditional {
                true => Bind::Blobs(places.into_iter().map(|(at, id)| aux(Place { at, id })).collect()),
                false => Bind::Places(places),
            };
            let values = vec![Bind::Text(partition.to_owned()), places];
            let consistency = if settle { Consistency::Strong } else { Consistency::Quorum };
            let result = store.select(&statements, Kind::GetRecords, consistency, values).await?;
            let result = result.into_rows_result().map_err(undecodable)?;
            let of = table.definition.sort_key_type;
            if conditional {
                let rows = result.rows::<(&[u8], &[u8])>().map_err(undecodable)?;
                let records = rows.map(|row| {
                    let (aux, record) = row.map_err(undecodable)?;
                    let place = place_of(aux)?;
                    Ok((place, recorded(of, place, record)?))
                });
                return records.collect();
            }
            let rows = result.rows::<(i64, i64, &[u8])>().map_err(undecodable)?;
            rows.map(|row| {
                let (at, id, record) = row.map_err(undecodable)?;
                let place = Place { at, id };
                Ok((place, recorded(of, place, record)?))
            })
            .collect::<Result<Vec<_>, Error>>()
        });
        let reads: Vec<_> = reads.collect();
        let found: Vec<_> = stream::iter(reads).buffer_unordered(RECORD_READS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Reads a place from the key of a conditional table.
fn place_of(aux: &[u8]) -> Result<Place, Error> {
    let place = || {
        let (at, id) = aux.strip_prefix(&[RECORD])?.split_first_chunk()?;
        Some(Place { at: i64::from_be_bytes(*at), id: i64::from_be_bytes(id.try_into().ok()?) })
    };
    place().ok_or_else(|| Error::DataLoss("the place of a record in a change feed".to_owned()))
}

fn recorded(of: SortKeyType, place: Place, stored: &[u8]) -> Result<Option<Arc<ChangeRecord>>, Error> {
    if stored.is_empty() { Ok(None) } else { change_record::decode(of, place, stored).map(Some) }
}
