//! The stored state of a row: the last put, or the tombstone that hides older ones.

use std::cmp::Ordering;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::row_codec;

const PUT: u8 = 1;
const TOMBSTONE: u8 = 2;

/// The last write of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// The row was put.
    Put { stamp: WriteTimestamp, cell: &'a [u8] },
    /// The row was deleted, and older puts are hidden.
    Tombstone { stamp: WriteTimestamp },
}

impl<'a> Entry<'a> {
    pub(super) fn stamp(&self) -> WriteTimestamp {
        match self {
            Entry::Put { stamp, .. } | Entry::Tombstone { stamp } => *stamp,
        }
    }

    /// Returns whether this write stays when `other` is there, by Cassandra's rules: see [`crate::store::WriteStore::mutate`].
    pub(super) fn supersedes(&self, other: &Entry<'_>) -> Result<bool, Error> {
        let by_stamp = self.stamp().cmp(&other.stamp());
        if by_stamp != Ordering::Equal {
            return Ok(by_stamp == Ordering::Greater);
        }
        match (self, other) {
            (Entry::Tombstone { .. }, Entry::Put { .. }) => Ok(true),
            (_, Entry::Tombstone { .. }) => Ok(false),
            (Entry::Put { cell: ours, .. }, Entry::Put { cell: theirs, .. }) => {
                // `None`, which means never, is the smallest: a row that ends beats one that does not.
                let by_end = row_codec::expire_time(ours)?.cmp(&row_codec::expire_time(theirs)?);
                Ok(by_end.then_with(|| ours.cmp(theirs)) == Ordering::Greater)
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, rest): (u8, &[u8]) = match self {
            Entry::Put { cell, .. } => (PUT, cell),
            Entry::Tombstone { .. } => (TOMBSTONE, &[]),
        };
        [&[kind][..], &self.stamp().0.to_be_bytes(), rest].concat()
    }

    pub(super) fn decode(stored: &'a [u8]) -> Result<Self, Error> {
        let lost = || Error::DataLoss("a stored row has an unknown form".to_owned());
        let (kind, rest) = stored.split_first().ok_or_else(lost)?;
        let (stamp, rest) = rest.split_first_chunk().ok_or_else(lost)?;
        let stamp = WriteTimestamp(i64::from_be_bytes(*stamp));
        match *kind {
            PUT => Ok(Entry::Put { stamp, cell: rest }),
            TOMBSTONE if rest.is_empty() => Ok(Entry::Tombstone { stamp }),
            _ => Err(lost()),
        }
    }

    /// Returns when a put ends; none for tombstones and for puts that do not end.
    pub(super) fn expire_time(&self) -> Result<Option<WriteTimestamp>, Error> {
        match self {
            Entry::Put { cell, .. } => row_codec::expire_time(cell),
            Entry::Tombstone { .. } => Ok(None),
        }
    }
}
