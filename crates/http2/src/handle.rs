//! Handles for the owner of a stream: its two halves. When the last handle is dropped the stream is reset, if it is not
//! over.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::error::{Error, Reason};
use crate::io::Shared;
use crate::stream::Unread;
use crate::stream::{Receiving, Sending, register};

/// A handle that keeps a stream in the table.
#[derive(Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
    key: usize,
    /// Marks the handle that reads the body.
    reader: bool,
}

impl Handle {
    /// Makes a handle that the stream counts already.
    pub(crate) fn new(shared: Arc<Shared>, key: usize) -> Handle {
        Handle { shared, key, reader: false }
    }

    /// Turns the handle into the one that reads the body.
    pub(crate) fn reading(self) -> RecvStream {
        let mut handle = self;
        handle.reader = true;
        RecvStream(handle)
    }

    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<Error> {
        let mut core = self.shared.lock();
        let stream = core.stream(self.key);
        match &stream.error {
            Some(error) => Poll::Ready(error.clone()),
            None => {
                register(&mut stream.writer, cx);
                Poll::Pending
            }
        }
    }

    fn reset(&self, reason: Reason) {
        self.shared.lock().give_up(self.key, reason);
    }
}

impl Clone for Handle {
    fn clone(&self) -> Handle {
        self.shared.lock().stream(self.key).handles += 1;
        Handle { shared: self.shared.clone(), key: self.key, reader: false }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().dropped(self.key, self.reader);
    }
}

/// The sending half of a stream, once its headers are sent.
#[derive(Debug)]
pub struct SendStream(pub(crate) Handle);

impl SendStream {
    /// Sends the part of `data` that the peer's windows and the socket have room for, and takes it off. Ready with its
    /// length, which is zero only if `data` is empty. With `end`, the last byte ends our half; so does empty `data`.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<usize, Error>> {
        self.0.shared.lock().poll_send(self.0.key, cx, data, end)
    }

    /// Ready when there is room to send, which another stream may take first. A task that finds that it has nothing to send
    /// must call [`poll_idle`](SendStream::poll_idle), or the stream keeps its place among those that wait.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.shared.lock().poll_ready(self.0.key, cx)
    }

    /// Ready when the stream has ended before its time, like [`poll_reset`](SendStream::poll_reset). The stream has nothing to
    /// send meanwhile: it gives up its place among those that wait for room.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.shared.lock().stop_waiting(self.0.key);
        self.0.poll_reset(cx)
    }

    /// Sends all of `data`, waiting for room.
    ///
    /// # Errors
    /// When the stream is over.
    pub async fn send(&mut self, mut data: Bytes, end: bool) -> Result<(), Error> {
        loop {
            poll_fn(|cx| self.poll_send(cx, &mut data, end)).await?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }

    /// Returns whether the request still waits to be sent: the peer has seen nothing of it.
    pub fn is_queued(&self) -> bool {
        matches!(self.0.shared.lock().stream(self.0.key).sending, Sending::Queued(_))
    }

    /// Ends the sending half without trailers. Waits for nothing.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn finish(&mut self) -> Result<(), Error> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match self.poll_send(&mut context, &mut Bytes::new(), true) {
            Poll::Ready(sent) => sent.map(|_| ()),
            // Nothing needs no room.
            Poll::Pending => Ok(()),
        }
    }

    /// Ends the sending half with trailers.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Error> {
        self.0.shared.lock().send_trailers(self.0.key, trailers)
    }

    /// Resets the stream: both halves end.
    pub fn send_reset(&mut self, reason: Reason) {
        self.0.reset(reason);
    }

    /// Ready when the stream has ended before its time: reset by the peer, or lost with its connection. Wakes the same task
    /// as [`poll_send`](SendStream::poll_send): a task that waits for room must ask for both whenever it is woken.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.poll_reset(cx)
    }
}

/// The receiving half of a stream, once its headers are here.
#[derive(Debug)]
pub struct RecvStream(Handle);

