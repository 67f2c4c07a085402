//! Reads of rows, each from one snapshot.

use prost::Message as _;
use shoal_embedded::Snapshot;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::SortKey;
use crate::row::{Page, PageBuilder, Row};
use crate::store::embedded::entry::Entry;
use crate::store::embedded::range_tombstone::RangeTombstone;
use crate::store::embedded::{EmbeddedStore, Keyspaces, last_tombstone, layout};
use crate::store::{Consistency, Lookup, Lookups, Query, ReadStore};
use crate::table::Table;

/// Bytes after which several rows are answered, without those that are left.
const MANY_BYTES: usize = 4 << 20;
/// Rows looked at for a page between two looks at the time.
const ROWS_BETWEEN_LOOKS: usize = 256;

impl ReadStore for EmbeddedStore {
    /// Returns the strongest: there is one copy, and each read is a snapshot of it.
    fn achieved(&self, _: &Table, _: Consistency) -> Consistency {
        Consistency::Strong
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Row>, Error> {
        // Nothing here waits, but a caller in a loop must let others have the thread all the same.
        tokio::task::coop::consume_budget().await;
        let Lookup { table, partition, sort_key, .. } = lookup;
        let prefix = layout::prefix(&table, &partition);
        let at = sort_key.ordered_bytes();
        let snapshot = self.database.snapshot();
        let stored = snapshot.get(&self.keyspaces.rows, layout::key(&prefix, &at))?;
        let Some(stored) = stored else { return Ok(None) };
        let Entry::Put { stamp, cell } = Entry::decode(&stored)? else { return Ok(None) };
        let deleted = DeletedRanges::new(&snapshot, &self.keyspaces, &prefix).at(&at)?;
        if deleted >= Some(stamp) {
            return Ok(None);
        }
        Row::of_cell(sort_key, cell, stamp, WriteTimestamp::now())
    }

    async fn get_many(&self, lookups: Lookups) -> Result<Vec<Option<Row>>, Error> {
        let Lookups { table, keys, consistency } = lookups;
        let (mut rows, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for (partition, sort_key) in keys {
            let row = self.get(Lookup { table: table.clone(), partition, sort_key, consistency }).await?;
            bytes += row.as_ref().map_or(0, |row| row.attributes.encoded_len());
            rows.push(row);
            if bytes >= MANY_BYTES {
                break;
            }
        }
        Ok(rows)
    }

    async fn query(&self, query: Query) -> Result<Page, Error> {
        let snapshot = self.database.snapshot();
        let keyspaces = self.keyspaces.clone();
        // A page may look at thousands of rows that are not in memory, which must not block a thread that serves calls.
        let read = tokio::task::spawn_blocking(move || page(&snapshot, &keyspaces, &query));
        read.await.map_err(|error| Error::Internal(format!("a query's task: {error}")))?
    }
}

fn page(snapshot: &Snapshot, keyspaces: &Keyspaces, query: &Query) -> Result<Page, Error> {
    let of = query.table.definition.sort_key_type;
    let prefix = layout::prefix(&query.table, &query.partition);
    let bound = |key: &Option<SortKey>| key.as_ref().map(SortKey::ordered_bytes);
    let start = bound(&query.range.start).unwrap_or_default();
    let keys = layout::keys(&prefix, &start, bound(&query.range.end).as_deref());

    let mut deleted = DeletedRanges::new(snapshot, keyspaces, &prefix);
    let mut page = PageBuilder::new(query.limit, WriteTimestamp::now());
    let mut rows = snapshot.range(&keyspaces.rows, keys);
    for turn in 1.. {
        let Some(pair) = (if query.descending { rows.next_back() } else { rows.next() }) else { break };
        let (key, stored) = pair?;
        let at = &key[prefix.len()..];
        let sort_key = SortKey::of_ordered_bytes(of, at)
            .ok_or_else(|| Error::DataLoss("a stored sort key is of another type".to_owned()))?;
        let taken = match Entry::decode(&stored)? {
            Entry::Put { stamp, cell } if deleted.at(at)? < Some(stamp) => {
                page.offer(sort_key, cell, stamp)?
            }
            Entry::Put { .. } | Entry::Tombstone { .. } => page.pass_over(sort_key),
        };
        if !taken || turn % ROWS_BETWEEN_LOOKS == 0 && query.is_late() {
            return Ok(page.finish(true));
        }
    }
    Ok(page.finish(false))
}

/// The deleted ranges of a partition, looked up along a scan.
pub(super) struct DeletedRanges<'a> {
    snapshot: &'a Snapshot,
    keyspaces: &'a Keyspaces,
    prefix: &'a [u8],
    last: Option<RangeTombstone>,
}

impl<'a> DeletedRanges<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, keyspaces: &'a Keyspaces, prefix: &'a [u8]) -> Self {
        Self { snapshot, keyspaces, prefix, last: None }
    }

    /// Returns the timestamp of the deleted range at a place.
    pub(super) fn at(&mut self, place: &[u8]) -> Result<Option<WriteTimestamp>, Error> {
        if !self.last.as_ref().is_some_and(|last| last.contains(place)) {
            let upto = self.prefix.to_vec()..=layout::key(self.prefix, place);
            let last = last_tombstone(self.snapshot.range(&self.keyspaces.ranges, upto), self.prefix)?;
            self.last = last.filter(|last| last.contains(place));
        }
        Ok(self.last.as_ref().map(|tombstone| tombstone.stamp))
    }
}
