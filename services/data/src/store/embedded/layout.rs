//! Keys of the embedded store. The prefix of a partition is the table's id, the length of the partition key, and the key.

use std::ops::Range;

use crate::key::PartitionKey;
use crate::table::Table;

const TABLE_BYTES: usize = 16;
const LENGTH_BYTES: usize = 2;

/// Makes the prefix of every key of a partition.
pub(super) fn prefix(table: &Table, partition: &PartitionKey) -> Vec<u8> {
    let partition = partition.as_str().as_bytes();
    // A partition key has at most 1 KiB, checked when it was parsed.
    let length = u16::try_from(partition.len()).unwrap_or(u16::MAX);
    [table.id.as_bytes(), &length.to_be_bytes()[..], partition].concat()
}

/// Splits a key of a partition into its prefix and its place.
pub(super) fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = key.get(TABLE_BYTES..TABLE_BYTES + LENGTH_BYTES)?;
    let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
    key.split_at_checked(TABLE_BYTES + LENGTH_BYTES + length)
}

/// Makes the key of a place in a partition.
pub(super) fn key(prefix: &[u8], place: &[u8]) -> Vec<u8> {
    [prefix, place].concat()
}

/// Makes the range of keys of the places in `[start, end)`. An absent end is the end of the partition.
pub(super) fn keys(prefix: &[u8], start: &[u8], end: Option<&[u8]>) -> Range<Vec<u8>> {
    key(prefix, start)..end.map_or_else(|| behind(prefix), |end| key(prefix, end))
}

/// Returns the bytes of a partition's key in the prefix of its keys.
pub(super) fn partition(prefix: &[u8]) -> &[u8] {
    prefix.get(TABLE_BYTES + LENGTH_BYTES..).unwrap_or_default()
}

/// Returns the first key at which partitions with a beginning can stand that come behind the partition of `prefix`, which has
/// another one: keys are ordered by their length first. None if there are no more in the table.
pub(super) fn next_with(prefix: &[u8], beginning: &[u8]) -> Option<Vec<u8>> {
    let (table, length) = (prefix.get(..TABLE_BYTES)?, prefix.get(TABLE_BYTES..TABLE_BYTES + LENGTH_BYTES)?);
    let length = u16::from_be_bytes(length.try_into().ok()?);
    let least = u16::try_from(beginning.len()).ok()?;
    let length = if length < least {
        least
    } else if partition(prefix) < beginning {
        length
    } else {
        length.checked_add(1)?
    };
    Some([table, &length.to_be_bytes()[..], beginning].concat())
}

/// Returns the smallest key that is greater than all keys with this prefix. There is one, because no table's id is all ones.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX).unwrap_or(0);
    let mut end = prefix[..=kept].to_vec();
    end[kept] = end[kept].saturating_add(1);
    end
}
