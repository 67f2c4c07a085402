//! Frames as bytes and as lines of text, independent of the library's code: just enough HPACK for requests and responses.

use std::fmt;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const STREAMS_MAX: u16 = 3;
pub(crate) const WINDOW: u16 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The error codes of RFC 9113 §7, in their order.
const REASONS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Reads the first frame of `bytes`, if it is complete.
    pub(crate) fn take(bytes: &mut Vec<u8>) -> Option<Frame> {
        let head: Vec<u8> = bytes.get(..9)?.to_vec();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = bytes.get(9..9 + len)?.to_vec();
        bytes.drain(..9 + len);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads a number of the payload.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    fn reason(&self, at: usize) -> &'static str {
        REASONS.get(self.number(at) as usize).copied().unwrap_or("?")
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.flags & END_STREAM != 0 { " END" } else { "" };
        let ack = if self.flags & ACK != 0 { " ACK" } else { "" };
        let more = if self.flags & END_HEADERS == 0 { " MORE" } else { "" };
        let stream = self.stream;
        match self.kind {
            DATA => write!(f, "DATA {stream} {}{end}", self.payload.len()),
            HEADERS => write!(f, "HEADERS {stream}{end}{more}"),
            CONTINUATION => write!(f, "CONTINUATION {stream}{more}"),
            RST_STREAM => write!(f, "RST_STREAM {stream} {}", self.reason(0)),
            SETTINGS => write!(f, "SETTINGS{ack}"),
            PING => write!(f, "PING{ack}"),
            GOAWAY => write!(f, "GOAWAY {} {}", self.number(0), self.reason(4)),
            WINDOW_UPDATE => write!(f, "WINDOW_UPDATE {stream} {}", self.number(0)),
            other => write!(f, "kind {other}"),
        }
    }
}

/// Returns a frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Returns `:status: 200`, by its index in the static table.
pub(crate) fn response_block() -> Vec<u8> {
    vec![0x88]
}

/// Returns the fields of `POST http://mesh.test/a.B/C`.
pub(crate) fn request_block() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", "/a.B/C"));
    block.extend(literal(":authority", "mesh.test"));
    block
}

/// Returns the fields of a request, and more fields.
pub(crate) fn request_with(fields: &[(&str, &str)]) -> Vec<u8> {
    with(request_block(), fields)
}

/// Returns the fields of a response, and more fields.
pub(crate) fn response_with(fields: &[(&str, &str)]) -> Vec<u8> {
    with(response_block(), fields)
}

fn with(mut block: Vec<u8>, fields: &[(&str, &str)]) -> Vec<u8> {
    for (name, value) in fields {
        block.extend(literal(name, value));
    }
    block
}

/// Encodes a field without indexing and without Huffman code.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        string(&mut field, text);
    }
    field
}

/// Encodes a field that the table keeps: from then on it is the field 62, an octet of `0xbe`.
pub(crate) fn indexed(name: &str, value: &str) -> Vec<u8> {
    let mut field = literal(name, value);
    field[0] = 0x40;
    field
}

/// Encodes a string with its length (RFC 7541 §5.1).
fn string(block: &mut Vec<u8>, text: &str) {
    let length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).expect("short"));
    } else {
        block.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).expect("seven bits"));
    }
    block.extend_from_slice(text.as_bytes());
}
