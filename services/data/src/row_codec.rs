//! The stored form of a row: one blob, so that a row cannot tear. A header, then the attributes as protobuf.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | format, 2 |
//! | 1 | rank of the write |
//! | 2..10 | id of the write |
//! | 10 | codec of the payload: 0, as it is |
//! | 11..15 | size of the payload, little endian |
//! | 15..23 | when the row ends, microseconds since 1970, little endian; 0: never |
//! | 23..31 | XXH3-64 of bytes 0..23 and the payload, little endian |
//! | 31.. | payload |
//!
//! Rank and id are the first bytes in which the cells of two writes differ. Of two cells with one timestamp and one end an
//! engine keeps the larger, so it keeps the cells of one write in every row that both wrote. Format 1, which is read as well,
//! is the same without rank and id.
//!
//! The end is here, and not left to the engine's TTL alone, because a repeat of a write must not move it.

use prost::Message as _;
use xxhash_rust::xxh3::Xxh3Default;

use crate::clock::WriteTimestamp;
use crate::error::Error;
use crate::value::Attributes;

const FORMAT: u8 = 2;
/// Format without the identity of a write.
const FORMAT_WITHOUT_WRITE: u8 = 1;
const CODEC_PLAIN: u8 = 0;
/// Bytes of rank and id.
const WRITE_BYTES: usize = 9;

/// Places of the header's fields behind format and identity of the write.
mod at {
    pub(super) const CODEC: usize = 0;
    pub(super) const SIZE: usize = 1;
    pub(super) const END: usize = 5;
    pub(super) const SUM: usize = 13;
    pub(super) const PAYLOAD: usize = 21;
}

/// Identity of a write among those of its timestamp: its rank, then its id. The larger one stays.
pub(crate) type WriteId = [u8; WRITE_BYTES];

/// A cell whose write has no identity yet.
#[derive(Debug)]
pub(crate) struct Draft(Vec<u8>);

impl Draft {
    /// Encodes a row that ends at `expire_time`.
    pub(crate) fn new(attributes: &Attributes, expire_time: Option<WriteTimestamp>) -> Self {
        let size = attributes.encoded_len();
        let fields = 1 + WRITE_BYTES;
        let mut cell = Vec::with_capacity(fields + at::PAYLOAD + size);
        cell.push(FORMAT);
        cell.extend([0; WRITE_BYTES]);
        cell.push(CODEC_PLAIN);
        // Rows are bounded far below 4 GiB before they come here; a wrong size would fail to decode.
        cell.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        cell.extend(expire_time.map_or(0, |at| at.0).to_le_bytes());
        cell.extend([0; at::PAYLOAD - at::SUM]);
        attributes.encode_raw(&mut cell);
        Self(cell)
    }

    /// Returns what the cell holds, without the identity of its write.
    pub(crate) fn content(&self) -> &[u8] {
        &self.0[1 + WRITE_BYTES..]
    }

    /// Makes the cell of a write.
    pub(crate) fn seal(self, write: WriteId) -> Vec<u8> {
        let Self(mut cell) = self;
        cell[1..=WRITE_BYTES].copy_from_slice(&write);
        let fields = 1 + WRITE_BYTES;
        let sum = checksum(&cell, fields);
        cell[fields + at::SUM..fields + at::PAYLOAD].copy_from_slice(&sum.to_le_bytes());
        cell
    }
}

/// Returns the same cell without its attributes: it ends as before, and takes the same place among others.
///
/// # Errors
/// DATA_LOSS when the cell is too short.
pub(crate) fn emptied(cell: &[u8]) -> Result<Vec<u8>, Error> {
    let draft = Draft::new(&Attributes::default(), expire_time(cell)?);
    Ok(draft.seal(write_id(cell)))
}

/// Returns the identity of the write in a cell; that of a cell without one is the smallest.
pub(crate) fn write_id(cell: &[u8]) -> WriteId {
    let mut write = [0; WRITE_BYTES];
    if cell.first() == Some(&FORMAT)
        && let Some(stored) = cell.get(1..=WRITE_BYTES)
    {
        write.copy_from_slice(stored);
    }
    write
}

