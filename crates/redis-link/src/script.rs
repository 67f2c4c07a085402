//! Lua scripts, which run by their hash, and the set of them that every new connection loads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::slot;

/// A Lua script. Rolling versions of a service run side by side: the hash of the source tells them apart.
#[derive(Clone)]
pub struct Script {
    name: &'static str,
    source: Arc<str>,
    sha: Arc<str>,
    reads: bool,
    declares_all: bool,
}

impl Script {
    /// Makes a script that may touch keys of the same slot beyond those it is given. `name` is its name in spans and logs. Make
    /// it once: `static S: LazyLock<Script> = ...`.
    ///
    /// In a Cluster, give the script a key that **never exists**: while a slot moves, that key alone makes Redis refuse the
    /// script on a node that has half of the data. Each command of the script must name one key only: a node that takes over a
    /// slot refuses commands with several keys, and by then the script may have written.
    #[must_use]
    pub fn new(name: &'static str, source: &str) -> Script {
        let sha = redis::Script::new(source).get_hash().into();
        Script { name, source: source.into(), sha, reads: false, declares_all: false }
    }

    /// Makes a script that touches only the keys it is given: while a slot moves, Redis runs it on the node that has all of them.
    #[must_use]
    pub fn of_declared_keys(name: &'static str, source: &str) -> Script {
        Script { declares_all: true, ..Script::new(name, source) }
    }

    /// Makes a script like [`Script::new`] that writes nothing. Redis refuses a write of it, and runs it while it holds writes
    /// back.
    #[must_use]
    pub fn reading(name: &'static str, source: &str) -> Script {
        Script { reads: true, ..Script::new(name, source) }
    }

    /// Returns the command that runs the script.
    pub(crate) fn command(&self) -> &'static str {
        if self.reads { "EVALSHA_RO" } else { "EVALSHA" }
    }

    /// Returns the name of the script in spans and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn load(&self) -> redis::Cmd {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(self.source.as_bytes());
        load
    }

    pub(crate) fn evalsha(&self, keys: &[&[u8]], args: &[&[u8]]) -> redis::Cmd {
        let size = [keys, args].iter().flat_map(|parts| parts.iter()).map(|part| part.len()).sum::<usize>();
        let mut evalsha = redis::Cmd::with_capacity(3 + keys.len() + args.len(), size + 64);
        evalsha.arg(self.command()).arg(self.sha.as_bytes()).arg(keys.len()).arg(keys).arg(args);
        evalsha
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("name", &self.name).field("sha", &self.sha).finish_non_exhaustive()
    }
}

/// The scripts of one link, shared by its nodes. A program has a fixed number of scripts, so the set needs no limit.
#[derive(Debug, Default)]
pub(crate) struct Scripts(Mutex<BTreeMap<Arc<str>, Script>>);

impl Scripts {
    pub(crate) fn new(scripts: &[Script]) -> Scripts {
        Scripts(Mutex::new(scripts.iter().map(|script| (Arc::clone(&script.sha), script.clone())).collect()))
    }

    pub(crate) fn add(&self, script: &Script) {
        let mut scripts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !scripts.contains_key(&script.sha) {
            scripts.insert(Arc::clone(&script.sha), script.clone());
        }
    }

    pub(crate) fn all(&self) -> Vec<Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// A command, and the script that it runs if it is an EVALSHA.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) command: &'a redis::Cmd,
    pub(crate) script: Option<&'a Script>,
    /// Set if the call carries a big value, or may answer one.
    pub(crate) bulk: bool,
}

impl Request<'_> {
    /// Returns whether the command touches only keys that it declares to Redis.
    pub(crate) fn declares_all(&self) -> bool {
        self.script.map_or_else(|| !slot::runs_code(self.command), |script| script.declares_all)
    }
}

impl<'a> From<&'a redis::Cmd> for Request<'a> {
    fn from(command: &'a redis::Cmd) -> Request<'a> {
        Request { command, script: None, bulk: false }
    }
}
