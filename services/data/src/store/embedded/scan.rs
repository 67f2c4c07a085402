//! Scans of whole tables, by ranges of keys. Each step reads from a snapshot of its own, so a slow reader holds none.

use shoal_embedded::Snapshot;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::key::{PartitionKey, SortKey};
use crate::row::Row;
use crate::store::embedded::entry::Entry;
use crate::store::embedded::read::DeletedRanges;
use crate::store::embedded::{EmbeddedStore, Keyspaces, layout};
use crate::store::{PartitionPage, Partitions, SCAN_BYTES, SCAN_BYTES_MAX, Scan, ScanPage, ScanStore};
use crate::table::Table;

/// Most rows or partitions looked at in one step.
const LOOKED_MAX: usize = 4096;
/// Bytes behind the common beginning of a table's keys by which it is divided.
const DIVIDED_BYTES: usize = 8;

/// A place in a part of a scan: the keys that are left.
#[derive(Clone, PartialEq, prost::Message)]
struct Place {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    start: Vec<u8>,
    /// The key behind the last.
    #[prost(bytes = "vec", tag = "2")]
    end: Vec<u8>,
}

impl Place {
    fn read(place: &[u8]) -> Result<Self, Error> {
        prost::Message::decode(place)
            .map_err(|_| Error::Internal("a place of a scan cannot be read".to_owned()))
    }

    fn write(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(self)
    }
}

impl ScanStore for EmbeddedStore {
    async fn parts(&self, table: &Table, _prefix: &str, parts: usize) -> Result<Vec<Vec<u8>>, Error> {
        let (start, end) = (table.id.as_bytes().to_vec(), layout::behind(table.id.as_bytes()));
        let snapshot = self.database.snapshot();
        let mut rows = snapshot.range(&self.keyspaces.rows, start.clone()..end.clone());
        let first = rows.next().transpose()?.map(|(key, _)| key.to_vec());
        let last = rows.next_back().transpose()?.map(|(key, _)| key.to_vec());
        let mut bounds = vec![start];
        if let (Some(first), Some(last)) = (first, last) {
            bounds.extend(divide(&first, &last, parts));
        }
        bounds.push(end);
        let places = bounds.windows(2).map(|pair| Place { start: pair[0].clone(), end: pair[1].clone() });
        Ok(places.map(|place| place.write()).collect())
    }

    async fn scan(&self, scan: Scan) -> Result<ScanPage, Error> {
        self.in_turn(move |snapshot, keyspaces| step(snapshot, keyspaces, &scan)).await
    }

    async fn partitions(&self, list: Partitions) -> Result<PartitionPage, Error> {
        self.in_turn(move |snapshot, keyspaces| list_step(snapshot, keyspaces, &list)).await
    }
}

impl EmbeddedStore {
    /// Runs a step on a snapshot once it has its turn. It waits in a task of its own: the stream of a caller that reads nothing is
    /// not polled, and must not keep the turn that has come to it from others.
    async fn in_turn<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Snapshot, &Keyspaces) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.clone();
        let waiting = tokio::spawn(async move {
            let turn = store.scan_turns.clone().acquire_owned().await;
            let turn = turn.map_err(|_| Error::Internal("the turns of scans are closed".to_owned()))?;
            let snapshot = store.database.snapshot();
            let read = tokio::task::spawn_blocking(move || {
                // Held until the step has ended, also when nobody waits for it any more.
                let _turn = turn;
                step(&snapshot, &store.keyspaces)
            });
            read.await.map_err(|error| Error::Internal(format!("a scan's thread: {error}")))?
        });
        let read = AbortOnDropHandle::new(waiting).await;
        read.map_err(|error| Error::Internal(format!("a scan's task: {error}")))?
    }
}

/// Returns keys that divide those from `first` to `last` evenly, if their bytes are even.
fn divide(first: &[u8], last: &[u8], parts: usize) -> Vec<Vec<u8>> {
    let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; DIVIDED_BYTES];
        for (byte, of) in bytes.iter_mut().zip(&key[common..]) {
            *byte = *of;
        }
        u128::from(u64::from_be_bytes(bytes))
    };
    let (low, high) = (number(first), number(last));
    let parts = parts as u128;
    let mut bounds: Vec<Vec<u8>> = (1..parts)
        .map(|i| u64::try_from(low + (high - low) * i / parts).unwrap_or(u64::MAX))
        .map(|bound| [&first[..common], &bound.to_be_bytes()].concat())
        .collect();
    bounds.dedup();
    bounds.retain(|bound| bound.as_slice() > first && bound.as_slice() < last);
    bounds
}

