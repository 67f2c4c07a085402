//! Coalesces concurrent identical reads into one.
//!
//! A caller may only be given a read that was sent after the caller came: an earlier read could miss a write that the caller
//! knows to be done. So at most one read runs for each key. Callers that come before it is sent share it; callers that come
//! later wait together for the *next* read, which is sent when the running one has ended.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tracing::{Instrument as _, Span};

/// Turns of the scheduler that the next read of a key waits for after a read that callers shared. Where there is other work, its
/// calls come first, and those that want the same row share the read; where there is none, a turn takes microseconds.
const GATHERING_TURNS: usize = 16;

/// The reads of one clone. Holds one entry for each key with a read in flight.
#[derive(Debug)]
pub(crate) struct Coalescer<K, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

/// The callers that wait for the next read of a key. One that is running has its own.
#[derive(Debug)]
struct Flight<V> {
    next: Vec<Waiter<V>>,
}

/// A caller that waits: where its answer goes, and the span that the read belongs to if the caller is the first.
#[derive(Debug)]
struct Waiter<V> {
    answer: oneshot::Sender<V>,
    span: Span,
}

/// The task of a caller that joined.
#[derive(Debug)]
pub(crate) enum Ticket<K: Eq + Hash, V> {
    /// The caller runs the read, in a task that ends whatever happens to the caller: [`Leader::run`].
    Lead(Leader<K, V>, oneshot::Receiver<V>),
    /// The caller waits, because another caller's task runs the read. An error means that the read was lost.
    Follow(oneshot::Receiver<V>),
}

/// The right to run the reads of a key until no caller waits for one.
#[derive(Debug)]
pub(crate) struct Leader<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
    /// The callers of the read that was sent.
    waiters: Vec<Waiter<V>>,
    ended: bool,
}

impl<K: Eq + Hash + Clone, V: Clone> Coalescer<K, V> {
    /// Makes a coalescer without reads in flight.
    pub(crate) fn new() -> Self {
        Self { flights: Arc::default() }
    }

    /// Joins the reads of a key.
    pub(crate) fn join(&self, key: K) -> Ticket<K, V> {
        let (answer, receiver) = oneshot::channel();
        let waiter = Waiter { answer, span: Span::current() };
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get_mut(&key) {
            flight.next.push(waiter);
            return Ticket::Follow(receiver);
        }
        flights.insert(key.clone(), Flight { next: vec![waiter] });
        let leader = Leader { flights: self.flights.clone(), key, waiters: Vec::new(), ended: false };
        Ticket::Lead(leader, receiver)
    }
}

impl<K: Eq + Hash, V: Clone> Leader<K, V> {
    /// Runs `read` for the callers that came before it is sent, then again for those that came while it ran, until none did.
    pub(crate) async fn run<F: Future<Output = V>>(mut self, read: impl Fn() -> F) {
        // Callers that are ready to run come before the read is sent, and share it.
        yield_now().await;
        loop {
            let span = self.send();
            let shared = self.waiters.len() > 1;
            let value = read().instrument(span).await;
            match self.answer(value) {
                Some(leader) => self = leader,
                None => return,
            }
            for _ in 0..if shared { GATHERING_TURNS } else { 1 } {
                yield_now().await;
            }
        }
    }

    /// Takes the callers of the read that is sent now: those that come later wait for the next one. Returns the span of the
    /// first.
    pub(crate) fn send(&mut self) -> Span {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let next = flights.get_mut(&self.key).map(|flight| std::mem::take(&mut flight.next));
        self.waiters = next.unwrap_or_default();
        self.waiters.first().map_or_else(Span::none, |waiter| waiter.span.clone())
    }

