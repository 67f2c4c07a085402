//! The caller's half of a call: from the caller's stream to the endpoint's, at the endpoint's pace. Keeps what it has
//! sent, up to a limit, so that another endpoint can be sent the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use shoal_http2::{Error as Broken, RecvStream, SendStream};

use crate::admission::connection_state::ConnectionState;
use crate::forwarding::message_framing::Framing;
use crate::forwarding::replay::Replay;
use crate::forwarding::replay_buffer::ReplayBuffer;

/// A request body on its way.
pub(crate) struct RequestBody {
    from: RecvStream,
    /// The frame that waits for the endpoint's window.
    chunk: Bytes,
    /// The bytes of `chunk` that the caller has not been given back as window.
    unreleased: usize,
    trailers: Option<HeaderMap>,
    /// The caller has sent everything.
    ended: bool,
    /// The end is sent on this attempt.
    finished: bool,
    kept: ReplayBuffer,
    /// The next kept frame to send on this attempt.
    next: usize,
    framing: Framing,
}

impl RequestBody {
    /// Takes a caller's body, of which up to `keep_bytes` can be replayed.
    pub(crate) fn new(from: RecvStream, keep_bytes: usize) -> RequestBody {
        let ended = from.is_end_stream();
        RequestBody {
            from,
            chunk: Bytes::new(),
            unreleased: 0,
            trailers: None,
            ended,
            finished: false,
            kept: ReplayBuffer::new(keep_bytes),
            next: 0,
            framing: Framing::default(),
        }
    }

    /// Returns whether the caller sent what no endpoint could have taken: an error that an endpoint answers is then no failure of
    /// its own. `unary`: the method takes one message. `encoded`: the request says how its messages are compressed.
    pub(crate) fn is_malformed(&self, unary: bool, encoded: bool) -> bool {
        self.framing.is_malformed(self.ended, unary, encoded)
    }

    /// Returns whether the request has no body at all, so that its headers end it.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended && self.kept.len() == 0 && self.kept.whole && self.trailers.is_none()
    }

    /// Returns whether the body can be sent again from its beginning.
    pub(crate) fn replayable(&self) -> bool {
        self.kept.whole
    }

    /// Begins again, for another endpoint. Only if [`RequestBody::replayable`].
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.kept.whole, "the beginning is gone");
        self.release(self.unreleased);
        self.chunk = Bytes::new();
        self.next = 0;
        self.finished = false;
    }

    /// Returns whether the whole request is here and at hand.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended && self.kept.whole
    }

    /// The same for a second endpoint at once. Only if [complete](RequestBody::is_complete).
    pub(crate) fn replay(&self) -> Replay {
        debug_assert!(self.is_complete(), "something is missing");
        let chunks: VecDeque<Bytes> = self.kept.chunks().cloned().collect();
        Replay::new(chunks, self.trailers.clone())
    }

    /// Keeps nothing from here on: nothing will be sent again.
    pub(crate) fn forget(&mut self) {
        // What was kept but not sent yet is still needed.
        if self.next == self.kept.len() {
            self.kept.drop_all();
            self.next = 0;
        }
        self.kept.whole = false;
    }

    /// Moves what can be moved, of a call on the connection `client`. Ready once: when everything is sent, when the endpoint takes no
    /// more (the other half of the call tells why), or with an error when the caller's stream broke. After that there is nothing to
    /// poll.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream,
        client: &Arc<ConnectionState>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if !self.chunk.is_empty() {
                let end = self.at_end();
                let Ok(sent) = ready!(to.poll_send(cx, &mut self.chunk, end)) else {
                    return Poll::Ready(Ok(()));
                };
                self.release(sent.min(self.unreleased));
                self.finished = end && self.chunk.is_empty();
                if self.finished {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if let Some(kept) = self.kept.get(self.next) {
                self.chunk = kept.clone();
                self.next += 1;
                continue;
            }
            if self.ended {
                self.finish(to);
                return Poll::Ready(Ok(()));
            }
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(chunk)) => self.received(chunk, client),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => match ready!(self.from.poll_trailers(cx)) {
                    Ok(trailers) => {
                        self.trailers = trailers;
                        self.ended = true;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    /// Returns whether nothing comes after the current chunk, so that its last frame can end the stream.
    fn at_end(&self) -> bool {
        self.ended && self.next >= self.kept.len() && self.trailers.is_none()
    }

    fn received(&mut self, chunk: Bytes, client: &Arc<ConnectionState>) {
        self.ended = self.from.is_end_stream();
        if chunk.is_empty() {
            return;
        }
        self.framing.feed(&chunk);
        self.unreleased = chunk.len();
        if !self.kept.push(&chunk, client) {
            self.kept.drop_all();
        }
        self.next = self.kept.len();
        self.chunk = chunk;
    }

    fn finish(&mut self, to: &mut SendStream) {
        self.finished = true;
        // ReplayBuffer for a replay; no gRPC client sends trailers, so the clone is never seen.
        // Fails when the endpoint takes no more, of which the other half of the call tells.
        let _ = match &self.trailers {
            Some(trailers) => to.send_trailers(trailers.clone()),
            None => to.finish(),
        };
    }

    fn release(&mut self, bytes: usize) {
        self.unreleased -= bytes;
        self.from.release(bytes);
    }
}
