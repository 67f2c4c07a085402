//! HPACK (RFC 7541): header blocks to fields and back.
//!
//! Both directions keep what they know parsed: a field in the tables costs a lookup and two reference counts, no parsing and
//! no copy. Whether a message may consist of these fields (which pseudo-headers, in which order, how many bytes) is not
//! judged here; only a field that no message may hold is marked ([`Name::Malformed`]).

mod decode_error;
mod decoder;
mod dictionary;
mod encoder;
mod field;
mod hash;
mod huffman;
mod integer;
mod list;
mod static_table;
mod table;
#[cfg(test)]
mod tests;

pub use decode_error::DecodeError;
pub use decoder::Decoder;
pub use encoder::{Encoder, Index, TABLE_BYTES_MAX};
pub use field::{ENTRY_OVERHEAD, Field, Name};
pub use list::{List, ListLimit, ListLimits, ListTooLong};
