//! A request body that hands on a gRPC message once all of it has arrived. The decoder behind it reserves what a message
//! announces: here what is reserved was received.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::{Code, Status};

use crate::errors::api_error::ApiError;
use crate::errors::reason;
use crate::serving::budget::{Budget, GaveWay, HEAD_BYTES, Memory, Share};
/// Largest request of services that take names only: health, reflection and the like.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// See the [module](self).
pub struct WholeMessages<B> {
    inner: B,
    /// The decoder's own limit: what announces more is handed on at once, for the decoder to refuse.
    message_bytes_max: usize,
    budget: Arc<Budget>,
    /// Received and not looked at.
    rest: Bytes,
    /// Bytes of whole messages that are to be handed on.
    whole: VecDeque<Bytes>,
    /// A message of which some is missing.
    partial: Option<Share>,
    /// The decoder will refuse what was handed on: nothing is held any more.
    hopeless: bool,
    refused: bool,
}

/// The kind of the bytes at the front of a body.
enum Front {
    /// Whole messages, with their number of bytes.
    Whole(usize),
    /// Bytes that no decoder accepts.
    Hopeless,
}

impl<B> WholeMessages<B> {
    /// `message_bytes_max` must be the limit of the decoder behind this.
    pub fn new(inner: B, message_bytes_max: usize, memory: &Memory) -> Self {
        Self {
            inner,
            message_bytes_max,
            budget: memory.unfinished.clone(),
            rest: Bytes::new(),
            whole: VecDeque::new(),
            partial: None,
            hopeless: false,
            refused: false,
        }
    }

    fn front(&self) -> Front {
        let mut whole = 0;
        while let Some(head) = self.rest[whole..].first_chunk() {
            let Some(size) = size_of(head, self.message_bytes_max) else { return Front::Hopeless };
            if self.rest.len() - whole < size {
                break;
            }
            whole += size;
        }
        Front::Whole(whole)
    }

    /// Looks at the front of what was received.
    fn sort(&mut self) -> Result<(), GaveWay> {
        let Some(partial) = self.partial.take() else {
            match self.front() {
                _ if self.hopeless => self.whole.push_back(std::mem::take(&mut self.rest)),
                Front::Hopeless => self.give_up(),
                Front::Whole(0) => {
                    let partial = self.budget.share();
                    partial.arrived(std::mem::take(&mut self.rest))?;
                    self.partial = Some(partial);
                }
                Front::Whole(size) => self.whole.push_back(self.rest.split_to(size)),
            }
            return Ok(());
        };
        let missing = HEAD_BYTES.saturating_sub(partial.head().0).min(self.rest.len());
        partial.arrived(self.rest.split_to(missing))?;
        let (arrived, Some(head)) = partial.head() else {
            self.partial = Some(partial);
            return Ok(());
        };
        let Some(size) = size_of(&head, self.message_bytes_max) else {
            self.whole = partial.take_all()?;
            self.give_up();
            return Ok(());
        };
        let missing = (size - arrived).min(self.rest.len());
        partial.arrived(self.rest.split_to(missing))?;
        if arrived + missing < size {
            self.partial = Some(partial);
            return Ok(());
        }
        // The head goes first: the decoder then makes room for the rest, not for the rest twice.
        let mut pieces = partial.take_all()?;
        if let Some(first) = pieces.front_mut().filter(|first| first.len() > HEAD_BYTES) {
            self.whole.push_back(first.split_to(HEAD_BYTES));
        }
        self.whole.append(&mut pieces);
        Ok(())
    }

