//! Answers that are large: they are made when there is room for them, and leave in pieces, so that one that nobody takes can
//! be let go of. Small ones pass.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tonic::{Code, Response, Status};

use crate::errors::api_error::ApiError;
use crate::errors::reason;
use crate::serving::budget::{Budget, GaveWay, Memory, Share, UsedUp};
/// The size from which an answer is counted: what a gateway takes from a clone before its own caller takes anything is
/// several times that.
const LARGE_BYTES: usize = 32 << 10;
/// Bytes that a connection is given at once: this much of an answer stays with a stream that is stuck.
const PIECE_BYTES: usize = 16 << 10;

/// The bytes of a large message, as an extension of its response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerBytes(pub(crate) usize);

/// A response that is sent when there is room for it, if it is large.
#[must_use]
pub fn answer<T: prost::Message>(message: T) -> Response<T> {
    let bytes = message.encoded_len();
    let mut response = Response::new(message);
    if bytes >= LARGE_BYTES {
        response.extensions_mut().insert(AnswerBytes(bytes));
    }
    response
}

type Admission = Pin<Box<dyn Future<Output = Result<Share, UsedUp>> + Send>>;

/// A body that leaves as its size and the budget let it.
#[derive(Default)]
pub(crate) struct Leaving {
    /// The body; none once it has ended, since a body that is over may keep the buffer it was made in.
    inner: Option<tonic::body::Body>,
    /// The frame that follows the held bytes.
    next: Option<Result<Frame<Bytes>, Status>>,
    /// The budget of answers; none if the answer is certainly small.
    budget: Option<Arc<Budget>>,
    state: State,
}

#[derive(Default)]
enum State {
    /// The answer holds no bytes.
    #[default]
    Free,
    /// Not made yet.
    Waiting(Admission),
    /// There is room, and it is about to be made.
    Admitted(Share),
    /// Leaves in pieces.
    Held(Share),
}

impl Leaving {
    /// `large` is the size of the message that comes first, if it is large.
    pub(crate) fn new(inner: tonic::body::Body, memory: &Memory, large: Option<usize>) -> Self {
        let state = match large {
            Some(bytes) => State::Waiting(Box::pin(memory.answers.clone().admit(bytes))),
            None => State::Free,
        };
        Self { inner: Some(inner), next: None, budget: Some(memory.answers.clone()), state }
    }

    /// The next frame of the answer.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match &mut self.state {
                State::Free | State::Admitted(_) => {}
                State::Waiting(admission) => match ready!(admission.as_mut().poll(cx)) {
                    Ok(share) => self.state = State::Admitted(share),
                    Err(UsedUp) => return self.refuse(),
                },
                State::Held(share) => match share.next_piece(PIECE_BYTES) {
                    Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                    Ok(None) => self.state = State::Free,
                    Err(GaveWay) => return self.refuse(),
                },
            }
            let frame = match ready!(self.poll_inner(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            let budget = match &self.budget {
                Some(budget) if data.len() >= LARGE_BYTES => budget,
                _ => return Poll::Ready(Some(Ok(Frame::data(data)))),
            };
            self.state = match std::mem::take(&mut self.state) {
                State::Admitted(share) => {
                    share.set_leaving(data);
                    State::Held(share)
                }
                _ => State::Held(budget.hold(data)),
            };
            // If that was all, the body goes: it would keep what gives way.
            if let Poll::Ready(next) = self.poll_inner(cx) {
                if next.as_ref().is_none_or(|next| !matches!(next, Ok(frame) if frame.is_data())) {
                    self.inner = None;
                }
                self.next = next;
            }
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn refuse(&mut self) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        (self.state, self.inner, self.next) = (State::Free, None, None);
        let max = self.budget.as_ref().map_or(0, |budget| budget.bytes_max());
        let status: Status = ApiError::new(
            Code::ResourceExhausted,
            reason::ANSWERS_NOT_TAKEN,
            format!(
                "answers that their callers have not taken hold {max} bytes here, the most they may; call again, and \
                 read answers as they come"
            ),
        )
        .meta("answer_bytes_max", max.to_string())
        .retry_after(Duration::from_millis(250))
        .into();
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(error) => Err(error),
        }))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn content(bytes: usize) -> Bytes {
        (0..bytes).map(|i| (i / 7) as u8).collect::<Vec<_>>().into()
    }

    fn body(content: &Bytes) -> tonic::body::Body {
        tonic::body::Body::new(Full::new(content.clone()).map_err(|never| match never {}))
    }

    async fn next(leaving: &mut Leaving) -> Option<Frame<Bytes>> {
        std::future::poll_fn(|cx| leaving.poll_frame(cx)).await.map(|frame| frame.expect("no error"))
    }

    #[tokio::test]
    async fn a_large_answer_leaves_whole_in_pieces() {
        let memory = Memory::default();
        let content = content(10 * PIECE_BYTES + 1);
        for announced in [None, Some(content.len())] {
            let mut leaving = Leaving::new(body(&content), &memory, announced);
            let mut left = Vec::new();
            while let Some(frame) = next(&mut leaving).await {
                let piece = frame.into_data().expect("data");
                assert!(piece.len() <= PIECE_BYTES);
                left.extend(piece);
            }
            assert_eq!(left, content);
            assert_eq!(memory.answers.held(), 0, "nothing is held of what has left");
        }
    }

    #[tokio::test]
    async fn a_small_answer_passes_untouched() {
        let (memory, content) = (Memory::default(), content(LARGE_BYTES - 1));
        let mut leaving = Leaving::new(body(&content), &memory, None);
        let frame = next(&mut leaving).await.expect("a frame");
        assert_eq!(frame.into_data().expect("data").as_ptr(), content.as_ptr());
    }

    #[tokio::test]
    async fn unread_answers_are_dropped_with_reason() {
        let memory = Memory::default();
        let content = content(4 << 20);
        let stuck: Vec<_> = (0..memory.answers.bytes_max() / content.len())
            .map(|_| Leaving::new(body(&content), &memory, Some(content.len())))
            .collect();
        let mut stuck = futures::future::join_all(stuck.into_iter().map(|mut leaving| async {
            next(&mut leaving).await.expect("a first piece");
            leaving
        }))
        .await;
        // There is no room for another, until those who take nothing give way.
        let mut leaving = Leaving::new(body(&content), &memory, Some(content.len()));
        let mut left = 0;
        while let Some(frame) = next(&mut leaving).await {
            left += frame.into_data().expect("data").len();
        }
        assert_eq!(left, content.len());
        let mut told = Vec::new();
        for leaving in &mut stuck {
            told.push(next(leaving).await.expect("a frame"));
        }
        let refused = told.iter().find_map(Frame::trailers_ref).expect("one gave way");
        assert_eq!(crate::serving::body::code_of(refused), Some(Code::ResourceExhausted));
    }

    #[test]
    fn only_large_messages_are_announced() {
        let of = |bytes: usize| answer(vec![0u8; bytes]).extensions().get::<AnswerBytes>().is_some();
        assert_eq!([of(LARGE_BYTES / 2), of(LARGE_BYTES)], [false, true]);
    }
}
