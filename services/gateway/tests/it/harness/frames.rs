//! HTTP/2 frame by frame, for what no well-behaved library would send. Knows just enough HPACK to answer.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::within;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection, at either end.
pub(crate) struct Wire {
    socket: TcpStream,
}

impl Wire {
    /// Connects as a client: sends the preface and empty settings.
    pub(crate) async fn connect(address: SocketAddr) -> Wire {
        let socket = TcpStream::connect(address).await.expect("connected");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        let mut wire = Wire { socket };
        wire.bytes(PREFACE).await;
        wire.send(SETTINGS, 0, 0, &[]).await;
        wire
    }

    /// Accepts as a server: takes the next connection, its preface, and sends `settings` (identifier and value).
    pub(crate) async fn accept(listener: &TcpListener, settings: &[(u16, u32)]) -> Wire {
        let (socket, _) = within("a connection", listener.accept()).await.expect("accepted");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        let mut wire = Wire { socket };
        let mut preface = [0; PREFACE.len()];
        wire.socket.read_exact(&mut preface).await.expect("a preface");
        assert_eq!(preface, PREFACE);
        wire.settings(settings).await;
        wire
    }

    pub(crate) async fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend_from_slice(&identifier.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// Writes a frame; a peer that is gone is noticed by reading.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes(&frame(kind, flags, stream, payload)).await;
    }

    /// Opens a stream as a client and resets it, in one write.
    pub(crate) async fn send_and_reset(&mut self, stream: u32, block: &[u8]) {
        let mut both = frame(HEADERS, END_HEADERS, stream, block);
        both.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        self.bytes(&both).await;
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// The next frame; none when the peer has closed. Settings and pings are acknowledged on the way.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
            PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
            _ => {}
        }
        Some(frame)
    }

    /// The next frame that satisfies `wanted`; others are passed over. None when the peer has closed.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        within("a frame", async {
            loop {
                let frame = self.next().await?;
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        })
        .await
    }

    /// Returns, as a server of the gateway, the stream of the next call. Health is answered UNIMPLEMENTED until then, known by
    /// its two streams being the first of a connection.
    pub(crate) async fn skip_health(&mut self) {
        for _watch_then_check in 0..2 {
            let asked = self.until(|frame| frame.kind == HEADERS).await.expect("a health question");
            self.status_only(asked.stream, 12).await;
        }
    }

    /// The stream of the next call.
    pub(crate) async fn call(&mut self) -> Option<u32> {
        Some(self.until(|frame| frame.kind == HEADERS).await?.stream)
    }

    /// Reads a request to its END_STREAM.
    pub(crate) async fn whole_call(&mut self) -> Option<u32> {
        let stream = self.call().await?;
        self.until(|frame| frame.stream == stream && frame.kind == DATA && frame.flags & END_STREAM != 0)
            .await?;
        Some(stream)
    }

    /// Answers with a status and nothing else.
    pub(crate) async fn status_only(&mut self, stream: u32, code: u8) {
        let mut block = response_block();
        block.extend(literal("grpc-status", &code.to_string()));
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &block).await;
    }

    /// Answers a unary call with one message.
    pub(crate) async fn answer(&mut self, stream: u32, payload: &[u8]) {
        self.send(HEADERS, END_HEADERS, stream, &response_block()).await;
        self.send(DATA, 0, stream, &super::caller::message(payload)).await;
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &literal("grpc-status", "0")).await;
    }

    /// Lets the peer send `bytes` more on a stream; 0: on the connection.
    pub(crate) async fn window(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await;
    }

    /// Begins a call as a client.
    pub(crate) async fn open(&mut self, stream: u32, path: &str) {
        self.send(HEADERS, END_HEADERS, stream, &request_block(path)).await;
    }

    /// Changes settings and waits until the peer says that it obeys them.
    pub(crate) async fn settle(&mut self, settings: &[(u16, u32)]) {
        self.settings(settings).await;
        let obeyed = |frame: &Frame| frame.kind == SETTINGS && frame.flags & ACK != 0;
        self.until(obeyed).await.expect("SETTINGS acknowledged");
    }

    /// Reads what was sent before an answered ping, and says whether a frame that is `wanted` was among it.
    pub(crate) async fn has_sent(&mut self, wanted: impl Fn(&Frame) -> bool) -> bool {
        const MARK: [u8; 8] = *b"has_sent";
        self.send(PING, 0, 0, &MARK).await;
        let mut found = false;
        within("an answered ping", async {
            while let Some(frame) = self.next().await {
                if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == MARK {
                    return;
                }
                found |= wanted(&frame);
            }
            panic!("the connection ended");
        })
        .await;
        found
    }

    /// Returns whether the peer ends the connection, whatever it says before.
    pub(crate) async fn ended(&mut self) -> bool {
        self.until(|_| false).await.is_none()
    }

    pub(crate) async fn goaway(&mut self, last: u32, code: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `:status: 200` and the content type.
pub(crate) fn response_block() -> Vec<u8> {
    let mut block = vec![0x88];
    block.extend(literal("content-type", "application/grpc"));
    block
}

/// The header block of a gRPC call.
pub(crate) fn request_block(path: &str) -> Vec<u8> {
    // :method POST and :scheme http are in the static table.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path));
    block.extend(literal(":authority", "mesh.test"));
    block.extend(literal("content-type", "application/grpc"));
    block.extend(literal("te", "trailers"));
    block
}

/// A header field without indexing, not compressed.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        string(&mut field, text);
    }
    field
}

/// A string of up to 16 510 bytes with its HPACK length (RFC 7541 §5.1).
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
