//! Records when a connection's socket last gave bytes: a reply that takes long to arrive is a sign of life, whatever waits
//! behind it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The times at which a connection was last asked and last heard.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    begin: Instant,
    /// The time at which bytes last came, in milliseconds since `begin`; `asked` likewise.
    heard: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { begin: Instant::now(), heard: Arc::default(), asked: Arc::default() }
    }

    /// Records that the first of the calls in flight begins.
    pub(crate) fn asked(&self) {
        self.asked.store(self.now(), Ordering::Relaxed);
    }

    fn heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// Returns the time without a byte while calls are in flight.
    pub(crate) fn silence(&self) -> Duration {
        let last = self.heard.load(Ordering::Relaxed).max(self.asked.load(Ordering::Relaxed));
        Duration::from_millis(self.now().saturating_sub(last))
    }

    /// Returns whether bytes have come within this time.
    pub(crate) fn heard_within(&self, time: Duration) -> bool {
        let since = self.now().saturating_sub(self.heard.load(Ordering::Relaxed));
        Duration::from_millis(since) < time
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A socket that records when it gives bytes.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    socket: S,
    progress: Progress,
}

impl<S> Watched<S> {
    pub(crate) fn new(socket: S, progress: Progress) -> Watched<S> {
        Watched { socket, progress }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.progress.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
