//! Resets of streams of which the peer has said nothing yet, held back for a moment.
//!
//! A server that finds a request and its reset in one read counts the stream as reset before it was looked at, and ends the
//! connection after a few of those (twenty by default in h2, and so in hyper and tonic): one caller that gives up in a hurry
//! would end the calls of all others. How long a moment is, who moves the connection knows.

use std::collections::VecDeque;

use crate::error::Reason;

/// In the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct LateResets {
    waiting: VecDeque<(u32, Reason)>,
    /// So many at the front have waited since the moment before this one.
    due: usize,
}

impl LateResets {
    pub(crate) fn push(&mut self, id: u32, reason: Reason) {
        self.waiting.push_back((id, reason));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A moment has passed: those that have waited for all of it. The others are for the next time.
    pub(crate) fn take_due(&mut self) -> Vec<(u32, Reason)> {
        let due = self.waiting.drain(..self.due).collect();
        self.due = self.waiting.len();
        due
    }

    /// The connection is over.
    pub(crate) fn clear(&mut self) {
        *self = LateResets::default();
    }
}
