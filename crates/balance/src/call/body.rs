//! Bodies between `http_body` and HTTP/2, both ways, with HTTP/2's own flow control: nothing is read from a body before the
//! peer has room for it, and the peer gets room back when the caller takes a frame.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use shoal_http2::{Reason, RecvStream, SendStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::call::attempt::Attempt;

/// A request's body. The part that is ready when the call is made is read at once.
pub(crate) enum Outgoing {
    /// The whole body in one piece: a unary request. It can be sent again.
    Whole(Bytes),
    /// A body that is still being produced. It can be sent once; `None` after that.
    Streamed(Option<Streamed>),
}

pub(crate) struct Streamed {
    /// The frames that were read to find out whether more follow; at most two.
    queued: [Option<Frame<Bytes>>; 2],
    body: tonic::body::Body,
}

impl Outgoing {
    /// Reads the frames that are ready, without waiting.
    pub(crate) async fn begin(mut body: tonic::body::Body) -> Result<Outgoing, Status> {
        let mut queued: [Option<Frame<Bytes>>; 2] = [None, None];
        let ended = poll_fn(|cx| {
            for slot in &mut queued {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => *slot = Some(frame),
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(status)),
                    Poll::Ready(None) => return Poll::Ready(Ok(true)),
                    Poll::Pending => return Poll::Ready(Ok(false)),
                }
            }
            Poll::Ready(Ok(false))
        })
        .await?;
        if ended && queued[1].is_none() {
            match queued[0].take().map_or(Ok(Bytes::new()), Frame::into_data) {
                Ok(data) => return Ok(Outgoing::Whole(data)),
                Err(trailers) => queued[0] = Some(trailers),
            }
        }
        Ok(Outgoing::Streamed(Some(Streamed { queued, body })))
    }

    /// Returns whether the request has no body.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Outgoing::Whole(data) if data.is_empty())
    }

    /// Returns whether the body may be a stream of messages.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self, Outgoing::Streamed(_))
    }

    /// Returns whether the body can be sent, or sent again.
    pub(crate) fn is_sendable(&self) -> bool {
        !matches!(self, Outgoing::Streamed(None))
    }

    /// Sends the body on `stream`: at once if it is complete, otherwise from a task that lives as long as the returned handle.
    pub(crate) fn send(&mut self, mut stream: SendStream) -> Option<Pump> {
        match self {
            Outgoing::Whole(data) => {
                if data.is_empty() {
                    return None;
                }
                let mut left = data.clone();
                let mut context = Context::from_waker(Waker::noop());
                // If the stream is gone, its response says why.
                let sent = stream.poll_send(&mut context, &mut left, true);
                if left.is_empty() || matches!(sent, Poll::Ready(Err(_))) {
                    return None;
                }
                // The rest is sent as the peer has room for it.
                Some(Pump(tokio::spawn(async move {
                    let _ = stream.send(left, true).await;
                })))
            }
            Outgoing::Streamed(streamed) => {
                let streamed = streamed.take()?;
                // Owned by the handle, which aborts it when dropped. It must not depend on the caller reading the
                // response: a client stream is written before its answer is looked at.
                Some(Pump(tokio::spawn(pump(streamed, stream))))
            }
        }
    }
}

/// The task that sends a streamed body. On drop, the task ends, and the stream is reset if it is still open.
#[derive(Debug)]
pub(crate) struct Pump(JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn pump(streamed: Streamed, mut stream: SendStream) {
    let Streamed { queued, mut body } = streamed;
    let mut queued = queued.into_iter().flatten();
    loop {
        let frame = match queued.next() {
            Some(frame) => Some(Ok(frame)),
            None => {
                let next = poll_fn(|cx| {
                    if stream.poll_reset(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    Pin::new(&mut body).poll_frame(cx).map(Some)
                });
                match next.await {
                    Some(frame) => frame,
                    // The peer wants no more.
                    None => return,
                }
            }
        };
        match frame {
            None => {
                let _ = stream.finish();
                return;
            }
            Some(Err(_)) => return stream.send_reset(Reason::CANCEL),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if stream.send(data, false).await.is_err() {
                        return;
                    }
                }
                Err(frame) => {
                    let _ = stream.send_trailers(frame.into_trailers().unwrap_or_default());
                    return;
                }
            },
        }
    }
}

/// The time after which a call that goes on counts as a long stream, such as a worker's or a watch.
pub(crate) const STREAM_AFTER: Duration = Duration::from_secs(1);

/// A response's body. If it is dropped before its end, the stream is reset with CANCEL.
pub(crate) struct Incoming {
    stream: RecvStream,
    http: http::StatusCode,
    state: State,
    deadline: Option<Instant>,
    /// The time at which the call counts as a long stream, unless it already does.
    stream_at: Option<Instant>,
    /// Expires at the deadline or at `stream_at`, whichever comes first.
    timer: Option<Pin<Box<Sleep>>>,
    attempt: Option<Attempt>,
    _pump: Option<Pump>,
}

enum State {
    Data,
    Trailers,
    Ended,
}

impl Incoming {
    /// Creates a body that reports the end of the call to `attempt` and ends at `deadline`.
    pub(crate) fn new(
        stream: RecvStream,
        http: http::StatusCode,
        deadline: Option<Instant>,
        attempt: Option<Attempt>,
        pump: Option<Pump>,
    ) -> Incoming {
        let stream_at = attempt.is_some().then(|| Instant::now() + STREAM_AFTER);
        Incoming { stream, http, state: State::Data, deadline, stream_at, timer: None, attempt, _pump: pump }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let State::Data = self.state {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The caller has taken the data, so the peer may send as much again.
                    self.stream.release(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broke(&error)))),
                None => self.state = State::Trailers,
            }
        }
        if let State::Trailers = self.state {
            let trailers = match ready!(self.stream.poll_trailers(cx)) {
                Ok(trailers) => trailers,
                Err(error) => return Poll::Ready(Some(Err(self.broke(&error)))),
            };
            self.state = State::Ended;
            let replaced = self.attempt.take().and_then(|mut attempt| match &trailers {
                Some(trailers) => attempt.end_with(trailers, self.http),
                None => attempt.end_with(&HeaderMap::new(), self.http),
            });
            if let Some(status) = replaced {
                return Poll::Ready(Some(Err(status)));
            }
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn broke(&mut self, error: &shoal_http2::Error) -> Status {
        self.state = State::Ended;
        match self.attempt.take() {
            Some(mut attempt) => attempt.end_with_error(error),
            None => Status::unavailable(error.to_string()),
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = self.poll_stream(cx) {
            return Poll::Ready(frame);
        }
        loop {
            let sooner = [self.deadline, self.stream_at].into_iter().flatten().min();
            let Some(sooner) = sooner else { return Poll::Pending };
            // The timer is created at the first wait: a unary answer is usually complete at once.
            ready!(self.timer.get_or_insert_with(|| Box::pin(sleep_until(sooner))).as_mut().poll(cx));
            self.timer = None;
            if self.deadline == Some(sooner) {
                break;
            }
            self.stream_at = None;
            if let Some(attempt) = &mut self.attempt {
                attempt.pick().became_stream();
            }
        }
        self.state = State::Ended;
        (self.deadline, self.stream_at) = (None, None);
        let status = match self.attempt.take() {
            Some(mut attempt) => attempt.end_late(),
            None => Status::deadline_exceeded("deadline exceeded"),
        };
        Poll::Ready(Some(Err(status)))
    }
}
