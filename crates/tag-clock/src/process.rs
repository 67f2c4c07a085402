//! The server process that a shard's state was made in.

use std::fmt;

use redis::Value;

/// A server process as the link numbers it (`shoal_redis_link::process_of`), which a score and Lua hold exactly. Zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u64);

impl Process {
    /// The absence of a guess: a script that is given it asks Redis for the process itself.
    pub const NONE: Process = Process(0);

    /// Returns the number.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Takes the number of a process.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Reads a process as the shard's state holds it.
    #[must_use]
    pub fn of_score(score: f64) -> Self {
        Self(score as u64)
    }

    /// Reads a process as the scripts answer it.
    #[must_use]
    pub fn of_reply(reply: &Value) -> Option<Self> {
        number(reply).map(Self)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads a number that a script wrote as decimal digits.
pub(crate) fn number(reply: &Value) -> Option<u64> {
    let Value::BulkString(digits) = reply else { return None };
    std::str::from_utf8(digits).ok()?.parse().ok()
}
