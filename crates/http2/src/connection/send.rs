//! Sending: header blocks at once, DATA as far as the windows and the socket have room, and the windows that the peer is
//! given.
//!
//! DATA waits at its source. Streams that found no room on the connection wait in a queue, are woken in its order, and go to
//! its end when they have sent: while others wait, each takes a part.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};

use crate::connection::Core;
use crate::connection::capacity::QUANTUM;
use crate::error::{Error, Reason};
use crate::frame::{self, Head};
use crate::hpack::ListTooLong;
use crate::message;
use crate::stream::queue::WaitsFor;
use crate::stream::{Queued, Receiving, Sending, Stream, register};

/// Bytes that may wait for the socket beside those of DATA. Beyond them a request waits: headers have no window, and those
/// of calls that are never ended would pile up here.
const HEADERS_UNSENT_MAX: usize = 256 << 10;

/// The reason why a request was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The connection takes no more requests: the peer is leaving, or the connection is over.
    #[error("{0}")]
    Closed(Error),
    /// The header list is longer than this peer takes, as far as it has said (SETTINGS_MAX_HEADER_LIST_SIZE).
    #[error("{0}, which the peer announced")]
    TooLong(ListTooLong),
    /// The request is one that no peer would take.
    #[error("{0}")]
    Invalid(&'static str),
    /// The queue of this connection is full with so many requests. Another connection may have room.
    #[error("{0} requests wait for a stream of the connection, as many as may")]
    Full(usize),
}

impl Core {
    /// Opens a stream, at once or when the peer allows one more.
    pub(crate) fn send_request(&mut self, request: &Request<()>, end: bool) -> Result<usize, SendError> {
        if let Some(error) = self.shutdown.refusal() {
            return Err(SendError::Closed(error));
        }
        if self.streams.are_used_up() {
            return Err(SendError::Closed(self.use_up()));
        }
        let size = message::check_request(request).map_err(SendError::Invalid)?;
        if size > self.peer.header_list_max() {
            return Err(SendError::TooLong(ListTooLong::bytes(size, self.peer.header_list_max())));
        }
        let at_once = !self.has_queued()
            && self.streams.open() < self.peer.streams_max()
            && self.send_buffer.bytes() < self.config.send_buffer + HEADERS_UNSENT_MAX;
        if !at_once && self.queued() >= self.config.queued_max {
            return Err(SendError::Full(self.queued()));
        }
        let mut stream = Stream::new(Sending::Body, Receiving::Head, self.first_receive_window());
        stream.asks_head = *request.method() == Method::HEAD;
        if at_once {
            let key = self.streams.insert(stream);
            self.open(key, request, end);
            return Ok(key);
        }
        stream.sending = Sending::Queued(Box::new(Queued { request: request.clone(), end, trailers: None }));
        let key = self.streams.insert(stream);
        self.streams.enqueue(key);
        Ok(key)
    }

    /// Gives a stream its id and sends its headers.
    fn open(&mut self, key: usize, request: &Request<()>, end: bool) {
        let id = self.streams.open_local(key);
        self.streams[key].sending = if end { Sending::Closed } else { Sending::Body };
        let mut targets = std::mem::take(&mut self.targets);
        self.write_message(id, end, |encoder, block| {
            message::encode_request(request, &mut targets, encoder, block);
        });
        self.targets = targets;
        self.headers_end = self.send_buffer.end();
    }

