//! Deleted ranges of a partition, as fragments that do not overlap: the last one that begins at or before a place is the
//! only one that can hold it. Laying a range over others cuts them (as RocksDB and Cassandra do with theirs).

use crate::clock::WriteTimestamp;
use crate::error::Error;

/// Every row in `[start, end)` put at `stamp` or before is deleted. Bounds are ordered bytes; an absent end is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeTombstone {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) stamp: WriteTimestamp,
    /// By this process's clock: the tombstone's grace counts from here.
    pub(super) deleted_at: WriteTimestamp,
}

impl RangeTombstone {
    pub(super) fn contains(&self, place: &[u8]) -> bool {
        self.start.as_slice() <= place && self.reaches(place)
    }

    /// Whether it ends behind a place.
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

    /// The same deletion of other rows; none if there are no rows.
    fn cut(&self, start: Vec<u8>, end: Option<Vec<u8>>) -> Option<Self> {
        let empty = end.as_ref().is_some_and(|end| *end <= start);
        (!empty).then(|| Self { start, end, ..self.clone() })
    }
}

/// What takes the place of `touched` (in order, not overlapping, each overlapping `new`) when `new` is laid over them.
pub(super) fn overlay(touched: &[RangeTombstone], new: &RangeTombstone) -> Vec<RangeTombstone> {
    let mut pieces = Vec::new();
    // Up to here `new` is dealt with; none: to its end.
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

/// The earlier of two ends; an absent one is the last.
fn earlier(a: Option<&Vec<u8>>, b: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b).clone()),
        (a, b) => a.or(b).cloned(),
    }
}

/// Neighbours of one deletion are one fragment.
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

    fn fragment(start: u8, end: Option<u8>, stamp: i64) -> RangeTombstone {
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
    fn a_fragment_comes_back_as_it_was() {
        for fragment in [fragment(1, None, 5), fragment(0, Some(9), -5)] {
            assert_eq!(RangeTombstone::decode(&fragment.start, &fragment.encode()).unwrap(), fragment);
        }
        assert!(RangeTombstone::decode(b"", b"short").is_err());
    }

    /// Against the plain list of all ranges, over random ones.
    #[test]
    fn fragments_hold_what_all_ranges_together_hold() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut all = Vec::new();
            let mut fragments: Vec<RangeTombstone> = Vec::new();
            for _ in 0..rng.usize(1..12) {
                let start = rng.u8(0..18);
                let end = rng.bool().then(|| rng.u8(start + 1..20));
                let new = fragment(start, end, rng.i64(1..6));
                let (touched, mut rest): (Vec<_>, Vec<_>) =
                    fragments.into_iter().partition(|old| overlaps(old, &new));
                rest.extend(overlay(&touched, &new));
                rest.sort_by(|a, b| a.start.cmp(&b.start));
                fragments = rest;
                all.push(new);
            }
            for pair in fragments.windows(2) {
                assert!(!pair[0].reaches(&pair[1].start), "seed {seed}: {pair:?} overlap");
            }
            for place in 0..20 {
                let stamp =
                    |of: &[RangeTombstone]| of.iter().filter(|f| f.contains(&[place])).map(|f| f.stamp).max();
                assert_eq!(stamp(&fragments), stamp(&all), "seed {seed}, place {place}");
            }
        }
    }
}