/// Returns the partition at or behind a place whose key has a beginning: the prefix of its keys. Moves the place to it.
fn find_partition(
    snapshot: &Snapshot,
    keyspaces: &Keyspaces,
    place: &mut Place,
    beginning: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    while place.start < place.end {
        let Some(pair) = snapshot.range(&keyspaces.rows, place.start.clone()..place.end.clone()).next()
        else {
            break;
        };
        let (key, _) = pair?;
        let Some((prefix, _)) = layout::split(&key) else {
            return Err(Error::DataLoss("a stored key names no partition".to_owned()));
        };
        if layout::partition(prefix).starts_with(beginning) {
            place.start = key.to_vec();
            return Ok(Some(prefix.to_vec()));
        }
        match layout::next_with(prefix, beginning) {
            Some(next) => place.start = next,
            None => break,
        }
    }
    Ok(None)
}

fn partition_key(prefix: &[u8]) -> Result<PartitionKey, Error> {
    let key = std::str::from_utf8(layout::partition(prefix)).ok();
    key.and_then(|key| PartitionKey::parse(key.to_owned()).ok())
        .ok_or_else(|| Error::DataLoss("a stored partition key cannot be read".to_owned()))
}

fn step(snapshot: &Snapshot, keyspaces: &Keyspaces, scan: &Scan) -> Result<ScanPage, Error> {
    let (of, now) = (scan.table.definition.sort_key_type, WriteTimestamp::now());
    let mut place = Place::read(&scan.place)?;
    let (mut page, mut bytes, mut looked) = (ScanPage::default(), 0, 0);
    while let Some(prefix) = find_partition(snapshot, keyspaces, &mut place, scan.prefix.as_bytes())? {
        let partition = partition_key(&prefix)?;
        let mut deleted = DeletedRanges::new(snapshot, keyspaces, &prefix);
        let end = layout::behind(&prefix).min(place.end.clone());
        for pair in snapshot.range(&keyspaces.rows, place.start.clone()..end.clone()) {
            let (key, stored) = pair?;
            let full = !page.rows.is_empty() && bytes + stored.len() > SCAN_BYTES_MAX;
            if full || looked >= LOOKED_MAX || bytes >= SCAN_BYTES || looked % 256 == 255 && scan.is_late() {
                place.start = key.to_vec();
                page.next = Some(place.write());
                return Ok(page);
            }
            looked += 1;
            let at = &key[prefix.len()..];
            let Entry::Put { stamp, cell } = Entry::decode(&stored)? else { continue };
            if deleted.at(at)? >= Some(stamp) {
                continue;
            }
            let sort_key = SortKey::of_ordered_bytes(of, at)
                .ok_or_else(|| Error::DataLoss("a stored sort key is of another type".to_owned()))?;
            if let Some(row) = Row::of_cell(sort_key, cell, stamp, now)? {
                bytes += cell.len();
                page.rows.push((partition.clone(), row));
            }
        }
        place.start = end;
    }
    Ok(page)
}

fn list_step(snapshot: &Snapshot, keyspaces: &Keyspaces, list: &Partitions) -> Result<PartitionPage, Error> {
    let now = WriteTimestamp::now();
    let mut place = Place::read(&list.place)?;
    let (mut page, mut looked) = (PartitionPage::default(), 0);
    while let Some(prefix) = find_partition(snapshot, keyspaces, &mut place, list.prefix.as_bytes())? {
        let end = layout::behind(&prefix).min(place.end.clone());
        let mut deleted = DeletedRanges::new(snapshot, keyspaces, &prefix);
        for pair in snapshot.range(&keyspaces.rows, place.start.clone()..end.clone()) {
            let (key, stored) = pair?;
            if page.keys.len() == list.limit || looked >= LOOKED_MAX || looked % 256 == 255 && list.is_late()
            {
                place.start = key.to_vec();
                page.next = Some(place.write());
                return Ok(page);
            }
            looked += 1;
            let Entry::Put { stamp, cell } = Entry::decode(&stored)? else { continue };
            let ended = crate::row_codec::expire_time(cell)?.is_some_and(|at| at <= now);
            if !ended && deleted.at(&key[prefix.len()..])? < Some(stamp) {
                page.keys.push(partition_key(&prefix)?);
                break;
            }
        }
        place.start = end;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_divide_keys_evenly() {
        let (first, last) = (b"user-000".to_vec(), b"user-999".to_vec());
        let bounds = divide(&first, &last, 4);
        assert_eq!(bounds.len(), 3);
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        assert!(bounds[0] > first && bounds[2] < last);
        assert_eq!(divide(b"a", b"a", 4), Vec::<Vec<u8>>::new());
        assert_eq!(divide(b"a", b"b", 1), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn prefixes_are_looked_for_by_length() {
        let key = |length: u16, text: &[u8]| [&[7; 16][..], &length.to_be_bytes(), text].concat();
        assert_eq!(layout::next_with(&key(1, b"a"), b"bc"), Some(key(2, b"bc")));
        assert_eq!(layout::next_with(&key(3, b"abc"), b"bc"), Some(key(3, b"bc")));
        assert_eq!(layout::next_with(&key(3, b"cde"), b"bc"), Some(key(4, b"bc")));
        assert_eq!(layout::next_with(&key(u16::MAX, b"cde"), b"bc"), None);
    }
}
