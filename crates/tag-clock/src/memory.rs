//! The clock in RAM of this process, shared by all its clones. Every namespace is one shard of one clock.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::intent::Intent;
use crate::stamp::{Judge, Strength, Verdict};

/// A clock in memory.
#[derive(Debug)]
pub struct MemoryClock {
    state: Mutex<State>,
    stamps_max: usize,
    /// The wall clock when the clock was made, in microseconds, and that moment: from then on monotonic time counts.
    origin: (u64, Instant),
}

#[derive(Debug, Default)]
struct State {
    clock: u64,
    /// The newest stamp that was dropped.
    floor: u64,
    stamps: HashMap<Arc<str>, Stamp>,
    by_age: BTreeSet<(u64, Arc<str>)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stamp {
    at: u64,
    /// The number of open intents, while `at` lies ahead.
    open: u32,
}

impl MemoryClock {
    /// Makes a clock that keeps `stamps_max` stamps, of all namespaces together.
    #[must_use]
    pub fn new(stamps_max: usize) -> Arc<Self> {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let origin = (wall.as_micros() as u64, Instant::now());
        Arc::new(Self { state: Mutex::default(), stamps_max, origin })
    }

    /// Returns the next tick: later than every one before.
    pub fn tick(&self) -> u64 {
        self.lock().tick(self.now())
    }

    /// Judges an entry of a namespace by its tags.
    pub fn judge<'a>(
        &self,
        namespace: &str,
        built_at: u64,
        tags: impl IntoIterator<Item = &'a str>,
    ) -> Verdict {
        let state = self.lock();
        let floor = state.floor.max(state.at(&cleared(namespace)));
        let mut judge = Judge::new(built_at, floor);
        for (index, tag) in tags.into_iter().enumerate() {
            let stamp = |strength| state.at(&member(namespace, tag, strength));
            judge.tag(index, stamp(Strength::Hard), stamp(Strength::Soft));
        }
        judge.verdict()
    }

    /// Returns the time of the clock without a tick, in microseconds.
    pub fn now(&self) -> u64 {
        self.origin.0 + self.origin.1.elapsed().as_micros() as u64
    }

    pub(crate) fn stamp(&self, namespace: &str, tags: &[String], strength: Strength) {
        let now = self.now();
        let mut state = self.lock();
        let at = state.tick(now);
        for tag in tags {
            state.raise(&member(namespace, tag, strength), at);
        }
        state.trim(self.stamps_max);
    }

    pub(crate) fn clear(&self, namespace: &str) {
        let now = self.now();
        let mut state = self.lock();
        let at = state.tick(now);
        state.raise(&cleared(namespace), at);
        state.trim(self.stamps_max);
    }

    pub(crate) fn begin(&self, namespace: &str, route: &str, tags: &[String], length: Duration) -> Intent {
        let mut intent = Intent {
            namespace: namespace.to_owned(),
            route: route.to_owned(),
            tags: tags.to_vec(),
            length,
            epoch: 0,
            until: 0,
            since: Instant::now(),
        };
        self.extend(&mut intent);
        intent
    }

    pub(crate) fn extend(&self, intent: &mut Intent) {
        intent.since = Instant::now();
        let now = self.now();
        let mut state = self.lock();
        let now = state.tick(now);
        let ends = now + intent.length.as_micros() as u64;
        let counted = intent.until >= now;
        for tag in &intent.tags {
            let name = member(&intent.namespace, tag, Strength::Hard);
            let standing = state.stamps.get(name.as_str()).copied().unwrap_or_default();
            let open = if standing.at > now { standing.open } else { 0 };
            state.raise(&name, ends);
            state.set_open(&name, if counted { open } else { open + 1 });
        }
        state.trim(self.stamps_max);
        intent.until = ends;
    }

    pub(crate) fn end(&self, intent: &Intent) {
        let now = self.now();
        let mut state = self.lock();
        let now = state.tick(now);
        let counted = intent.until >= now;
        for tag in &intent.tags {
            let name = member(&intent.namespace, tag, Strength::Hard);
            let open = state.stamps.get(name.as_str()).map_or(0, |stamp| stamp.open);
            match (counted, open) {
                (true, 1) => {
                    state.set(&name, now);
                    state.set_open(&name, 0);
                }
                (true, 2..) => state.set_open(&name, open - 1),
                _ => state.raise(&name, now),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self, now: u64) -> u64 {
        self.clock = now.max(self.clock + 1);
        self.clock
    }

    fn at(&self, name: &str) -> u64 {
        self.stamps.get(name).map_or(0, |stamp| stamp.at)
    }

    /// Stamps; a stamp never goes back.
    fn raise(&mut self, name: &str, at: u64) {
        if at > self.at(name) {
            self.set(name, at);
        }
    }

    fn set(&mut self, name: &str, at: u64) {
        let (name, open) = match self.stamps.get_key_value(name) {
            Some((known, stamp)) => {
                let known = known.clone();
                self.by_age.remove(&(stamp.at, known.clone()));
                (known, stamp.open)
            }
            None => (Arc::from(name), 0),
        };
        self.by_age.insert((at, name.clone()));
        self.stamps.insert(name, Stamp { at, open });
    }

    fn set_open(&mut self, name: &str, open: u32) {
        if let Some(stamp) = self.stamps.get_mut(name) {
            stamp.open = open;
        }
    }

    fn trim(&mut self, most: usize) {
        while self.stamps.len() > most {
            let Some((at, name)) = self.by_age.pop_first() else { return };
            self.stamps.remove(&name);
            self.floor = self.floor.max(at);
        }
    }
}

fn member(namespace: &str, tag: &str, strength: Strength) -> String {
    format!("{namespace}\0{}{tag}", strength.mark())
}

/// Returns the name of the stamp that covers a whole namespace.
fn cleared(namespace: &str) -> String {
    format!("{namespace}\0")
}
