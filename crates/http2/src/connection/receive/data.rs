//! DATA: windows, lengths, and the bytes that wait to be read (RFC 9113 §6.1).

use bytes::{Buf, Bytes, BytesMut};

use crate::connection::{Core, Role};
use crate::error::{Error, Reason};
use crate::frame::{self, Head};
use crate::stream::{COPIED_BYTES_MAX, Receiving};

impl Core {
    pub(super) fn receive_data(&mut self, head: Head, bytes: &mut BytesMut) -> Result<(), Error> {
        if head.stream == 0 {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, "DATA on stream 0"));
        }
        let payload = &bytes[frame::HEAD_BYTES..frame::HEAD_BYTES + head.len];
        let (from, to) = frame::unpadded(head, payload)
            .map_err(|reason| Error::connection(reason, "the padding of DATA is too long"))?;
        // The whole payload counts against the windows, padding too (§6.9.1).
        if !self.receive_window.receive(head.len) {
            return Err(Error::connection(
                Reason::FLOW_CONTROL_ERROR,
                "more DATA than the connection's window",
            ));
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
        stream.receive_window.receive(head.len);
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

    /// Returns the stream that `len` bytes of DATA without padding are for, or none if they are to be passed over.
    fn check_data(&mut self, head: Head, len: usize, end: bool) -> Result<Option<usize>, Error> {
        let Some(key) = self.streams.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(Error::connection(Reason::PROTOCOL_ERROR, "DATA on a stream never opened"));
            }
            // The DATA of a server may have crossed a reset that is forgotten meanwhile.
            let id = head.stream;
            if self.role == Role::Client
                || self.streams.was_locally_reset(id)
                || self.shutdown.is_too_late(id)
            {
                return if len == 0 { self.abuse.count_idle_frame().map(|()| None) } else { Ok(None) };
            }
            return self.stream_error(head.stream, Reason::STREAM_CLOSED).map(|()| None);
        };
        let stream = &mut self.streams[key];
        if stream.receiving == Receiving::Closed {
            return self.stream_error(head.stream, Reason::STREAM_CLOSED).map(|()| None);
        }
        if stream.receiving == Receiving::Head {
            return self.stream_error(head.stream, Reason::PROTOCOL_ERROR).map(|()| None);
        }
        if !stream.receive_window.allows(head.len) {
            return self.stream_error(head.stream, Reason::FLOW_CONTROL_ERROR).map(|()| None);
        }
        if let Some(left) = &mut stream.length_left {
            let now = left.checked_sub(len as u64).filter(|now| !end || *now == 0);
            let Some(now) = now else {
                return self.stream_error(head.stream, Reason::PROTOCOL_ERROR).map(|()| None);
            };
            *left = now;
        }
        self.abuse.count_data(len, end)?;
        Ok(Some(key))
    }
}
