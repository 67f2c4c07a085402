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
    waiting: VecDeque<Late>,
    /// So many at the front have waited since the moment before this one.
    due: usize,
}

/// One of them.
#[derive(Debug)]
struct Late {
    id: u32,
    reason: Reason,
    /// How much is to be written, of all that ever is, before the peer can have the request.
    after: u64,
}

impl LateResets {
    /// `after` is what will have been written, of all that ever is, when the request is.
    pub(crate) fn push(&mut self, id: u32, reason: Reason, after: u64) {
        self.waiting.push_back(Late { id, reason, after });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A moment has passed: those that have waited for all of it. Of the others those are for the next time whose requests
    /// are `written`.
    pub(crate) fn take_due(&mut self, written: u64) -> Vec<(u32, Reason)> {
        let due = self.waiting.drain(..self.due).map(|late| (late.id, late.reason)).collect();
        self.due = self.waiting.iter().take_while(|late| late.after <= written).count();
        due
    }

    /// The connection is over.
    pub(crate) fn clear(&mut self) {
        *self = LateResets::default();
    }
}
