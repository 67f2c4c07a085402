//! The send buffer: bytes on their way to the socket. Small frames are copied together, large payloads left where they are.
//! Bytes are taken out before they are written, so that nobody waits for a system call to write a frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::frame::{DATA, END_STREAM, Head};

/// The longest payload that is copied, which is cheaper than a piece of its own for the system call.
const COPIED_BYTES_MAX: usize = 2 << 10;

/// The number of pieces handed to one system call.
const PIECES_MAX: usize = 32;

/// The largest capacity of a buffer that is kept when it is empty.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// The largest capacity of a list of pieces that is kept when it is empty.
const PIECES_KEPT_MAX: usize = 2 * PIECES_MAX;

/// The bytes that are to be written.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    pieces: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// The bytes in `pieces`.
    in_pieces: usize,
    /// The bytes that were taken out, and are not known to be written.
    taken: usize,
    /// The number of bytes that were ever written.
    written: u64,
}

/// The bytes that are being written. They come before everything in the send buffer.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    pieces: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// The bytes of `tail` that are written.
    written: usize,
    /// The bytes that were written, and that the send buffer does not know of.
    unsaid: usize,
}

impl SendBuffer {
    /// Returns the buffer into which frames are written that are not DATA.
    pub(crate) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Adds a DATA frame.
    pub(crate) fn data(&mut self, stream: u32, payload: Bytes, end: bool) {
        let flags = if end { END_STREAM } else { 0 };
        let len = payload.len();
        self.tail.extend_from_slice(&Head { len, kind: DATA, flags, stream }.bytes());
        if len <= COPIED_BYTES_MAX {
            self.tail.extend_from_slice(&payload);
            return;
        }
        let before = Bytes::from(std::mem::take(&mut self.tail));
        self.in_pieces += before.len() + payload.len();
        self.pieces.push_back(before);
        self.pieces.push_back(payload);
    }

    /// Returns whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Returns how many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.taken + self.in_pieces + self.tail.len()
    }

    /// Returns how many bytes were ever written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns what [`written`](SendBuffer::written) will be when everything here is written.
    pub(crate) fn end(&self) -> u64 {
        self.written + self.bytes() as u64
    }

    /// Takes note of what was written, and when that is all, hands out what comes next. Returns whether there is something
    /// to be written. Two buffers go to and fro; one that is not needed for that is not made.
    pub(crate) fn hand_out(&mut self, writing: &mut Writing) -> bool {
        let written = std::mem::take(&mut writing.unsaid);
        self.taken -= written;
        self.written += written as u64;
        if self.taken > 0 {
            return true;
        }
        self.taken = self.in_pieces + self.tail.len();
        if self.taken > 0 || self.tail.capacity() == 0 {
            std::mem::swap(&mut self.tail, &mut writing.tail);
        }
        if self.in_pieces > 0 {
            std::mem::swap(&mut self.pieces, &mut writing.pieces);
            self.in_pieces = 0;
        }
        self.taken > 0
    }
}

impl Writing {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.len() == self.written
    }

    /// Writes until all is written or the socket takes no more.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(cx, &self.tail[self.written..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); PIECES_MAX];
                let mut used = 0;
                let tail = &self.tail[self.written..];
                for (slot, piece) in
                    slices.iter_mut().zip(self.pieces.iter().map(|piece| &piece[..]).chain([tail]))
                {
                    *slot = IoSlice::new(piece);
                    used += 1;
                }
                ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..used]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.unsaid += written;
        while let Some(piece) = self.pieces.front_mut() {
            let taken = written.min(piece.len());
            piece.advance(taken);
            written -= taken;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        if self.pieces.capacity() > PIECES_KEPT_MAX {
            self.pieces = VecDeque::new();
        }
        self.written += written;
        if self.written == self.tail.len() {
            self.written = 0;
            if self.tail.capacity() > KEPT_BYTES_MAX {
                self.tail = Vec::new();
            } else {
                self.tail.clear();
            }
        }
    }
}
