//! HEADERS and CONTINUATION: header blocks, and the requests, responses and trailers that they hold (RFC 9113 §6.2, §8).

use http::{Request, StatusCode};

use crate::connection::abuse::REFERENCED_BYTES_MAX;
use crate::connection::{Core, Role};
use crate::error::{Error, Reason};
use crate::frame::{self, Head};
use crate::hpack::{List, ListLimits};
use crate::message::{self, Fields};
use crate::stream::{Receiving, Sending, Stream};

/// A header block of which more is to come.
pub(super) struct Block {
    head: Head,
    depends_on_itself: bool,
    list: List,
    fields: Fields,
    bytes: usize,
    frames: usize,
}

impl Block {
    /// Returns how many bytes of the block are kept undecoded.
    pub(super) fn pending(&self) -> usize {
        self.list.pending()
    }
}

impl Core {
    pub(super) fn receive_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let (mut from, to) = frame::unpadded(head, payload)
            .map_err(|reason| Error::connection(reason, "the padding of HEADERS is too long"))?;
        let mut depends_on_itself = false;
        if head.has(frame::WITH_PRIORITY) {
            if to < from + 5 {
                return Err(Error::connection(
                    Reason::FRAME_SIZE_ERROR,
                    "HEADERS is too short for its priority",
                ));
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
            self.inbound.block = Some(Box::new(block));
            return Ok(());
        }
        self.receive_block(head, depends_on_itself, &list, fields)
    }

    pub(super) fn receive_continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let Some(mut block) = self.inbound.block.take().filter(|block| block.head.stream == head.stream)
        else {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, "CONTINUATION without HEADERS"));
        };
        block.frames += 1;
        block.bytes += payload.len();
        self.abuse.check_block(block.bytes, block.frames)?;
        self.decode(payload, &mut block.list, &mut block.fields)?;
        if head.has(frame::END_HEADERS) {
            let Block { head, depends_on_itself, list, fields, .. } = *block;
            return self.receive_block(head, depends_on_itself, &list, fields);
        }
        self.inbound.block = Some(block);
        Ok(())
    }

    fn new_list(&self) -> List {
        List::new(ListLimits {
            bytes: self.config.header_list_max as usize,
            fields: self.config.header_fields_max,
            referenced: REFERENCED_BYTES_MAX,
        })
    }

    /// Reads the fields of a part of a block, which must be done whatever becomes of them (§4.3).
    fn decode(&mut self, part: &[u8], list: &mut List, fields: &mut Fields) -> Result<(), Error> {
        let decoded = self.inbound.decoder.decode_part(part, list, |field| fields.push(field));
        decoded.map_err(|error| Error::connection(Reason::COMPRESSION_ERROR, &error.to_string()))
    }

    fn receive_block(
        &mut self,
        head: Head,
        depends_on_itself: bool,
        list: &List,
        mut fields: Fields,
    ) -> Result<(), Error> {
        let whole = self.inbound.decoder.finish(list);
        whole.map_err(|error| Error::connection(Reason::COMPRESSION_ERROR, &error.to_string()))?;
        if let Some(too_long) = list.too_long() {
            fields.cut(too_long);
        }
        if depends_on_itself {
            fields.mark_malformed();
        }
        let end = head.has(frame::END_STREAM);
        if let Some(key) = self.streams.key(head.stream) {
            self.abuse.count_message();
            return match self.streams[key].receiving {
                Receiving::Head => self.receive_response(key, fields, end),
                Receiving::Body => self.receive_trailers(key, fields, end),
                Receiving::Closed => self.stream_error(head.stream, Reason::STREAM_CLOSED),
            };
        }
        if self.is_idle(head.stream) {
            self.abuse.count_message();
            return match self.role {
                Role::Server => self.receive_request(head.stream, fields, end),
                Role::Client => {
                    Err(Error::connection(Reason::PROTOCOL_ERROR, "HEADERS on a stream never opened"))
                }
            };
        }
        // On a stream that is over. A server's answer may have crossed our reset, a client's request our GOAWAY.
        let id = head.stream;
        if self.role == Role::Client || self.streams.was_locally_reset(id) || self.shutdown.is_too_late(id) {
            return self.abuse.count_idle_frame();
        }
        Err(Error::connection(Reason::STREAM_CLOSED, "HEADERS on a stream that is closed"))
    }

    fn receive_request(&mut self, id: u32, fields: Fields, end: bool) -> Result<(), Error> {
        if id.is_multiple_of(2) {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, "a client's stream has an even number"));
        }
        self.streams.peer_opens(id);
        if self.streams.open() >= self.config.streams_max {
            self.refuse(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        if let Some(too_long) = fields.too_long() {
            // The caller of this crate refuses the request, by what is left of it.
            match fields.into_request(&mut self.inbound.addresses) {
                Ok(mut request) => {
                    request.extensions_mut().insert(too_long);
                    self.accept(id, request, None, end);
                }
                Err(_) => self.answer_too_long(id, end),
            }
            return Ok(());
        }
        if fields.is_padded() {
            // Not counted: nobody has seen the request yet, and a proxy sends such requests for one of its many clients.
            self.refuse(id, Reason::PROTOCOL_ERROR);
            return Ok(());
        }
        let Ok(length) = fields.content_length() else {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        };
        let Ok(request) = fields.into_request(&mut self.inbound.addresses) else {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        };
        if end && length.is_some_and(|length| length > 0) {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        self.accept(id, request, length, end);
        Ok(())
    }

    fn accept(&mut self, id: u32, request: Request<()>, length: Option<u64>, end: bool) {
        let receiving = if end { Receiving::Closed } else { Receiving::Body };
        let mut stream = Stream::new(Sending::Head, receiving, self.first_receive_window());
        stream.length_left = length;
        self.streams.open_remote(id, stream, request);
    }

    /// Answers 431 to a request that cannot be handed on. The rest of the request is of no interest.
    fn answer_too_long(&mut self, id: u32, end: bool) {
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let mut block = Vec::new();
        message::encode_response(&response, &mut self.encoder, &mut block);
        self.write_block(id, &block, true);
        self.abuse.count_reply();
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
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        };
        let status = response.status();
        if status.is_informational() {
            // An informational response is never the end (§8.1), and never another protocol (§8.6).
            let wrong = end || status == StatusCode::SWITCHING_PROTOCOLS;
            return if wrong { self.stream_error(id, Reason::PROTOCOL_ERROR) } else { Ok(()) };
        }
        // The length may be that of a content that is not sent (RFC 9110 §6.4.1).
        let bare = self.streams[key].asks_head
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = if bare { Some(0) } else { length };
        if end && length.is_some_and(|length| length > 0) {
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        }
        let stream = &mut self.streams[key];
        stream.response = Some(response);
        stream.length_left = length;
        stream.receiving = if end { Receiving::Closed } else { Receiving::Body };
        stream.wake_reader();
        self.close_if_over(key);
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
            return self.stream_error(id, Reason::PROTOCOL_ERROR);
        };
        let stream = &mut self.streams[key];
        stream.trailers = Some(trailers);
        self.received_all(key);
        Ok(())
    }

    /// Closes the peer's half, which has ended as it should.
    pub(super) fn received_all(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        stream.receiving = Receiving::Closed;
        stream.wake_reader();
        self.close_if_over(key);
    }
}
