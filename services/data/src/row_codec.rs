//! The stored form of a row: one blob, so that a row cannot tear. A header, then the attributes as protobuf.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | format, 1 |
//! | 1 | codec of the payload: 0, as it is |
//! | 2..6 | size of the payload, little endian |
//! | 6..14 | when the row ends, microseconds since 1970, little endian; 0: never |
//! | 14..22 | XXH3-64 of bytes 0..14 and the payload, little endian |
//! | 22.. | payload |
//!
//! The end is here, and not left to the engine's TTL alone, because a repeat of a write must not move it.

use prost::Message as _;
use xxhash_rust::xxh3::Xxh3Default;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::value::Attributes;

const FORMAT: u8 = 1;
const CODEC_PLAIN: u8 = 0;
const CHECKED_BYTES: usize = 14;
const HEADER_BYTES: usize = 22;

/// Encodes a row that ends at `expire_time`.
pub(crate) fn encode(attributes: &Attributes, expire_time: Option<WriteTimestamp>) -> Vec<u8> {
    let size = attributes.encoded_len();
    let mut cell = Vec::with_capacity(HEADER_BYTES + size);
    cell.extend([FORMAT, CODEC_PLAIN]);
    // Rows are bounded far below 4 GiB before they come here; a wrong size would fail to decode.
    cell.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    cell.extend(expire_time.map_or(0, |at| at.0).to_le_bytes());
    cell.extend([0; HEADER_BYTES - CHECKED_BYTES]);
    attributes.encode_raw(&mut cell);
    let sum = checksum(&cell);
    cell[CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    cell
}

/// Returns when the row in a cell ends. Checks nothing but the length.
///
/// # Errors
/// DATA_LOSS when the cell is too short.
pub(crate) fn expire_time(cell: &[u8]) -> Result<Option<WriteTimestamp>, Error> {
    let bytes: [u8; 8] = slice(cell, 6)?;
    let at = i64::from_le_bytes(bytes);
    Ok((at != 0).then_some(WriteTimestamp(at)))
}

/// Returns the attributes in a cell.
///
/// # Errors
/// DATA_LOSS when the cell is not what [`encode`] made, byte for byte.
pub(crate) fn decode(cell: &[u8]) -> Result<Attributes, Error> {
    let lost = |what: String| Err(Error::DataLoss(what));
    let sum = u64::from_le_bytes(slice(cell, CHECKED_BYTES)?);
    if cell[0] != FORMAT {
        return lost(format!("cell format {} is not known here", cell[0]));
    }
    if cell[1] != CODEC_PLAIN {
        return lost(format!("cell codec {} is not known here", cell[1]));
    }
    let payload = &cell[HEADER_BYTES..];
    let size = u32::from_le_bytes(slice(cell, 2)?);
    if usize::try_from(size).ok() != Some(payload.len()) {
        return lost(format!("a cell of {size} bytes has {}", payload.len()));
    }
    if checksum(cell) != sum {
        return lost("a cell's checksum does not match".to_owned());
    }
    Attributes::decode(payload).map_err(|error| Error::DataLoss(format!("a cell's payload: {error}")))
}

fn checksum(cell: &[u8]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&cell[..CHECKED_BYTES]);
    hasher.update(&cell[HEADER_BYTES..]);
    hasher.digest()
}

fn slice<const N: usize>(cell: &[u8], at: usize) -> Result<[u8; N], Error> {
    if cell.len() < HEADER_BYTES {
        return Err(Error::DataLoss(format!("a cell of {} bytes is shorter than its header", cell.len())));
    }
    cell[at..at + N].try_into().map_err(|_| Error::Internal("a cell's header has fixed places".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Time, Value};

    fn attributes() -> Attributes {
        [
            ("s".to_owned(), Value::String("text".into())),
            ("i".to_owned(), Value::Int(-5)),
            ("d".to_owned(), Value::Double(0.5)),
            ("b".to_owned(), Value::Bool(false)),
            ("x".to_owned(), Value::Bytes(vec![0, 255].into())),
            ("t".to_owned(), Value::Time(Time { seconds: -1, nanos: 5 })),
            (String::new(), Value::String(String::new())),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn cell_decodes_as_encoded() {
        let cell = encode(&attributes(), Some(WriteTimestamp(77)));
        assert_eq!(decode(&cell).unwrap(), attributes());
        assert_eq!(expire_time(&cell).unwrap(), Some(WriteTimestamp(77)));
        let empty = encode(&Attributes::default(), None);
        assert!(decode(&empty).unwrap().len() == 0);
        assert_eq!(expire_time(&empty).unwrap(), None);
    }

    /// The stored format of version 1: cells written today must decode for ever.
    #[test]
    fn the_format_is_pinned() {
        let one: Attributes = [("a".to_owned(), Value::Int(1))].into_iter().collect();
        let hex: String = encode(&one, Some(WriteTimestamp(1))).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0100090000000100000000000000be54b03e42d58c280a070a016112021001");
    }

    #[test]
    fn any_damaged_cell_is_data_loss() {
        let cell = encode(&attributes(), Some(WriteTimestamp(77)));
        for bit in 0..cell.len() * 8 {
            let mut bad = cell.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&bad), Err(Error::DataLoss(_))), "bit {bit}");
        }
        for len in 0..cell.len() {
            assert!(matches!(decode(&cell[..len]), Err(Error::DataLoss(_))), "cut at {len}");
        }
    }
}
