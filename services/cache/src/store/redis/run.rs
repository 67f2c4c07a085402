//! Tells which server process of a Cluster answers on a connection; of one Redis the link knows it. A connection cannot outlive its process, so each is given a name of its
//! own once, in the same pipeline that asks for the process; from then on the name, which costs Redis next to nothing to
//! tell, says which process it is. A new connection has the link's name, which is not known here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redis::Value;
use shoal_redis_link::process_of;
use shoal_tag_clock::Process;

/// Names kept. Connections are few; past this all are asked again.
const NAMES_MAX: usize = 256;

/// The connections that were named.
pub(super) struct Runs {
    role: &'static str,
    by_name: RwLock<HashMap<Vec<u8>, Process>>,
    /// A connection was met that had no name. Calls take turns among the connections, so it was another one that got
    /// the name then; the next read names without asking first.
    nameless: AtomicBool,
}

impl Runs {
    pub(super) fn new(role: &'static str) -> Self {
        Self { role, by_name: RwLock::default(), nameless: AtomicBool::new(true) }
    }

    /// The process of a connection, from its reply to `CLIENT GETNAME`.
    pub(super) fn named(&self, reply: Option<&Value>) -> Option<Process> {
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
    pub(super) fn learn(&self, name: String, info: Option<&Value>) -> Option<Process> {
        let text = match info? {
            Value::BulkString(text) => std::str::from_utf8(text).ok()?,
            Value::VerbatimString { text, .. } => text,
            _ => return None,
        };
        let run = of_info(text)?;
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if by_name.len() >= NAMES_MAX {
            by_name.clear();
        }
        by_name.insert(name.into_bytes(), run);
        Some(run)
    }
}

/// Reads the process from the text of `INFO server`.
fn of_info(info: &str) -> Option<Process> {
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    process_of(id).map(Process::from_bits)
}