    /// Opens streams that wait, as far as the peer allows and the socket takes their headers. Half of the buffer is left for
    /// DATA, which would never find room beside a queue that is always refilled. Nor would the queue move while DATA fills
    /// more than half: whenever the headers opened last are written, it has a turn.
    pub(crate) fn open_queued(&mut self) {
        if !self.has_queued() {
            return;
        }
        let (half, whole) = (self.config.send_buffer / 2, self.config.send_buffer);
        let has_turn = self.headers_end <= self.send_buffer.written();
        let turn_end = self.send_buffer.end() + QUANTUM as u64;
        while self.streams.open() < self.peer.streams_max()
            && (self.send_buffer.bytes() <= half
                || (has_turn && self.send_buffer.bytes() <= whole && self.send_buffer.end() < turn_end))
            && self.shutdown.may_open()
        {
            let Some(key) = self.streams.first_queued() else { return };
            if self.streams.are_used_up() {
                self.use_up();
                return;
            }
            self.streams.dequeue(key);
            let sending = &mut self.streams[key].sending;
            let Sending::Queued(queued) = std::mem::replace(sending, Sending::Body) else { continue };
            let Queued { request, end, trailers } = *queued;
            self.open(key, &request, end);
            if let Some(trailers) = trailers {
                self.write_trailers(key, &trailers);
            }
            self.streams[key].wake_writer();
        }
    }

    /// Sends response headers.
    pub(crate) fn send_response(
        &mut self,
        key: usize,
        response: &Response<()>,
        end: bool,
    ) -> Result<(), Error> {
        let stream = &mut self.streams[key];
        if let Some(error) = &stream.error {
            return Err(error.clone());
        }
        if !matches!(stream.sending, Sending::Head) {
            return Err(Error::reset(Reason::INTERNAL_ERROR, crate::error::By::Us));
        }
        stream.sending = if end { Sending::Closed } else { Sending::Body };
        let id = stream.id;
        self.write_message(id, end, |encoder, block| message::encode_response(response, encoder, block));
        if end {
            self.close_if_over(key);
        }
        Ok(())
    }

    /// Ends the sending half with trailers.
    pub(crate) fn send_trailers(&mut self, key: usize, trailers: HeaderMap) -> Result<(), Error> {
        let stream = &mut self.streams[key];
        if let Some(error) = &stream.error {
            return Err(error.clone());
        }
        match &mut stream.sending {
            Sending::Queued(queued) if !queued.is_whole() => queued.trailers = Some(trailers),
            Sending::Body => self.write_trailers(key, &trailers),
            Sending::Queued(_) | Sending::Head | Sending::Closed => {
                return Err(Error::reset(Reason::STREAM_CLOSED, crate::error::By::Us));
            }
        }
        Ok(())
    }

    fn write_trailers(&mut self, key: usize, trailers: &HeaderMap) {
        let stream = &mut self.streams[key];
        stream.sending = Sending::Closed;
        let id = stream.id;
        self.stop_waiting(key);
        self.write_message(id, true, |encoder, block| message::encode_trailers(trailers, encoder, block));
        self.close_if_over(key);
    }

    fn write_message(
        &mut self,
        id: u32,
        end: bool,
        encode: impl FnOnce(&mut crate::hpack::Encoder, &mut Vec<u8>),
    ) {
        let out = self.send_buffer.frames();
        let at = out.len();
        let flags = frame::END_HEADERS | if end { frame::END_STREAM } else { 0 };
        out.extend_from_slice(&[0; frame::HEAD_BYTES]);
        encode(&mut self.encoder, out);
        let len = out.len() - at - frame::HEAD_BYTES;
        if len <= self.peer.payload_max() {
            let head = Head { len, kind: frame::HEADERS, flags, stream: id };
            out[at..at + frame::HEAD_BYTES].copy_from_slice(&head.bytes());
        } else {
            let block = out.split_off(at + frame::HEAD_BYTES);
            out.truncate(at);
            self.write_block(id, &block, end);
        }
        self.wake_driver();
    }

    /// Writes a header block in as many frames as it takes.
    pub(crate) fn write_block(&mut self, id: u32, block: &[u8], end: bool) {
        let out = self.send_buffer.frames();
        let mut rest = block;
        let mut kind = frame::HEADERS;
        loop {
            let (part, after) = rest.split_at(rest.len().min(self.peer.payload_max()));
            rest = after;
            let mut flags = 0;
            if end && kind == frame::HEADERS {
                flags |= frame::END_STREAM;
            }
            if rest.is_empty() {
                flags |= frame::END_HEADERS;
            }
            out.extend_from_slice(&Head { len: part.len(), kind, flags, stream: id }.bytes());
            out.extend_from_slice(part);
            if rest.is_empty() {
                return;
            }
            kind = frame::CONTINUATION;
        }
    }

