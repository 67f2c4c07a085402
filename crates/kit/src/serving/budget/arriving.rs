//! The received part of one message, kept as it came, so that nothing is reserved for the rest.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// The bytes at the front of a message that its length stands in.
pub(crate) const HEAD_BYTES: usize = 5;
/// Pieces of less than half of this are gathered into blocks of it.
pub(super) const BLOCK_BYTES: usize = 16 << 10;

/// Received pieces, without room for more than a block.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    pieces: VecDeque<Bytes>,
    /// Small pieces, gathered: each would keep the buffer alive that it was read into.
    block: BytesMut,
    head: [u8; HEAD_BYTES],
    bytes: usize,
}

impl Arriving {
    /// Returns the bytes of memory that this takes.
    pub(super) fn add(&mut self, piece: Bytes) -> usize {
        if let Some(head) = self.head.get_mut(self.bytes..) {
            let size = head.len().min(piece.len());
            head[..size].copy_from_slice(&piece[..size]);
        }
        self.bytes += piece.len();
        if piece.len() >= BLOCK_BYTES / 2 {
            self.end_block();
            let size = piece.len();
            self.pieces.push_back(piece);
            return size;
        }
        let mut taken = 0;
        if self.block.capacity() - self.block.len() < piece.len() {
            self.end_block();
            self.block = BytesMut::with_capacity(BLOCK_BYTES);
            taken = BLOCK_BYTES;
        }
        self.block.extend_from_slice(&piece);
        taken
    }

    /// Returns the number of bytes, and the first five once there are as many.
    pub(super) fn head(&self) -> (usize, Option<[u8; HEAD_BYTES]>) {
        (self.bytes, (self.bytes >= HEAD_BYTES).then_some(self.head))
    }

    /// Everything, in order.
    pub(super) fn pieces(mut self) -> VecDeque<Bytes> {
        self.end_block();
        self.pieces
    }

    fn end_block(&mut self) {
        if !self.block.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.block).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_was_received() {
        let mut arriving = Arriving::default();
        let mut random = fastrand::Rng::with_seed(7);
        let (mut sent, mut taken) = (Vec::new(), 0);
        while sent.len() < 1 << 20 {
            let piece: Vec<u8> = (0..random.usize(1..2 * BLOCK_BYTES)).map(|_| random.u8(..)).collect();
            sent.extend(&piece);
            taken += arriving.add(piece.into());
        }
        assert!(taken < sent.len() * 2 + BLOCK_BYTES, "{taken} for {}", sent.len());
        let (bytes, head) = arriving.head();
        assert_eq!((bytes, &head.expect("there")[..]), (sent.len(), &sent[..HEAD_BYTES]));
        assert_eq!(arriving.pieces().iter().flatten().copied().collect::<Vec<u8>>(), sent);
    }
}
