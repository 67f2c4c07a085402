//! Queues of streams, linked through the table that holds the streams: a stream leaves from any place at the same cost, and a
//! queue that was long leaves nothing behind. A stream waits in one queue at most.

use slab::Slab;

use crate::stream::Stream;

/// The key of no stream.
const NONE: usize = usize::MAX;

/// The reason why a stream waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    Nothing,
    /// Waits until the peer allows one more stream, and the socket takes its headers.
    Opening,
    /// Waits until the peer enlarges the stream's own window.
    Window,
    /// Waits for room on the connection.
    Room,
    /// Waits until the peer gives back the stream's share of the connection-level window.
    Share,
}

/// The place of a stream in a queue.
#[derive(Debug)]
pub(crate) struct Links {
    queue: WaitsFor,
    before: usize,
    after: usize,
}

impl Default for Links {
    fn default() -> Links {
        Links { queue: WaitsFor::Nothing, before: NONE, after: NONE }
    }
}

impl Links {
    /// Returns what the stream waits for.
    pub(crate) fn waits_for(&self) -> WaitsFor {
        self.queue
    }

    /// Returns the key of the next stream in the queue.
    pub(crate) fn after(&self) -> Option<usize> {
        (self.after != NONE).then_some(self.after)
    }
}

/// Streams that wait for the same, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Queue {
    what: WaitsFor,
    first: usize,
    last: usize,
    len: usize,
}

impl Queue {
    pub(crate) fn new(what: WaitsFor) -> Queue {
        Queue { what, first: NONE, last: NONE, len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the key of the stream that has waited longest.
    pub(crate) fn first(&self) -> Option<usize> {
        (self.first != NONE).then_some(self.first)
    }

    /// Adds a stream that waits in no queue at the end.
    pub(crate) fn push(&mut self, streams: &mut Slab<Stream>, key: usize) {
        debug_assert_eq!(streams[key].links.queue, WaitsFor::Nothing, "the stream waits in a queue");
        streams[key].links = Links { queue: self.what, before: self.last, after: NONE };
        match self.last {
            NONE => self.first = key,
            last => streams[last].links.after = key,
        }
        self.last = key;
        self.len += 1;
    }

    /// Removes a stream that waits in this queue.
    pub(crate) fn remove(&mut self, streams: &mut Slab<Stream>, key: usize) {
        let Links { queue, before, after } = std::mem::take(&mut streams[key].links);
        debug_assert_eq!(queue, self.what, "the stream waits in another queue");
        match before {
            NONE => self.first = after,
            before => streams[before].links.after = after,
        }
        match after {
            NONE => self.last = before,
            after => streams[after].links.before = before,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::stream::{Receiving, Sending};

    #[test]
    fn queue_keeps_order_of_remaining() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut streams = Slab::new();
        let keys: Vec<usize> =
            (0..20).map(|_| streams.insert(Stream::new(Sending::Body, Receiving::Body, 0))).collect();
        let (mut queue, mut model) = (Queue::new(WaitsFor::Room), VecDeque::new());
        for step in 0..10_000 {
            let key = keys[rng.usize(..keys.len())];
            match model.iter().position(|stands| *stands == key) {
                Some(at) => {
                    queue.remove(&mut streams, key);
                    model.remove(at);
                }
                None => {
                    queue.push(&mut streams, key);
                    model.push_back(key);
                }
            }
            let order = std::iter::successors(queue.first(), |key| streams[*key].links.after());
            assert!(order.eq(model.iter().copied()), "step {step} of seed {seed}");
            assert_eq!(
                (queue.len(), queue.is_empty()),
                (model.len(), model.is_empty()),
                "step {step} of seed {seed}"
            );
        }
    }
}
