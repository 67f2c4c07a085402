//! Coalescing of loads, and the rule of who may join which load.
//!
//! A *flight* is one load of one object in this clone, from before it asks for the lease until it has an answer. A caller
//! may join one only if the load cannot have begun before a write that had returned when the caller began. Two things
//! prove that:
//!
//! * the caller saw the flight's lease (or the one it waits for) in the store: a write would have ended it;
//! * the flight asked for its lease, or without a store began to load, after the caller had begun. Both moments are taken
//!   from one counter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::key::Key;
use crate::store::Token;

/// A number that orders the events of this clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence(u64);

impl Sequence {
    /// The number before which nobody begins.
    pub(crate) const FIRST: Sequence = Sequence(0);
}

/// The number of a flight that has asked for nothing yet: it will ask after any caller that sees it so.
const NOT_YET: u64 = u64::MAX;

/// A flight: one load.
pub(crate) struct Flight<A> {
    /// The token of the lease it asks for.
    pub(crate) token: Token,
    /// The number at which it asked last.
    asked: AtomicU64,
    /// The lease of another clone that it waits for.
    following: Mutex<Option<Token>>,
    answer: watch::Sender<Option<A>>,
    /// A lock held by those that load without a lease, so that they take turns.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The flights of a clone.
pub(crate) struct Flights<A> {
    table: Mutex<Table<A>>,
    clock: AtomicU64,
    flights_max: usize,
}

struct Table<A> {
    by_key: HashMap<Key, Entry<A>>,
    flights: usize,
}

struct Entry<A> {
    flights: Vec<Arc<Flight<A>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The outcome of joining a flight.
pub(crate) enum Join<A> {
    /// A flight that another caller began.
    Joined(watch::Receiver<Option<A>>),
    /// A new flight, which the caller must run.
    New(Arc<Flight<A>>, watch::Receiver<Option<A>>),
    /// The limit of flights is reached.
    Full,
}

impl<A: Clone> Flights<A> {
    pub(crate) fn new(flights_max: usize) -> Self {
        let table = Mutex::new(Table { by_key: HashMap::new(), flights: 0 });
        Self { table, clock: AtomicU64::new(1), flights_max }
    }

    /// Returns the next number. A caller takes it before it looks at the store.
    pub(crate) fn next_sequence(&self) -> Sequence {
        Sequence(self.clock.fetch_add(1, Ordering::SeqCst))
    }

    /// Joins a flight for a caller who began at `since` and then saw the lease `seen`, or begins one.
    pub(crate) fn join(&self, key: &Key, since: Sequence, seen: Option<Token>) -> Join<A> {
        let mut table = self.lock();
        if let Some(entry) = table.by_key.get(key)
            && let Some(flight) = entry.flights.iter().find(|flight| flight.takes(since, seen))
        {
            return Join::Joined(flight.answer.subscribe());
        }
        if table.flights >= self.flights_max {
            return Join::Full;
        }
        table.flights += 1;
        let fresh = || Entry { flights: Vec::new(), turn: Arc::default() };
        let entry = table.by_key.entry(key.clone()).or_insert_with(fresh);
        let (answer, waiter) = watch::channel(None);
        let flight = Arc::new(Flight {
            token: Token::random(),
            asked: AtomicU64::new(NOT_YET),
            following: Mutex::new(None),
            answer,
            turn: entry.turn.clone(),
        });
        entry.flights.push(flight.clone());
        Join::New(flight, waiter)
    }

    /// Records that a flight asks. Call it right before it asks for its lease, or loads without one.
    pub(crate) fn mark_asked(&self, flight: &Flight<A>) {
        flight.asked.store(self.next_sequence().0, Ordering::SeqCst);
    }

    /// Returns the answer of the flight that has this lease.
    pub(crate) fn holder(&self, key: &Key, token: Token) -> Option<watch::Receiver<Option<A>>> {
        let table = self.lock();
        let flight = table.by_key.get(key)?.flights.iter().find(|flight| flight.token == token)?;
        Some(flight.answer.subscribe())
    }

