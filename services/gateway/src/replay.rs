//! A request that is complete and at hand, on its way to a second endpoint at once.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use crate::pace::Pace;

/// What is left to send.
pub(crate) struct Replay {
    chunks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    pace: Pace,
}

impl Replay {
    pub(crate) fn new(chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>) -> Replay {
        Replay { chunks, trailers, pace: Pace::default() }
    }

    /// Moves what can be moved. Ready when all is sent, or when the endpoint takes no more, of which the other half of
    /// the call tells the reason.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, to: &mut SendStream<Bytes>) -> Poll<()> {
        while let Some(chunk) = self.chunks.front_mut() {
            let Some(window) = ready!(self.pace.poll_window(cx, to, chunk.len())) else {
                return Poll::Ready(());
            };
            let part = chunk.split_to(window);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            let end = self.chunks.is_empty() && self.trailers.is_none();
            if to.send_data(part, end).is_err() || end {
                return Poll::Ready(());
            }
        }
        // Nothing to do if it fails: the endpoint takes no more.
        let _ = match self.trailers.take() {
            Some(trailers) => to.send_trailers(trailers),
            None => to.send_data(Bytes::new(), true),
        };
        Poll::Ready(())
    }
}
