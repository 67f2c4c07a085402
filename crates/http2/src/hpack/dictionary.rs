//! The encoder's dynamic table, searched by content.
//!
//! A field is recognized by the addresses of its strings, if they are the very ones that an entry keeps (a call's fields are
//! most often clones of the fields of the call before), and otherwise by its content.
//!
//! Two sets of hash chains lead through the entries: one by name and value, one by name. A chain goes from the newest
//! entry to older ones. Since only the oldest entry of all is ever evicted, it is the last of its chains, and nothing
//! has to be unlinked: a number below the oldest one's ends a chain.

use std::collections::VecDeque;

use http::header::HeaderValue;

use super::Name;
use super::hash::{ENDS_LEN, SPREAD, ends, hash};
use super::static_table::STATIC_LEN;

/// The chains of each set. A full table of usual fields has some sixty entries.
const CHAINS: usize = 128;

/// The pairs of places where addresses are remembered. A call has some ten fields; two may meet in a pair, three rarely do.
const PLACE_PAIRS: usize = 64;

/// A field that is searched for, and the hashes that find it. The ends and lengths of short strings are the whole strings,
/// so that equal ones need no further comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    name: &'a [u8],
    value: &'a [u8],
    shape: Shape,
    /// The hash of name and value. It is not secret: a caller who makes entries collide makes chains as long as the table,
    /// which has 128 entries at most.
    hash: u64,
}

/// The ends and lengths of name and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    name: (u64, u64, usize),
    value: (u64, u64, usize),
}

impl<'a> Key<'a> {
    #[inline(always)]
    pub(super) fn new(name: &'a [u8], value: &'a [u8]) -> Key<'a> {
        let shape = Shape { name: ends(name), value: ends(value) };
        let mut hash = hash(shape.name) ^ hash(shape.value).rotate_left(32);
        if value.len() > ENDS_LEN {
            // Of a value everything counts: paths of one service differ in the middle.
            let (words, _) = value.as_chunks::<8>();
            hash = words.iter().fold(hash, |hash, word| {
                (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(SPREAD)
            });
        }
        Key { name, value, shape, hash }
    }

    /// Returns the [`hash_name`](super::hash::hash_name) of the name.
    pub(super) fn name_hash(&self) -> u64 {
        hash(self.shape.name)
    }
}

#[derive(Debug)]
struct Entry {
    name: Name,
    value: HeaderValue,
    shape: Shape,
    size: usize,
    /// The next older entry of the chain by name and value, and of the chain by name.
    older: u64,
    older_named: u64,
}

impl Entry {
    #[inline(always)]
    fn is(&self, key: &Key<'_>) -> bool {
        self.shape == key.shape
            && (key.value.len() <= ENDS_LEN || same(self.value.as_bytes(), key.value))
            && (key.name.len() <= ENDS_LEN || same(self.name.as_str().as_bytes(), key.name))
    }

    fn is_named(&self, key: &Key<'_>) -> bool {
        self.shape.name == key.shape.name
            && (key.name.len() <= ENDS_LEN || same(self.name.as_str().as_bytes(), key.name))
    }
}

/// The addresses of an entry's name and value. As long as the entry is in the table it keeps them alive, so that nothing
/// else can have these addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    name: usize,
    value: usize,
    /// The lengths: of the name in the upper half, of the value in the lower. Neither is longer than the table.
    lens: u64,
}

impl Place {
    #[inline(always)]
    fn of(name: &[u8], value: &[u8]) -> Place {
        let lens = (name.len() as u64) << 32 | value.len() as u64;
        Place { name: name.as_ptr().addr(), value: value.as_ptr().addr(), lens }
    }

    #[inline(always)]
    fn pair(self) -> usize {
        let hash = (self.name.rotate_left(31) ^ self.value) as u64;
        (hash.wrapping_mul(SPREAD) >> (u64::BITS - PLACE_PAIRS.trailing_zeros())) as usize
    }
}

