//! A connection of which the beginning was read already, and is read again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads `first`, then what follows on the connection. Writes go straight to it.
#[derive(Debug)]
pub struct Rewound<T> {
    first: Bytes,
    inner: T,
}

impl<T> Rewound<T> {
    /// A connection whose first bytes were `first`.
    pub fn new(first: Bytes, inner: T) -> Rewound<T> {
        Rewound { first, inner }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let taken = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..taken]);
        self.first.advance(taken);
        if self.first.is_empty() {
            // Gives its memory back: the connection may live for long.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn first_bytes_are_read_before_the_rest() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut rewound = Rewound::new(Bytes::from_static(b"first "), ours);
        peer.write_all(b"rest").await.expect("written");
        let mut text = [0; 10];
        // In pieces that end within the first bytes and beyond them.
        rewound.read_exact(&mut text[..4]).await.expect("read");
        rewound.read_exact(&mut text[4..]).await.expect("read");
        assert_eq!(&text, b"first rest");
        rewound.write_all(b"back").await.expect("written");
        peer.read_exact(&mut text[..4]).await.expect("read");
        assert_eq!(&text[..4], b"back");
    }
}
