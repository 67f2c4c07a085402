//! The caller's half of a call: from the caller's stream to the endpoint's, at the endpoint's pace. Keeps what it has
//! sent, up to a limit, so that another endpoint can be sent the same.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::gather::{self, Backlog};
use crate::pace::Pace;
use crate::replay::Replay;

/// Most frames kept for a replay, beside the limit on their bytes: each costs a few dozen bytes of its own.
const KEPT_FRAMES_MAX: usize = 256;

/// A request body on its way.
pub(crate) struct Upload {
    from: RecvStream,
    /// The frame that waits for the endpoint's window.
    chunk: Bytes,
    /// What came after it.
    backlog: Backlog,
    /// Of `chunk`, what the caller has not been given back as window.
    unreleased: usize,
    trailers: Option<HeaderMap>,
    /// The caller has sent everything.
    ended: bool,
    /// The end is sent on this attempt.
    finished: bool,
    kept: Kept,
    /// The next kept frame to send on this attempt.
    next: usize,
    pace: Pace,
}

/// How an upload ended.
#[derive(Debug)]
pub(crate) enum Uploaded {
    /// Everything is sent.
    All,
    /// The endpoint takes no more. Why is told by the other half of the call.
    NotWanted,
    /// The caller's stream broke.
    CallerGone(h2::Error),
}

impl Upload {
    /// Of a caller's body; up to `keep_bytes` of it can be replayed.
    pub(crate) fn new(from: RecvStream, keep_bytes: usize) -> Upload {
        let ended = from.is_end_stream();
        Upload {
            from,
            chunk: Bytes::new(),
            backlog: Backlog::default(),
            unreleased: 0,
            trailers: None,
            ended,
            finished: false,
            kept: Kept { first: None, rest: Vec::new(), bytes: 0, bytes_max: keep_bytes, whole: true },
            next: 0,
            pace: Pace::default(),
        }
    }

    /// Whether the request has no body at all, so that its headers end it.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended && self.kept.len() == 0 && self.kept.whole && self.trailers.is_none()
    }

    /// Whether it can be sent again from its beginning.
    pub(crate) fn replayable(&self) -> bool {
        self.kept.whole
    }

    /// Begins again, for another endpoint. Only if [`Upload::replayable`].
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.kept.whole, "the beginning is gone");
        self.release(self.unreleased);
        self.chunk = Bytes::new();
        self.next = 0;
        self.finished = false;
        self.pace = Pace::default();
    }

    /// Whether the whole request is here and at hand.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended && self.kept.whole
    }

    /// The same for a second endpoint at once. Only if [complete](Upload::is_complete).
    pub(crate) fn replay(&self) -> Replay {
        debug_assert!(self.is_complete(), "something is missing");
        let chunks: VecDeque<Bytes> = self.kept.first.iter().chain(&self.kept.rest).cloned().collect();
        Replay::new(chunks, self.trailers.clone())
    }

    /// Nothing will be sent again: keeps nothing from here on.
    pub(crate) fn forget(&mut self) {
        // What was kept but not sent yet is still needed.
        if self.next == self.kept.len() {
            self.kept.drop_all();
            self.next = 0;
        }
        self.kept.whole = false;
    }

    /// Moves what can be moved. `NotWanted` and `All` are said once; after that there is nothing to poll.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, to: &mut SendStream<Bytes>) -> Poll<Uploaded> {
        loop {
            if !self.chunk.is_empty() {
                let window = match self.pace.poll_window(cx, to, self.chunk.len()) {
                    Poll::Ready(Some(window)) => window,
                    Poll::Ready(None) => return Poll::Ready(Uploaded::NotWanted),
                    Poll::Pending => {
                        self.backlog.fill(&mut self.from, cx);
                        return Poll::Pending;
                    }
                };
                let part = self.chunk.split_to(window);
                let sent = part.len();
                self.finished = self.chunk.is_empty() && self.at_end();
                if to.send_data(part, self.finished).is_err() {
                    return Poll::Ready(Uploaded::NotWanted);
                }
                self.release(sent.min(self.unreleased));
                if self.finished {
                    return Poll::Ready(Uploaded::All);
                }
                continue;
            }
            if let Some(kept) = self.kept.get(self.next) {
                self.chunk = kept.clone();
                self.next += 1;
                continue;
            }
            if let Some(chunk) = self.backlog.next() {
                self.received(chunk);
                continue;
            }
            if self.ended {
                return Poll::Ready(self.finish(to));
            }
            match ready!(gather::poll_data(&mut self.from, cx)) {
                Some(Ok(chunk)) => self.received(chunk),
                Some(Err(error)) => return Poll::Ready(Uploaded::CallerGone(error)),
                None => match ready!(self.from.poll_trailers(cx)) {
                    Ok(trailers) => {
                        self.trailers = trailers;
                        self.ended = true;
                    }
                    Err(error) => return Poll::Ready(Uploaded::CallerGone(error)),
                },
            }
        }
    }

    /// Whether nothing comes after the current chunk, so that its last frame can end the stream.
    fn at_end(&self) -> bool {
        self.ended && self.next >= self.kept.len() && self.trailers.is_none()
    }

    fn received(&mut self, chunk: Bytes) {
        self.ended = self.backlog.is_empty() && self.from.is_end_stream();
        if chunk.is_empty() {
            return;
        }
        self.unreleased = chunk.len();
        if !self.kept.push(&chunk) {
            self.kept.drop_all();
        }
        self.next = self.kept.len();
        self.chunk = chunk;
    }

    fn finish(&mut self, to: &mut SendStream<Bytes>) -> Uploaded {
        self.finished = true;
        // Kept for a replay; no gRPC client sends trailers, so the clone is never seen.
        let sent = match &self.trailers {
            Some(trailers) => to.send_trailers(trailers.clone()),
            None => to.send_data(Bytes::new(), true),
        };
        if sent.is_ok() { Uploaded::All } else { Uploaded::NotWanted }
    }

    fn release(&mut self, bytes: usize) {
        self.unreleased -= bytes;
        if bytes > 0 {
            // Fails only if more is released than was received.
            let _ = self.from.flow_control().release_capacity(bytes);
        }
    }
}

/// The beginning of a body. The first frame has a place of its own: a unary call has but one, and needs no list.
struct Kept {
    first: Option<Bytes>,
    rest: Vec<Bytes>,
    bytes: usize,
    bytes_max: usize,
    /// Nothing is missing.
    whole: bool,
}

impl Kept {
    /// Says whether it is kept.
    fn push(&mut self, chunk: &Bytes) -> bool {
        if !self.whole {
            return false;
        }
        if self.bytes + chunk.len() > self.bytes_max || self.len() == KEPT_FRAMES_MAX {
            self.whole = false;
            return false;
        }
        self.bytes += chunk.len();
        match self.first {
            None => self.first = Some(chunk.clone()),
            Some(_) => self.rest.push(chunk.clone()),
        }
        true
    }

    fn get(&self, index: usize) -> Option<&Bytes> {
        match index {
            0 => self.first.as_ref(),
            _ => self.rest.get(index - 1),
        }
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn drop_all(&mut self) {
        self.first = None;
        self.rest = Vec::new();
        self.bytes = 0;
    }
}
