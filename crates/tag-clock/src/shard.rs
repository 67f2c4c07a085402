//! The shards of a namespace, and the names of their keys in Redis.

use std::time::Duration;

/// The key of a shard's state, behind the shard's name; as in `state.lua`.
const STATE: &str = "t";

/// A shard of a namespace in Redis: `PREFIX{NAMESPACE#NUMBER}` begins the names of all its keys, and is no key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    name: Vec<u8>,
    pub(crate) hint: usize,
    /// The time for which nothing is kept after the shard's state was lost.
    pub(crate) quiet: Duration,
}

impl Shard {
    /// Names the shard with this number of `shards`; `hints` is the number of places for the guess of its process.
    pub(crate) fn new(prefix: &str, namespace: &str, number: u64, shards: u64, hints: usize) -> Self {
        let name = format!("{prefix}{{{namespace}#{number}}}").into_bytes();
        // One Redis is one process, whatever the namespace.
        let hints = if shards == 1 { 1 } else { hints as u64 };
        let hint = (fnv1a(&name) % hints) as usize;
        Self { name, hint, quiet: Duration::ZERO }
    }

    pub(crate) fn quiet(self, quiet: Duration) -> Self {
        Self { quiet, ..self }
    }

    /// Returns what the names of the shard's keys begin with.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Returns the name of one of its keys.
    #[must_use]
    pub fn key(&self, kind: &str, name: &str) -> Vec<u8> {
        [&self.name, kind.as_bytes(), name.as_bytes()].concat()
    }

    /// Returns the name of the key of its state.
    #[must_use]
    pub fn state(&self) -> Vec<u8> {
        self.key(STATE, "")
    }
}

/// Hashes by FNV-1a, 64 bits: every clone and version must put a route into the same shard.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
