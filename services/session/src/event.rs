//! Events of sessions, and the cursor that says how far a watcher has been told.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::id::SessionId;

/// The number of buckets; a bucket is one byte.
pub(crate) const BUCKETS: usize = 256;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Created,
    Rotated,
    Revoked,
    Expired,
    ReuseDetected,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Created, Kind::Rotated, Kind::Revoked, Kind::Expired, Kind::ReuseDetected];

    /// Returns the name that stores keep.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Created => "created",
            Kind::Rotated => "rotated",
            Kind::Revoked => "revoked",
            Kind::Expired => "expired",
            Kind::ReuseDetected => "reuse_detected",
        }
    }

    pub(crate) fn parse(name: &[u8]) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }
}

/// A place in a bucket's events: the time in milliseconds and a number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub(crate) struct Place {
    pub(crate) millis: u64,
    pub(crate) seq: u64,
}

/// An event of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    pub(crate) session: SessionId,
    pub(crate) user: String,
}

/// The content of a watcher's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    Event(Event),
    /// A gap: events of the bucket may have been missed; the watch goes on at this place.
    Gap {
        bucket: u8,
        place: Place,
    },
}

/// The buckets that are watched, and how far each has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cursor {
    One(u8, Place),
    All(Box<[Place; BUCKETS]>),
}

impl Cursor {
    pub(crate) fn places(&self) -> Vec<(u8, Place)> {
        match self {
            Cursor::One(bucket, place) => vec![(*bucket, *place)],
            Cursor::All(places) => (0..=u8::MAX).zip(places.iter().copied()).collect(),
        }
    }

    /// Returns the watched buckets whose place is not the one in `ends`.
    pub(crate) fn unlike(&self, ends: &[Place; BUCKETS]) -> Vec<u8> {
        let unlike = |(bucket, place): (u8, Place)| (ends[usize::from(bucket)] != place).then_some(bucket);
        self.places().into_iter().filter_map(unlike).collect()
    }

    /// Returns how far a bucket has been told; `None` for one that is not watched.
    pub(crate) fn place(&self, bucket: u8) -> Option<Place> {
        match self {
            Cursor::One(watched, place) => (*watched == bucket).then_some(*place),
            Cursor::All(places) => Some(places[usize::from(bucket)]),
        }
    }

    pub(crate) fn advance(&mut self, bucket: u8, to: Place) {
        match self {
            Cursor::One(watched, place) => {
                if *watched == bucket {
                    *place = to;
                }
            }
            Cursor::All(places) => places[usize::from(bucket)] = to,
        }
    }

    /// Writes the resume token, from which any clone goes on: buckets in order, each as the distance to the latest place.
    pub(crate) fn encode(&self) -> String {
        let mut bytes = Vec::new();
        let places = self.places();
        let latest = places.iter().map(|(_, place)| place.millis).max().unwrap_or_default();
        match self {
            Cursor::One(bucket, _) => bytes.extend([VERSION_ONE, *bucket]),
            Cursor::All(_) => bytes.push(VERSION_ALL),
        }
        put(&mut bytes, latest);
        for (_, place) in places {
            // A bucket in which nothing ever happened takes one byte.
            if place == Place::default() {
                put(&mut bytes, 0);
            } else {
                put(&mut bytes, latest - place.millis + 1);
                put(&mut bytes, place.seq);
            }
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(crate) fn decode(text: &str) -> Option<Cursor> {
        if text.len() > ENCODED_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, mut rest) = bytes.split_first()?;
        let cursor = match *version {
            VERSION_ONE => {
                let (bucket, places) = rest.split_first()?;
                rest = places;
                let latest = take_latest(&mut rest)?;
                Cursor::One(*bucket, take_place(&mut rest, latest)?)
            }
            VERSION_ALL => {
                let latest = take_latest(&mut rest)?;
                let mut places = Box::new([Place::default(); BUCKETS]);
                for place in places.iter_mut() {
                    *place = take_place(&mut rest, latest)?;
                }
                Cursor::All(places)
            }
            _ => return None,
        };
        rest.is_empty().then_some(cursor)
    }
}

const VERSION_ONE: u8 = 1;
const VERSION_ALL: u8 = 2;
/// Longer than any token that [`Cursor::encode`] makes.
const ENCODED_MAX: usize = 8 << 10;

/// Writes a number as LEB128.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Reads a time that cannot overflow what is computed with it: it ends in the year 10889.
fn take_latest(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).filter(|latest| *latest < 1 << 48)
}

fn take_place(bytes: &mut &[u8], latest: u64) -> Option<Place> {
    match take(bytes)? {
        0 => Some(Place::default()),
        distance => Some(Place { millis: latest.checked_sub(distance - 1)?, seq: take(bytes)? }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_token() {
        let mut all = Cursor::All(Box::new([Place::default(); BUCKETS]));
        assert_eq!(Cursor::decode(&all.encode()).as_ref(), Some(&all));
        all.advance(0, Place { millis: 1_700_000_000_000, seq: 3 });
        all.advance(255, Place { millis: u64::from(u32::MAX), seq: u64::MAX });
        let one = Cursor::One(9, Place { millis: 5, seq: 0 });
        for cursor in [all, one] {
            assert_eq!(Cursor::decode(&cursor.encode()).as_ref(), Some(&cursor));
        }
    }

    #[test]
    fn resume_tokens_stay_under_two_kilobytes() {
        let mut all = Cursor::All(Box::new([Place::default(); BUCKETS]));
        for bucket in 0..=255 {
            all.advance(bucket, Place { millis: 1_700_000_000_000 - u64::from(bucket) * 9999, seq: 200 });
        }
        assert!(all.encode().len() < 2048, "{}", all.encode().len());
    }

    #[test]
    fn a_broken_token_is_none() {
        let good = Cursor::One(9, Place { millis: 5, seq: 0 }).encode();
        for wrong in ["", "!", "AAAA", &good[..good.len() - 2], &format!("{good}AA"), &"A".repeat(9000)] {
            assert_eq!(Cursor::decode(wrong), None, "{wrong}");
        }
    }
}
