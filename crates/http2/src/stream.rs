//! The state of one stream: its two halves (RFC 9113 §5.1), the data that was received and not read, and the tasks that wait
//! for it.

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

/// The shortest payload that stays in the read buffer. A shorter one is copied out: left there, it would keep the whole
/// buffer from being used again, and a thousand frames of a byte would keep a thousand buffers. A frame that is full keeps
/// at most two and a half times its length.
pub(crate) const COPIED_BYTES_MAX: usize = 16 << 10;

/// The length up to which small payloads are joined.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// The state of the sending half.
pub(crate) enum Sending {
    /// The request waits for the peer to allow one more stream.
    Queued(Box<Queued>),
    /// The headers of the response are not sent.
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
    /// Returns whether the request takes no more: its end is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.end || self.trailers.is_some()
    }
}

/// The state of the receiving half.
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
    /// The id of the stream; 0 as long as it is queued.
    pub(crate) id: u32,
    /// The number of handles.
    pub(crate) handles: u32,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
    /// The reason why the stream ended before its time.
    pub(crate) error: Option<Error>,
    /// Tells whether the stream counts as open.
    pub(crate) counted: bool,
    /// Tells whether the stream was accepted, or opened on this side.
    pub(crate) accepted: bool,
    /// Tells whether the peer reset the stream before it was accepted.
    pub(crate) is_reset_pending_accept: bool,
    /// Tells whether the request is a HEAD: its response has no content, whatever length it has.
    pub(crate) asks_head: bool,
    pub(crate) response: Option<Response<()>>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) received: Received,
    /// Tells whether nobody will read the body.
    pub(crate) unread: bool,
    /// The bytes that `content-length` announced and that have not come.
    pub(crate) length_left: Option<u64>,
    /// The bytes that the peer may send.
    pub(crate) receive_window: ReceiveWindow,
    /// The bytes that this stream's window is larger than that of others.
    pub(crate) widened: u32,
    /// The bytes received and not released yet. They are owed to the connection's window when the stream is given up.
    pub(crate) unreleased: u32,
    /// The counter in which those are counted too.
    unread_in: Option<Arc<Unread>>,
    /// The bytes that may be sent beside SETTINGS_INITIAL_WINDOW_SIZE: what WINDOW_UPDATE gave less what was sent.
    pub(crate) send_window: Window,
    /// The bytes that were sent since the peer last gave the stream window.
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

    /// Returns whether no more frames are sent or expected.
    pub(crate) fn is_over(&self) -> bool {
        self.error.is_some()
            || (matches!(self.sending, Sending::Closed) && self.receiving == Receiving::Closed)
    }

    /// Returns whether everything that the peer sent has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.receiving == Receiving::Closed && self.received.is_empty() && self.trailers.is_none()
    }

    /// Counts bytes of DATA that were received.
    pub(crate) fn hold(&mut self, bytes: u32) {
        self.unreleased += bytes;
        if let Some(unread) = &self.unread_in {
            unread.add(bytes as usize);
        }
    }

    /// Takes off bytes of DATA that are released.
    pub(crate) fn let_go(&mut self, bytes: u32) {
        self.unreleased -= bytes;
        if let Some(unread) = &self.unread_in {
            unread.subtract(bytes as usize);
        }
    }

    /// Counts the bytes that are not released in `unread`, too, until the stream is forgotten.
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

/// DATA that was received and not read. Small frames lie together: a byte costs a byte, whatever frame it came in.
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
    fn small_frames_join_in_order() {
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
    fn byte_sized_frames_are_joined() {
        let mut received = Received::default();
        for _ in 0..100_000 {
            received.push_copied(b"x");
        }
        let pieces: Vec<usize> = std::iter::from_fn(|| received.pop()).map(|piece| piece.len()).collect();
        assert_eq!(pieces.iter().sum::<usize>(), 100_000);
        assert_eq!(pieces.len(), 100_000_usize.div_ceil(JOINED_BYTES_MAX));
    }
}
