//! Tells which server process of a Cluster answers on a connection; of one Redis the link knows it. A connection cannot outlive its process, so each is given a name of its
//! own once, in the same pipeline that asks for the process; from then on the name, which costs Redis next to nothing to
//! tell, says which process it is. A new connection has the link's name, which is not known here.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redis::Value;
use shoal_redis_link::process_of;

/// Names kept. Connections are few; past this all are asked again.
const NAMES_MAX: usize = 256;

/// A server process as the link numbers it, which a score and Lua hold exactly. Zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run(u64);

impl Run {
    /// The absence of a guess: a script that is given it asks for the process itself.
    pub(super) const NONE: Run = Run(0);

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Reads a process as the shard's state holds it.
    pub(super) fn of_score(score: f64) -> Self {
        Self(score as u64)
    }

    /// Reads a process as the scripts answer it.
    pub(super) fn of_reply(reply: &Value) -> Option<Self> {
        let Value::BulkString(digits) = reply else { return None };
        Some(Self(std::str::from_utf8(digits).ok()?.parse().ok()?))
    }

    /// Reads the process from the text of `INFO server`.
    fn of_info(info: &str) -> Option<Self> {
        let id = info.lines().find_map(|line| line.strip_prefix("run_id:"))?;
        process_of(id).map(Self)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The connections that were named.
pub(super) struct Runs {
    role: &'static str,
    by_name: RwLock<HashMap<Vec<u8>, Run>>,
    /// A connection was met that had no name. Calls take turns among the connections, so it was another one that got
    /// the name then; the next read names without asking first.
    nameless: AtomicBool,
}

impl Runs {
    pub(super) fn new(role: &'static str) -> Self {
        Self { role, by_name: RwLock::default(), nameless: AtomicBool::new(true) }
    }

    /// The process of a connection, from its reply to `CLIENT GETNAME`.
    pub(super) fn named(&self, reply: Option<&Value>) -> Option<Run> {
        let known = |name: &Vec<u8>| {
            self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name.as_slice()).copied()
        };
        let run = match reply {
            Some(Value::BulkString(name)) => known(name),
            _ => None,
        };
        if run.is_none() {
            self.nameless.store(true, Ordering::Relaxed);
        }
        run
    }

    /// Returns whether the next read must name its connection without asking for its name.
    pub(super) fn must_ask(&self) -> bool {
        self.nameless.load(Ordering::Relaxed) && self.nameless.swap(false, Ordering::Relaxed)
    }

    /// A name that no connection has.
    pub(super) fn new_name(&self) -> String {
        format!("shoal-{}:{:016x}", self.role, fastrand::u64(..))
    }

    /// Takes down what a connection answered to `INFO server` right after it was given this name.
    pub(super) fn learn(&self, name: String, info: Option<&Value>) -> Option<Run> {
        let text = match info? {
            Value::BulkString(text) => std::str::from_utf8(text).ok()?,
            Value::VerbatimString { text, .. } => text,
            _ => return None,
        };
        let run = Run::of_info(text)?;
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if by_name.len() >= NAMES_MAX {
            by_name.clear();
        }
        by_name.insert(name.into_bytes(), run);
        Some(run)
    }
}