/// The dynamic table.
#[derive(Debug)]
pub(super) struct Dictionary {
    /// The entries, the oldest first.
    entries: VecDeque<Entry>,
    /// The number of the oldest entry, and that of the next to come. Entries are numbered as they come, from 1.
    oldest: u64,
    next: u64,
    size: usize,
    size_max: usize,
    /// The numbers of the newest entries of the chains.
    by_field: Box<[u64; CHAINS]>,
    by_name: Box<[u64; CHAINS]>,
    /// The numbers of entries by their addresses, the one found last of each pair first.
    by_place: Box<[[(Place, u64); 2]; PLACE_PAIRS]>,
}

impl Dictionary {
    pub(super) fn new(size_max: usize) -> Dictionary {
        Dictionary {
            entries: VecDeque::new(),
            oldest: 1,
            next: 1,
            size: 0,
            size_max,
            by_field: Box::new([0; CHAINS]),
            by_name: Box::new([0; CHAINS]),
            by_place: Box::new([[(Place::default(), 0); 2]; PLACE_PAIRS]),
        }
    }

    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    /// Returns the wire's index of the field, if its strings are those of an entry that was found before.
    #[inline(always)]
    pub(super) fn recognize(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        let place = Place::of(name, value);
        let [later, earlier] = &self.by_place[place.pair()];
        let (known, number) = if later.0 == place { later } else { earlier };
        (*known == place && *number >= self.oldest).then(|| self.index(*number))
    }

    /// Returns the wire's index of the field.
    #[inline(always)]
    pub(super) fn find(&mut self, key: &Key<'_>) -> Option<usize> {
        let mut number = self.by_field[chain(key.hash)];
        while let Some(entry) = self.get(number) {
            if entry.is(key) {
                let place = Place::of(key.name, key.value);
                // Not if it is a copy, which may end before the entry.
                if place == Place::of(entry.name.as_str().as_bytes(), entry.value.as_bytes()) {
                    let pair = &mut self.by_place[place.pair()];
                    *pair = [(place, number), pair[0]];
                }
                return Some(self.index(number));
            }
            number = entry.older;
        }
        None
    }

    /// Returns the wire's index of the newest entry with this name.
    pub(super) fn find_name(&self, key: &Key<'_>) -> Option<usize> {
        let mut number = self.by_name[chain(key.name_hash())];
        while let Some(entry) = self.get(number) {
            if entry.is_named(key) {
                return Some(self.index(number));
            }
            number = entry.older_named;
        }
        None
    }

    /// Adds a field of `size`, which is not more than the table's, and evicts the oldest fields to make room.
    pub(super) fn insert(&mut self, key: &Key<'_>, name: Name, value: HeaderValue, size: usize) {
        self.evict_to(self.size_max - size);
        let number = self.next;
        self.next += 1;
        let older = std::mem::replace(&mut self.by_field[chain(key.hash)], number);
        let older_named = std::mem::replace(&mut self.by_name[chain(key.name_hash())], number);
        self.size += size;
        self.entries.push_back(Entry { name, value, shape: key.shape, size, older, older_named });
    }

    /// Returns the entry of this number, unless it was evicted or never existed (numbers begin at 1).
    #[inline(always)]
    fn get(&self, number: u64) -> Option<&Entry> {
        // Of an older one the difference wraps around, and there are never so many entries.
        self.entries.get(number.wrapping_sub(self.oldest) as usize)
    }

    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict_to(size_max);
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.size;
            self.oldest += 1;
        }
    }

    /// Returns the wire's index of an entry. The newest entry follows the static table (§2.3.3).
    #[inline(always)]
    fn index(&self, number: u64) -> usize {
        STATIC_LEN + (self.next - number) as usize
    }

    /// Returns the octets in use and the entries.
    #[cfg(test)]
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.size, self.entries.len())
    }
}

/// Compares two strings. Most often they are the very same one, passed on from call to call.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    std::ptr::eq(a, b) || a == b
}

fn chain(hash: u64) -> usize {
    (hash >> (u64::BITS - CHAINS.trailing_zeros())) as usize
}
