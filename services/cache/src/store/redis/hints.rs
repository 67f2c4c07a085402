//! Guesses of what an entry will turn out to have, so that its stamps and its remaining life are asked for together with it. A wrong
//! guess costs one more round trip and nothing else: what is decided depends on the entry alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::key::{Key, NamespaceName, Tags};

/// Places for the tags of a key; the last one with the same place wins.
const PLACES: usize = 8192;
/// The most bytes of tags that a place keeps, so that all together hold 8 MiB.
const TAG_BYTES_MAX: usize = 1024;
/// Places for whether entries of a namespace have a window around their expiry.
const NAMESPACES: usize = 1024;

/// The tags of a key, by the hash of the key.
type Place = Mutex<Option<(u64, Tags)>>;

/// The guesses of one clone.
pub(super) struct Hints {
    tags: Box<[Place]>,
    windows: Box<[AtomicBool]>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            tags: (0..PLACES).map(|_| Mutex::default()).collect(),
            windows: (0..NAMESPACES).map(|_| AtomicBool::new(false)).collect(),
        }
    }
}

impl Hints {
    /// Returns the tags that the key had last.
    pub(super) fn tags(&self, key: &Key) -> Tags {
        let hash = hash(key);
        let place = self.place(hash).lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Some((of, tags)) if *of == hash => tags.clone(),
            _ => Tags::default(),
        }
    }

    /// Notes the tags that a key has.
    pub(super) fn note(&self, key: &Key, tags: &Tags) {
        let hash = hash(key);
        let mut place = self.place(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = tags.as_slice().iter().map(String::len).sum();
        match &*place {
            // An entry without tags needs no place, and must not take that of another.
            Some((of, _)) if *of == hash && tags.as_slice().is_empty() => *place = None,
            Some((of, known)) if *of == hash && known == tags => {}
            _ if !tags.as_slice().is_empty() && bytes <= TAG_BYTES_MAX => *place = Some((hash, tags.clone())),
            _ => {}
        }
    }

    /// Returns whether entries of the namespace had a window.
    pub(super) fn has_window(&self, namespace: &NamespaceName) -> bool {
        self.window(namespace).load(Ordering::Relaxed)
    }

    /// Notes that entries of the namespace have a window.
    pub(super) fn note_window(&self, namespace: &NamespaceName) {
        self.window(namespace).store(true, Ordering::Relaxed);
    }

    fn place(&self, hash: u64) -> &Place {
        &self.tags[(hash % PLACES as u64) as usize]
    }

    fn window(&self, namespace: &NamespaceName) -> &AtomicBool {
        let hash = xxh3_64_with_seed(namespace.as_str().as_bytes(), 0);
        &self.windows[(hash % NAMESPACES as u64) as usize]
    }
}

fn hash(key: &Key) -> u64 {
    let namespace = xxh3_64_with_seed(key.namespace().as_str().as_bytes(), 0);
    xxh3_64_with_seed(key.name().as_bytes(), namespace)
}
