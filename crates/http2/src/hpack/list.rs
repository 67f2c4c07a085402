//! A header list while its block is decoded: what of it is kept, and what it came to.

use std::fmt;

/// What a header list may hold. Every field of a longer one is read, so that the tables stay in step, and those beyond the
/// limit are counted and not handed out.
#[derive(Clone, Copy, Debug)]
pub struct ListLimits {
    /// Octets, counted as SETTINGS_MAX_HEADER_LIST_SIZE counts them: names, values, and 32 for each field.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
    /// Octets that come from the dynamic table. An honest list refers to each entry once, and to some names more often; a
    /// list that refers to a large entry again and again makes each octet of its block stand for thousands.
    pub referenced: usize,
}

impl ListLimits {
    /// Lets everything pass.
    pub const NONE: ListLimits = ListLimits { bytes: usize::MAX, fields: usize::MAX, referenced: usize::MAX };
}

/// Says which limit a header list is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListTooLong {
    above: ListLimit,
    size: usize,
    limit: usize,
}

/// A limit of header lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListLimit {
    /// Of its octets.
    Bytes,
    /// Of its fields.
    Fields,
    /// Of the octets that it takes from the dynamic table.
    Referenced,
}

impl ListTooLong {
    /// A list of so many octets.
    pub(crate) fn bytes(size: usize, limit: usize) -> ListTooLong {
        ListTooLong { above: ListLimit::Bytes, size, limit }
    }

    /// How much of it there is. Octets of a string that cannot fit are counted as they were coded.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How much of it may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Which limit it is above.
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
    /// A field was read: the table's size can no longer change.
    pub(super) begun: bool,
    /// What has come of a field that is not complete.
    pub(super) tail: Vec<u8>,
    /// The octets of `tail` at which it is worth another look.
    pub(super) needed: usize,
    pub(super) skipping: Option<Skipping>,
}

/// A literal whose strings cannot be kept, neither in a list nor in a table: they are passed over as they come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipping {
    /// Octets of a string still to come.
    pub(super) left: usize,
    /// The string was a name, and a value comes after it.
    pub(super) is_name: bool,
}

impl List {
    /// An empty list.
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

    /// Counts a field, of which so many octets came from the dynamic table. Returns whether it is still within the limits.
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

    /// Octets that may still come.
    pub(super) fn bytes_left(&self) -> usize {
        if self.is_too_long() { 0 } else { self.limits.bytes - self.bytes }
    }

    /// Octets kept of a field that is not complete.
    pub fn pending(&self) -> usize {
        self.tail.len()
    }

    /// Returns which limit the list is above, if it is.
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
