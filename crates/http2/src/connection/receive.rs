//! What the peer sends: each frame as RFC 9113 §6 wants it handled, and what is done with one that breaks a rule.
//!
//! An error ends the connection (§5.4.1). What breaks but a stream (§5.4.2) resets it, and is counted.

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, StatusCode};

use crate::connection::foreign_protocol;
use crate::connection::{Core, Role, TABLE_BYTES};
use crate::error::{By, Error, Reason};
use crate::frame::{self, Head};
use crate::hpack::{List, ListLimits};
use crate::message::Fields;
use crate::stream::{COPIED_BYTES_MAX, Receiving, Sending, Stream};

/// Answers that wait for the socket, beyond which nothing more is read: a peer that makes us answer and does not listen.
const REPLIES_MAX: usize = 1_024;

/// Bytes of answers, beside those of DATA, that wait for the socket before nothing more is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Frames of a header block beside those its size explains; more are an attack (CVE-2024-27316).
const CONTINUATIONS_MAX: usize = 8;

/// Frames that are handled before other connections have their turn.
const TURN_FRAMES: usize = 1_000;

/// So many bytes of a header block count as one more of those: they can say as many fields.
const BLOCK_BYTES_A_FRAME: usize = 64;

/// Where in a frame its kind is.
const KIND_AT: usize = 3;

/// Empty DATA frames beyond what messages and bytes make up for: they do nothing, and cost nothing to send (CVE-2019-9518).
const EMPTY_FRAMES_MAX: u32 = 1_000;

/// Bytes of DATA that make up for an empty frame; so does each message.
const BYTES_FOR_AN_EMPTY_FRAME: u32 = 1 << 10;

/// A header block is read to its end up to so many times the longest list we take, so that one that is too long is the fault
/// of its call alone; what comes beyond is an attack. Nothing of it is kept but the fields within the limit.
const BLOCK_LISTS_MAX: usize = 8;

/// What a list may take from the dynamic table: all of it twice. Without a limit each octet of a block would stand for
/// thousands, here and on the way to an upstream.
const REFERENCED_BYTES_MAX: usize = 2 * TABLE_BYTES;

/// What a peer has begun to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Changes when it has ended.
    pub(crate) number: u64,
    /// It is a frame of DATA, of which the peer may not have more at hand.
    pub data: bool,
}

/// A header block of which more is to come.
pub(crate) struct Block {
    head: Head,
    depends_on_itself: bool,
    list: List,
    fields: Fields,
    bytes: usize,
    frames: usize,
}

impl Block {
    /// Octets of it that are kept undecoded.
    pub(crate) fn pending(&self) -> usize {
        self.list.pending()
    }
}

impl Core {
    /// Takes the frames that are complete out of `bytes`.
    ///
    /// # Errors
    /// When the connection is to be ended.
    pub(crate) fn receive(&mut self, bytes: &mut BytesMut) -> Result<(), Error> {
        if !self.preface.is_empty() && !self.receive_preface(bytes)? {
            return Ok(());
        }
        if !self.peer.settled
            && self.role == Role::Client
            && let Some(complaint) = foreign_protocol::complaint(bytes)
        {
            return Err(self.broken(Reason::PROTOCOL_ERROR, &complaint));
        }
        while !self.is_stuffed() && !self.had_its_turn() {
            let Some(head) = Head::read(bytes) else { break };
            if head.len > frame::PAYLOAD_BYTES_MAX {
                return Err(self.broken(Reason::FRAME_SIZE_ERROR, "a frame is too long"));
            }
            let whole = frame::HEAD_BYTES + head.len;
            if bytes.len() < whole {
                break;
            }
            self.charge(head);
            if head.kind == frame::DATA && self.block.is_none() && self.peer.settled {
                self.receive_data(head, bytes)?;
            } else {
                self.receive_frame(head, &bytes[frame::HEAD_BYTES..whole])?;
                bytes.advance(whole);
            }
            if self.block.is_none() {
                self.said += 1;
            }
        }
        Ok(())
    }

    /// Of what is received from here on, [so much](TURN_FRAMES) is handled before other connections have their turn.
    pub(crate) fn begin_turn(&mut self) {
        self.frames_left = TURN_FRAMES;
    }