/// Returns when the row in a cell ends. Checks nothing but the format and the length.
///
/// # Errors
/// DATA_LOSS when the cell is too short or of an unknown format.
pub(crate) fn expire_time(cell: &[u8]) -> Result<Option<WriteTimestamp>, Error> {
    let at = i64::from_le_bytes(slice(cell, fields(cell)? + at::END)?);
    Ok((at != 0).then_some(WriteTimestamp(at)))
}

/// Returns the attributes in a cell.
///
/// # Errors
/// DATA_LOSS when the cell is not what [`Draft::seal`] made, byte for byte.
pub(crate) fn decode(cell: &[u8]) -> Result<Attributes, Error> {
    let lost = |what: String| Err(Error::DataLoss(what));
    let fields = fields(cell)?;
    let sum = u64::from_le_bytes(slice(cell, fields + at::SUM)?);
    let codec = cell[fields + at::CODEC];
    if codec != CODEC_PLAIN {
        return lost(format!("cell codec {codec} is not known here"));
    }
    let payload = &cell[fields + at::PAYLOAD..];
    let size = u32::from_le_bytes(slice(cell, fields + at::SIZE)?);
    if usize::try_from(size).ok() != Some(payload.len()) {
        return lost(format!("a cell of {size} bytes has {}", payload.len()));
    }
    if checksum(cell, fields) != sum {
        return lost("a cell's checksum does not match".to_owned());
    }
    Attributes::decode(payload).map_err(|error| Error::DataLoss(format!("a cell's payload: {error}")))
}

/// Returns the place of the fields behind format and identity, of a cell that has all of its header.
fn fields(cell: &[u8]) -> Result<usize, Error> {
    let fields = match cell.first() {
        Some(&FORMAT) => 1 + WRITE_BYTES,
        Some(&FORMAT_WITHOUT_WRITE) => 1,
        Some(format) => return Err(Error::DataLoss(format!("cell format {format} is not known here"))),
        None => return Err(Error::DataLoss("a cell is empty".to_owned())),
    };
    if cell.len() < fields + at::PAYLOAD {
        return Err(Error::DataLoss(format!("a cell of {} bytes is shorter than its header", cell.len())));
    }
    Ok(fields)
}

fn checksum(cell: &[u8], fields: usize) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&cell[..fields + at::SUM]);
    hasher.update(&cell[fields + at::PAYLOAD..]);
    hasher.digest()
}

fn slice<const N: usize>(cell: &[u8], at: usize) -> Result<[u8; N], Error> {
    let bytes = cell.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Error::Internal("a cell's header has fixed places".to_owned()))
}

/// Encodes a row of a write that has no other beside it.
#[cfg(test)]
pub(crate) fn encode(attributes: &Attributes, expire_time: Option<WriteTimestamp>) -> Vec<u8> {
    Draft::new(attributes, expire_time).seal([0; WRITE_BYTES])
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

    /// The stored formats: cells written with them must decode for ever.
    #[test]
    fn the_formats_are_pinned() {
        let one: Attributes = [("a".to_owned(), Value::Int(1))].into_iter().collect();
        let cell = Draft::new(&one, Some(WriteTimestamp(1))).seal([7, 1, 2, 3, 4, 5, 6, 7, 8]);
        let hex: String = cell.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0207010203040506070800090000000100000000000000daa90f803c21dd420a070a016112021001");
        assert_eq!(decode(&cell).unwrap(), one);
        let first = "0100090000000100000000000000be54b03e42d58c280a070a016112021001";
        let first: Vec<u8> =
            (0..first.len() / 2).map(|i| u8::from_str_radix(&first[2 * i..2 * i + 2], 16).unwrap()).collect();
        assert_eq!(decode(&first).unwrap(), one);
        assert_eq!(expire_time(&first).unwrap(), Some(WriteTimestamp(1)));
    }

    #[test]
    fn the_write_decides_before_the_content() {
        let one: Attributes = [("a".to_owned(), Value::Int(1))].into_iter().collect();
        let (low, high) = ([1, 0, 0, 0, 0, 0, 0, 0, 9], [1, 0, 0, 0, 0, 0, 0, 1, 0]);
        let small = |write| Draft::new(&Attributes::default(), None).seal(write);
        let large = |write| Draft::new(&one, None).seal(write);
        assert!(small(high) > large(low) && large(high) > small(low));
        let ended = emptied(&large(high)).unwrap();
        assert!(ended > small(low) && decode(&ended).unwrap().len() == 0);
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
