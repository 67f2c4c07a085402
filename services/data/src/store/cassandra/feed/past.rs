//! The part of a shard where the log no longer changes: read page by page, for watches that come back.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};

use crate::change_record::{ChangeRecord, Place, order_within_partitions};
use crate::error::Error;
use crate::key::PartitionKey;
use crate::store::cassandra::feed::log::{Log, POINTERS, Pointer, Stretch, bucket};
use crate::store::cassandra::feed::{BUCKET_MICROS, PAGE_BYTES};

/// Buckets of the log that a page looks through when they hold little.
const BUCKETS: i64 = 256;
/// Buckets read at the same time.
const BUCKET_READS: usize = 8;

/// A page of the past.
#[derive(Debug)]
pub(super) struct PastPage {
    /// The records.
    pub(super) records: Vec<Arc<ChangeRecord>>,
    /// The place of the next page.
    pub(super) next: Place,
    /// The pointers before it that have no record.
    pub(super) missing: Vec<Pointer>,
}

/// Reads a page of records from a place on, before `until`, where the log no longer changes. It has at least one record, if there
/// is one, and else no more than [`PAGE_BYTES`].
pub(super) async fn past<L: Log>(
    log: &L,
    partition: Option<&PartitionKey>,
    from: Place,
    until: i64,
) -> Result<PastPage, Error> {
    let last_bucket = bucket(until - 1).min(bucket(from.at) + BUCKETS - 1);
    let before = Place::first_at(until);
    let stretch = |bucket| Stretch { bucket, from, before, descending: false };
    let reads: Vec<_> = (bucket(from.at)..=last_bucket).map(|bucket| log.pointers(stretch(bucket))).collect();
    let mut reads = Box::pin(stream::iter(reads).buffered(BUCKET_READS));
    let (mut wanted, mut bytes, mut looked) = (Vec::new(), 0, 0);
    let (mut next, mut bucket) = (from, bucket(from.at));
    'log: while let Some(pointers) = reads.next().await {
        let pointers = pointers?;
        let cut = pointers.len() == POINTERS;
        for pointer in pointers {
            let ours = partition.is_none_or(|partition| partition.as_str() == pointer.partition);
            let full = ours && !wanted.is_empty() && bytes + pointer.bytes() > PAGE_BYTES;
            if full || looked == POINTERS {
                break 'log;
            }
            looked += 1;
            next = pointer.place.next();
            if ours {
                bytes += pointer.bytes();
                wanted.push(pointer);
            }
        }
        if cut {
            // The bucket has more behind the last, perhaps of the same microsecond.
            break;
        }
        bucket += 1;
        next = Place::first_at((bucket * BUCKET_MICROS).min(until));
    }
    let mut found = log.records(&wanted, false).await?;
    let mut records = Vec::with_capacity(found.len());
    let mut missing = Vec::new();
    for pointer in wanted {
        match found.remove(&pointer.place) {
            Some(record) => records.extend(record),
            None => missing.push(pointer),
        }
    }
    order_within_partitions(&mut records);
    Ok(PastPage { records, next, missing })
}
