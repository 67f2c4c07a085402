//! How fast a body is sent on: as its receiver opens the window. What is not let out yet stays where it came from, whose
//! window is not given back meanwhile: a slow receiver slows its sender, and neither costs more than the windows.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

/// A first frame up to this is handed to h2 without waiting for the window: most messages are this small, and asking
/// first costs more than sending. Bounds what one direction of a call can hold beyond the windows.
const UNASKED_BYTES_MAX: usize = 16 << 10;

/// One direction of one stream.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    begun: bool,
}

impl Pace {
    /// How many of `wanted` bytes may be sent now; none when the stream takes no more.
    pub(crate) fn poll_window(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        wanted: usize,
    ) -> Poll<Option<usize>> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first && wanted <= UNASKED_BYTES_MAX {
            return Poll::Ready(Some(wanted));
        }
        // The total wanted, not an addition: asking again for the same is free.
        to.reserve_capacity(wanted);
        loop {
            match to.capacity() {
                0 => match ready!(to.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(None),
                },
                window => return Poll::Ready(Some(window.min(wanted))),
            }
        }
    }
}
