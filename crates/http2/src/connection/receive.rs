//! The frames that the peer sends, handled as RFC 9113 §6 asks, and what follows from one that breaks a rule.
//!
//! An error ends the connection (§5.4.1). A rule that is broken for one stream (§5.4.2) resets the stream, and is counted.

mod control;
mod data;
mod headers;

use bytes::{Buf as _, BytesMut};

use crate::connection::{Core, Role, TABLE_BYTES, foreign_protocol};
use crate::error::{Error, Reason};
use crate::frame::{self, Head, PREFACE};
use crate::hpack::Decoder;
use crate::message::target::Addresses;

use headers::Block;

/// Frames that are handled before other connections have their turn.
const FRAME_QUANTUM: usize = 1_000;

/// Bytes of a header block that count as one more of those: they can hold as many fields.
const BLOCK_BYTES_A_FRAME: usize = 64;

/// The position of the kind in a frame.
const KIND_AT: usize = 3;

/// A frame or header block that a peer has begun to send and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// A number that changes when the frame or header block has ended.
    pub(crate) number: u64,
    /// Tells whether it is a frame of DATA, of which the peer may not have more at hand.
    pub data: bool,
}

/// The state of reading the bytes that the peer sends.
pub(super) struct Inbound {
    /// Bytes of the preface still to come.
    preface: &'static [u8],
    decoder: Decoder,
    addresses: Addresses,
    /// A header block that is not complete.
    block: Option<Box<Block>>,
    /// Frames that the peer has sent to their end, a header block counted as one.
    ended: u64,
    /// Frames that may be handled before other connections have their turn.
    quantum_left: usize,
}

impl Inbound {
    pub(super) fn new(role: Role) -> Inbound {
        Inbound {
            preface: if role == Role::Server { PREFACE } else { &[] },
            decoder: match role {
                // A message of gRPC may end in white space, and most servers send it as it is. It is handed on without. A
                // client that sends such a value gets an error instead.
                Role::Client => Decoder::new(TABLE_BYTES).trimming(),
                Role::Server => Decoder::new(TABLE_BYTES),
            },
            addresses: Addresses::default(),
            block: None,
            ended: 0,
            quantum_left: 0,
        }
    }

    /// Returns how many bytes of an incomplete header block are kept undecoded.
    pub(super) fn block_bytes(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.pending())
    }

    fn charge(&mut self, head: Head) {
        let more = match head.kind {
            frame::HEADERS | frame::CONTINUATION => head.len / BLOCK_BYTES_A_FRAME,
            _ => 0,
        };
        self.quantum_left = self.quantum_left.saturating_sub(1 + more);
    }
}

impl Core {
    /// Takes the frames that are complete out of `bytes`.
    ///
    /// # Errors
    /// When the connection is to be ended.
    pub(crate) fn receive(&mut self, bytes: &mut BytesMut) -> Result<(), Error> {
        if !self.inbound.preface.is_empty() && !self.receive_preface(bytes)? {
            return Ok(());
        }
        if !self.peer.received_initial_settings()
            && self.role == Role::Client
            && let Some(complaint) = foreign_protocol::complaint(bytes)
        {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, &complaint));
        }
        while !self.is_backpressured() && !self.had_its_turn() {
            let Some(head) = Head::read(bytes) else { break };
            if head.len > frame::PAYLOAD_BYTES_MAX {
                return Err(Error::connection(Reason::FRAME_SIZE_ERROR, "a frame is too long"));
            }
            let whole = frame::HEAD_BYTES + head.len;
            if bytes.len() < whole {
                break;
            }
            self.inbound.charge(head);
            let starts = self.inbound.block.is_none() && self.peer.received_initial_settings();
            if head.kind == frame::DATA && starts {
                self.receive_data(head, bytes)?;
            } else {
                self.receive_frame(head, &bytes[frame::HEAD_BYTES..whole])?;
                bytes.advance(whole);
            }
            if self.inbound.block.is_none() {
                self.inbound.ended += 1;
            }
        }
        Ok(())
    }

    /// Begins a turn, in which [a quantum of frames](FRAME_QUANTUM) is handled before other connections have theirs.
    pub(crate) fn begin_turn(&mut self) {
        self.inbound.quantum_left = FRAME_QUANTUM;
    }

    /// Returns whether other connections are to have their turn now.
    pub(crate) fn had_its_turn(&self) -> bool {
        self.inbound.quantum_left == 0
    }

    /// Returns what the peer has begun to send, where `rest` was received and not taken.
    pub(crate) fn unfinished(&self, rest: &[u8]) -> Option<Unfinished> {
        let Inbound { block, preface, ended, .. } = &self.inbound;
        let in_block = block.is_some() || !preface.is_empty();
        let data = !in_block && rest.get(KIND_AT) == Some(&frame::DATA);
        (in_block || !rest.is_empty()).then_some(Unfinished { number: *ended, data })
    }

    fn receive_preface(&mut self, bytes: &mut BytesMut) -> Result<bool, Error> {
        let preface = self.inbound.preface;
        let here = bytes.len().min(preface.len());
        if bytes[..here] != preface[..here] {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, "no HTTP/2 preface"));
        }
        bytes.advance(here);
        self.inbound.preface = &preface[here..];
        Ok(self.inbound.preface.is_empty())
    }

    fn receive_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if self.inbound.block.is_some() && head.kind != frame::CONTINUATION {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, "a frame inside a header block"));
        }
        let is_settings = head.kind == frame::SETTINGS && !head.has(frame::ACK);
        if !self.peer.received_initial_settings() && !is_settings {
            return Err(Error::connection(Reason::PROTOCOL_ERROR, "the first frame is not SETTINGS"));
        }
        let of_stream = match head.kind {
            frame::SETTINGS | frame::PING | frame::GOAWAY => Some(false),
            frame::HEADERS | frame::PRIORITY | frame::RST_STREAM | frame::CONTINUATION | frame::DATA => {
                Some(true)
            }
            _ => None,
        };
        match of_stream {
            Some(true) if head.stream == 0 => {
                return Err(Error::connection(Reason::PROTOCOL_ERROR, "a frame of a stream on stream 0"));
            }
            Some(false) if head.stream != 0 => {
                return Err(Error::connection(
                    Reason::PROTOCOL_ERROR,
                    "a frame of the connection on a stream",
                ));
            }
            _ => {}
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
            frame::PUSH_PROMISE => Err(Error::connection(Reason::PROTOCOL_ERROR, "PUSH_PROMISE")),
            // Unknown kinds are passed over (§4.1).
            _ => self.abuse.count_idle_frame(),
        }
    }
}
