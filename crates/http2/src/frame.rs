//! The frames of HTTP/2 as bytes (RFC 9113 §4 and §6): their heads, kinds and flags, and how the small ones are written.

use crate::error::Reason;

/// Bytes of a frame's head.
pub(crate) const HEAD_BYTES: usize = 9;

/// The longest payload that is accepted, which a peer may send without asking (§4.2). Longer frames would make every other
/// stream of the connection wait longer for its turn.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16_384;

/// The bytes that a client sends first (§3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest window (§6.9.1).
pub(crate) const WINDOW_MAX: i64 = (1 << 31) - 1;

/// The window of a connection, and of a stream, before anything else was said (§6.9.2).
pub(crate) const WINDOW_DEFAULT: u32 = 65_535;

/// The largest stream number.
pub(crate) const STREAM_MAX: u32 = (1 << 31) - 1;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const SETTING_TABLE: u16 = 1;
pub(crate) const SETTING_PUSH: u16 = 2;
pub(crate) const SETTING_STREAMS: u16 = 3;
pub(crate) const SETTING_WINDOW: u16 = 4;
pub(crate) const SETTING_FRAME: u16 = 5;
pub(crate) const SETTING_HEADER_LIST: u16 = 6;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The length of the payload.
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// Reads a head from the first nine bytes. Returns none if there are fewer.
    pub(crate) fn read(bytes: &[u8]) -> Option<Head> {
        let [a, b, c, kind, flags, w, x, y, z, ..] = *bytes else { return None };
        Some(Head {
            len: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes([w & 0x7f, x, y, z]),
        })
    }

    pub(crate) fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, .., a, b, c] = self.len.to_be_bytes();
        let [w, x, y, z] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, w, x, y, z]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Returns where the payload without its padding begins and ends (§6.1).
///
/// # Errors
/// When the padding is longer than the frame.
pub(crate) fn unpadded(head: Head, payload: &[u8]) -> Result<(usize, usize), Reason> {
    if !head.has(PADDED) {
        return Ok((0, payload.len()));
    }
    let padding = usize::from(*payload.first().ok_or(Reason::FRAME_SIZE_ERROR)?);
    let end = payload.len().checked_sub(padding).filter(|end| *end >= 1);
    end.map(|end| (1, end)).ok_or(Reason::PROTOCOL_ERROR)
}

/// Reads a number of 32 bits at `at`. Returns zero past the end.
pub(crate) fn number(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { len: payload.len(), kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

pub(crate) fn write_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    write(out, RST_STREAM, 0, stream, &reason.code().to_be_bytes());
}

pub(crate) fn write_window_update(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    write(out, WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
}

pub(crate) fn write_ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    write(out, PING, if ack { ACK } else { 0 }, 0, &payload);
}

pub(crate) fn write_settings_ack(out: &mut Vec<u8>) {
    write(out, SETTINGS, ACK, 0, &[]);
}

pub(crate) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    write(out, SETTINGS, 0, 0, &payload);
}

pub(crate) fn write_goaway(out: &mut Vec<u8>, last: u32, reason: Reason, why: &str) {
    let mut payload = Vec::with_capacity(8 + why.len());
    payload.extend_from_slice(&last.to_be_bytes());
    payload.extend_from_slice(&reason.code().to_be_bytes());
    payload.extend_from_slice(why.as_bytes());
    write(out, GOAWAY, 0, 0, &payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_head_round_trips() {
        let head = Head { len: 0x0001_0203, kind: HEADERS, flags: END_STREAM | PADDED, stream: STREAM_MAX };
        assert_eq!(Head::read(&head.bytes()), Some(head));
        assert_eq!(Head::read(&head.bytes()[..8]), None);
        let reserved = [0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Head::read(&reserved).map(|head| head.stream), Some(STREAM_MAX), "the reserved bit");
    }

    #[test]
    fn padding_is_removed_and_bounded() {
        let padded = Head { len: 0, kind: DATA, flags: PADDED, stream: 1 };
        for (payload, expected) in [
            (&[2, 7, 7, 0, 0][..], Ok((1, 3))),
            (&[0, 7], Ok((1, 2))),
            (&[0], Ok((1, 1))),
            (&[4, 0, 0, 0, 0], Ok((1, 1))),
            (&[5, 0, 0, 0, 0], Err(Reason::PROTOCOL_ERROR)),
            (&[1], Err(Reason::PROTOCOL_ERROR)),
            (&[], Err(Reason::FRAME_SIZE_ERROR)),
        ] {
            assert_eq!(unpadded(padded, payload), expected, "{payload:?}");
        }
        assert_eq!(unpadded(Head { flags: 0, ..padded }, &[9]), Ok((0, 1)));
    }
}
