//! An entry as bytes. Integers and doubles are big-endian; moments are microseconds since 1970 by Redis' clock, in doubles
//! because that is what scores and Lua have (exact up to 2^53).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | flags: 1 packed by zstd, 2 negative result |
//! | 2 | 8 | epoch of the shard |
//! | 10 | 8 | built_at, the logical clock of the write or of the lease |
//! | 18 | 8 | soft end; 0: none |
//! | 26 | 8 | expiry |
//! | 34 | 4 | bytes of the value when unpacked; 0 if it is not packed |
//! | 38 | 2 | number of tags, each: length (2), bytes |
//! | | | payload |
//!
//! The scripts write offsets 2 to 33, the rest is made here.

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::body::Body;
use crate::key::Tags;
use crate::store::Draft;

const VERSION: u8 = 1;
const ZSTD: u8 = 1;
const NEGATIVE: u8 = 2;
/// Bytes before the tags.
const HEADER: usize = 40;

/// A decoded entry.
pub(super) struct Frame {
    pub(super) body: Body,
    pub(super) tags: Tags,
    pub(super) epoch: f64,
    pub(super) built_at: f64,
    pub(super) expires_at: f64,
}

/// The bytes before and after those that a script writes.
pub(super) fn encode(draft: &Draft) -> ([u8; 2], Vec<u8>) {
    let (flags, length, payload): (u8, u32, &[u8]) = match &draft.body {
        Body::Plain(value) => (0, 0, value),
        Body::Zstd { packed, length } => (ZSTD, *length, packed),
        Body::Absent => (NEGATIVE, 0, &[]),
    };
    let tags = draft.tags.as_slice();
    let tag_bytes: usize = tags.iter().map(|tag| 2 + tag.len()).sum();
    let mut tail = Vec::with_capacity(6 + tag_bytes + payload.len());
    tail.put_u32(length);
    // 16 tags of 256 bytes at most: see `limit`.
    tail.put_u16(tags.len() as u16);
    for tag in tags {
        tail.put_u16(tag.len() as u16);
        tail.put_slice(tag.as_bytes());
    }
    tail.put_slice(payload);
    ([VERSION, flags], tail)
}

impl Frame {
    /// Reads an entry; `None` if it is of another version or damaged.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Frame> {
        if bytes.len() < HEADER || bytes.get_u8() != VERSION {
            return None;
        }
        let flags = bytes.get_u8();
        let (epoch, built_at, _soft, expires_at) =
            (bytes.get_f64(), bytes.get_f64(), bytes.get_f64(), bytes.get_f64());
        let length = bytes.get_u32();
        let mut tags = Vec::new();
        for _ in 0..bytes.get_u16() {
            let size = usize::from(bytes.try_get_u16().ok()?);
            if bytes.len() < size {
                return None;
            }
            tags.push(String::from_utf8(bytes.split_to(size).into()).ok()?);
        }
        let body = match flags {
            0 => Body::Plain(bytes),
            ZSTD => Body::Zstd { packed: bytes, length },
            NEGATIVE => Body::Absent,
            _ => return None,
        };
        Some(Frame { body, tags: Tags::trusted(tags), epoch, built_at, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn framed(body: Body) -> Vec<u8> {
        let tags = Tags::parse(vec!["t".into(), "user:ada".into()]).expect("valid");
        let (lead, tail) = encode(&Draft { body, tags, ttl: Duration::from_secs(1) });
        let mut bytes = lead.to_vec();
        for number in [5.0, 1.79e15, 0.0, 1.8e15] {
            bytes.put_f64(number);
        }
        bytes.extend(tail);
        bytes
    }

    #[test]
    fn what_is_encoded_comes_back() {
        for body in [
            Body::Plain(Bytes::from_static(b"v")),
            Body::Plain(Bytes::new()),
            Body::Zstd { packed: Bytes::from_static(b"p"), length: 9 },
            Body::Absent,
        ] {
            let frame = Frame::decode(framed(body.clone()).into()).expect("decodes");
            assert_eq!(
                (frame.body, frame.tags.as_slice()),
                (body, &["t".to_owned(), "user:ada".to_owned()][..])
            );
            assert_eq!((frame.epoch, frame.built_at, frame.expires_at), (5.0, 1.79e15, 1.8e15));
        }
    }

    #[test]
    fn damaged_frames_are_misses() {
        let whole = framed(Body::Absent);
        for cut in 0..whole.len() {
            assert!(Frame::decode(Bytes::copy_from_slice(&whole[..cut])).is_none(), "{cut} bytes");
        }
        let mut other = whole;
        other[0] = 2;
        assert!(Frame::decode(other.into()).is_none(), "another version");
    }
}
