//! Maintains the queues: makes due jobs ready and gives back what was lost. Every clone does; the store says which queues
//! have something due, so that queues at rest cost nothing, however many there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use shoal_kit::EngineError;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::error::Error;
use crate::hub::{DueTimes, Hub};
use crate::job::id::QueueName;
use crate::store::{Promoted, Store};
use crate::trace;

/// Most queues maintained at the same time.
const AT_ONCE: usize = 16;
/// Most due queues taken at once.
const DUE_MAX: usize = 64;
/// The ticks between two readings of the list of queues.
const LIST_TICKS: u64 = 10;
/// The ticks between two looks at the queues that workers wait for here, and, by the clone that leads, at one queue in turn.
/// These looks find what a clone did that died before it announced it.
const LOOK_TICKS: u64 = 5;

/// Maintains the queues until dropped. A queue is looked at when something of it is due; the store is asked for such queues
/// once an `interval`.
pub(crate) async fn run(store: Arc<dyn Store>, hub: Arc<Hub>, mut due: DueTimes, interval: Duration) {
    let next = HashMap::new();
    let mut maintainer = Maintainer {
        store,
        hub,
        interval,
        next,
        looks: HashSet::new(),
        known: HashSet::new(),
        turn: Vec::new(),
        ticks: 0,
        failing: false,
    };
    let mut tick = Instant::now();
    loop {
        if tick <= Instant::now() {
            let more = maintainer.tick().await;
            // Clones that started together do not ask together for long.
            let pause = interval.mul_f64(0.9 + 0.1 * fastrand::f64());
            tick = Instant::now() + if more { Duration::ZERO } else { pause };
        }
        maintainer.promote_due(Instant::now()).await;
        let next = maintainer.next.values().min().copied().map_or(tick, |next| next.min(tick));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            Some((queue, within)) = due.recv() => {
                maintainer.due(queue, within);
                while let Ok((queue, within)) = due.try_recv() {
                    maintainer.due(queue, within);
                }
            }
        }
    }
}

/// The queues that this clone maintains, and when.
struct Maintainer {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    interval: Duration,
    /// The queues to look at within an interval, and when.
    next: HashMap<QueueName, Instant>,
    /// The queues of `next` that are looked at although nothing is known to be due there.
    looks: HashSet<QueueName>,
    /// All queues as they were listed last.
    known: HashSet<QueueName>,
    /// The queues of `known` whose look in turn is still to come.
    turn: Vec<QueueName>,
    ticks: u64,
    failing: bool,
}

impl Maintainer {
    /// Finds out which queues to look at. Returns whether the store has more of them.
    async fn tick(&mut self) -> bool {
        let now = Instant::now();
        if self.ticks.is_multiple_of(LIST_TICKS) {
            self.list(now).await;
        }
        if self.ticks.is_multiple_of(LOOK_TICKS) {
            let turn = if self.store.leads() { self.turn.pop() } else { None };
            for queue in self.hub.waited_for().into_iter().chain(turn) {
                self.look(queue, now);
            }
        }
        self.ticks += 1;
        let due = self.store.take_due(DUE_MAX).await;
        self.report(due.as_ref().err());
        let due = due.unwrap_or_default();
        let more = due.len() >= DUE_MAX;
        for queue in &due {
            self.looks.remove(queue);
        }
        self.next.extend(due.into_iter().map(|queue| (queue, now)));
        more
    }

    /// Plans a look at a queue, whatever is known of it.
    fn look(&mut self, queue: QueueName, now: Instant) {
        if !self.next.contains_key(&queue) {
            self.looks.insert(queue.clone());
            self.next.insert(queue, now);
        }
    }

    /// Lists all queues and plans a look at each that is new here. If that fails, the known queues stay.
    async fn list(&mut self, now: Instant) {
        let listed = self.store.queues().await;
        self.report(listed.as_ref().err());
        let Ok(listed) = listed else { return };
        let listed: HashSet<_> = listed.into_iter().collect();
        let new: Vec<_> = listed.difference(&self.known).cloned().collect();
        new.into_iter().for_each(|queue| self.look(queue, now));
        if self.turn.is_empty() {
            self.turn = listed.iter().cloned().collect();
        }
        self.known = listed;
    }

    /// Makes ready what is due in the queues whose time has come, and gives back what was lost there.
    async fn promote_due(&mut self, now: Instant) {
        let queues: Vec<_> =
            self.next.iter().filter(|(_, at)| **at <= now).map(|(queue, _)| queue.clone()).collect();
        let (store, looks) = (&self.store, &self.looks);
        let mut promoted = futures::stream::iter(queues)
            .map(|queue| async move {
                let span = if looks.contains(&queue) { Span::none() } else { trace::tend(&queue) };
                let promoted = store.promote_due(&queue).instrument(span).await;
                (queue, promoted)
            })
            .buffer_unordered(AT_ONCE);
        let mut outcomes = Vec::new();
        while let Some(outcome) = promoted.next().await {
            outcomes.push(outcome);
        }
        drop(promoted);
        for (queue, outcome) in outcomes {
            self.report(outcome.as_ref().err());
            self.next.remove(&queue);
            self.looks.remove(&queue);
            match outcome {
                Ok(Promoted { ready, next, lost }) => {
                    if lost > 0 {
                        metrics::counter!("shoal_jobs_leases_lost_total").increment(lost);
                    }
                    if ready {
                        self.hub.ready(&queue);
                    }
                    self.store.settle(&queue, next);
                    if let Some(within) = next.filter(|within| *within < self.interval) {
                        self.next.insert(queue, Instant::now() + within);
                    }
                }
                Err(_) => {
                    self.next.insert(queue, Instant::now() + self.interval);
                }
            }
        }
    }

    /// Takes note that something of a queue is due within this time, sooner than was known.
    fn due(&mut self, queue: QueueName, within: Duration) {
        if within >= self.interval {
            self.store.note(&queue, within);
            return;
        }
        let at = Instant::now() + within;
        self.looks.remove(&queue);
        let next = self.next.entry(queue).or_insert(at);
        *next = (*next).min(at);
    }

    /// Logs that the engine is down once, not once a second.
    fn report(&mut self, error: Option<&Error>) {
        match error {
            // The connection logs it, once for the process.
            Some(Error::Engine(
                error @ (EngineError::Unavailable { engine: "redis", .. }
                | EngineError::Full { engine: "redis", .. }
                | EngineError::ReadOnly { engine: "redis", .. }),
            )) if !self.failing => {
                tracing::debug!(%error, "cannot maintain the queues");
            }
            Some(error) if !self.failing => tracing::warn!(%error, "cannot maintain the queues"),
            Some(_) => {}
            None if self.failing => tracing::info!("maintaining the queues again"),
            None => {}
        }
        self.failing = error.is_some();
    }
}
