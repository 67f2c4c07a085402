//! Callers of one clone that wait for the same value: one of them asks the store for all.
//!
//! A caller may take what another found only if that one looked after the caller had begun: what was true then was not older than the
//! call. Both moments are taken from one counter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{MutexGuard as TurnGuard, watch};

use crate::key::Key;

/// The gates of a clone, by key. There are no more than callers that wait.
pub(crate) struct Gates<T> {
    open: Mutex<HashMap<Key, Open<T>>>,
    sequence: AtomicU64,
}

struct Open<T> {
    gate: Arc<Gate<T>>,
    callers: usize,
}

struct Gate<T> {
    /// A lock held by the caller that asks the store.
    turn: tokio::sync::Mutex<()>,
    /// The last that was found, with the number at which the look for it began.
    found: watch::Sender<Option<(u64, T)>>,
}

/// A caller at the gate of a key, which it leaves when dropped.
pub(crate) struct Caller<'a, T> {
    gates: &'a Gates<T>,
    key: Key,
    gate: Arc<Gate<T>>,
    since: u64,
}

/// The end of a wait at a gate.
pub(crate) enum Turn<'a, T> {
    /// Another caller found this.
    Found(T),
    /// Turn of this caller to ask the store.
    Ask(TurnGuard<'a, ()>),
}

impl<T> Default for Gates<T> {
    fn default() -> Self {
        Self { open: Mutex::default(), sequence: AtomicU64::new(1) }
    }
}

impl<T: Clone> Gates<T> {
    /// Joins those who wait for a key.
    pub(crate) fn join(&self, key: &Key) -> Caller<'_, T> {
        let since = self.next();
        let fresh = || {
            let gate = Gate { turn: tokio::sync::Mutex::new(()), found: watch::Sender::new(None) };
            Open { gate: Arc::new(gate), callers: 0 }
        };
        let mut gates = self.lock();
        let open = gates.entry(key.clone()).or_insert_with(fresh);
        open.callers += 1;
        Caller { gates: self, key: key.clone(), gate: open.gate.clone(), since }
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::SeqCst)
    }
}

impl<T> Gates<T> {
    /// Returns the number of callers at the gate of a key.
    #[cfg(test)]
    pub(crate) fn callers(&self, key: &Key) -> usize {
        self.lock().get(key).map_or(0, |open| open.callers)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Open<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Caller<'_, T> {
    /// Waits until another caller has found something that is new enough, or it is this one's turn.
    pub(crate) async fn turn(&self) -> Turn<'_, T> {
        let mut news = self.gate.found.subscribe();
        let new_enough = |found: &Option<(u64, T)>| found.as_ref().is_some_and(|(at, _)| *at > self.since);
        let found = async {
            let found = news.wait_for(new_enough).await.ok()?;
            found.as_ref().map(|(_, found)| found.clone())
        };
        tokio::select! {
            biased;
            Some(found) = found => Turn::Found(found),
            turn = self.gate.turn.lock() => Turn::Ask(turn),
        }
    }

    /// Returns the number of a look that begins now.
    pub(crate) fn begin_look(&self) -> u64 {
        self.gates.next()
    }

    /// Gives all who wait what a look has found.
    pub(crate) fn share(&self, at: u64, found: T) {
        self.gate.found.send_replace(Some((at, found)));
    }
}

impl<T> Drop for Caller<'_, T> {
    fn drop(&mut self) {
        let mut gates = self.gates.lock();
        let Some(open) = gates.get_mut(&self.key) else { return };
        open.callers -= 1;
        if open.callers == 0 {
            gates.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NamespaceName;

    fn key() -> Key {
        Key::parse(NamespaceName::parse("n").expect("valid"), "k").expect("valid")
    }

    #[tokio::test]
    async fn callers_take_only_later_looks() {
        let gates = Gates::default();
        let early = gates.join(&key());
        let Turn::Ask(turn) = early.turn().await else { panic!("nobody has found anything") };
        let waits = gates.join(&key());
        let at = early.begin_look();
        let late = gates.join(&key());
        early.share(at, "found");
        assert!(matches!(waits.turn().await, Turn::Found("found")));
        assert!(futures::poll!(Box::pin(late.turn())).is_pending(), "the look began before it");
        drop(turn);
        assert!(matches!(late.turn().await, Turn::Ask(_)));
        drop((early, waits, late));
        assert!(gates.lock().is_empty());
    }
}
