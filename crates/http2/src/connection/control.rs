//! What the peer sends about the connection rather than in a message: SETTINGS, PING, GOAWAY and WINDOW_UPDATE (RFC 9113 §6),
//! and how often it may do so.

use std::time::{Duration, Instant};

use crate::connection::{Core, Role};
use crate::error::{Error, Reason};
use crate::frame::{self, Head, WINDOW_MAX};

/// SETTINGS frames at once, and the time in which one more is allowed. Clients that adapt their windows to what the network
/// carries (grpc-core) send a dozen while they learn, and a few a second at most.
pub(crate) const SETTINGS_BURST: u32 = 100;
pub(crate) const SETTINGS_REFILL: Duration = Duration::from_millis(100);

/// Frames at once that change nothing for us (PING, PRIORITY, GOAWAY, frames of unknown kinds and of streams that are over),
/// and the time in which one more is allowed. Messages and DATA allow more besides: grpc-go sends a PING for each round trip
/// of an answer.
pub(crate) const IDLE_FRAMES_BURST: u32 = 10_000;
pub(crate) const IDLE_FRAMES_REFILL: Duration = Duration::from_millis(1);

/// Idle frames that each message of the peer allows: WINDOW_UPDATE and RST_STREAM often come after a stream's end.
const IDLE_FRAMES_EARNED: u32 = 8;

/// Octets of a GOAWAY's text that are looked at.
const GOAWAY_TEXT_MAX: usize = 128;

impl Core {
    /// Counts a frame that changes nothing. Those of a server are not counted, nor are its SETTINGS: they cost little, and to
    /// end its connection would end the calls of all who share it.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn count_idle_frame(&mut self) -> Result<(), Error> {
        if self.role == Role::Client || self.idle_frames.take(Instant::now) {
            return Ok(());
        }
        Err(self.broken(Reason::ENHANCE_YOUR_CALM, "too many frames that change nothing"))
    }

    /// Counts the head or the trailers of a message, which make up for frames that change nothing.
    pub(crate) fn count_message(&mut self) {
        self.idle_frames.earn(IDLE_FRAMES_EARNED);
        self.empty_frames = self.empty_frames.saturating_sub(1);
    }

    pub(crate) fn receive_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if head.has(frame::ACK) {
            if !payload.is_empty() {
                return Err(self.broken(Reason::FRAME_SIZE_ERROR, "SETTINGS that acknowledge and say more"));
            }
            if std::mem::replace(&mut self.peer.knows_us, true) {
                return Err(self.broken(Reason::PROTOCOL_ERROR, "SETTINGS acknowledged that were not sent"));
            }
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(self.broken(Reason::FRAME_SIZE_ERROR, "SETTINGS of a part"));
        }
        if self.peer.settled && self.role == Role::Server && !self.settings.take(Instant::now) {
            return Err(self.broken(Reason::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        }
        // Before whatever follows from them.
        frame::write_settings_ack(self.out.frames());
        self.replies += 1;
        let mut window = self.peer.window;
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = frame::number(setting, 2);
            match name {
                // Once for all that is said of it: it concerns every stream.
                frame::SETTING_WINDOW if i64::from(value) <= WINDOW_MAX => window = value,
                _ => self.receive_setting(name, value)?,
            }
        }
        if window != self.peer.window {
            self.resize_windows(window)?;
        }
        self.peer.settled = true;
        Ok(())
    }

    fn receive_setting(&mut self, name: u16, value: u32) -> Result<(), Error> {
        match name {
            frame::SETTING_TABLE => self.encoder.set_table_max(value as usize),
            frame::SETTING_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(self.broken(Reason::PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH"));
            }
            frame::SETTING_STREAMS => {
                self.peer.streams_max = value;
                self.open_queued();
            }
            frame::SETTING_WINDOW => {
                return Err(self.broken(Reason::FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE"));
            }
            frame::SETTING_FRAME => {
                let allowed = frame::PAYLOAD_BYTES_MAX..1 << 24;
                if !allowed.contains(&(value as usize)) {
                    return Err(self.broken(Reason::PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE"));
                }
                self.peer.payload_max = value as usize;
            }
            frame::SETTING_HEADER_LIST => self.peer.header_list_max = value as usize,
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn receive_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(self.broken(Reason::FRAME_SIZE_ERROR, "PING is not of eight bytes"));
        };
        self.count_idle_frame()?;
        if head.has(frame::ACK) {
            self.pinged(payload);
        } else {
            frame::write_ping(self.out.frames(), true, payload);
            self.replies += 1;
        }
        Ok(())
    }

    pub(crate) fn receive_goaway(&mut self, payload: &[u8]) -> Result<(), Error> {
        if payload.len() < 8 {
            return Err(self.broken(Reason::FRAME_SIZE_ERROR, "GOAWAY is too short"));
        }
        self.count_idle_frame()?;
        let last = frame::number(payload, 0) & frame::STREAM_MAX;
        let text = &payload[8..payload.len().min(8 + GOAWAY_TEXT_MAX)];
        let why: String = String::from_utf8_lossy(text).escape_debug().take(GOAWAY_TEXT_MAX).collect();
        self.left_by_peer(last, Reason::new(frame::number(payload, 4)), &why);
        Ok(())
    }

    pub(crate) fn receive_window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if payload.len() != 4 {
            return Err(self.broken(Reason::FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of four bytes"));
        }
        let more = i64::from(frame::number(payload, 0) & frame::STREAM_MAX);
        if head.stream == 0 {
            if more == 0 {
                return Err(self.broken(Reason::PROTOCOL_ERROR, "WINDOW_UPDATE of nothing"));
            }
            self.send_window += more;
            if self.send_window > WINDOW_MAX {
                return Err(self.broken(Reason::FLOW_CONTROL_ERROR, "the connection's window is too large"));
            }
            self.share_again();
            self.share_room();
            return Ok(());
        }
        let Some(key) = self.key(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(self.broken(Reason::PROTOCOL_ERROR, "WINDOW_UPDATE on a stream never opened"));
            }
            return self.count_idle_frame();
        };
        if more == 0 {
            return self.fault(head.stream, Reason::PROTOCOL_ERROR);
        }
        if self.widen(key, more) {
            return Ok(());
        }
        self.fault(head.stream, Reason::FLOW_CONTROL_ERROR)
    }
}
