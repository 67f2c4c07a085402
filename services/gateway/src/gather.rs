//! Takes frames off a stream, several small ones as one: a thousand frames of a byte are a thousand headers for whoever
//! comes next, and h2 ends a connection that sends them faster than they are read.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;

/// Only a frame shorter than this is worth a copy.
const SMALL_BYTES: usize = 1024;
/// And not into more than a frame of the usual size.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// The next data, as [`RecvStream::poll_data`] has it, together with whatever small frames lie behind it already.
pub(crate) fn poll_data(
    from: &mut RecvStream,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, h2::Error>>> {
    let first = match ready!(from.poll_data(cx)) {
        Some(Ok(first)) => first,
        other => return Poll::Ready(other),
    };
    if first.len() >= SMALL_BYTES || from.is_end_stream() {
        return Poll::Ready(Some(Ok(first)));
    }
    let Poll::Ready(Some(Ok(second))) = from.poll_data(cx) else {
        // The end, and an error too, are said again.
        return Poll::Ready(Some(Ok(first)));
    };
    let mut gathered = BytesMut::with_capacity(first.len() + second.len());
    gathered.extend_from_slice(&first);
    gathered.extend_from_slice(&second);
    while gathered.len() < GATHERED_BYTES_MAX
        && let Poll::Ready(Some(Ok(next))) = from.poll_data(cx)
    {
        gathered.extend_from_slice(&next);
    }
    Poll::Ready(Some(Ok(gathered.freeze())))
}

/// What came while the frame before it waits for its receiver's window. h2 keeps count of small frames that lie unread on a
/// connection and ends it when there are many; but an endpoint's connection is shared by all callers, and a few that do not
/// read would end it for the rest. Here they lie as bytes: no more than the stream's window, which is given back when they
/// were sent on.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    whole: VecDeque<Bytes>,
    small: BytesMut,
    /// The last of `whole` came as a frame of its own: the rest may lie where it is.
    large: bool,
}

impl Backlog {
    /// Takes off the stream what lies there, up to a frame that is not small.
    pub(crate) fn fill(&mut self, from: &mut RecvStream, cx: &mut Context<'_>) {
        // The end, and an error too, are said again.
        while !self.large
            && let Poll::Ready(Some(Ok(frame))) = from.poll_data(cx)
        {
            if frame.len() < SMALL_BYTES {
                self.small.extend_from_slice(&frame);
                if self.small.len() >= GATHERED_BYTES_MAX {
                    self.whole.push_back(self.small.split().freeze());
                }
                continue;
            }
            if !self.small.is_empty() {
                self.whole.push_back(self.small.split().freeze());
            }
            self.whole.push_back(frame);
            self.large = true;
        }
    }

    /// The next of it, in order.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if let Some(whole) = self.whole.pop_front() {
            self.large &= !self.whole.is_empty();
            return Some(whole);
        }
        (!self.small.is_empty()).then(|| self.small.split().freeze())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.small.is_empty()
    }
}
