//! An entry as bytes. Integers are big-endian; `epoch` and `built_at` are exact in the doubles that scores and Lua have (2^53).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version (2) in the upper half; flags in the lower: 1 packed by zstd, 2 negative result, 4 has a window, 8 has labels |
//! | 1 | 7 | epoch of the shard |
//! | 8 | 7 | built_at, the shard's clock at the write or at the lease, in microseconds |
//! | 15 | 6 | expiry by Redis' clock, in milliseconds since 1970 |
//! | | 4, 4 | window: how long before the expiry a refresh is due; for how long after it the entry is kept; milliseconds |
//! | | 4 | packed: bytes of the value when unpacked |
//! | | … | labels: length of the version (1), version, number of tags (1), each: length less one (1), bytes |
//! | | | payload |
//!
//! The scripts write offsets 1 to 20, the rest is made here. `entry.lua` reads what stands before the payload.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::body::Body;
use crate::key::Tags;
use crate::store::Draft;

const VERSION: u8 = 0x20;
const ZSTD: u8 = 1;
const NEGATIVE: u8 = 2;
const WINDOW: u8 = 4;
const LABELS: u8 = 8;
/// Bytes that every entry has before its payload.
const HEADER: usize = 21;

/// A decoded entry.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) body: Body,
    pub(super) tags: Tags,
    pub(super) version: Bytes,
    pub(super) epoch: u64,
    pub(super) built_at: u64,
    /// Milliseconds since 1970.
    pub(super) expires_at: u64,
    pub(super) window: Option<Window>,
}

/// The times around the expiry of an entry, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// A refresh is due when less than this is left; zero: never.
    pub(super) refresh: u64,
    /// The entry is kept for so long after its expiry.
    pub(super) stale: u64,
}

/// An encoded entry: the bytes before and after those that a script writes, and its lives in milliseconds as decimal text.
pub(super) struct Encoded {
    pub(super) lead: [u8; 1],
    pub(super) tail: Vec<u8>,
    pub(super) ttl: String,
    /// The time for which Redis keeps it.
    pub(super) kept: String,
}

pub(super) fn encode(draft: &Draft) -> Encoded {
    let (mut flags, payload): (u8, &[u8]) = match &draft.body {
        Body::Plain(value) => (0, value),
        Body::Zstd { packed, .. } => (ZSTD, packed),
        Body::Absent => (NEGATIVE, &[]),
    };
    let ttl = millis(draft.ttl);
    let stale = draft.stale.as_millis() as u64;
    let refresh = draft.soft.map_or(0, |soft| ttl.saturating_sub(millis(soft)));
    let tags = draft.tags.as_slice();
    let tag_bytes: usize = tags.iter().map(|tag| 1 + tag.len()).sum();
    let mut tail = Vec::with_capacity(14 + draft.version.len() + tag_bytes + payload.len());
    if refresh > 0 || stale > 0 {
        flags |= WINDOW;
        // 30 days and less: see `limit`.
        tail.put_u32(refresh as u32);
        tail.put_u32(stale as u32);
    }
    if let Body::Zstd { length, .. } = &draft.body {
        tail.put_u32(*length);
    }
    if !tags.is_empty() || !draft.version.is_empty() {
        flags |= LABELS;
        // A version of 64 bytes and 16 tags of 256 at most: see `limit`.
        tail.put_u8(draft.version.len() as u8);
        tail.put_slice(&draft.version);
        tail.put_u8(tags.len() as u8);
        for tag in tags {
            tail.put_u8((tag.len() - 1) as u8);
            tail.put_slice(tag.as_bytes());
        }
    }
    tail.put_slice(payload);
    Encoded { lead: [VERSION | flags], tail, ttl: ttl.to_string(), kept: (ttl + stale).to_string() }
}

impl Frame {
    /// Reads an entry; `None` if it is of another version or damaged.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Frame> {
        if bytes.len() < HEADER {
            return None;
        }
        let lead = bytes.get_u8();
        let flags = lead & 0x0f;
        if lead & 0xf0 != VERSION {
            return None;
        }
        let (epoch, built_at, expires_at) = (bytes.get_uint(7), bytes.get_uint(7), bytes.get_uint(6));
        let mut number = |has: u8| match flags & has {
            0 => Some(0),
            _ => bytes.try_get_u32().ok(),
        };
        let (refresh, stale, length) = (number(WINDOW)?, number(WINDOW)?, number(ZSTD)?);
        let window =
            (flags & WINDOW != 0).then_some(Window { refresh: u64::from(refresh), stale: u64::from(stale) });
        let (mut version, mut tags) = (Bytes::new(), Vec::new());
        if flags & LABELS != 0 {
            let length = usize::from(bytes.try_get_u8().ok()?);
            version = taken(&mut bytes, length)?;
            for _ in 0..bytes.try_get_u8().ok()? {
                let length = usize::from(bytes.try_get_u8().ok()?) + 1;
                tags.push(String::from_utf8(taken(&mut bytes, length)?.into()).ok()?);
            }
        }
        let body = match flags & (ZSTD | NEGATIVE) {
            0 => Body::Plain(bytes),
            ZSTD => Body::Zstd { packed: bytes, length },
            NEGATIVE => Body::Absent,
            _ => return None,
        };
        Some(Frame { body, tags: Tags::trusted(tags), version, epoch, built_at, expires_at, window })
    }
}

fn taken(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

/// Returns whole milliseconds, which Redis counts in; a shorter life than asked does no harm, none at all is an error.
pub(super) fn millis(duration: Duration) -> u64 {
    duration.as_millis().max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(body: Body) -> Draft {
        let tags = Tags::parse(vec!["t".repeat(256), "user:ada".into()]).expect("valid");
        Draft {
            body,
            tags,
            ttl: Duration::from_secs(10),
            soft: Some(Duration::from_secs(7)),
            stale: Duration::from_secs(2),
            version: Bytes::from_static(b"v1"),
        }
    }

    fn framed(draft: &Draft) -> Vec<u8> {
        let Encoded { lead, tail, .. } = encode(draft);
        let mut bytes = lead.to_vec();
        bytes.put_uint(5, 7);
        bytes.put_uint(1_790_000_000_000_000, 7);
        bytes.put_uint(1_800_000_000_000, 6);
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
            let full = draft(body.clone());
            let plain = Draft {
                tags: Tags::default(),
                soft: None,
                stale: Duration::ZERO,
                version: Bytes::new(),
                ..full.clone()
            };
            for draft in [full, plain] {
                let frame = Frame::decode(framed(&draft).into()).expect("decodes");
                assert_eq!((&frame.body, &frame.tags, &frame.version), (&body, &draft.tags, &draft.version));
                let window = draft.soft.map(|_| Window { refresh: 3000, stale: 2000 });
                assert_eq!(frame.window, window);
                let numbers = (frame.epoch, frame.built_at, frame.expires_at);
                assert_eq!(numbers, (5, 1_790_000_000_000_000, 1_800_000_000_000));
            }
        }
    }

    #[test]
    fn damaged_frames_are_misses() {
        let whole = framed(&draft(Body::Absent));
        for cut in 0..whole.len() {
            assert!(Frame::decode(Bytes::copy_from_slice(&whole[..cut])).is_none(), "{cut} bytes");
        }
        let mut other = whole;
        other[0] = 0x1a;
        assert!(Frame::decode(other.into()).is_none(), "another version");
    }
}