impl RecvStream {
    /// Returns the next bytes of the body, several small frames as one, or none when there are no more. The bytes must be
    /// [released](RecvStream::release) once they are read, or the peer stops sending.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut core = self.0.shared.lock();
        let stream = core.stream(self.0.key);
        if let Some(data) = stream.received.pop() {
            return Poll::Ready(Some(Ok(data)));
        }
        if stream.receiving == Receiving::Closed || stream.trailers.is_some() {
            return Poll::Ready(None);
        }
        if let Some(error) = &stream.error {
            return Poll::Ready(Some(Err(error.clone())));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Waits for the next bytes of the body, as [`poll_data`](RecvStream::poll_data).
    pub async fn data(&mut self) -> Option<Result<Bytes, Error>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Returns the trailers, when the body has been read.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Error>> {
        let mut core = self.0.shared.lock();
        let stream = core.stream(self.0.key);
        if stream.receiving == Receiving::Closed {
            return Poll::Ready(Ok(stream.trailers.take()));
        }
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(error.clone()));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Waits for the trailers, as [`poll_trailers`](RecvStream::poll_trailers).
    ///
    /// # Errors
    /// When the stream was reset first.
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, Error> {
        poll_fn(|cx| self.poll_trailers(cx)).await
    }

    /// Returns whether nothing is left to read, neither data nor trailers.
    pub fn is_end_stream(&self) -> bool {
        self.0.shared.lock().stream(self.0.key).is_read()
    }

    /// Counts the bytes that are received and not released in `unread`, those that are there already too. A second call does
    /// nothing.
    pub fn count_unread(&mut self, unread: &Arc<Unread>) {
        self.0.shared.lock().stream(self.0.key).count_unread(unread);
    }

    /// Wakes the task when more of the body comes, without reading what is there.
    pub fn wake_for_more(&mut self, cx: &mut Context<'_>) {
        let mut core = self.0.shared.lock();
        register(&mut core.stream(self.0.key).reader, cx);
    }

    /// Returns how many bytes were received and are not released, whether they were read or not.
    pub fn unreleased(&self) -> usize {
        self.0.shared.lock().stream(self.0.key).unreleased as usize
    }

    /// Lets the peer send `more` bytes on this stream than the [window](crate::Config::stream_window) of each, from now on.
    /// Together they must stay below 2³¹.
    pub fn widen(&mut self, more: u32) {
        self.0.shared.lock().widen_received(self.0.key, more);
    }

    /// Releases bytes that were read: the peer may send as many again.
    pub fn release(&mut self, bytes: usize) {
        if bytes > 0 {
            let mut core = self.0.shared.lock();
            let bytes = core.stream(self.0.key).unreleased.min(u32::try_from(bytes).unwrap_or(u32::MAX));
            core.release(self.0.key, bytes, bytes);
        }
    }
}

/// A response that is to come.
#[derive(Debug)]
pub struct ResponseFuture(pub(crate) Handle);

impl Future for ResponseFuture {
    type Output = Result<Response<RecvStream>, Error>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut core = self.0.shared.lock();
        let stream = core.stream(self.0.key);
        if let Some(response) = stream.response.take() {
            stream.handles += 1;
            let handle = Handle::new(self.0.shared.clone(), self.0.key);
            return Poll::Ready(Ok(response.map(|()| handle.reading())));
        }
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(error.clone()));
        }
        register(&mut stream.reader, cx);
        Poll::Pending
    }
}

/// Sends the response to a request.
#[derive(Debug)]
pub struct SendResponse(pub(crate) Handle);

impl SendResponse {
    /// Sends response headers. With `end` they are the whole response.
    ///
    /// # Errors
    /// When the stream is over, or answered already.
    pub fn send_response(&mut self, response: &Response<()>, end: bool) -> Result<SendStream, Error> {
        self.0.shared.lock().send_response(self.0.key, response, end)?;
        Ok(SendStream(self.0.clone()))
    }

    /// Resets the stream: both halves end.
    pub fn send_reset(&mut self, reason: Reason) {
        self.0.reset(reason);
    }

    /// Ready when the stream has ended before its time: reset by the peer, or lost with its connection.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.poll_reset(cx)
    }
}
