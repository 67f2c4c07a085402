//! A request that is complete and at hand, on its way to a second endpoint at once.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use shoal_http2::SendStream;

/// The part of a request that is left to send.
pub(crate) struct Replay {
    chunks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Replay {
    pub(crate) fn new(chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>) -> Replay {
        Replay { chunks, trailers }
    }

    /// Moves what can be moved. Ready when all is sent, or when the endpoint takes no more; the other half of the call tells the
    /// reason.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, to: &mut SendStream) -> Poll<()> {
        loop {
            let end = self.chunks.len() == 1 && self.trailers.is_none();
            let Some(chunk) = self.chunks.front_mut() else { break };
            if ready!(to.poll_send(cx, chunk, end)).is_err() {
                return Poll::Ready(());
            }
            if chunk.is_empty() {
                self.chunks.pop_front();
                if end {
                    return Poll::Ready(());
                }
            }
        }
        // Nothing to do if it fails: the endpoint takes no more.
        let _ = match self.trailers.take() {
            Some(trailers) => to.send_trailers(trailers),
            None => to.finish(),
        };
        Poll::Ready(())
    }
}
