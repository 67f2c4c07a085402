//! Coalescing: who may wait for which load.
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

/// A moment in this clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// A flight that has asked for nothing yet: it will, after any caller that sees it so.
const NOT_YET: u64 = u64::MAX;

/// One load.
pub(crate) struct Flight<A> {
    /// Of the lease it asks for.
    pub(crate) token: Token,
    /// When it asked last.
    asked: AtomicU64,
    /// Another's lease that it waits for.
    following: Mutex<Option<Token>>,
    answer: watch::Sender<Option<A>>,
    /// Held by those that load without a lease, so that they take turns.
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

/// A place in a flight.
pub(crate) enum Seat<A> {
    /// In one that somebody else began.
    Joined(watch::Receiver<Option<A>>),
    /// In a new one, which the caller must see to.
    New(Arc<Flight<A>>, watch::Receiver<Option<A>>),
    /// There are too many flights.
    Full,
}

impl<A: Clone> Flights<A> {
    pub(crate) fn new(flights_max: usize) -> Self {
        let table = Mutex::new(Table { by_key: HashMap::new(), flights: 0 });
        Self { table, clock: AtomicU64::new(1), flights_max }
    }

    /// Now. To be taken before the caller looks at the store.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.clock.fetch_add(1, Ordering::SeqCst))
    }

    /// Finds a flight for a caller who began at `since` and then saw the lease `seen`, or begins one.
    pub(crate) fn seat(&self, key: &Key, since: Moment, seen: Option<Token>) -> Seat<A> {
        let mut table = self.lock();
        if let Some(entry) = table.by_key.get(key)
            && let Some(flight) = entry.flights.iter().find(|flight| flight.takes(since, seen))
        {
            return Seat::Joined(flight.answer.subscribe());
        }
        if table.flights >= self.flights_max {
            return Seat::Full;
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
        Seat::New(flight, waiter)
    }

    /// To be called right before a flight asks for its lease, or loads without one.
    pub(crate) fn asks(&self, flight: &Flight<A>) {
        flight.asked.store(self.now().0, Ordering::SeqCst);
    }

    /// The answer of the flight that has this lease.
    pub(crate) fn holder(&self, key: &Key, token: Token) -> Option<watch::Receiver<Option<A>>> {
        let table = self.lock();
        let flight = table.by_key.get(key)?.flights.iter().find(|flight| flight.token == token)?;
        Some(flight.answer.subscribe())
    }

    /// Answers everyone who waits, and takes nobody in any more.
    pub(crate) fn land(&self, key: &Key, flight: &Flight<A>, answer: A) {
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

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().flights
    }

    fn lock(&self) -> MutexGuard<'_, Table<A>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A> Flight<A> {
    fn takes(&self, since: Moment, seen: Option<Token>) -> bool {
        if self.asked.load(Ordering::SeqCst) > since.0 {
            return true;
        }
        let Some(seen) = seen else { return false };
        seen == self.token || *self.following() == Some(seen)
    }

    /// The flight waits for another clone's lease. Who saw that lease may wait with it.
    pub(crate) fn follow(&self, token: Token) {
        *self.following() = Some(token);
    }

    /// Waits until no other flight of the object loads without a lease. Whoever comes meanwhile may join.
    pub(crate) async fn take_turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.asked.store(NOT_YET, Ordering::SeqCst);
        self.turn.clone().lock_owned().await
    }

    fn following(&self) -> MutexGuard<'_, Option<Token>> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a flight's answer; none when its task was stopped.
pub(crate) async fn landed<A: Clone>(mut waiter: watch::Receiver<Option<A>>) -> Option<A> {
    waiter.wait_for(Option::is_some).await.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Namespace;

    fn key() -> Key {
        Key::parse(Namespace::parse("n").expect("valid"), "k").expect("valid")
    }

    fn begun(flights: &Flights<u8>) -> Arc<Flight<u8>> {
        match flights.seat(&key(), flights.now(), None) {
            Seat::New(flight, _) => flight,
            _ => panic!("must begin a flight"),
        }
    }

    fn joins(flights: &Flights<u8>, since: Moment, seen: Option<Token>) -> bool {
        matches!(flights.seat(&key(), since, seen), Seat::Joined(_))
    }

    #[test]
    fn a_flight_that_has_asked_takes_only_those_who_began_before_or_saw_its_lease() {
        let flights = Flights::new(10);
        let flight = begun(&flights);
        assert!(joins(&flights, flights.now(), None), "it has not asked yet");
        let before = flights.now();
        flights.asks(&flight);
        assert!(joins(&flights, before, None));
        assert!(joins(&flights, flights.now(), Some(flight.token)));
        assert!(!joins(&flights, flights.now(), None), "a delete may lie between");
    }

    #[test]
    fn a_flight_that_follows_a_foreign_lease_takes_who_saw_that_lease() {
        let flights = Flights::new(10);
        let flight = begun(&flights);
        flights.asks(&flight);
        let foreign = Token::random();
        flight.follow(foreign);
        assert!(joins(&flights, flights.now(), Some(foreign)));
        assert!(!joins(&flights, flights.now(), Some(Token::random())));
    }

    #[test]
    fn a_landed_flight_takes_nobody_and_leaves_nothing() {
        let flights = Flights::new(1);
        let flight = begun(&flights);
        let other = Key::parse(Namespace::parse("n").expect("valid"), "other").expect("valid");
        assert!(matches!(flights.seat(&other, flights.now(), None), Seat::Full));
        flights.land(&key(), &flight, 1);
        assert!(!joins(&flights, Moment(0), Some(flight.token)));
        assert_eq!(flights.len(), 1);
    }
}
