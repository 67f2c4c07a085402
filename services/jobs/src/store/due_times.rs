//! The times when something of each queue is due: kept where the store is, for all clones, so that none asks queue by queue.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::job::id::QueueName;

/// How long a clone that took a due queue has to look at it; then another takes it.
pub(super) const CLAIM: Duration = Duration::from_secs(10);

/// DueTimes by queue, the earliest of each.
#[derive(Debug, Default)]
pub(super) struct DueTimes(HashMap<QueueName, Instant>);

impl DueTimes {
    /// Something of the queue is due at this moment, or before.
    pub(super) fn note(&mut self, queue: &QueueName, at: Instant) {
        match self.0.get_mut(queue) {
            Some(first) => *first = at.min(*first),
            None => {
                self.0.insert(queue.clone(), at);
            }
        }
    }

    /// Takes those that have passed, at most so many.
    pub(super) fn take_due(&mut self, now: Instant, max: usize) -> Vec<QueueName> {
        let due = self.0.iter().filter(|(_, at)| **at <= now).map(|(queue, _)| queue.clone());
        let due: Vec<_> = due.take(max).collect();
        due.iter().for_each(|queue| self.remove(queue));
        due
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> HashMap<QueueName, Instant> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn remove(&mut self, queue: &QueueName) {
        self.0.remove(queue);
    }
}

/// A queues in this process.
#[derive(Debug, Default)]
pub(super) struct DueQueues {
    due: DueTimes,
    /// Taken, and when another may take them.
    claimed: DueTimes,
}

impl DueQueues {
    /// Something of the queue is due in this time.
    pub(super) fn note(&mut self, queue: &QueueName, within: Duration) {
        self.due.note(queue, Instant::now() + within);
    }

    /// The queue was looked at.
    pub(super) fn settle(&mut self, queue: &QueueName, next: Option<Duration>) {
        self.claimed.remove(queue);
        if let Some(within) = next {
            self.note(queue, within);
        }
    }

    /// Queues of which something is due.
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
    fn a_queue_is_due_once_until_it_is_settled() {
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
