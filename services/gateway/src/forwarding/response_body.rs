//! The endpoint's half of a call: from the endpoint's stream to the caller's, at the caller's pace.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use shoal_http2::{RecvStream, SendStream};

use crate::admission::unread_answers::{Stall, UnreadAnswers};
use crate::forwarding::attempt_end::AttemptEnd;
use crate::upstream::FIRST_WINDOW;

/// A response body on its way.
pub(crate) struct ResponseBody {
    from: RecvStream,
    /// The frame that waits for the caller's window.
    chunk: Bytes,
    /// The bytes of the [first window](FIRST_WINDOW) that the caller has to take before it gets wider.
    until_wider: usize,
    stall: Stall,
}

impl ResponseBody {
    /// Takes the body `from`, of which `chunk` was read already.
    pub(crate) fn new(from: RecvStream, chunk: Bytes) -> ResponseBody {
        ResponseBody { from, chunk, until_wider: FIRST_WINDOW as usize / 2, stall: Stall::default() }
    }

    /// Moves what can be moved. Ready with the endpoint's trailers, which are not sent yet; without any if it sent none, which in gRPC
    /// is its mistake. `unary`: the answer is one message.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream,
        unread: &UnreadAnswers,
        unary: bool,
    ) -> Poll<Result<Option<HeaderMap>, AttemptEnd>> {
        loop {
            if !self.chunk.is_empty() {
                match to.poll_send(cx, &mut self.chunk, false) {
                    Poll::Ready(Ok(sent)) => {
                        self.from.release(sent);
                        self.took(sent, unread);
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(AttemptEnd::CallerGone)),
                    Poll::Pending => return self.stalled(cx, unread, unary),
                }
            }
            let Poll::Ready(data) = self.from.poll_data(cx) else {
                self.stall.caught_up();
                return Poll::Pending;
            };
            match data {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Poll::Ready(Err(AttemptEnd::Broken(error))),
                None => {
                    return self.from.poll_trailers(cx).map_err(AttemptEnd::Broken);
                }
            }
        }
    }

    /// The caller has taken some.
    fn took(&mut self, bytes: usize, unread: &UnreadAnswers) {
        self.stall.took(bytes, unread);
        if self.until_wider == 0 {
            return;
        }
        self.until_wider = self.until_wider.saturating_sub(bytes);
        if self.until_wider == 0 {
            if unread.is_crowded() {
                // Asked again when it has taken as much once more.
                self.until_wider = FIRST_WINDOW as usize / 2;
            } else {
                self.from.widen(unread.window().saturating_sub(FIRST_WINDOW));
            }
        }
    }

    /// The caller takes nothing now. Ready when that was so for too long.
    fn stalled(
        &mut self,
        cx: &mut Context<'_>,
        unread: &UnreadAnswers,
        unary: bool,
    ) -> Poll<Result<Option<HeaderMap>, AttemptEnd>> {
        if self.stall.is_new() {
            self.from.count_unread(&unread.counter);
        }
        if let Poll::Ready(not_taken) = self.stall.poll(cx, unread, unary) {
            return Poll::Ready(Err(AttemptEnd::NotTaken(not_taken)));
        }
        if self.stall.is_watched(unread) {
            self.from.wake_for_more(cx);
        }
        Poll::Pending
    }
}