    /// Sends the part of `data` that there is room for. Ready when that is something, or `data` is empty. With `end` the
    /// last byte ends the sending half.
    pub(crate) fn poll_send(
        &mut self,
        key: usize,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<usize, Error>> {
        let buffer = self.buffer_room();
        let stream = &mut self.streams[key];
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(error.clone()));
        }
        match &mut stream.sending {
            Sending::Body => {}
            Sending::Queued(queued) if queued.is_whole() => {
                return Poll::Ready(Err(Error::reset(Reason::STREAM_CLOSED, crate::error::By::Us)));
            }
            Sending::Queued(queued) if data.is_empty() => {
                queued.end |= end;
                return Poll::Ready(Ok(0));
            }
            Sending::Queued(_) => {
                register(&mut stream.writer, cx);
                return Poll::Pending;
            }
            Sending::Head | Sending::Closed => {
                return Poll::Ready(Err(Error::reset(Reason::STREAM_CLOSED, crate::error::By::Us)));
            }
        }
        if data.is_empty() {
            if end {
                self.write_data(key, Bytes::new(), true);
            }
            return Poll::Ready(Ok(0));
        }
        let room = match self.capacity.grant(stream, buffer) {
            Ok(room) => room,
            Err(what) => {
                register(&mut stream.writer, cx);
                self.capacity.wait(&mut self.streams, key, what);
                self.wake_waiting();
                return Poll::Pending;
            }
        };
        let part = if data.len() <= room { std::mem::take(data) } else { data.split_to(room) };
        let sent = part.len();
        self.stop_waiting(key);
        self.write_data(key, part, end && data.is_empty());
        self.wake_waiting();
        Poll::Ready(Ok(sent))
    }

    /// Ready when there is room for DATA of a stream. A stream that waited keeps its place until it sends, or stops waiting.
    pub(crate) fn poll_ready(&mut self, key: usize, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let buffer = self.buffer_room();
        let stream = &mut self.streams[key];
        if let Some(error) = &stream.error {
            return Poll::Ready(Err(error.clone()));
        }
        if !matches!(stream.sending, Sending::Body) {
            // What is sent waits with its request, or tells what is wrong.
            return Poll::Ready(Ok(()));
        }
        match self.capacity.grant(stream, buffer) {
            Ok(_) => Poll::Ready(Ok(())),
            Err(what) => {
                register(&mut stream.writer, cx);
                self.capacity.wait(&mut self.streams, key, what);
                self.wake_waiting();
                Poll::Pending
            }
        }
    }

    /// Takes a stream out of the queue it waits in. The room that it may have been woken for is for others.
    pub(crate) fn stop_waiting(&mut self, key: usize) {
        match self.streams[key].waits_for() {
            WaitsFor::Nothing => {}
            WaitsFor::Opening => self.streams.dequeue(key),
            what => {
                self.capacity.wait(&mut self.streams, key, WaitsFor::Nothing);
                if what == WaitsFor::Room {
                    self.wake_waiting();
                }
            }
        }
    }

    /// Returns how many bytes of DATA fit into the send buffer now. None while the peer is being answered: what it asked for
    /// comes first.
    fn buffer_room(&self) -> usize {
        if self.is_backpressured() {
            0
        } else {
            self.config.send_buffer.saturating_sub(self.send_buffer.bytes())
        }
    }

    /// Sends data that there is room for.
    fn write_data(&mut self, key: usize, mut data: Bytes, end: bool) {
        let stream = &mut self.streams[key];
        let id = stream.id;
        self.capacity.take(stream, data.len());
        self.abuse.count_data_sent();
        let payload_max = self.peer.payload_max().min(frame::PAYLOAD_BYTES_MAX);
        while data.len() > payload_max {
            self.send_buffer.data(id, data.split_to(payload_max), false);
        }
        self.send_buffer.data(id, data, end);
        self.wake_driver();
        if end {
            self.streams[key].sending = Sending::Closed;
            self.stop_waiting(key);
            self.close_if_over(key);
        }
    }

    /// Wakes the streams that have waited longest for the connection, as many as there is room for.
    pub(crate) fn wake_waiting(&mut self) {
        if self.capacity.has_waiting() {
            let buffer = self.buffer_room();
            self.capacity.wake(&mut self.streams, buffer);
        }
    }

    /// Wakes the streams that come next, when those that were woken have had their chance and left room.
    pub(crate) fn wake_more_waiting(&mut self) {
        let buffer = self.buffer_room();
        self.capacity.wake_more(&mut self.streams, buffer);
    }

    /// Returns whether there is room, and streams wait for it that were not woken: those that were may not want it.
    pub(crate) fn has_unwoken(&self) -> bool {
        self.capacity.has_waiting() && self.capacity.has_unwoken(&self.streams, self.buffer_room())
    }

    /// Returns whether streams wait for the peer's connection-level window, most of which is missing.
    pub(crate) fn is_short_of_window(&self) -> bool {
        self.capacity.is_short_of_window()
    }

    /// Returns whether requests wait to be sent.
    pub(crate) fn has_queued(&self) -> bool {
        self.streams.queued() > 0
    }

    /// Returns how many requests wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.streams.queued()
    }

    /// Releases bytes that the owner of a stream has read: the peer may send as many again, and is told so once they are worth
    /// a frame.
    pub(crate) fn release(&mut self, key: usize, bytes: u32, unreleased: u32) {
        let stream = &mut self.streams[key];
        let window = self.config.stream_window.saturating_add(stream.widened);
        stream.let_go(unreleased);
        if stream.receiving == Receiving::Body
            && stream.error.is_none()
            && let Some(more) = stream.receive_window.release(bytes, i64::from(window / 2))
        {
            frame::write_window_update(self.send_buffer.frames(), stream.id, more);
            self.wake_driver();
        }
        self.release_connection(bytes);
    }

    /// Lets the peer send `more` bytes on a stream before they are read.
    pub(crate) fn widen_received(&mut self, key: usize, more: u32) {
        let stream = &mut self.streams[key];
        if more == 0 || stream.receiving != Receiving::Body || stream.error.is_some() {
            return;
        }
        stream.widened = stream.widened.saturating_add(more);
        stream.receive_window.widen(more);
        frame::write_window_update(self.send_buffer.frames(), stream.id, more);
        self.wake_driver();
    }

    pub(crate) fn release_connection(&mut self, bytes: u32) {
        // Half of what the peer has left, or streams that nobody reads would make the others wait for good.
        if let Some(more) = self.receive_window.release(bytes, self.receive_window.bytes() / 2) {
            frame::write_window_update(self.send_buffer.frames(), 0, more);
            self.wake_driver();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Role;

    fn send(core: &mut Core) -> Result<usize, SendError> {
        core.send_request(&Request::post("http://mesh.test/a.B/C").body(()).expect("valid"), true)
    }

    #[test]
    fn queued_requests_respect_last_id() {
        let mut core = Core::new(Role::Client, crate::Config::default());
        core.peer.set_streams_max(1);
        core.streams.set_last_id(frame::STREAM_MAX - 6);
        let open = send(&mut core).expect("an id is left");
        let queued = [send(&mut core), send(&mut core)].map(|sent| sent.expect("queued"));
        core.reset(open, Reason::CANCEL, crate::error::By::Peer);
        assert_eq!(core.streams[queued[0]].id, frame::STREAM_MAX - 2, "the last one we use");
        core.reset(queued[0], Reason::CANCEL, crate::error::By::Peer);
        assert_eq!(core.streams.last_id(), frame::STREAM_MAX - 2);
        let error = core.streams[queued[1]].error.as_ref().expect("it would wait for good");
        assert!(error.is_go_away() && error.is_remote(), "it may be sent elsewhere: {error}");
        assert!(!core.has_queued());
        assert!(matches!(send(&mut core), Err(SendError::Closed(_))));
    }
}
