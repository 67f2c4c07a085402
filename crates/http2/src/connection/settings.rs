//! SETTINGS: what the peer has told of itself, and what follows from that (RFC 9113 §6.5).

use crate::connection::{Core, Role};
use crate::error::{Error, Reason};
use crate::frame::{self, Head, WINDOW_MAX};
use crate::window::Window;

/// The settings of the peer, as far as they are not those of the header table and the windows.
#[derive(Debug)]
pub(crate) struct PeerSettings {
    received_initial_settings: bool,
    /// The peer has acknowledged our settings.
    local_settings_acked: bool,
    streams_max: u32,
    payload_max: usize,
    header_list_max: usize,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings {
            received_initial_settings: false,
            local_settings_acked: false,
            streams_max: u32::MAX,
            payload_max: frame::PAYLOAD_BYTES_MAX,
            header_list_max: usize::MAX,
        }
    }
}

impl PeerSettings {
    /// Returns whether the first SETTINGS of the peer, which must be its first frame, are here.
    pub(crate) fn received_initial_settings(&self) -> bool {
        self.received_initial_settings
    }

    /// Returns whether the peer has acknowledged our settings.
    pub(crate) fn has_acked_ours(&self) -> bool {
        self.local_settings_acked
    }

    /// Returns how many streams the peer lets us open; `u32::MAX` as long as it has not said.
    pub(crate) fn streams_max(&self) -> u32 {
        self.streams_max
    }

    /// Returns the longest payload of a frame that the peer takes.
    pub(crate) fn payload_max(&self) -> usize {
        self.payload_max
    }

    /// Returns the longest header list that the peer takes.
    pub(crate) fn header_list_max(&self) -> usize {
        self.header_list_max
    }

    #[cfg(test)]
    pub(crate) fn set_streams_max(&mut self, streams_max: u32) {
        self.streams_max = streams_max;
    }
}

impl Core {
    pub(super) fn receive_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if head.has(frame::ACK) {
            if !payload.is_empty() {
                return Err(Error::connection(Reason::FRAME_SIZE_ERROR, "SETTINGS ACK has a payload"));
            }
            if std::mem::replace(&mut self.peer.local_settings_acked, true) {
                return Err(Error::connection(Reason::PROTOCOL_ERROR, "SETTINGS ACK without SETTINGS"));
            }
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            let why = "SETTINGS length is not a multiple of 6";
            return Err(Error::connection(Reason::FRAME_SIZE_ERROR, why));
        }
        if self.peer.received_initial_settings {
            self.abuse.count_settings()?;
        }
        // Before whatever follows from them.
        frame::write_settings_ack(self.send_buffer.frames());
        self.abuse.count_reply();
        let mut window = None;
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = frame::number(setting, 2);
            match name {
                // Once for all values in the frame: it concerns every stream.
                frame::SETTING_WINDOW if i64::from(value) <= WINDOW_MAX => window = Some(value),
                _ => self.receive_setting(name, value)?,
            }
        }
        if let Some(window) = window.filter(|window| Window::new(*window) != self.capacity.initial()) {
            self.capacity.set_initial(&mut self.streams, window)?;
        }
        self.peer.received_initial_settings = true;
        Ok(())
    }

    fn receive_setting(&mut self, name: u16, value: u32) -> Result<(), Error> {
        match name {
            frame::SETTING_TABLE => self.encoder.set_table_max(value as usize),
            frame::SETTING_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                let why = "SETTINGS_ENABLE_PUSH is out of range";
                return Err(Error::connection(Reason::PROTOCOL_ERROR, why));
            }
            frame::SETTING_STREAMS => {
                self.peer.streams_max = value;
                self.open_queued();
            }
            frame::SETTING_WINDOW => {
                let why = "SETTINGS_INITIAL_WINDOW_SIZE is out of range";
                return Err(Error::connection(Reason::FLOW_CONTROL_ERROR, why));
            }
            frame::SETTING_FRAME => {
                let allowed = frame::PAYLOAD_BYTES_MAX..1 << 24;
                if !allowed.contains(&(value as usize)) {
                    let why = "SETTINGS_MAX_FRAME_SIZE is out of range";
                    return Err(Error::connection(Reason::PROTOCOL_ERROR, why));
                }
                self.peer.payload_max = value as usize;
            }
            frame::SETTING_HEADER_LIST => self.peer.header_list_max = value as usize,
            _ => {}
        }
        Ok(())
    }
}
