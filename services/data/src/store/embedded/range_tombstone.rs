//! Deleted ranges of a partition, kept as tombstones that do not overlap: only the last one that begins at or before a place
//! can contain it. Laying a range over others cuts them, as RocksDB and Cassandra do with theirs.

use crate::clock::WriteTimestamp;
use crate::error::Error;

/// Tombstone of a range: every row in `[start, end)` that was put at `stamp` or before is deleted. Bounds are ordered bytes; an
/// absent end is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeTombstone {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) stamp: WriteTimestamp,
    /// The time of the deletion by this process's clock, from which the tombstone's grace counts.
    pub(super) deleted_at: WriteTimestamp,
}

impl RangeTombstone {
    /// Returns whether a place is in the range.
    pub(super) fn contains(&self, place: &[u8]) -> bool {
        self.start.as_slice() <= place && self.reaches(place)
    }

    /// Returns whether the range ends behind a place.
    pub(super) fn reaches(&self, place: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| end.as_slice() > place)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let end = self.end.as_deref();
        let flag = [u8::from(end.is_some())];
        [&self.stamp.0.to_be_bytes(), &self.deleted_at.0.to_be_bytes(), &flag[..], end.unwrap_or_default()]
            .concat()
    }

    pub(super) fn decode(start: &[u8], stored: &[u8]) -> Result<Self, Error> {
        let lost = || Error::DataLoss("a stored range has an unknown form".to_owned());
        let (stamp, rest) = stored.split_first_chunk().ok_or_else(lost)?;
        let (deleted_at, rest) = rest.split_first_chunk().ok_or_else(lost)?;
        let end = match rest.split_first() {
            Some((0, [])) => None,
            Some((1, end)) => Some(end.to_vec()),
            _ => return Err(lost()),
        };
        Ok(Self {
            start: start.to_vec(),
            end,
            stamp: WriteTimestamp(i64::from_be_bytes(*stamp)),
            deleted_at: WriteTimestamp(i64::from_be_bytes(*deleted_at)),
        })
    }

    /// Returns the same deletion of another range; none if that range is empty.
    fn cut(&self, start: Vec<u8>, end: Option<Vec<u8>>) -> Option<Self> {
        let empty = end.as_ref().is_some_and(|end| *end <= start);
        (!empty).then(|| Self { start, end, ..self.clone() })
    }
}

/// Lays `new` over `touched` (in order, not overlapping each other, each overlapping `new`). Returns what replaces `touched`.
pub(super) fn overlay(touched: &[RangeTombstone], new: &RangeTombstone) -> Vec<RangeTombstone> {
    let mut pieces = Vec::new();
    // The place up to which `new` is handled; none: to its end.
    let mut done = Some(new.start.clone());
    for old in touched {
        let Some(from) = done else { break };
        let inside = old.start.clone().max(new.start.clone());
        let until = earlier(old.end.as_ref(), new.end.as_ref());
        pieces.extend(old.cut(old.start.clone(), Some(inside.clone())));
        pieces.extend(new.cut(from, Some(inside.clone())));
        let winner = if old.stamp >= new.stamp { old } else { new };
        pieces.extend(winner.cut(inside, until.clone()));
        if let Some(behind) = until.clone().filter(|_| old.end != until) {
            pieces.extend(old.cut(behind, old.end.clone()));
        }
        done = until;
    }
    if let Some(from) = done {
        pieces.extend(new.cut(from, new.end.clone()));
    }
    join(pieces)
}

/// Returns the earlier of two ends; an absent end is the latest.
fn earlier(a: Option<&Vec<u8>>, b: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b).clone()),
        (a, b) => a.or(b).cloned(),
    }
}

/// Joins neighbours of one deletion.
fn join(pieces: Vec<RangeTombstone>) -> Vec<RangeTombstone> {
    let mut joined: Vec<RangeTombstone> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last)
                if last.end.as_ref() == Some(&piece.start)
                    && (last.stamp, last.deleted_at) == (piece.stamp, piece.deleted_at) =>
            {
                last.end = piece.end;
            }
            _ => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(start: u8, end: Option<u8>, stamp: i64) -> RangeTombstone {
        RangeTombstone {
            start: vec![start],
            end: end.map(|end| vec![end]),
            stamp: WriteTimestamp(stamp),
            deleted_at: WriteTimestamp(stamp * 10),
        }
    }

    fn overlaps(a: &RangeTombstone, b: &RangeTombstone) -> bool {
        a.reaches(&b.start) && b.reaches(&a.start)
    }

    #[test]
    fn tombstone_decodes_as_encoded() {
        for tombstone in [tombstone(1, None, 5), tombstone(0, Some(9), -5)] {
            assert_eq!(RangeTombstone::decode(&tombstone.start, &tombstone.encode()).unwrap(), tombstone);
        }
        assert!(RangeTombstone::decode(b"", b"short").is_err());
    }

    /// Compares with the plain list of all ranges, over random ranges.
    #[test]
    fn tombstones_match_all_their_ranges() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut all = Vec::new();
            let mut tombstones: Vec<RangeTombstone> = Vec::new();
            for _ in 0..rng.usize(1..12) {
                let start = rng.u8(0..18);
                let end = rng.bool().then(|| rng.u8(start + 1..20));
                let new = tombstone(start, end, rng.i64(1..6));
                let (touched, mut rest): (Vec<_>, Vec<_>) =
                    tombstones.into_iter().partition(|old| overlaps(old, &new));
                rest.extend(overlay(&touched, &new));
                rest.sort_by(|a, b| a.start.cmp(&b.start));
                tombstones = rest;
                all.push(new);
            }
            for pair in tombstones.windows(2) {
                assert!(!pair[0].reaches(&pair[1].start), "seed {seed}: {pair:?} overlap");
            }
            for place in 0..20 {
                let stamp =
                    |of: &[RangeTombstone]| of.iter().filter(|f| f.contains(&[place])).map(|f| f.stamp).max();
                assert_eq!(stamp(&tombstones), stamp(&all), "seed {seed}, place {place}");
            }
        }
    }
}
