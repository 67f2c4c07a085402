//! The decoder: a header block to its fields (§3, §6).

use http::header::HeaderValue;

use super::decode_error::DecodeError;
use super::field::{ENTRY_OVERHEAD, known_value};
use super::list::{List, ListLimits, Skipping};
use super::table::{Entry, Table};
use super::{Field, Name, TABLE_BYTES_MAX, huffman, integer};

/// The capacity for decoded strings that is kept between blocks. More, which only a long value needs, is given back.
const SCRATCH_BYTES_KEPT: usize = 4096;

/// The most octets that the integers of a literal take together: one index and two lengths.
const INTEGERS_LEN_MAX: usize = 18;

/// The receiving side of one connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The largest size that a table size update may set.
    table_max: usize,
    /// Tells whether white space around the value of an ordinary field is taken off.
    trims: bool,
    /// The buffer for decoded Huffman strings; empty between strings.
    scratch: Vec<u8>,
}

impl Decoder {
    /// Makes a decoder. `table_max` is the SETTINGS_HEADER_TABLE_SIZE that is announced. Until the peer has read that
    /// setting it uses the default of 4096 (§4.2): announce less only to a peer that is known to start small.
    pub fn new(table_max: usize) -> Decoder {
        // A peer that may use more says when it begins to (§4.3).
        Decoder {
            table: Table::new(table_max.min(TABLE_BYTES_MAX)),
            table_max,
            trims: false,
            scratch: Vec::new(),
        }
    }

    /// Takes off the white space that surrounds a value, where a field with such a value is [`Name::Padded`] otherwise
    /// (RFC 9113 §8.2.1).
    pub fn trimming(self) -> Decoder {
        Decoder { trims: true, ..self }
    }

    /// Decodes one whole header block: the fragments of HEADERS and its CONTINUATIONs joined. `each` is given every field in
    /// order, those before an error too. After an error the decoder must not be used again.
    ///
    /// The cost is bounded by the block, with one exception: a reference of one octet yields a field as large as the table.
    /// No octet of it is copied, but `each` must count [`Field::size`].
    pub fn decode(&mut self, block: &[u8], each: impl FnMut(Field)) -> Result<(), DecodeError> {
        let mut list = List::new(ListLimits::NONE);
        self.decode_part(block, &mut list, each)?;
        self.finish(&list)
    }

    /// Decodes the next fragment of a block. `each` is given the fields that are complete with it, as long as the list is
    /// within its limits. The octets of an incomplete field are kept until it is complete, unless they are more than list
    /// and table can hold: such a field is skipped as it comes.
    pub fn decode_part(
        &mut self,
        part: &[u8],
        list: &mut List,
        mut each: impl FnMut(Field),
    ) -> Result<(), DecodeError> {
        if list.tail.is_empty() {
            let rest = self.decode_fields(part, list, &mut each)?;
            if !rest.is_empty() {
                list.tail = rest.to_vec();
            }
            return Ok(());
        }
        list.tail.extend_from_slice(part);
        if list.tail.len() < list.needed {
            return Ok(());
        }
        let mut tail = std::mem::take(&mut list.tail);
        let rest = self.decode_fields(&tail, list, &mut each)?.len();
        tail.drain(..tail.len() - rest);
        list.tail = tail;
        Ok(())
    }

    /// Ends a block.
    pub fn finish(&self, list: &List) -> Result<(), DecodeError> {
        if list.tail.is_empty() && list.skipping.is_none() { Ok(()) } else { Err(DecodeError::Truncated) }
    }

