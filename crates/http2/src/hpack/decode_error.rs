//! The error of the decoder and of its parts.

use std::fmt;

/// The reason why a block is not HPACK. The peer's tables and ours differ then: the connection ends with COMPRESSION_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The block ends within a field.
    Truncated,
    /// An integer is longer than five octets or above `u32::MAX`.
    Integer,
    /// A Huffman-coded string holds EOS, or padding that is not the beginning of EOS or is an octet or longer.
    Huffman,
    /// An index is 0 or beyond the tables.
    Index,
    /// A table size update stands behind a field, or is more than we allow.
    SizeUpdate,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeError::Truncated => "the header block ends within a field",
            DecodeError::Integer => "the header block holds an integer above 2^32",
            DecodeError::Huffman => "the header block holds a string that is not Huffman code",
            DecodeError::Index => "the header block refers to an entry the tables do not have",
            DecodeError::SizeUpdate => {
                "the header block changes the table's size too late or to more than allowed"
            }
        })
    }
}

impl std::error::Error for DecodeError {}
