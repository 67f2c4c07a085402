//! Small frames: PING, GOAWAY and WINDOW_UPDATE, which concern the connection, RST_STREAM and PRIORITY (RFC 9113 §6).

use crate::connection::{Core, ping, shutdown};
use crate::error::{By, Error, Reason};
use crate::frame::{self, Head};

/// Bytes of a GOAWAY's text that are looked at.
const GOAWAY_TEXT_MAX: usize = 128;

impl Core {
    pub(super) fn receive_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(Error::connection(Reason::FRAME_SIZE_ERROR, "PING length is not 8"));
        };
        self.abuse.count_idle_frame()?;
        if head.has(frame::ACK) {
            match payload {
                ping::ALIVE => self.ping.answered(),
                shutdown::LEAVING => self.goaway_seen(),
                _ => {}
            }
        } else {
            frame::write_ping(self.send_buffer.frames(), true, payload);
            self.abuse.count_reply();
        }
        Ok(())
    }

    pub(super) fn receive_goaway(&mut self, payload: &[u8]) -> Result<(), Error> {
        if payload.len() < 8 {
            return Err(Error::connection(Reason::FRAME_SIZE_ERROR, "GOAWAY length is below 8"));
        }
        self.abuse.count_idle_frame()?;
        let last = frame::number(payload, 0) & frame::STREAM_MAX;
        let text = &payload[8..payload.len().min(8 + GOAWAY_TEXT_MAX)];
        let why: String = String::from_utf8_lossy(text).escape_debug().take(GOAWAY_TEXT_MAX).collect();
        self.goaway_received(last, Reason::new(frame::number(payload, 4)), &why);
        Ok(())
    }

    pub(super) fn receive_window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if payload.len() != 4 {
            return Err(Error::connection(Reason::FRAME_SIZE_ERROR, "WINDOW_UPDATE length is not 4"));
        }
        let more = frame::number(payload, 0) & frame::STREAM_MAX;
        if head.stream == 0 {
            if more == 0 {
                return Err(Error::connection(Reason::PROTOCOL_ERROR, "WINDOW_UPDATE increment is 0"));
            }
            self.capacity.widen(&mut self.streams, more)?;
            self.wake_waiting();
            return Ok(());
        }
        let Some(key) = self.streams.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(Error::connection(
                    Reason::PROTOCOL_ERROR,
                    "WINDOW_UPDATE on a stream never opened",
                ));
            }
            return self.abuse.count_idle_frame();
        };
        if more == 0 {
            return self.stream_error(head.stream, Reason::PROTOCOL_ERROR);
        }
        if self.capacity.widen_stream(&mut self.streams, key, more) {
            return Ok(());
        }
        self.stream_error(head.stream, Reason::FLOW_CONTROL_ERROR)
    }

    pub(super) fn receive_priority(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let reason = if payload.len() != 5 {
            Reason::FRAME_SIZE_ERROR
        } else if frame::number(payload, 0) & frame::STREAM_MAX == head.stream {
            Reason::PROTOCOL_ERROR
        } else {
            // Priorities were given up by RFC 9113 (§5.3.2).
            return self.abuse.count_idle_frame();
        };
        if self.is_idle(head.stream) {
            // A stream that was never opened cannot be reset.
            return Err(Error::connection(reason, "malformed PRIORITY on a stream never opened"));
        }
        self.stream_error(head.stream, reason)
    }

    pub(super) fn receive_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if payload.len() != 4 {
            return Err(Error::connection(Reason::FRAME_SIZE_ERROR, "RST_STREAM length is not 4"));
        }
        let Some(key) = self.streams.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(Error::connection(Reason::PROTOCOL_ERROR, "RST_STREAM on a stream never opened"));
            }
            return self.abuse.count_idle_frame();
        };
        let stream = &mut self.streams[key];
        if !stream.accepted {
            stream.is_reset_pending_accept = true;
            self.abuse.count_pending_accept_reset()?;
        }
        self.reset(key, Reason::new(frame::number(payload, 0)), By::Peer);
        Ok(())
    }
}