    /// Answers everyone who waits, and lets nobody join any more.
    pub(crate) fn complete(&self, key: &Key, flight: &Flight<A>, answer: A) {
        let mut table = self.lock();
        if let Some(entry) = table.by_key.get_mut(key) {
            let before = entry.flights.len();
            entry.flights.retain(|other| other.token != flight.token);
            let left = entry.flights.len();
            if left == 0 {
                table.by_key.remove(key);
            }
            table.flights -= before - left;
        }
        drop(table);
        flight.answer.send_replace(Some(answer));
    }

    /// Returns whether anybody waits for a flight.
    pub(crate) fn is_wanted(flight: &Flight<A>) -> bool {
        flight.answer.receiver_count() > 0
    }

    /// Returns the number of flights.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().flights
    }

    fn lock(&self) -> MutexGuard<'_, Table<A>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Flight<A> {
    /// Returns the number at which it asked last.
    pub(crate) fn asked(&self) -> Sequence {
        Sequence(self.asked.load(Ordering::SeqCst))
    }

    fn takes(&self, since: Sequence, seen: Option<Token>) -> bool {
        if self.asked.load(Ordering::SeqCst) > since.0 {
            return true;
        }
        let Some(seen) = seen else { return false };
        seen == self.token || *self.following() == Some(seen)
    }

    /// Records that the flight waits for another clone's lease. Whoever saw that lease may wait with it.
    pub(crate) fn follow(&self, token: Token) {
        *self.following() = Some(token);
    }

    /// Waits until no other flight of the object loads without a lease. Others may join meanwhile.
    pub(crate) async fn take_turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.asked.store(NOT_YET, Ordering::SeqCst);
        self.turn.clone().lock_owned().await
    }

    fn following(&self) -> MutexGuard<'_, Option<Token>> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a flight's answer; returns `None` when its task was stopped.
pub(crate) async fn answer_of<A: Clone>(mut waiter: watch::Receiver<Option<A>>) -> Option<A> {
    waiter.wait_for(Option::is_some).await.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NamespaceName;

    fn key() -> Key {
        Key::parse(NamespaceName::parse("n").expect("valid"), "k").expect("valid")
    }

    fn begun(flights: &Flights<u8>) -> Arc<Flight<u8>> {
        match flights.join(&key(), flights.next_sequence(), None) {
            Join::New(flight, _) => flight,
            _ => panic!("must begin a flight"),
        }
    }

    fn joins(flights: &Flights<u8>, since: Sequence, seen: Option<Token>) -> bool {
        matches!(flights.join(&key(), since, seen), Join::Joined(_))
    }

    #[test]
    fn asked_flight_admits_earlier_callers_only() {
        let flights = Flights::new(10);
        let flight = begun(&flights);
        assert!(joins(&flights, flights.next_sequence(), None), "it has not asked yet");
        let before = flights.next_sequence();
        flights.mark_asked(&flight);
        assert!(joins(&flights, before, None));
        assert!(joins(&flights, flights.next_sequence(), Some(flight.token)));
        assert!(!joins(&flights, flights.next_sequence(), None), "a delete may lie between");
    }

    #[test]
    fn following_flight_admits_lease_witnesses() {
        let flights = Flights::new(10);
        let flight = begun(&flights);
        flights.mark_asked(&flight);
        let foreign = Token::random();
        flight.follow(foreign);
        assert!(joins(&flights, flights.next_sequence(), Some(foreign)));
        assert!(!joins(&flights, flights.next_sequence(), Some(Token::random())));
    }

    #[test]
    fn answered_flight_admits_nobody() {
        let flights = Flights::new(1);
        let flight = begun(&flights);
        let other = Key::parse(NamespaceName::parse("n").expect("valid"), "other").expect("valid");
        assert!(matches!(flights.join(&other, flights.next_sequence(), None), Join::Full));
        flights.complete(&key(), &flight, 1);
        assert!(!joins(&flights, Sequence(0), Some(flight.token)));
        assert_eq!(flights.len(), 1);
    }
}
