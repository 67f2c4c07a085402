//! What we send: header blocks at once, DATA as far as the windows and the socket have room, and the windows we give.
//!
//! DATA waits where it comes from. Streams that found no room on the connection stand in a queue, are woken in its order, and
//! go to its end when they have sent: while others wait, each takes a part.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};

use crate::connection::Core;
use crate::error::{Error, Reason};
use crate::frame::{self, Head};
use crate::hpack::ListTooLong;
use crate::message;
use crate::stream::queue::For;
use crate::stream::{Queued, Receiving, Sending, Stream, register};

/// What one stream may send while others wait for the connection.
const TURN_BYTES: usize = 16 << 10;

/// So many streams are woken at least when there is room: one may have found that it wants nothing any more, and the others
/// are not to wait for it.
const WOKEN_MIN: usize = 8;

/// Bytes that wait for the socket beside those of DATA, beyond which no further request is sent: it waits. The headers of a
/// request have no window, and those of calls that are never ended would pile up here.
const HEADERS_UNSENT_MAX: usize = 256 << 10;

/// Why a request was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The connection takes no more: the peer is leaving, or it is over.
    #[error("{0}")]
    Closed(Error),
    /// Its header list is longer than this peer takes, as far as it has said (SETTINGS_MAX_HEADER_LIST_SIZE).
    #[error("{0}, which the peer announced")]
    TooLong(ListTooLong),
    /// No peer would take it.
    #[error("{0}")]
    Invalid(&'static str),
    /// So many requests wait for this connection already, as many as may. Another connection may have room.
    #[error("{0} requests wait for a stream of the connection, as many as may")]
    Full(usize),
}

impl Core {
    /// Opens a stream, at once or when the peer allows one more.
    pub(crate) fn send_request(&mut self, request: &Request<()>, end: bool) -> Result<usize, SendError> {
        if let Some(error) = self.over.as_ref().or(self.peer_leaves.as_ref()) {
            return Err(SendError::Closed(error.clone()));
        }
        if self.retired {
            return Err(SendError::Closed(Error::io("the connection is no longer used")));
        }
        if self.is_used_up() {
            return Err(SendError::Closed(self.use_up()));
        }
        let size = message::check_request(request).map_err(SendError::Invalid)?;
        if size > self.peer.header_list_max {
            return Err(SendError::TooLong(ListTooLong::bytes(size, self.peer.header_list_max)));
        }
        let at_once = self.queued.is_empty()
            && self.open < self.peer.streams_max
            && self.out.bytes() < self.config.send_buffer + HEADERS_UNSENT_MAX;
        if !at_once && self.queued.len() >= self.config.queued_max {
            return Err(SendError::Full(self.queued.len()));
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
        self.queued.push(&mut self.streams, key);
        Ok(key)
    }

    /// Gives a stream its number and sends its headers.
    fn open(&mut self, key: usize, request: &Request<()>, end: bool) {
        let id = if self.last_id == 0 { 1 } else { self.last_id + 2 };
        self.last_id = id;
        self.open += 1;
        self.keys.insert(id, key);
        let stream = &mut self.streams[key];
        stream.id = id;
        stream.counted = true;
        stream.sending = if end { Sending::Closed } else { Sending::Body };
        let mut targets = std::mem::take(&mut self.targets);
        self.write_message(id, end, |encoder, block| {
            message::encode_request(request, &mut targets, encoder, block);
        });
        self.targets = targets;
        self.opened_to = self.out.end();
    }

    /// Opens streams that wait, as far as the peer allows and the socket takes their headers. Half of the buffer is left for
    /// DATA, which would never find room beside a queue that is always refilled. Nor would the queue move while DATA fills
    /// more than half: whenever the headers opened last are written, it has a turn.
    pub(crate) fn open_queued(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let has_turn = self.opened_to <= self.out.written();
        let turn_end = self.out.end() + TURN_BYTES as u64;
        while self.open < self.peer.streams_max
            && (self.out.bytes() <= self.config.send_buffer / 2
                || (has_turn && self.out.bytes() <= self.config.send_buffer && self.out.end() < turn_end))
            && self.peer_leaves.is_none()
            && self.over.is_none()
        {
            let Some(key) = self.queued.first() else { return };
            if self.is_used_up() {
                self.use_up();
                return;
            }
            self.queued.remove(&mut self.streams, key);
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
            self.settle(key);
        }
        Ok(())
    }

    /// Ends our half with trailers.
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
        self.wait_no_more(key);
        self.write_message(id, true, |encoder, block| message::encode_trailers(trailers, encoder, block));
        self.settle(key);
    }

