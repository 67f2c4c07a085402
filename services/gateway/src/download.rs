//! The endpoint's half of a call: from the endpoint's stream to the caller's, at the caller's pace.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use shoal_http2::{RecvStream, SendStream};

/// A response body on its way.
pub(crate) struct Download {
    from: RecvStream,
    /// The frame that waits for the caller's window.
    chunk: Bytes,
}

/// How a download ended. The end itself is not sent yet.
#[derive(Debug)]
pub(crate) enum Downloaded {
    /// The endpoint's trailers.
    Trailers(HeaderMap),
    /// The endpoint ended without trailers, which in gRPC is its mistake.
    NoTrailers,
    /// The endpoint's stream broke.
    Broken(shoal_http2::Error),
    /// The caller takes no more.
    CallerGone,
}

impl Download {
    pub(crate) fn new(from: RecvStream) -> Download {
        Download { from, chunk: Bytes::new() }
    }

    /// Moves what can be moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, to: &mut SendStream) -> Poll<Downloaded> {
        loop {
            if !self.chunk.is_empty() {
                let Ok(sent) = ready!(to.poll_send(cx, &mut self.chunk, false)) else {
                    return Poll::Ready(Downloaded::CallerGone);
                };
                self.from.release(sent);
                continue;
            }
            match ready!(self.from.poll_data(cx)) {
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
