//! The times when something of each queue is due: kept where the store is, for all clones, so that none asks queue by queue.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::job::id::QueueName;

/// Time that a clone has to look at a due queue it took; after it another clone takes the queue.
pub(super) const CLAIM: Duration = Duration::from_secs(10);

/// The earliest due time of each queue.
#[derive(Debug, Default)]
pub(super) struct DueTimes(HashMap<QueueName, Instant>);

impl DueTimes {
    /// Notes that something of the queue is due at this moment, or before.
    pub(super) fn note(&mut self, queue: &QueueName, at: Instant) {
        match self.0.get_mut(queue) {
            Some(first) => *first = at.min(*first),
            None => {
                self.0.insert(queue.clone(), at);
            }
        }
    }

    /// Takes at most `max` queues whose time has passed.
    pub(super) fn take_due(&mut self, now: Instant, max: usize) -> Vec<QueueName> {
        let due = self.0.iter().filter(|(_, at)| **at <= now).map(|(queue, _)| queue.clone());
        let due: Vec<_> = due.take(max).collect();
        due.iter().for_each(|queue| self.remove(queue));
        due
    }

    /// Returns whether no queue has a due time.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all queues with their due times.
    pub(super) fn take(&mut self) -> HashMap<QueueName, Instant> {
        std::mem::take(&mut self.0)
    }

    /// Forgets the due time of a queue.
    pub(super) fn remove(&mut self, queue: &QueueName) {
        self.0.remove(queue);
    }
}

/// The due queues of a store in this process.
#[derive(Debug, Default)]
pub(super) struct DueQueues {
    due: DueTimes,
    /// The queues that were taken, and when another clone may take them.
    claimed: DueTimes,
}

impl DueQueues {
    /// Notes that something of the queue is due within this time.
    pub(super) fn note(&mut self, queue: &QueueName, within: Duration) {
        self.due.note(queue, Instant::now() + within);
    }

    /// Hands a queue back after a look at it; `next` is the time until something of it is next due.
    pub(super) fn settle(&mut self, queue: &QueueName, next: Option<Duration>) {
        self.claimed.remove(queue);
        if let Some(within) = next {
            self.note(queue, within);
        }
    }

    /// Takes at most `max` queues that have something due.
    pub(super) fn take_due(&mut self, max: usize) -> Vec<QueueName> {
        let now = Instant::now();
        for queue in self.claimed.take_due(now, max) {
            self.due.note(&queue, now);
        }
        let due = self.due.take_due(now, max);
        due.iter().for_each(|queue| self.claimed.note(queue, now + CLAIM));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_queue_is_taken_once() {
        let queue = QueueName::parse("q").unwrap();
        let mut queues = DueQueues::default();
        queues.note(&queue, Duration::from_secs(60));
        assert!(queues.take_due(9).is_empty());
        queues.note(&queue, Duration::ZERO);
        queues.note(&queue, Duration::from_secs(60));
        assert_eq!(queues.take_due(9), std::slice::from_ref(&queue));
        assert!(queues.take_due(9).is_empty(), "it is being looked at");
        // What happens meanwhile is not lost by what was found before.
        queues.note(&queue, Duration::ZERO);
        queues.settle(&queue, None);
        assert_eq!(queues.take_due(9), std::slice::from_ref(&queue));
        queues.settle(&queue, None);
        assert!(queues.take_due(9).is_empty());
    }
}
