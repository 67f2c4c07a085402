//! The hashes by which the encoder finds fields and names.

/// The octets of a string that its two ends hold.
pub(super) const ENDS_LEN: usize = 16;

/// An odd number with its bits well spread (from 2^64 over the golden ratio).
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes a name alone.
pub(super) fn hash_name(name: &[u8]) -> u64 {
    hash(ends(name))
}

/// Hashes the [`ends`] of a string.
#[inline(always)]
pub(super) fn hash((first, last, len): (u64, u64, usize)) -> u64 {
    (first ^ last.rotate_left(31) ^ len as u64).wrapping_mul(SPREAD)
}

/// Returns the first and the last eight octets, and the length. Up to [`ENDS_LEN`] octets, this is the whole string.
#[inline(always)]
pub(super) fn ends(octets: &[u8]) -> (u64, u64, usize) {
    let len = octets.len();
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last), len)
    } else if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into(), len)
    } else {
        (octets.iter().fold(0, |all, &octet| all << 8 | u64::from(octet)), 0, len)
    }
}