    /// Whether others are to have their turn now.
    pub(crate) fn had_its_turn(&self) -> bool {
        self.frames_left == 0
    }

    fn charge(&mut self, head: Head) {
        let more = match head.kind {
            frame::HEADERS | frame::CONTINUATION => head.len / BLOCK_BYTES_A_FRAME,
            _ => 0,
        };
        self.frames_left = self.frames_left.saturating_sub(1 + more);
    }

    /// What the peer has begun to say, `rest` being what was received and not taken.
    pub(crate) fn unfinished(&self, rest: &[u8]) -> Option<Unfinished> {
        let (number, in_block) = (self.said, self.block.is_some() || !self.preface.is_empty());
        let data = !in_block && rest.get(KIND_AT) == Some(&frame::DATA);
        (in_block || !rest.is_empty()).then_some(Unfinished { number, data })
    }

    /// Whether nothing more is read until what is to be sent is sent. A server's peer that asks and asks, and reads no
    /// answer, is held up; a client goes on reading, or two sides might wait for each other.
    pub(crate) fn is_stuffed(&self) -> bool {
        self.replies >= REPLIES_MAX
            || (self.role == Role::Server && self.out.bytes() >= self.config.send_buffer + ANSWER_BYTES_MAX)
    }

    fn receive_preface(&mut self, bytes: &mut BytesMut) -> Result<bool, Error> {
        let here = bytes.len().min(self.preface.len());
        if bytes[..here] != self.preface[..here] {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "no HTTP/2 preface"));
        }
        bytes.advance(here);
        self.preface = &self.preface[here..];
        Ok(self.preface.is_empty())
    }

    fn receive_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if self.block.is_some() && head.kind != frame::CONTINUATION {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "a frame inside a header block"));
        }
        if !self.peer.settled && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "the first frame is not SETTINGS"));
        }
        let of_stream = match head.kind {
            frame::SETTINGS | frame::PING | frame::GOAWAY => Some(false),
            frame::HEADERS | frame::PRIORITY | frame::RST_STREAM | frame::CONTINUATION | frame::DATA => {
                Some(true)
            }
            _ => None,
        };
        if of_stream.is_some_and(|of_stream| of_stream != (head.stream != 0)) {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "a frame for the wrong sort of stream"));
        }
        match head.kind {
            frame::HEADERS => self.receive_headers(head, payload),
            frame::CONTINUATION => self.receive_continuation(head, payload),
            frame::PRIORITY => self.receive_priority(head, payload),
            frame::RST_STREAM => self.receive_reset(head, payload),
            frame::SETTINGS => self.receive_settings(head, payload),
            frame::PING => self.receive_ping(head, payload),
            frame::GOAWAY => self.receive_goaway(payload),
            frame::WINDOW_UPDATE => self.receive_window_update(head, payload),
            // We never push, and have said that we want none.
            frame::PUSH_PROMISE => Err(self.broken(Reason::PROTOCOL_ERROR, "PUSH_PROMISE")),
            // Unknown kinds are passed over (§4.1).
            _ => self.count_idle_frame(),
        }
    }

    fn receive_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let (mut from, to) =
            frame::unpadded(head, payload).map_err(|reason| self.broken(reason, "the padding of HEADERS"))?;
        let mut depends_on_itself = false;
        if head.has(frame::WITH_PRIORITY) {
            if to < from + 5 {
                return Err(self.broken(Reason::FRAME_SIZE_ERROR, "HEADERS is too short for its priority"));
            }
            depends_on_itself = frame::number(payload, from) & frame::STREAM_MAX == head.stream;
            from += 5;
        }
        let part = &payload[from..to];
        let (mut list, mut fields) = (self.new_list(), Fields::new());
        self.decode(part, &mut list, &mut fields)?;
        if !head.has(frame::END_HEADERS) {
            let bytes = part.len();
            let block = Block { head, depends_on_itself, list, fields, bytes, frames: 1 };
            self.block = Some(Box::new(block));
            return Ok(());
        }
        self.receive_block(head, depends_on_itself, &list, fields)
    }

    fn receive_continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let Some(mut block) = self.block.take().filter(|block| block.head.stream == head.stream) else {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "CONTINUATION of nothing"));
        };
        block.frames += 1;
        block.bytes += payload.len();
        let lists = (self.config.header_list_max as usize).saturating_mul(BLOCK_LISTS_MAX);
        let bytes_max = lists.saturating_add(frame::PAYLOAD_BYTES_MAX);
        let frames_max = CONTINUATIONS_MAX + block.bytes / 1_024;
        if block.bytes > bytes_max || block.frames > frames_max {
            return Err(self.broken(Reason::ENHANCE_YOUR_CALM, "a header block without end"));
        }
        self.decode(payload, &mut block.list, &mut block.fields)?;
        if head.has(frame::END_HEADERS) {
            let Block { head, depends_on_itself, list, fields, .. } = *block;
            return self.receive_block(head, depends_on_itself, &list, fields);
        }
        self.block = Some(block);
        Ok(())
    }

    fn new_list(&self) -> List {
        List::new(ListLimits {
            bytes: self.config.header_list_max as usize,
            fields: self.config.header_fields_max,
            referenced: REFERENCED_BYTES_MAX,
        })
    }

    /// The fields of a part of a block. Must be read whatever becomes of them (§4.3).
    fn decode(&mut self, part: &[u8], list: &mut List, fields: &mut Fields) -> Result<(), Error> {
        let decoded = self.decoder.decode_part(part, list, |field| fields.push(field));
        decoded.map_err(|error| self.broken(Reason::COMPRESSION_ERROR, &error.to_string()))
    }

    fn receive_block(
        &mut self,
        head: Head,
        depends_on_itself: bool,
        list: &List,
        mut fields: Fields,
    ) -> Result<(), Error> {
        let whole = self.decoder.finish(list);
        whole.map_err(|error| self.broken(Reason::COMPRESSION_ERROR, &error.to_string()))?;
        if let Some(too_long) = list.too_long() {
            fields.cut(too_long);
        }
        if depends_on_itself {
            fields.spoil();
        }
        let end = head.has(frame::END_STREAM);
        if let Some(key) = self.key(head.stream) {
            self.count_message();
            return match self.streams[key].receiving {
                Receiving::Head => self.receive_response(key, fields, end),
                Receiving::Body => self.receive_trailers(key, fields, end),
                Receiving::Closed => self.fault(head.stream, Reason::STREAM_CLOSED),
            };
        }
        if self.is_idle(head.stream) {
            self.count_message();
            return match self.role {
                Role::Server => self.receive_request(head.stream, fields, end),
                Role::Client => Err(self.broken(Reason::PROTOCOL_ERROR, "HEADERS on a stream never opened")),
            };
        }
        // On a stream that is over. A server's answer may have crossed our reset, a client's request our GOAWAY.
        let id = head.stream;
        if self.role == Role::Client || self.resets.contains(id) || self.is_too_late(id) {
            return self.count_idle_frame();
        }
        Err(self.broken(Reason::STREAM_CLOSED, "HEADERS on a stream that is closed"))
    }

    fn receive_request(&mut self, id: u32, fields: Fields, end: bool) -> Result<(), Error> {
        if id.is_multiple_of(2) {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "a client's stream has an even number"));
        }
        self.last_id = id;
        if self.open >= self.config.streams_max {
            self.refuse(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        if let Some(too_long) = fields.too_long() {
            // What is left of it may tell who is to say so, and how.
            match fields.into_request(&mut self.addresses) {
                Ok(mut request) => {
                    request.extensions_mut().insert(too_long);
                    self.accept(id, request, None, end);
                }
                Err(_) => self.answer_too_long(id, end),
            }
            return Ok(());
        }
        if fields.is_padded() {
            // Not counted: nobody has seen it yet, and a proxy sends such requests for one of the many behind it.
            self.refuse(id, Reason::PROTOCOL_ERROR);
            return Ok(());
        }
        let Ok(length) = fields.content_length() else { return self.fault(id, Reason::PROTOCOL_ERROR) };
        let Ok(request) = fields.into_request(&mut self.addresses) else {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        };
        if end && length.is_some_and(|length| length > 0) {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        }
        self.accept(id, request, length, end);
        Ok(())
    }

    fn accept(&mut self, id: u32, request: Request<()>, length: Option<u64>, end: bool) {
        let receiving = if end { Receiving::Closed } else { Receiving::Body };
        let mut stream = Stream::new(Sending::Head, receiving, self.first_receive_window());
        stream.id = id;
        stream.length_left = length;
        stream.counted = true;
        stream.accepted = false;
        self.open += 1;
        let key = self.streams.insert(stream);
        self.keys.insert(id, key);
        self.accept.push_back((request, key));
    }

    /// 431, and the rest of the request is of no interest.
    fn answer_too_long(&mut self, id: u32, end: bool) {
        let mut response = http::Response::new(());
        *response.status_mut() = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let mut block = Vec::new();
        crate::message::encode_response(&response, &mut self.encoder, &mut block);
        self.write_block(id, &block, true);
        self.replies += 1;
        if !end {
            self.refuse(id, Reason::NO_ERROR);
        }
    }

    fn receive_response(&mut self, key: usize, fields: Fields, end: bool) -> Result<(), Error> {
        let id = self.streams[key].id;
        if let Some(too_long) = fields.too_long() {
            self.reset_too_long(key, too_long);
            return Ok(());
        }
        let length = fields.content_length();
        let (Ok(length), Ok(response)) = (length, fields.into_response()) else {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        };
        let status = response.status();
        if status.is_informational() {
            // Something comes before the answer; it is never its end (§8.1), and never another protocol (§8.6).
            let wrong = end || status == StatusCode::SWITCHING_PROTOCOLS;
            return if wrong { self.fault(id, Reason::PROTOCOL_ERROR) } else { Ok(()) };
        }
        // Its length may be said, of a content that is not sent (RFC 9110 §6.4.1).
        let bare = self.streams[key].asks_head
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = if bare { Some(0) } else { length };
        if end && length.is_some_and(|length| length > 0) {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        }
        let stream = &mut self.streams[key];
        stream.response = Some(response);
        stream.length_left = length;
        stream.receiving = if end { Receiving::Closed } else { Receiving::Body };
        stream.wake_reader();
        self.settle(key);
        Ok(())
    }

    fn receive_trailers(&mut self, key: usize, fields: Fields, end: bool) -> Result<(), Error> {
        let stream = &self.streams[key];
        let (id, complete) = (stream.id, stream.length_left.is_none_or(|left| left == 0));
        if let Some(too_long) = fields.too_long().filter(|_| end && complete) {
            self.reset_too_long(key, too_long);
            return Ok(());
        }
        let (true, true, Ok(trailers)) = (end, complete, fields.into_trailers()) else {
            return self.fault(id, Reason::PROTOCOL_ERROR);
        };
        let stream = &mut self.streams[key];
        stream.trailers = Some(trailers);
        self.received_all(key);
        Ok(())
    }

    /// The peer's half has ended as it should.
    fn received_all(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        stream.receiving = Receiving::Closed;
        stream.wake_reader();
        self.settle(key);
    }

    fn receive_data(&mut self, head: Head, bytes: &mut BytesMut) -> Result<(), Error> {
        if head.stream == 0 {
            return Err(self.broken(Reason::PROTOCOL_ERROR, "DATA without a stream"));
        }
        let payload = &bytes[frame::HEAD_BYTES..frame::HEAD_BYTES + head.len];
        let (from, to) =
            frame::unpadded(head, payload).map_err(|reason| self.broken(reason, "the padding of DATA"))?;
        // The whole payload counts against the windows, padding too (§6.9.1).
        let taken = head.len as i64;
        self.receive_window -= taken;
        if self.receive_window < 0 {
            return Err(self.broken(Reason::FLOW_CONTROL_ERROR, "more DATA than the connection's window"));
        }
        let (from, to) = (from + frame::HEAD_BYTES, to + frame::HEAD_BYTES);
        let end = head.has(frame::END_STREAM);
        let checked = self.check_data(head, to - from, end);
        let key = match checked {
            Ok(Some(key)) => key,
            other => {
                bytes.advance(frame::HEAD_BYTES + head.len);
                self.release_connection(head.len as u32);
                return other.map(|_| ());
            }
        };
        let stream = &mut self.streams[key];
        stream.receive_window -= taken;
        stream.hold((to - from) as u32);
        let unread = stream.unread;
        if unread {
            bytes.advance(frame::HEAD_BYTES + head.len);
        } else if to - from < COPIED_BYTES_MAX {
            stream.received.push_copied(&bytes[from..to]);
            bytes.advance(frame::HEAD_BYTES + head.len);
        } else {
            let mut frame: Bytes = bytes.split_to(frame::HEAD_BYTES + head.len).freeze();
            frame.truncate(to);
            frame.advance(from);
            stream.received.push(frame);
        }
        if end {
            self.received_all(key);
        } else if to > from {
            self.streams[key].wake_reader();
        }
        let padding = (head.len - (to - from)) as u32;
        if unread {
            let len = (to - from) as u32;
            self.release(key, len + padding, len);
        } else if padding > 0 {
            self.release(key, padding, 0);
        }
        Ok(())
    }

    /// The stream that `len` bytes of DATA are for; none if they are for nobody.
    fn check_data(&mut self, head: Head, len: usize, end: bool) -> Result<Option<usize>, Error> {
        let Some(key) = self.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(self.broken(Reason::PROTOCOL_ERROR, "DATA on a stream never opened"));
            }
            // What a server sends may have crossed a reset that is forgotten meanwhile.
            let id = head.stream;
            if self.role == Role::Client || self.resets.contains(id) || self.is_too_late(id) {
                return if len == 0 { self.count_idle_frame().map(|()| None) } else { Ok(None) };
            }
            return self.fault(head.stream, Reason::STREAM_CLOSED).map(|()| None);
        };
        let stream = &mut self.streams[key];
        if stream.receiving == Receiving::Closed {
            return self.fault(head.stream, Reason::STREAM_CLOSED).map(|()| None);
        }
        if stream.receiving == Receiving::Head {
            return self.fault(head.stream, Reason::PROTOCOL_ERROR).map(|()| None);
        }
        if (head.len as i64) > stream.receive_window {
            return self.fault(head.stream, Reason::FLOW_CONTROL_ERROR).map(|()| None);
        }
        if let Some(left) = &mut stream.length_left {
            let now = left.checked_sub(len as u64).filter(|now| !end || *now == 0);
            let Some(now) = now else {
                return self.fault(head.stream, Reason::PROTOCOL_ERROR).map(|()| None);
            };
            *left = now;
        }
        if len == 0 && !end {
            self.empty_frames += 1;
            if self.empty_frames > EMPTY_FRAMES_MAX {
                return Err(self.broken(Reason::ENHANCE_YOUR_CALM, "nothing but empty DATA frames"));
            }
        } else if self.empty_frames > 0 {
            self.full_bytes += len as u32;
            self.empty_frames = self.empty_frames.saturating_sub(self.full_bytes / BYTES_FOR_AN_EMPTY_FRAME);
            self.full_bytes %= BYTES_FOR_AN_EMPTY_FRAME;
        }
        Ok(Some(key))
    }

    fn receive_priority(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let reason = if payload.len() != 5 {
            Reason::FRAME_SIZE_ERROR
        } else if frame::number(payload, 0) & frame::STREAM_MAX == head.stream {
            Reason::PROTOCOL_ERROR
        } else {
            // Priorities were given up by RFC 9113 (§5.3.2).
            return self.count_idle_frame();
        };
        if self.is_idle(head.stream) {
            // A stream that was never opened cannot be reset.
            return Err(self.broken(reason, "PRIORITY"));
        }
        self.fault(head.stream, reason)
    }

    fn receive_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if payload.len() != 4 {
            return Err(self.broken(Reason::FRAME_SIZE_ERROR, "RST_STREAM is not of four bytes"));
        }
        let Some(key) = self.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(self.broken(Reason::PROTOCOL_ERROR, "RST_STREAM on a stream never opened"));
            }
            return self.count_idle_frame();
        };
        let stream = &mut self.streams[key];
        if !stream.accepted {
            stream.reset_unseen = true;
            self.unseen_resets += 1;
            if self.unseen_resets > self.config.unseen_resets_max {
                return Err(self.broken(Reason::ENHANCE_YOUR_CALM, "too many streams reset at once"));
            }
        }
        self.reset(key, Reason::new(frame::number(payload, 0)), By::Peer);
        Ok(())
    }
}