    /// Gives the callers of the read that was sent its value. Returns the leader again if callers wait for another read.
    pub(crate) fn answer(mut self, value: V) -> Option<Self> {
        // The caller may have left.
        if let Some(last) = self.waiters.pop() {
            for waiter in self.waiters.drain(..) {
                let _ = waiter.answer.send(value.clone());
            }
            let _ = last.answer.send(value);
        }
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = flights
            .get(&self.key)
            .is_some_and(|flight| flight.next.iter().any(|waiter| !waiter.answer.is_closed()));
        if !waited {
            // Removed under the same lock as the look, so that the next caller leads.
            flights.remove(&self.key);
            self.ended = true;
        }
        drop(flights);
        waited.then_some(self)
    }
}

/// Tells the waiters that the task was lost, and frees the key.
impl<K: Eq + Hash, V> Drop for Leader<K, V> {
    fn drop(&mut self) {
        if !self.ended {
            self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Reads that wait for a permit each. Their value is the number of reads sent so far.
    #[derive(Default)]
    struct Reads {
        sent: AtomicUsize,
        gate: Option<Semaphore>,
    }

    fn read(coalescer: &Coalescer<u8, usize>, reads: &Arc<Reads>) -> oneshot::Receiver<usize> {
        match coalescer.join(1) {
            Ticket::Follow(receiver) => receiver,
            Ticket::Lead(leader, receiver) => {
                let reads = reads.clone();
                tokio::spawn(leader.run(move || {
                    let reads = reads.clone();
                    async move {
                        let sent = reads.sent.fetch_add(1, Ordering::SeqCst) + 1;
                        reads.gate.as_ref().unwrap().acquire().await.unwrap().forget();
                        sent
                    }
                }));
                receiver
            }
        }
    }

    #[tokio::test]
    async fn callers_share_the_next_read() {
        let (coalescer, reads) =
            (Coalescer::new(), Arc::new(Reads { gate: Some(Semaphore::new(0)), ..Reads::default() }));
        let first = read(&coalescer, &reads);
        while reads.sent.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..10).map(|_| read(&coalescer, &reads)).collect();
        reads.gate.as_ref().unwrap().add_permits(2);
        assert_eq!(first.await, Ok(1));
        for receiver in later {
            assert_eq!(receiver.await, Ok(2), "not the one that was sent before it came");
        }
        assert_eq!(reads.sent.load(Ordering::SeqCst), 2);
        while !coalescer.flights.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn callers_before_the_send_share_it() {
        let (coalescer, reads) =
            (Coalescer::new(), Arc::new(Reads { gate: Some(Semaphore::new(1)), ..Reads::default() }));
        let receivers: Vec<_> = (0..1000).map(|_| read(&coalescer, &reads)).collect();
        for receiver in receivers {
            assert_eq!(receiver.await, Ok(1));
        }
        assert_eq!(reads.sent.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn ready_callers_share_the_next_read() {
        let (coalescer, reads) =
            (Coalescer::new(), Arc::new(Reads { gate: Some(Semaphore::new(0)), ..Reads::default() }));
        let (first, second) = (read(&coalescer, &reads), read(&coalescer, &reads));
        while reads.sent.load(Ordering::SeqCst) == 0 {
            yield_now().await;
        }
        let waiting = read(&coalescer, &reads);
        reads.gate.as_ref().unwrap().add_permits(3);
        assert_eq!((first.await, second.await), (Ok(1), Ok(1)));
        // Has other work before its next call, and makes it while the next read could be sent.
        yield_now().await;
        yield_now().await;
        let again = read(&coalescer, &reads);
        assert_eq!((waiting.await, again.await), (Ok(2), Ok(2)));
    }

    #[tokio::test]
    async fn a_lost_task_frees_its_key() {
        let coalescer = Coalescer::<u8, usize>::new();
        let Ticket::Lead(leader, first) = coalescer.join(1) else { panic!("first") };
        let Ticket::Follow(second) = coalescer.join(1) else { panic!("second") };
        drop(leader);
        assert!(first.await.is_err());
        assert!(second.await.is_err());
        assert!(matches!(coalescer.join(1), Ticket::Lead(..)));
    }
}
