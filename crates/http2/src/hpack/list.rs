//! The header list of a block that is being decoded: the part that is kept, and the sizes that are counted.

use std::fmt;

/// The limits of a header list. Every field of a longer list is read, so that the tables stay in step; fields beyond a limit
/// are counted and not handed out.
#[derive(Clone, Copy, Debug)]
pub struct ListLimits {
    /// The octets, counted as SETTINGS_MAX_HEADER_LIST_SIZE counts them: names, values, and 32 for each field.
    pub bytes: usize,
    /// The number of fields.
    pub fields: usize,
    /// The octets that come from the dynamic table. An honest list refers to each entry once, and to some names more often;
    /// a list that refers to a large entry again and again makes each octet of its block stand for thousands.
    pub referenced: usize,
}

impl ListLimits {
    /// Lets everything pass.
    pub const NONE: ListLimits = ListLimits { bytes: usize::MAX, fields: usize::MAX, referenced: usize::MAX };
}

/// The limit that a header list is above, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListTooLong {
    above: ListLimit,
    size: usize,
    limit: usize,
}

/// The kind of a limit of header lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListLimit {
    /// Limits the octets of a list.
    Bytes,
    /// Limits the fields of a list.
    Fields,
    /// Limits the octets that a list takes from the dynamic table.
    Referenced,
}

impl ListTooLong {
    /// Makes the error for a list of so many octets.
    pub(crate) fn bytes(size: usize, limit: usize) -> ListTooLong {
        ListTooLong { above: ListLimit::Bytes, size, limit }
    }

    /// Returns the size of the list. Octets of a string that cannot fit are counted as they were coded.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the largest size that is allowed.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the limit that the list is above.
    pub fn above(&self) -> ListLimit {
        self.above
    }
}

impl fmt::Display for ListTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListTooLong { above, size, limit } = self;
        match above {
            ListLimit::Bytes => write!(f, "header list of {size} bytes is above the limit of {limit}"),
            ListLimit::Fields => write!(f, "header list of {size} fields is above the limit of {limit}"),
            ListLimit::Referenced => write!(
                f,
                "header list of {size} bytes repeated from the compression table is above the limit of {limit}"
            ),
        }
    }
}

/// A list that is being decoded. See the [module](self).
#[derive(Debug)]
pub struct List {
    limits: ListLimits,
    bytes: usize,
    fields: usize,
    referenced: usize,
    /// Tells whether a field was read: the table's size can no longer change then.
    pub(super) begun: bool,
    /// The octets of a field that is not complete.
    pub(super) tail: Vec<u8>,
    /// The length of `tail` at which it is worth another look.
    pub(super) needed: usize,
    pub(super) skipping: Option<Skipping>,
}

/// A literal whose strings cannot be kept, neither in a list nor in a table: they are skipped as they come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipping {
    /// The octets of a string that are still to come.
    pub(super) left: usize,
    /// Tells whether the string was a name, and a value comes after it.
    pub(super) is_name: bool,
}

impl List {
    /// Makes an empty list.
    pub fn new(limits: ListLimits) -> List {
        List {
            limits,
            bytes: 0,
            fields: 0,
            referenced: 0,
            begun: false,
            tail: Vec::new(),
            needed: 0,
            skipping: None,
        }
    }

    /// Counts a field, and the octets of it that came from the dynamic table. Returns whether the list is still within the
    /// limits.
    #[inline]
    pub(super) fn count(&mut self, size: usize, referenced: usize) -> bool {
        self.fields += 1;
        self.bytes = self.bytes.saturating_add(size);
        self.referenced = self.referenced.saturating_add(referenced);
        !self.is_too_long()
    }

    /// Counts octets of a field that is not kept.
    pub(super) fn count_skipped(&mut self, octets: usize) {
        self.bytes = self.bytes.saturating_add(octets);
    }

    #[inline]
    pub(super) fn is_too_long(&self) -> bool {
        self.bytes > self.limits.bytes
            || self.fields > self.limits.fields
            || self.referenced > self.limits.referenced
    }

    /// Returns how many octets may still come.
    pub(super) fn bytes_left(&self) -> usize {
        if self.is_too_long() { 0 } else { self.limits.bytes - self.bytes }
    }

    /// Returns how many octets are kept of a field that is not complete.
    pub fn pending(&self) -> usize {
        self.tail.len()
    }

    /// Returns the limit that the list is above, if it is.
    #[inline]
    pub fn too_long(&self) -> Option<ListTooLong> {
        if !self.is_too_long() {
            return None;
        }
        let limits = &self.limits;
        Some(if self.bytes > limits.bytes {
            ListTooLong::bytes(self.bytes, limits.bytes)
        } else if self.fields > limits.fields {
            ListTooLong { above: ListLimit::Fields, size: self.fields, limit: limits.fields }
        } else {
            ListTooLong { above: ListLimit::Referenced, size: self.referenced, limit: limits.referenced }
        })
    }
}
