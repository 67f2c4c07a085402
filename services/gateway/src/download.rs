//! The endpoint's half of a call: from the endpoint's stream to the caller's, at the caller's pace.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::gather::{self, Backlog};
use crate::pace::Pace;

/// A response body on its way.
pub(crate) struct Download {
    from: RecvStream,
    /// The frame that waits for the caller's window.
    chunk: Bytes,
    /// What came after it.
    backlog: Backlog,
    pace: Pace,
}

/// How a download ended. The end itself is not sent yet.
#[derive(Debug)]
pub(crate) enum Downloaded {
    /// The endpoint's trailers.
    Trailers(HeaderMap),
    /// The endpoint ended without trailers, which in gRPC is its mistake.
    NoTrailers,
    /// The endpoint's stream broke.
    Broken(h2::Error),
    /// The caller takes no more.
    CallerGone,
}

impl Download {
    pub(crate) fn new(from: RecvStream) -> Download {
        Download { from, chunk: Bytes::new(), backlog: Backlog::default(), pace: Pace::default() }
    }

    /// Moves what can be moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, to: &mut SendStream<Bytes>) -> Poll<Downloaded> {
        loop {
            if !self.chunk.is_empty() {
                let window = match self.pace.poll_window(cx, to, self.chunk.len()) {
                    Poll::Ready(Some(window)) => window,
                    Poll::Ready(None) => return Poll::Ready(Downloaded::CallerGone),
                    Poll::Pending => {
                        self.backlog.fill(&mut self.from, cx);
                        return Poll::Pending;
                    }
                };
                let part = self.chunk.split_to(window);
                let sent = part.len();
                if to.send_data(part, false).is_err() {
                    return Poll::Ready(Downloaded::CallerGone);
                }
                // Fails only if more is released than was received.
                let _ = self.from.flow_control().release_capacity(sent);
                continue;
            }
            if let Some(chunk) = self.backlog.next() {
                self.chunk = chunk;
                continue;
            }
            match ready!(gather::poll_data(&mut self.from, cx)) {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Poll::Ready(Downloaded::Broken(error)),
                None => {
                    return Poll::Ready(match ready!(self.from.poll_trailers(cx)) {
                        Ok(Some(trailers)) => Downloaded::Trailers(trailers),
                        Ok(None) => Downloaded::NoTrailers,
                        Err(error) => Downloaded::Broken(error),
                    });
                }
            }
        }
    }
}