    fn write_message(
        &mut self,
        id: u32,
        end: bool,
        encode: impl FnOnce(&mut crate::hpack::Encoder, &mut Vec<u8>),
    ) {
        let out = self.out.frames();
        let at = out.len();
        let flags = frame::END_HEADERS | if end { frame::END_STREAM } else { 0 };
        out.extend_from_slice(&[0; frame::HEAD_BYTES]);
        encode(&mut self.encoder, out);
        let len = out.len() - at - frame::HEAD_BYTES;
        if len <= self.peer.payload_max {
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
        let out = self.out.frames();
        let mut rest = block;
        let mut kind = frame::HEADERS;
        loop {
            let (part, after) = rest.split_at(rest.len().min(self.peer.payload_max));
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

    /// Sends of `data` what there is room for; ready when that is something, or all of nothing. With `end` the last of it
    /// ends our half.
    pub(crate) fn poll_send(
        &mut self,
        key: usize,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<usize, Error>> {
        let connection = self.room();
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
        let own = usize::try_from(i64::from(self.peer.window) + stream.send_offset).unwrap_or(0);
        let stands = stream.place.line();
        let share = self.share(key);
        // Who comes when others wait goes behind them.
        let has_turn = stands == For::Room || self.waiting.is_empty();
        let line = if own == 0 {
            For::Window
        } else if share == 0 && self.send_window > 0 {
            For::Share
        } else if connection == 0 || !has_turn {
            For::Room
        } else {
            For::Nothing
        };
        if line != For::Nothing {
            register(&mut self.streams[key].writer, cx);
            self.wait_for(key, line);
            self.share_room();
            return Poll::Pending;
        }
        let turn = if self.waiting.is_empty() { usize::MAX } else { TURN_BYTES };
        let room = own.min(connection).min(turn).min(share);
        let part = if data.len() <= room { std::mem::take(data) } else { data.split_to(room) };
        let sent = part.len();
        self.wait_no_more(key);
        self.write_data(key, part, end && data.is_empty());
        self.share_room();
        Poll::Ready(Ok(sent))
    }

    /// Puts a stream at the end of a line, unless it stands there.
    fn wait_for(&mut self, key: usize, line: For) {
        if self.streams[key].place.line() == line {
            return;
        }
        self.wait_no_more(key);
        match line {
            For::Nothing => {}
            For::Opening => self.queued.push(&mut self.streams, key),
            For::Window => self.starved.push(&mut self.streams, key),
            For::Share => self.sated.push(&mut self.streams, key),
            For::Room => self.waiting.push(&mut self.streams, key),
        }
    }

    /// Takes a stream out of the line it stands in. What it may have been woken for is others'.
    pub(crate) fn wait_no_more(&mut self, key: usize) {
        match self.streams[key].place.line() {
            For::Nothing => {}
            For::Opening => self.queued.remove(&mut self.streams, key),
            For::Window => self.starved.remove(&mut self.streams, key),
            For::Share => self.sated.remove(&mut self.streams, key),
            For::Room => {
                self.waiting.remove(&mut self.streams, key);
                self.share_room();
            }
        }
    }

    /// How much of any stream's DATA the connection takes now. None while its peer is being answered: what it asked for
    /// comes first.
    fn room(&self) -> usize {
        if self.is_stuffed() {
            return 0;
        }
        let outbox = self.config.send_buffer.saturating_sub(self.out.bytes());
        usize::try_from(self.send_window).unwrap_or(0).min(outbox)
    }

    /// Sends what there is room for.
    fn write_data(&mut self, key: usize, mut data: Bytes, end: bool) {
        let stream = &mut self.streams[key];
        let id = stream.id;
        stream.send_offset -= data.len() as i64;
        stream.unreturned += data.len() as i64;
        self.idle_frames.earn(1);
        self.send_window -= data.len() as i64;
        let payload_max = self.peer.payload_max.min(frame::PAYLOAD_BYTES_MAX);
        while data.len() > payload_max {
            self.out.data(id, data.split_to(payload_max), false);
        }
        self.out.data(id, data, end);
        self.wake_driver();
        if end {
            self.streams[key].sending = Sending::Closed;
            self.wait_no_more(key);
            self.settle(key);
        }
    }

    /// Wakes streams that wait for the connection, those first that have waited longest. They leave the queue when they send.
    pub(crate) fn share_room(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let room = self.room();
        if room == 0 {
            return;
        }
        let mut next = self.waiting.first();
        for _ in 0..WOKEN_MIN + room / TURN_BYTES {
            let Some(key) = next else { return };
            let stream = &mut self.streams[key];
            stream.wake_writer();
            next = stream.place.after();
        }
    }

    /// Whether there is room, and streams wait for it that were not woken: those who were may want nothing any more.
    pub(crate) fn has_room_left(&self) -> bool {
        if self.waiting.is_empty() || self.room() == 0 {
            return false;
        }
        let mut line = std::iter::successors(self.waiting.first(), |key| self.streams[*key].place.after());
        line.any(|key| self.streams[key].writer.is_some())
    }

    /// Wakes those who come next, when those who were woken have had their turn and left room. They keep their places.
    pub(crate) fn share_room_left(&mut self) {
        if self.room() == 0 {
            return;
        }
        let mut woken = 0;
        let mut next = self.waiting.first();
        while let Some(key) = next
            && woken < WOKEN_MIN
        {
            let stream = &mut self.streams[key];
            if stream.writer.is_some() {
                stream.wake_writer();
                woken += 1;
            }
            next = stream.place.after();
        }
    }

    /// The owner of a stream has read so much of it: the peer may send as much again, once it is worth a frame.
    pub(crate) fn release(&mut self, key: usize, bytes: u32, unreleased: u32) {
        let stream = &mut self.streams[key];
        let window = self.config.stream_window.saturating_add(stream.widened);
        stream.let_go(unreleased);
        if stream.receiving == Receiving::Body && stream.error.is_none() {
            stream.released += bytes;
            if stream.released >= window / 2 {
                let more = std::mem::take(&mut stream.released);
                stream.receive_window += i64::from(more);
                frame::write_window_update(self.out.frames(), stream.id, more);
                self.wake_driver();
            }
        }
        self.release_connection(bytes);
    }

    /// Lets the peer send so much more on a stream before it is read.
    pub(crate) fn widen_received(&mut self, key: usize, more: u32) {
        let stream = &mut self.streams[key];
        if more == 0 || stream.receiving != Receiving::Body || stream.error.is_some() {
            return;
        }
        stream.widened = stream.widened.saturating_add(more);
        stream.receive_window += i64::from(more);
        frame::write_window_update(self.out.frames(), stream.id, more);
        self.wake_driver();
    }

    pub(crate) fn release_connection(&mut self, bytes: u32) {
        self.released += bytes;
        // Of what the peer has left, or streams that nobody reads would make the others wait for good.
        if self.released > 0 && i64::from(self.released) >= self.receive_window / 2 {
            let more = std::mem::take(&mut self.released);
            self.receive_window += i64::from(more);
            frame::write_window_update(self.out.frames(), 0, more);
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
    fn queued_requests_get_no_number_above_the_last() {
        let mut core = Core::new(Role::Client, crate::Config::default());
        core.peer.streams_max = 1;
        core.last_id = frame::STREAM_MAX - 6;
        let open = send(&mut core).expect("a number is left");
        let queued = [send(&mut core), send(&mut core)].map(|sent| sent.expect("queued"));
        core.reset(open, Reason::CANCEL, crate::error::By::Peer);
        assert_eq!(core.streams[queued[0]].id, frame::STREAM_MAX - 2, "the last one we use");
        core.reset(queued[0], Reason::CANCEL, crate::error::By::Peer);
        assert_eq!(core.last_id, frame::STREAM_MAX - 2);
        let error = core.streams[queued[1]].error.as_ref().expect("it would wait for good");
        assert!(error.is_go_away() && error.is_remote(), "it may be sent elsewhere: {error}");
        assert!(core.queued.is_empty());
        assert!(matches!(send(&mut core), Err(SendError::Closed(_))));
    }
}
