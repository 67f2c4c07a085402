//! The Huffman code of Appendix B, both ways.
//!
//! The code is canonical: within one length, codes count up in the order of their symbols, and each length goes on
//! where the shorter one stopped. So Appendix B is its lengths; codes and decoding tables are computed from them at
//! compile time.

use bytes::BufMut;

use super::decode_error::DecodeError;

/// The bits of each symbol's code: the 256 octets, then EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The symbol that must not occur in a string (§5.2).
const EOS: usize = 256;
/// The longest code.
const BITS_MAX: usize = 30;

/// The code and its length for each octet.
static CODES: [(u32, u8); 256] = {
    let mut codes = [(0, 0); 256];
    let mut symbol = 0;
    while symbol < 256 {
        codes[symbol] = (CANON.code[symbol], LENGTHS[symbol]);
        symbol += 1;
    }
    codes
};

const CANON: Canon = Canon::new();

/// The code's shape.
struct Canon {
    /// The code of each symbol, right-aligned.
    code: [u32; 257],
    /// Symbols in the order of their codes.
    sorted: [u16; 257],
    /// The first code of each length, how many there are, and where they begin in `sorted`.
    groups: [(u32, u32, u32); BITS_MAX + 1],
}

impl Canon {
    const fn new() -> Canon {
        let mut canon = Canon { code: [0; 257], sorted: [0; 257], groups: [(0, 0, 0); BITS_MAX + 1] };
        let (mut code, mut rank, mut bits) = (0u32, 0, 1);
        while bits <= BITS_MAX {
            code <<= 1;
            let (first, begin) = (code, rank);
            let mut symbol = 0;
            while symbol <= EOS {
                if LENGTHS[symbol] as usize == bits {
                    canon.code[symbol] = code;
                    canon.sorted[rank] = symbol as u16;
                    code += 1;
                    rank += 1;
                }
                symbol += 1;
            }
            canon.groups[bits] = (first, code - first, begin as u32);
            bits += 1;
        }
        canon
    }
}

/// The bits that are looked up at once. Every letter and digit and most marks have codes that short; the rest goes length by
/// length.
const PEEK_BITS: usize = 10;

/// The octet that each next `PEEK_BITS` bits begin with (low half) and the bits of its code (high half), or 0 if the code is
/// longer.
static PEEK: [u16; 1 << PEEK_BITS] = {
    let mut table = [0; 1 << PEEK_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let bits = LENGTHS[symbol] as usize;
        if bits <= PEEK_BITS {
            let spare = PEEK_BITS - bits;
            let mut at = (CANON.code[symbol] as usize) << spare;
            let end = at + (1 << spare);
            while at < end {
                table[at] = (bits as u16) << 8 | symbol as u16;
                at += 1;
            }
        }
        symbol += 1;
    }
    table
};

static SORTED: [u16; 257] = CANON.sorted;
static GROUPS: [(u32, u32, u32); BITS_MAX + 1] = CANON.groups;

/// Returns the symbol and bits of a code longer than `PEEK_BITS` at the top of `bits`.
#[cold]
fn long_code(top: u64) -> (usize, u32) {
    let (mut length, mut symbol) = (PEEK_BITS, EOS);
    while length < BITS_MAX {
        length += 1;
        let (first, count, begin) = GROUPS[length];
        let offset = ((top >> (64 - length)) as u32).wrapping_sub(first);
        if offset < count {
            symbol = usize::from(SORTED[(begin + offset) as usize]);
            break;
        }
    }
    (symbol, length as u32)
}

/// Decodes `coded` and appends the result to `out`: at most 8/5 of its length.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.reserve(coded.len() * 8 / 5);
    let mut rest = coded;
    // The next bits, from the top: `have` of them, and perhaps some of the next octet, which fall on themselves when it
    // is read.
    let (mut top, mut have) = (0u64, 0u32);
    while let Some(eight) = rest.first_chunk() {
        top |= u64::from_be_bytes(*eight) >> have;
        let octets = (63 - have) / 8;
        rest = &rest[octets as usize..];
        have += octets * 8;
        // At least 56 bits: enough for five codes of ten.
        let (mut five, mut taken) = ([0; 5], 0);
        for symbol in &mut five {
            let peeked = PEEK[(top >> (64 - PEEK_BITS)) as usize];
            if peeked == 0 {
                break;
            }
            *symbol = peeked as u8;
            top <<= peeked >> 8;
            have -= u32::from(peeked >> 8);
            taken += 1;
        }
        if taken == 0 {
            let (symbol, bits) = long_code(top);
            if symbol == EOS {
                return Err(DecodeError::Huffman);
            }
            five[0] = symbol as u8;
            top <<= bits;
            have -= bits;
            taken = 1;
        }
        out.extend_from_slice(&five[..taken]);
    }
    loop {
        if have <= 32 {
            if let Some((four, tail)) = rest.split_first_chunk() {
                top |= u64::from(u32::from_be_bytes(*four)) << (32 - have);
                have += 32;
                rest = tail;
            } else {
                // At most three octets are left.
                for &octet in rest {
                    top |= u64::from(octet) << (56 - have);
                    have += 8;
                }
                rest = &[];
            }
        }
        let peeked = PEEK[(top >> (64 - PEEK_BITS)) as usize];
        let (symbol, bits) = match peeked {
            0 => long_code(top),
            _ => (usize::from(peeked & 0xff), u32::from(peeked >> 8)),
        };
        if bits > have {
            // Not a whole code: padding, which is the beginning of EOS and shorter than an octet (§5.2).
            return if have < 8 && top.leading_ones() >= have { Ok(()) } else { Err(DecodeError::Huffman) };
        }
        if symbol == EOS {
            return Err(DecodeError::Huffman);
        }
        out.push(symbol as u8);
        top <<= bits;
        have -= bits;
    }
}

/// Returns how many octets [`encode`] appends.
pub(super) fn encoded_len(plain: &[u8]) -> usize {
    let bits: usize = plain.iter().map(|&octet| usize::from(LENGTHS[usize::from(octet)])).sum();
    bits.div_ceil(8)
}

/// Appends the code of `plain`, padded with the beginning of EOS.
pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut low, mut have) = (0u64, 0u32);
    for &octet in plain {
        let (code, bits) = CODES[usize::from(octet)];
        low = low << bits | u64::from(code);
        have += u32::from(bits);
        if have >= 32 {
            have -= 32;
            out.put_u32((low >> have) as u32);
        }
    }
    while have >= 8 {
        have -= 8;
        out.put_u8((low >> have) as u8);
    }
    if have > 0 {
        out.put_u8((low << (8 - have)) as u8 | 0xff >> have);
    }
}