    /// Decodes fields as long as they are complete. Returns what is left.
    fn decode_fields<'block>(
        &mut self,
        block: &'block [u8],
        list: &mut List,
        each: &mut impl FnMut(Field),
    ) -> Result<&'block [u8], DecodeError> {
        let mut rest = block;
        if list.skipping.is_some() && !self.skip(&mut rest, list)? {
            return Ok(rest);
        }
        loop {
            let field = rest;
            match self.field(&mut rest, list, each) {
                Ok(true) => {}
                Ok(false) => return Ok(rest),
                Err(DecodeError::Truncated) => {
                    rest = field;
                    self.wait(&mut rest, list)?;
                    return Ok(rest);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a field off the front of `rest`. Returns false if nothing is there.
    #[inline(always)]
    fn field(
        &mut self,
        rest: &mut &[u8],
        list: &mut List,
        each: &mut impl FnMut(Field),
    ) -> Result<bool, DecodeError> {
        let Some((&first, tail)) = rest.split_first() else { return Ok(false) };
        if first & 0x80 == 0 {
            if first & 0xe0 == 0x20 && !list.begun {
                self.size_update(rest)?;
                return Ok(true);
            }
            if let Some(field) = self.literal(rest, first, list)? {
                each(field);
            }
            list.begun = true;
            return Ok(true);
        }
        list.begun = true;
        // An indexed field (§6.1), nearly always below 127: the whole of it is this octet.
        let index = match usize::from(first & 0x7f) {
            0x7f => integer::decode(rest, 7)?,
            index => {
                *rest = tail;
                index
            }
        };
        let (field, size, referenced) = self.table.field(index)?;
        if list.count(size, referenced) {
            each(field.clone());
        }
        Ok(true)
    }

    /// Notes how much of a field must be there before it is worth another look. Begins to skip the field if neither the list
    /// nor the table can hold it.
    #[cold]
    fn wait(&mut self, rest: &mut &[u8], list: &mut List) -> Result<(), DecodeError> {
        self.give_back();
        let whole = *rest;
        // An integer that is cut off: the next octet is worth a look.
        list.needed = whole.len() + 1;
        let Some(&first) = whole.first().filter(|first| **first & 0x80 == 0 && !is_size_update(whole)) else {
            return Ok(());
        };
        let mut at = whole;
        let indexed = first & 0xc0 == 0x40;
        let Ok(name) = integer::decode(&mut at, if indexed { 6 } else { 4 }) else { return Ok(()) };
        let mut strings = if name == 0 { 2 } else { 1 };
        while strings > 0 {
            strings -= 1;
            let Ok(len) = integer::decode(&mut at, 7) else { return Ok(()) };
            if let Some((_, behind)) = at.split_at_checked(len) {
                at = behind;
                continue;
            }
            // As much as the field has in strings at least, up to this one. Coded, an octet takes up to thirty bits.
            let total = whole.len() - at.len() + len;
            let strings_len = total.saturating_sub(INTEGERS_LEN_MAX);
            if strings_len / 30 * 8 > self.table.size_max() && strings_len > list.bytes_left() {
                if indexed {
                    self.table.clear();
                }
                list.count(total + ENTRY_OVERHEAD, 0);
                list.begun = true;
                list.skipping = Some(Skipping { left: len - at.len(), is_name: strings > 0 });
                *rest = &[];
            } else {
                list.needed = total;
            }
            return Ok(());
        }
        Ok(())
    }

    /// Goes on with skipping a field. Returns whether the field has ended.
    #[cold]
    fn skip(&mut self, rest: &mut &[u8], list: &mut List) -> Result<bool, DecodeError> {
        while let Some(Skipping { left, is_name }) = list.skipping {
            let here = left.min(rest.len());
            *rest = &rest[here..];
            list.skipping = Some(Skipping { left: left - here, is_name });
            if here < left {
                return Ok(false);
            }
            if !is_name {
                list.skipping = None;
                break;
            }
            let mut at = *rest;
            match integer::decode(&mut at, 7) {
                Ok(len) => {
                    *rest = at;
                    list.count_skipped(len);
                    list.skipping = Some(Skipping { left: len, is_name: false });
                }
                Err(DecodeError::Truncated) => {
                    list.needed = rest.len() + 1;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Follows a table size update, which is allowed only at the beginning of a block (§4.2, §6.3).
    #[cold]
    fn size_update(&mut self, rest: &mut &[u8]) -> Result<(), DecodeError> {
        let size = integer::decode(rest, 5)?;
        if size > self.table_max {
            return Err(DecodeError::SizeUpdate);
        }
        self.table.resize(size);
        Ok(())
    }

    /// Takes a literal field off the front of `rest` (§6.2). Returns none if the field makes the list too long.
    fn literal(
        &mut self,
        rest: &mut &[u8],
        first: u8,
        list: &mut List,
    ) -> Result<Option<Field>, DecodeError> {
        let (indexed, prefix) = match first {
            0x40.. => (true, 6),
            0x20..0x40 => return Err(DecodeError::SizeUpdate),
            _ => (false, 4),
        };
        let (name, name_len, referenced) = match integer::decode(rest, prefix)? {
            0 => {
                let wire = string(rest, &mut self.scratch)?;
                let name = if indexed || !list.is_too_long() { Name::parse(wire) } else { Name::Malformed };
                (name, wire.len(), 0)
            }
            index => self.table.name(index)?,
        };
        let wire = string(rest, &mut self.scratch)?;
        let size = name_len + wire.len() + ENTRY_OVERHEAD;
        let kept = list.count(size, referenced);
        let indexed = indexed && {
            let fits = size <= self.table.size_max();
            if !fits {
                self.table.clear();
            }
            fits
        };
        if !kept && !indexed {
            self.give_back();
            return Ok(None);
        }
        let padded = is_padded(wire);
        let value = if !padded {
            let known = if indexed { known_value(wire) } else { None };
            known.or_else(|| HeaderValue::from_bytes(wire).ok())
        } else if matches!(name, Name::Header(_)) {
            HeaderValue::from_bytes(trimmed(wire)).ok()
        } else {
            None
        };
        let (mut field, name) = match value {
            Some(_) if padded && !self.trims => (Field::padded(), Some(name)),
            Some(value) if name != Name::Malformed => (Field { name, value }, None),
            _ => (Field::malformed(), Some(name)),
        };
        if first & 0xf0 == 0x10 {
            field.value.set_sensitive(true);
        }
        self.give_back();
        if indexed {
            self.table.insert(Entry { field: field.clone(), name, name_len, size });
        }
        Ok(kept.then_some(field))
    }

    /// Gives back the memory of a long string.
    fn give_back(&mut self) {
        if self.scratch.capacity() > SCRATCH_BYTES_KEPT {
            self.scratch = Vec::new();
        }
    }

    /// Returns the octets and entries of the dynamic table.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        self.table.extent()
    }
}

/// Returns whether a value begins or ends with white space, which no field value does (RFC 9110 §5.5).
fn is_padded(wire: &[u8]) -> bool {
    matches!(wire, [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

#[cold]
fn trimmed(wire: &[u8]) -> &[u8] {
    let is_space = |octet: &u8| matches!(octet, b' ' | b'\t');
    let Some(from) = wire.iter().position(|octet| !is_space(octet)) else { return &[] };
    let to = wire.iter().rposition(|octet| !is_space(octet)).map_or(from, |last| last + 1);
    &wire[from..to]
}

fn is_size_update(rest: &[u8]) -> bool {
    rest.first().is_some_and(|first| first & 0xe0 == 0x20)
}

/// Takes a string off the front of `rest` (§5.2). The string is a part of the block, or of `scratch` if it was
/// Huffman-coded.
fn string<'a, 'block: 'a>(
    rest: &mut &'block [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], DecodeError> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer::decode(rest, 7)?;
    let (octets, tail) = rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    *rest = tail;
    if !coded {
        return Ok(octets);
    }
    scratch.clear();
    huffman::decode(octets, scratch)?;
    Ok(scratch)
}
