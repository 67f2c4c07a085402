//! The static table (Appendix A), by index and by name.

use std::sync::LazyLock;

use http::header::{HeaderName, HeaderValue};

use super::hash::hash_name;
use super::{Field, Name};

/// The number of entries of the static table; the first index of the dynamic table is one more (§2.3.3).
pub(super) const STATIC_LEN: usize = 61;

/// The static table: index `i` of the wire is element `i - 1`. A clone of an element touches no reference count.
pub(super) static STATIC_TABLE: [Field; STATIC_LEN] = [
    entry(Name::Authority, ""),
    entry(Name::Method, "GET"),
    entry(Name::Method, "POST"),
    entry(Name::Path, "/"),
    entry(Name::Path, "/index.html"),
    entry(Name::Scheme, "http"),
    entry(Name::Scheme, "https"),
    entry(Name::Status, "200"),
    entry(Name::Status, "204"),
    entry(Name::Status, "206"),
    entry(Name::Status, "304"),
    entry(Name::Status, "400"),
    entry(Name::Status, "404"),
    entry(Name::Status, "500"),
    header("accept-charset", ""),
    header("accept-encoding", "gzip, deflate"),
    header("accept-language", ""),
    header("accept-ranges", ""),
    header("accept", ""),
    header("access-control-allow-origin", ""),
    header("age", ""),
    header("allow", ""),
    header("authorization", ""),
    header("cache-control", ""),
    header("content-disposition", ""),
    header("content-encoding", ""),
    header("content-language", ""),
    header("content-length", ""),
    header("content-location", ""),
    header("content-range", ""),
    header("content-type", ""),
    header("cookie", ""),
    header("date", ""),
    header("etag", ""),
    header("expect", ""),
    header("expires", ""),
    header("from", ""),
    header("host", ""),
    header("if-match", ""),
    header("if-modified-since", ""),
    header("if-none-match", ""),
    header("if-range", ""),
    header("if-unmodified-since", ""),
    header("last-modified", ""),
    header("link", ""),
    header("location", ""),
    header("max-forwards", ""),
    header("proxy-authenticate", ""),
    header("proxy-authorization", ""),
    header("range", ""),
    header("referer", ""),
    header("refresh", ""),
    header("retry-after", ""),
    header("server", ""),
    header("set-cookie", ""),
    header("strict-transport-security", ""),
    header("transfer-encoding", ""),
    header("user-agent", ""),
    header("vary", ""),
    header("via", ""),
    header("www-authenticate", ""),
];

const fn entry(name: Name, value: &'static str) -> Field {
    Field { name, value: HeaderValue::from_static(value) }
}

const fn header(name: &'static str, value: &'static str) -> Field {
    entry(Name::Header(HeaderName::from_static(name)), value)
}

/// Returns the index of a pseudo-header together with this value.
pub(super) fn whole(name: &Name, value: &[u8]) -> Option<usize> {
    Some(match (name, value) {
        (Name::Method, b"POST") => 3,
        (Name::Method, b"GET") => 2,
        (Name::Path, b"/") => 4,
        (Name::Path, b"/index.html") => 5,
        (Name::Scheme, b"http") => 6,
        (Name::Scheme, b"https") => 7,
        (Name::Status, b"200") => 8,
        (Name::Status, b"204") => 9,
        (Name::Status, b"206") => 10,
        (Name::Status, b"304") => 11,
        (Name::Status, b"400") => 12,
        (Name::Status, b"404") => 13,
        (Name::Status, b"500") => 14,
        _ => return None,
    })
}

/// Returns the lowest index with this name; `hash` is the hash of the name.
pub(super) fn named(name: &[u8], hash: u64) -> Option<usize> {
    let mut slot = slot_of(hash);
    loop {
        // An empty slot ends the run of those that share a home; there are far more slots than names.
        let index = usize::from(BY_NAME[slot]);
        if index == 0 {
            return None;
        }
        if STATIC_TABLE[index - 1].name.as_str().as_bytes() == name {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Returns whether the entry at this index has this value.
pub(super) fn is_whole(index: usize, value: &[u8]) -> bool {
    STATIC_TABLE[index - 1].value.as_bytes() == value
}

/// The slots of the table of names: a power of two, about ten times the names. Most names that are not there meet an empty
/// slot.
const SLOTS: usize = 512;

/// The indices of the first entry of each name, placed by the name's hash; 0 is empty.
static BY_NAME: LazyLock<Box<[u8; SLOTS]>> = LazyLock::new(|| {
    let mut slots = Box::new([0; SLOTS]);
    let mut last = "";
    for (index, entry) in (1..).zip(&STATIC_TABLE) {
        let name = entry.name.as_str();
        // Entries of one name stand together.
        if std::mem::replace(&mut last, name) != name {
            let mut slot = slot_of(hash_name(name.as_bytes()));
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index;
        }
    }
    slots
});

fn slot_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SLOTS.trailing_zeros())) as usize
}
