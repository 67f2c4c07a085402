//! The PING that asks whether the peer is there, and who waits for the answer.

use std::task::{Context, Waker};

use crate::connection::Core;
use crate::frame;
use crate::stream::register;

/// The payload of the PING that asks whether the peer is there.
pub(super) const ALIVE: [u8; 8] = *b"alive???";

/// Counts the answers to the PINGs of [`Pings`](crate::Pings).
#[derive(Debug, Default)]
pub(crate) struct Ping {
    answers: u64,
    waker: Option<Waker>,
}

impl Ping {
    /// Returns how many answers came.
    pub(crate) fn answers(&self) -> u64 {
        self.answers
    }

    /// Has the task woken when an answer comes, or when the connection ends.
    pub(crate) fn register(&mut self, cx: &Context<'_>) {
        register(&mut self.waker, cx);
    }

    /// Counts an answer.
    pub(super) fn answered(&mut self) {
        self.answers += 1;
        self.wake();
    }

    /// Wakes the task that waits for an answer.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Core {
    /// Asks the peer whether it is there.
    pub(crate) fn send_ping(&mut self) {
        frame::write_ping(self.send_buffer.frames(), false, ALIVE);
        self.wake_driver();
    }
}
