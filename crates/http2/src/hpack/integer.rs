//! Integers with a prefix (§5.1).

use bytes::BufMut;

use super::decode_error::DecodeError;

/// The octets after the first: five hold every value up to `u32::MAX`, and no length or index needs more. A sixth, even of
/// zeros, is refused, so that an integer's cost is bounded.
const CONTINUATION_OCTETS_MAX: u32 = 5;

/// Takes an integer of `prefix` bits off the front of `rest`.
#[inline]
pub(super) fn decode(rest: &mut &[u8], prefix: u32) -> Result<usize, DecodeError> {
    let (&first, tail) = rest.split_first().ok_or(DecodeError::Truncated)?;
    *rest = tail;
    let mask = (1usize << prefix) - 1;
    match usize::from(first) & mask {
        value if value < mask => Ok(value),
        _ => decode_long(rest, mask),
    }
}

/// Reads the rest of an integer behind a prefix of ones.
fn decode_long(rest: &mut &[u8], mask: usize) -> Result<usize, DecodeError> {
    let mut value = mask as u64;
    for octet in 0..CONTINUATION_OCTETS_MAX {
        let (&next, tail) = rest.split_first().ok_or(DecodeError::Truncated)?;
        *rest = tail;
        value += u64::from(next & 0x7f) << (7 * octet);
        if value > u64::from(u32::MAX) {
            break;
        }
        if next & 0x80 == 0 {
            return Ok(value as usize);
        }
    }
    Err(DecodeError::Integer)
}

/// Appends `value` with `prefix` bits; `flags` are the bits above the prefix.
#[inline]
pub(super) fn encode(value: usize, prefix: u32, flags: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.put_u8(flags | value as u8);
    } else {
        encode_long(value - mask, flags | mask as u8, out);
    }
}

#[cold]
fn encode_long(mut value: usize, first: u8, out: &mut Vec<u8>) {
    out.put_u8(first);
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
