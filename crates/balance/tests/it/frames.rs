//! A server that speaks HTTP/2 frame by frame, to do what no library allows.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

/// The last stream of the health service, where it is UNIMPLEMENTED: 1 is Watch, 3 is Check.
pub(crate) const HEALTH_LAST: u32 = 3;

const PREFACE: usize = 24;
const ACK: u8 = 1;

/// A connection after the exchange of preface and settings.
pub(crate) struct Frames {
    socket: TcpStream,
}

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frames {
    pub(crate) async fn accept(mut socket: TcpStream) -> std::io::Result<Frames> {
        let mut preface = [0; PREFACE];
        socket.read_exact(&mut preface).await?;
        let mut frames = Frames { socket };
        frames.write(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// Reads the next frame that is not about settings, and acknowledges those.
    pub(crate) async fn read(&mut self) -> std::io::Result<Frame> {
        loop {
            let mut head = [0; 9];
            self.socket.read_exact(&mut head).await?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            self.socket.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await?,
                SETTINGS => {}
                _ => return Ok(frame),
            }
        }
    }

    pub(crate) async fn write(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).await
    }

    pub(crate) async fn pong(&mut self, ping: &Frame) -> std::io::Result<()> {
        self.write(PING, ACK, 0, &ping.payload).await
    }

    pub(crate) async fn goaway(&mut self, last: u32, reason: u32, debug: &[u8]) -> std::io::Result<()> {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&reason.to_be_bytes());
        payload.extend_from_slice(debug);
        self.write(GOAWAY, 0, 0, &payload).await
    }

    /// Answers a request with a status and no body: literal header fields without indexing (RFC 7541 §6.2.2).
    pub(crate) async fn answer(&mut self, stream: u32, status: u8) -> std::io::Result<()> {
        const END_STREAM_AND_HEADERS: u8 = 5;
        let mut block = vec![0x88]; // :status 200, from the static table
        for (name, value) in [("content-type", "application/grpc"), ("grpc-status", &status.to_string())] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.write(HEADERS, END_STREAM_AND_HEADERS, stream, &block).await
    }
}
