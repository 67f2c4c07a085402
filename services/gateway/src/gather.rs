//! Takes frames off a stream, several small ones as one: a thousand frames of a byte are a thousand headers for whoever
//! comes next, and h2 ends a connection that sends them faster than they are read.

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
