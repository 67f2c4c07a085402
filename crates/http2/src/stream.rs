//! One stream: what is known of its two halves (RFC 9113 §5.1), what was received and not read, and who waits for it.

pub(crate) mod queue;
mod unread;

pub use unread::Unread;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use crate::error::Error;
use crate::stream::queue::{Links, WaitsFor};
use crate::window::{ReceiveWindow, Window};

/// A payload shorter than this is copied out of the read buffer: left there, it would keep the whole buffer from being used
/// again, and a thousand frames of a byte would keep a thousand buffers. A frame that is full keeps at most two and a half
/// times its length.
pub(crate) const COPIED_BYTES_MAX: usize = 16 << 10;

/// Small payloads are put together up to this.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// Our half.
pub(crate) enum Sending {
    /// Of a request that waits for the peer to allow one more stream.
    Queued(Box<Queued>),
    /// A response whose headers are not sent.
    Head,
    /// DATA may be sent.
    Body,
    Closed,
}

/// A request that is not sent yet.
pub(crate) struct Queued {
    pub(crate) request: Request<()>,
    pub(crate) end: bool,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Queued {
    /// Whether it takes no more: its end was said.
    pub(crate) fn is_whole(&self) -> bool {
        self.end || self.trailers.is_some()
    }
}

/// The peer's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Response headers are to come.
    Head,
    /// DATA or trailers are to come.
    Body,
    Closed,
}

/// A stream, from its first frame to the last handle of it.
pub(crate) struct Stream {
    /// 0 as long as it is queued.
    pub(crate) id: u32,
    /// Handles of it.
    pub(crate) handles: u32,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
    /// Why it ended before its time.
    pub(crate) error: Option<Error>,
    /// It counts as one of those that are open.
    pub(crate) counted: bool,
    /// It was given to whoever accepts streams.
    pub(crate) accepted: bool,
    /// The peer reset the stream before it was accepted.
    pub(crate) is_reset_pending_accept: bool,
    /// Its answer has no content, whatever length it says.
    pub(crate) asks_head: bool,
    pub(crate) response: Option<Response<()>>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) received: Received,
    /// Nobody will read it.
    pub(crate) unread: bool,
    /// What `content-length` announced and has not come.
    pub(crate) length_left: Option<u64>,
    /// The bytes that the peer may send.
    pub(crate) receive_window: ReceiveWindow,
    /// What its window is larger by than that of others.
    pub(crate) widened: u32,
    /// Bytes received and not released yet: owed to the connection's window when the stream is given up.
    pub(crate) unreleased: u32,
    /// Where those are counted too.
    unread_in: Option<Arc<Unread>>,
    /// The bytes that may be sent beside SETTINGS_INITIAL_WINDOW_SIZE: what WINDOW_UPDATE gave less what was sent.
    pub(crate) send_window: Window,
    /// Bytes that were sent since the peer last gave the stream window.
    pub(crate) unreturned: i64,
    pub(crate) links: Links,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
}

impl Stream {
    pub(crate) fn new(sending: Sending, receiving: Receiving, receive_window: u32) -> Stream {
        Stream {
            id: 0,
            handles: 1,
            sending,
            receiving,
            error: None,
            counted: false,
            accepted: true,
            is_reset_pending_accept: false,
            asks_head: false,
            response: None,
            trailers: None,
            received: Received::default(),
            unread: false,
            length_left: None,
            receive_window: ReceiveWindow::new(receive_window),
            widened: 0,
            unreleased: 0,
            unread_in: None,
            send_window: Window::default(),
            unreturned: 0,
            links: Links::default(),
            reader: None,
            writer: None,
        }
    }

    /// Whether no more frames are sent or expected.
    pub(crate) fn is_over(&self) -> bool {
        self.error.is_some()
            || (matches!(self.sending, Sending::Closed) && self.receiving == Receiving::Closed)
    }

    /// Whether everything the peer sent has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.receiving == Receiving::Closed && self.received.is_empty() && self.trailers.is_none()
    }

    /// So many bytes of DATA were received.
    pub(crate) fn hold(&mut self, bytes: u32) {
        self.unreleased += bytes;
        if let Some(unread) = &self.unread_in {
            unread.add(bytes as usize);
        }
    }

    /// So many of them are released.
    pub(crate) fn let_go(&mut self, bytes: u32) {
        self.unreleased -= bytes;
        if let Some(unread) = &self.unread_in {
            unread.subtract(bytes as usize);
        }
    }

    /// Counts what is not released in `unread`, from now on and until the stream is forgotten.
    pub(crate) fn count_unread(&mut self, unread: &Arc<Unread>) {
        if self.unread_in.is_none() {
            unread.add(self.unreleased as usize);
            self.unread_in = Some(unread.clone());
        }
    }

    pub(crate) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// Wakes the task that writes. Returns whether one waited.
    pub(crate) fn wake_writer(&mut self) -> bool {
        match self.writer.take() {
            Some(waker) => {
                waker.wake();
                true
            }
            None => false,
        }
    }

    /// Returns what the stream waits for before it can send.
    pub(crate) fn waits_for(&self) -> WaitsFor {
        self.links.waits_for()
    }

    /// Returns the key of the stream that waits behind this one.
    pub(crate) fn next_in_queue(&self) -> Option<usize> {
        self.links.after()
    }

    pub(crate) fn wake(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }
}

/// Puts the task that polls into `slot`.
pub(crate) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// DATA received and not read. Small frames lie together: a byte costs a byte, whatever frame it came in.
#[derive(Default)]
pub(crate) struct Received {
    whole: VecDeque<Bytes>,
    joined: Vec<u8>,
}

impl Received {
    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.joined.is_empty()
    }

    pub(crate) fn push_copied(&mut self, payload: &[u8]) {
        if self.joined.len() + payload.len() > JOINED_BYTES_MAX {
            self.whole.push_back(std::mem::take(&mut self.joined).into());
        }
        self.joined.extend_from_slice(payload);
    }

    pub(crate) fn push(&mut self, payload: Bytes) {
        if !self.joined.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.joined).into());
        }
        self.whole.push_back(payload);
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        if let Some(whole) = self.whole.pop_front() {
            return Some(whole);
        }
        (!self.joined.is_empty()).then(|| std::mem::take(&mut self.joined).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_is_read_in_order_and_small_frames_together() {
        let mut received = Received::default();
        assert!(received.is_empty() && received.pop().is_none());
        received.push_copied(b"a");
        received.push_copied(b"b");
        received.push(Bytes::from_static(b"LARGE"));
        received.push_copied(b"c");
        let read: Vec<Bytes> = std::iter::from_fn(|| received.pop()).collect();
        assert_eq!(read, ["ab", "LARGE", "c"]);
        assert!(received.is_empty());
    }

    #[test]
    fn a_hundred_thousand_frames_of_a_byte_cost_a_byte_each() {
        let mut received = Received::default();
        for _ in 0..100_000 {
            received.push_copied(b"x");
        }
        let pieces: Vec<usize> = std::iter::from_fn(|| received.pop()).map(|piece| piece.len()).collect();
        assert_eq!(pieces.iter().sum::<usize>(), 100_000);
        assert_eq!(pieces.len(), 100_000_usize.div_ceil(JOINED_BYTES_MAX));
    }
}