    fn give_up(&mut self) {
        self.hopeless = true;
        if !self.rest.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.rest));
        }
    }

    /// The body ended within a message: so much of it is handed on that the decoder says so and reserves nothing.
    fn cut_short(&mut self) -> Option<Bytes> {
        let arrived = self.partial.take()?.take_all().ok()?;
        let first = arrived.front()?;
        Some(Bytes::copy_from_slice(&first[..first.len().min(HEAD_BYTES - 1)]))
    }

    fn gave_way(&mut self) -> Status {
        self.refused = true;
        (self.partial, self.rest) = (None, Bytes::new());
        let max = self.budget.bytes_max();
        ApiError::new(
            Code::ResourceExhausted,
            reason::UNFINISHED_MESSAGES,
            format!(
                "messages that have not fully arrived hold {max} bytes here, the most they may, and this one came \
                 slowest; send it again"
            ),
        )
        .meta("unfinished_bytes_max", max.to_string())
        .retry_after(std::time::Duration::from_millis(250))
        .into()
    }
}

/// The bytes of a message with its head; none if no decoder takes it.
fn size_of(head: &[u8; HEAD_BYTES], message_bytes_max: usize) -> Option<usize> {
    let [flag, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    (flag <= 1 && length <= message_bytes_max).then_some(HEAD_BYTES + length)
}

impl<B> Body for WholeMessages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(whole) = this.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(whole))));
            }
            if this.refused {
                return Poll::Ready(None);
            }
            if !this.rest.is_empty() {
                if this.sort().is_err() {
                    return Poll::Ready(Some(Err(this.gave_way().into())));
                }
                continue;
            }
            if this.partial.as_ref().is_some_and(|partial| partial.watch(cx).is_err()) {
                return Poll::Ready(Some(Err(this.gave_way().into())));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(this.cut_short().map(|bytes| Ok(Frame::data(bytes)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_empty() && self.rest.is_empty() && self.partial.is_none() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const MAX: usize = 1000;

    fn message(size: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend((size as u32).to_be_bytes());
        message.extend((0..size).map(|i| i as u8));
        message
    }

    /// Returns the frames that come out of a body made of these frames.
    async fn through(frames: Vec<Vec<u8>>) -> Vec<Bytes> {
        let frames = frames.into_iter().map(|frame| Ok::<_, BoxError>(Frame::data(Bytes::from(frame))));
        let inner = StreamBody::new(futures::stream::iter(frames));
        let mut body = WholeMessages::new(inner, MAX, &Memory::default());
        let mut out = Vec::new();
        while let Some(frame) = body.frame().await {
            out.push(frame.expect("no error").into_data().expect("data"));
        }
        out
    }

    #[tokio::test]
    async fn messages_come_out_as_they_went_in() {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        assert_eq!(through(vec![vec![0, 0, 0], vec![0, 0]]).await.concat(), message(0));
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let all: Vec<u8> = (0..random.usize(1..5)).flat_map(|_| message(random.usize(..=MAX))).collect();
            let mut frames = Vec::new();
            let mut rest = all.as_slice();
            while !rest.is_empty() {
                let (frame, after) = rest.split_at(random.usize(1..=rest.len().min(300)));
                frames.push(frame.to_vec());
                rest = after;
            }
            assert_eq!(through(frames).await.concat(), all);
        }
    }

    #[tokio::test]
    async fn a_whole_message_is_not_touched() {
        assert_eq!(through(vec![message(100)]).await, [message(100)]);
    }

    #[tokio::test]
    async fn nothing_of_an_unfinished_message_is_announced() {
        for frames in [vec![message(900)[..5].to_vec()], vec![message(900)[..3].to_vec(), vec![0, 9, 9, 9]]] {
            let told = through(frames).await.concat();
            assert!((1..HEAD_BYTES).contains(&told.len()), "the decoder sees that there was one: {told:?}");
        }
    }

    #[tokio::test]
    async fn malformed_bytes_are_passed_on_at_once() {
        for head in [vec![7, 0, 0, 0, 1], message(MAX + 1)[..5].to_vec()] {
            for frames in [vec![head.clone()], vec![head[..2].to_vec(), head[2..].to_vec(), vec![1; 50]]] {
                assert_eq!(through(frames.clone()).await.concat(), frames.concat());
            }
        }
    }
}
