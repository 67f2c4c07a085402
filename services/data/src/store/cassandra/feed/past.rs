//! The part of a shard where the log no longer changes: read page by page, for watches that come back.

use futures::stream::{self, StreamExt as _};

use crate::change_record::{Place, order_within_partitions};
use crate::error::Error;
use crate::store::cassandra::feed::log::{Log, POINTERS, Pointer, Stretch, bucket};
use crate::store::cassandra::feed::{BUCKET_MICROS, PAGE_BYTES};
use crate::store::{FeedCursor, FeedPage, FeedRead};

/// Buckets of the log that a page looks through when they hold little.
const BUCKETS: i64 = 256;
/// Buckets read at the same time.
const BUCKET_READS: usize = 8;

/// Returns a page of records from a place on, before `until`, where the log no longer changes; and the pointers without a record.
pub(super) async fn past<L: Log>(
    log: &L,
    read: &FeedRead,
    until: i64,
) -> Result<(FeedPage, Vec<Pointer>), Error> {
    let FeedRead { cursor, partition, .. } = read;
    let from = cursor.position;
    let last_bucket = bucket(until - 1).min(bucket(from) + BUCKETS - 1);
    let stretch = |bucket| Stretch {
        bucket,
        from: Place { at: from, id: i64::MIN },
        before: Place { at: until, id: i64::MIN },
        descending: false,
    };
    let reads: Vec<_> = (bucket(from)..=last_bucket).map(|bucket| log.pointers(stretch(bucket))).collect();
    let mut buckets = Box::pin(stream::iter(reads).buffered(BUCKET_READS));
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
                bytes += pointer.bytes();
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
    let mut found = log.records(&wanted, false).await?;
    let mut records = Vec::with_capacity(found.len());
    let mut missing = Vec::new();
    for pointer in wanted {
        match found.remove(&pointer.place) {
            Some(record) => records.push(record),
            None => missing.push(pointer),
        }
    }
    order_within_partitions(&mut records);
    Ok((FeedPage { records, cursor: FeedCursor::at(position), more: true }, missing))
}
