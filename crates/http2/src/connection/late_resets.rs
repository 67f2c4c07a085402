//! Resets of streams on which the peer has sent nothing yet, held back for a moment.
//!
//! A server that finds a request and its reset in one read counts the stream as reset before it was accepted, and ends the
//! connection after a few of those (twenty by default in h2, and so in hyper and tonic): one caller that gives up in a hurry
//! would end the calls of all others. The task that drives the connection knows how long a moment is.

use std::collections::VecDeque;

use crate::error::Reason;

/// The late resets of a connection, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct LateResets {
    waiting: VecDeque<Late>,
    /// The number of resets at the front that have waited since the last moment.
    due: usize,
}

/// A reset that waits.
#[derive(Debug)]
struct Late {
    id: u32,
    reason: Reason,
    /// The position, in all that is ever written, where the request ends: before that is written, the peer cannot have it.
    after: u64,
}

impl LateResets {
    /// Adds a reset. `after` is the position, in all that is ever written, where the request ends.
    pub(crate) fn push(&mut self, id: u32, reason: Reason, after: u64) {
        self.waiting.push_back(Late { id, reason, after });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Ends a moment, and returns the resets that have waited for all of it. The others are due at the end of the next
    /// moment, if their requests are `written` now.
    pub(crate) fn take_due(&mut self, written: u64) -> Vec<(u32, Reason)> {
        let due = self.waiting.drain(..self.due).map(|late| (late.id, late.reason)).collect();
        self.due = self.waiting.iter().take_while(|late| late.after <= written).count();
        due
    }

    /// Forgets all resets: the connection is over.
    pub(crate) fn clear(&mut self) {
        *self = LateResets::default();
    }
}
