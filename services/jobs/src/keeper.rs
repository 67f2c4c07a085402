//! Looks after the queues: what is due becomes ready, what was lost is given back. Every clone does it for every queue;
//! whoever comes first does the work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use crate::error::Error;
use crate::hub::{DueTimes, Hub};
use crate::id::QueueName;
use crate::store::{Store, Tended};

/// Queues looked after at the same time.
const AT_ONCE: usize = 16;

/// Runs until dropped. Each queue is looked at when something of it is due, and each `interval` anyway.
pub(crate) async fn run(store: Arc<dyn Store>, hub: Arc<Hub>, mut due: DueTimes, interval: Duration) {
    let mut keeper = Keeper { store, hub, interval, next: HashMap::new(), failing: false };
    let mut refresh = Instant::now();
    loop {
        let now = Instant::now();
        if refresh <= now {
            keeper.refresh().await;
            refresh = now + interval;
        }
        keeper.tend(now).await;
        let next = keeper.next.values().min().copied().map_or(refresh, |next| next.min(refresh));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            Some((queue, within)) = due.recv() => {
                keeper.due(queue, within);
                while let Ok((queue, within)) = due.try_recv() {
                    keeper.due(queue, within);
                }
            }
        }
    }
}

struct Keeper {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    interval: Duration,
    /// When each queue is looked at next.
    next: HashMap<QueueName, Instant>,
    failing: bool,
}

impl Keeper {
    /// Learns which queues there are. If that fails it goes on with those it knows.
    async fn refresh(&mut self) {
        let listed = self.store.queues().await;
        self.report(listed.as_ref().err());
        let Ok(mut queues) = listed else { return };
        queues.extend(self.hub.waited_for());
        let soon = Instant::now();
        let mut next = HashMap::with_capacity(queues.len());
        for queue in queues {
            let at = self.next.get(&queue).copied().unwrap_or(soon);
            next.insert(queue, at);
        }
        self.next = next;
    }

    /// Looks at the queues whose time has come.
    async fn tend(&mut self, now: Instant) {
        let queues: Vec<_> =
            self.next.iter().filter(|(_, at)| **at <= now).map(|(queue, _)| queue.clone()).collect();
        let store = &self.store;
        let mut tended = futures::stream::iter(queues)
            .map(|queue| async move {
                let tended = store.tend(&queue).await;
                (queue, tended)
            })
            .buffer_unordered(AT_ONCE);
        let mut outcomes = Vec::new();
        while let Some(outcome) = tended.next().await {
            outcomes.push(outcome);
        }
        drop(tended);
        for (queue, outcome) in outcomes {
            self.report(outcome.as_ref().err());
            let wait = match outcome {
                Ok(Tended { ready, next }) => {
                    if ready {
                        self.hub.ready(&queue);
                    }
                    next.unwrap_or(self.interval).min(self.interval)
                }
                Err(_) => self.interval,
            };
            self.next.insert(queue, Instant::now() + wait);
        }
    }

    fn due(&mut self, queue: QueueName, within: Duration) {
        let at = Instant::now() + within.min(self.interval);
        let next = self.next.entry(queue).or_insert(at);
        *next = (*next).min(at);
    }

    /// An engine that is down is said once, not once a second.
    fn report(&mut self, error: Option<&Error>) {
        match error {
            Some(error) if !self.failing => tracing::warn!(%error, "cannot look after the queues"),
            Some(_) => {}
            None if self.failing => tracing::info!("looking after the queues again"),
            None => {}
        }
        self.failing = error.is_some();
    }
}
