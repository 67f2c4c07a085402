//! The decoder's dynamic table (§2.3.2, §4): parsed fields, the newest first.

use std::collections::VecDeque;

use super::decode_error::DecodeError;
use super::static_table::{STATIC_LEN, STATIC_TABLE};
use super::{Field, Name};

/// A field as the table keeps it. A field that no message may hold is kept too: later references count it, and may use the
/// half of it that is right.
#[derive(Debug)]
pub(super) struct Entry {
    /// The field that a reference yields.
    pub(super) field: Field,
    /// The name, if only the value made the field [`Name::Malformed`] or [`Name::Padded`].
    pub(super) name: Option<Name>,
    /// The octets of the name as received, which a malformed field no longer knows.
    pub(super) name_len: usize,
    /// The size as received (§4.1).
    pub(super) size: usize,
}

/// The dynamic table, and the static one below its indices.
#[derive(Debug)]
pub(super) struct Table {
    /// The entries, the newest first, as the wire counts. Each counts 32 octets at least, so that `size_max` bounds them.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
}

impl Table {
    pub(super) fn new(size_max: usize) -> Table {
        Table { entries: VecDeque::new(), size: 0, size_max }
    }

    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    /// Returns the field at an index of the wire, its size, and how much of that is in the dynamic table.
    #[inline]
    pub(super) fn field(&self, index: usize) -> Result<(&Field, usize, usize), DecodeError> {
        // Index 0 wraps around and is in neither table (§6.1).
        let at = index.wrapping_sub(1);
        if let Some(field) = STATIC_TABLE.get(at) {
            return Ok((field, field.size(), 0));
        }
        match self.entries.get(at.wrapping_sub(STATIC_LEN)) {
            Some(entry) => Ok((&entry.field, entry.size, entry.size)),
            None => Err(DecodeError::Index),
        }
    }

    /// Returns the name at an index of the wire, its octets, and how many of them are in the dynamic table.
    pub(super) fn name(&self, index: usize) -> Result<(Name, usize, usize), DecodeError> {
        let at = index.wrapping_sub(1);
        if let Some(field) = STATIC_TABLE.get(at) {
            return Ok((field.name.clone(), field.name.as_str().len(), 0));
        }
        let entry = self.entries.get(at.wrapping_sub(STATIC_LEN)).ok_or(DecodeError::Index)?;
        Ok((entry.name.as_ref().unwrap_or(&entry.field.name).clone(), entry.name_len, entry.name_len))
    }

    /// Adds an entry, and evicts the oldest entries to make room. An entry larger than the table leaves it empty (§4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.evict_to(self.size_max.saturating_sub(entry.size));
        if entry.size <= self.size_max {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    /// Follows the insertion of an entry that is larger than the table (§4.4).
    pub(super) fn clear(&mut self) {
        self.evict_to(0);
    }

    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict_to(size_max);
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size;
        }
    }

    /// Returns the octets in use and the entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.size, self.entries.len())
    }
}
