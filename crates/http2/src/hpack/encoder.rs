//! The encoder: fields to a header block (§6).
//!
//! The aim is few instructions at both ends rather than the fewest octets: fields that calls repeat are indexed and cost an
//! octet; values that change from call to call are written as they are, without Huffman code, next to the index of their
//! name.

use bytes::BufMut;
use http::header::{HeaderName, HeaderValue};

use super::dictionary::{Dictionary, Key};
use super::field::ENTRY_OVERHEAD;
use super::{Name, huffman, integer, static_table};

/// The largest dynamic table that is used, whatever the peer allows: the protocol's default, enough for some sixty fields.
pub const TABLE_BYTES_MAX: usize = 4096;

/// The way in which a field is indexed. A sensitive value is never indexed, whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Indexes the field: later calls will have it too.
    Yes,
    /// Does not index the field: its value changes with every call, like a timeout or a trace id. It is a literal next to
    /// the index of its name, and the first field with a name that no table holds is indexed for that.
    No,
    /// Marks the field as a secret: a literal that is "never indexed", for every later hop (§6.2.3, §7.1.3).
    Never,
}

/// The encoder of one connection. A block is [`begin`](Self::begin) and then its fields; blocks must reach the peer in the
/// order in which they were encoded.
#[derive(Debug)]
pub struct Encoder {
    dictionary: Dictionary,
    /// The names of fields that are always secrets.
    secrets: Box<[HeaderName]>,
    /// The smallest size since the last block, if the size was changed: the peer has to be told of it (§4.2).
    smallest: Option<usize>,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// Makes an encoder with a table of 4096 octets, which a peer has that has not sent a setting yet.
    pub fn new() -> Encoder {
        Encoder { dictionary: Dictionary::new(TABLE_BYTES_MAX), secrets: Box::default(), smallest: None }
    }

    /// Makes an encoder with fields that are always [never indexed](Index::Never).
    pub fn with_secrets(secrets: &[HeaderName]) -> Encoder {
        Encoder { secrets: secrets.into(), ..Encoder::new() }
    }

    /// Follows the peer's SETTINGS_HEADER_TABLE_SIZE. The next block says so.
    pub fn set_table_max(&mut self, peer_max: usize) {
        let size = peer_max.min(TABLE_BYTES_MAX);
        if size != self.dictionary.size_max() {
            self.smallest = Some(self.smallest.map_or(size, |smallest| smallest.min(size)));
            self.dictionary.resize(size);
        }
    }

    /// Begins a block: tells the peer of changes of the table's size. If it changed more than once, the smallest size
    /// comes before the last one, so that the peer evicts what we did (§4.2).
    #[inline]
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            let size = self.dictionary.size_max();
            if smallest < size {
                integer::encode(smallest, 5, 0x20, out);
            }
            integer::encode(size, 5, 0x20, out);
        }
    }

    /// Appends a field. The table may keep a clone of the value: it should not be a slice of something large.
    /// [`Name::Malformed`] and [`Name::Padded`] have no encoding and are left out.
    pub fn field(&mut self, name: &Name, value: &HeaderValue, index: Index, out: &mut Vec<u8>) {
        match name {
            Name::Malformed | Name::Padded => {}
            Name::Header(name) => self.header(name, value, index, out),
            _ => match static_table::whole(name, value.as_bytes()) {
                Some(at) if index != Index::Never && !value.is_sensitive() => {
                    integer::encode(at, 7, 0x80, out);
                }
                _ => self.put(Source::Name(name), name.as_str(), value, index, out),
            },
        }
    }

    /// Appends an ordinary field, like [`field`](Self::field).
    pub fn header(&mut self, name: &HeaderName, value: &HeaderValue, index: Index, out: &mut Vec<u8>) {
        let index = if self.secrets.contains(name) { Index::Never } else { index };
        self.put(Source::Header(name), name.as_str(), value, index, out);
    }

    #[inline(always)]
    fn put(&mut self, source: Source<'_>, name: &str, value: &HeaderValue, index: Index, out: &mut Vec<u8>) {
        if index != Index::Yes || value.is_sensitive() {
            self.literal(source, name.as_bytes(), value, index, out);
        } else if let Some(index) = self.dictionary.recognize(name.as_bytes(), value.as_bytes()) {
            integer::encode(index, 7, 0x80, out);
        } else {
            self.search(source, name.as_bytes(), value, out);
        }
    }

    /// Appends a field that may be in the dynamic table, though not by this address.
    #[inline(never)]
    fn search(&mut self, source: Source<'_>, name: &[u8], value: &HeaderValue, out: &mut Vec<u8>) {
        match self.dictionary.find(&Key::new(name, value.as_bytes())) {
            Some(index) => integer::encode(index, 7, 0x80, out),
            None => self.literal(source, name, value, Index::Yes, out),
        }
    }

    /// Appends a field that is not in the dynamic table, and may put it there.
    #[inline(never)]
    fn literal(
        &mut self,
        source: Source<'_>,
        name: &[u8],
        value: &HeaderValue,
        index: Index,
        out: &mut Vec<u8>,
    ) {
        let key = Key::new(name, value.as_bytes());
        let octets = value.as_bytes();
        let fixed = static_table::named(name, key.name_hash());
        let named = fixed.or_else(|| self.dictionary.find_name(&key));
        if index == Index::Never || value.is_sensitive() {
            head(named, 4, 0x10, name, out);
            plain(octets, out);
            return;
        }
        if let Some(index) = fixed.filter(|&index| static_table::is_whole(index, octets)) {
            integer::encode(index, 7, 0x80, out);
            return;
        }
        // A field that would push most others out is not worth it.
        let size = name.len() + octets.len() + ENTRY_OVERHEAD;
        let fits = size * 4 <= self.dictionary.size_max() * 3;
        if fits && (index == Index::Yes || named.is_none()) {
            head(named, 6, 0x40, name, out);
            brief(octets, out);
            self.dictionary.insert(&key, source.to_name(), value.clone(), size);
        } else {
            head(named, 4, 0, name, out);
            plain(octets, out);
        }
    }

    /// Returns the octets and entries of the dynamic table.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        self.dictionary.extent()
    }
}

/// The name of a field that is to be encoded.
#[derive(Clone, Copy)]
enum Source<'a> {
    Name(&'a Name),
    Header(&'a HeaderName),
}

impl Source<'_> {
    fn to_name(self) -> Name {
        match self {
            Source::Name(name) => name.clone(),
            Source::Header(name) => Name::Header(name.clone()),
        }
    }
}

/// Appends the head of a literal: its kind, and its name by index or in full.
fn head(named: Option<usize>, prefix: u32, flags: u8, name: &[u8], out: &mut Vec<u8>) {
    integer::encode(named.unwrap_or(0), prefix, flags, out);
    if named.is_none() {
        brief(name, out);
    }
}

/// Appends a string as short as it can be: a string that goes into the tables is written once.
fn brief(octets: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(octets);
    if coded < octets.len() {
        integer::encode(coded, 7, 0x80, out);
        huffman::encode(octets, out);
    } else {
        plain(octets, out);
    }
}

/// Appends a string as it is. To code and decode a string that is written every time would cost some thirty instructions an
/// octet, for a fifth or a quarter of its length.
fn plain(octets: &[u8], out: &mut Vec<u8>) {
    integer::encode(octets.len(), 7, 0, out);
    out.put_slice(octets);
}
