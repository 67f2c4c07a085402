//! A connection that is always readable takes turns: with others that are ready, and with sockets that become so.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use shoal_http2::Config;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::frames::{CONTINUATION, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, SETTINGS, WINDOW_UPDATE, frame};
use super::harness::Server;

/// A frame kind that no side knows.
const UNKNOWN: u8 = 0xee;

/// Counts how many of a hundred rounds are handled in one turn. A round is so many such frames, and a PING that is answered.
#[track_caller]
fn rounds_of_a_turn(frames: usize, flood: &[u8]) -> usize {
    const ROUNDS: usize = 100;
    let mut server = Server::new(Config::default());
    server.call(1, false);
    server.says();
    let mut round = flood.repeat(frames);
    round.extend(frame(PING, 0, 0, b"12345678"));
    server.wire.bytes(&round.repeat(ROUNDS));
    assert!(server.run_once(), "it waits although there is more");
    let first = server.wire.frames().len();
    assert_eq!(first + server.says().len(), ROUNDS, "in the end all is handled");
    first
}

#[test]
fn turn_ends_after_its_quantum() {
    // A thousand frames, or 256 KiB and what one read brings.
    let small: [(&str, Vec<u8>); 4] = [
        ("empty and unknown", frame(UNKNOWN, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("GOAWAY", frame(GOAWAY, 0, 0, &[0; 8])),
    ];
    for (name, flood) in small {
        let rounds = rounds_of_a_turn(99, &flood);
        assert!((9..=11).contains(&rounds), "{name}: {rounds} rounds of a hundred frames");
    }
    let rounds = rounds_of_a_turn(1, &frame(UNKNOWN, 0, 0, &[0; 16_384]));
    assert!((15..=19).contains(&rounds), "{rounds} rounds of 16 KiB");
}

#[test]
fn header_blocks_count_by_size() {
    let mut server = Server::new(Config { header_list_max: 1_000, ..Config::default() });
    // Trailers with a thousand fields of a byte each, on a stream that is over and reset by us.
    drop(server.call(1, false));
    server.says();
    let fields = vec![0x82; 16_000];
    let block = [frame(HEADERS, 0, 1, &fields), frame(CONTINUATION, 4, 1, &[])].concat();
    server.wire.bytes(&[block, frame(PING, 0, 0, b"12345678")].concat().repeat(50));
    assert!(server.run_once());
    let first = server.wire.frames().len();
    assert!((2..=5).contains(&first), "{first} blocks of 16 KB in a turn");
    assert_eq!(first + server.says().len(), 50);
}

/// A peer that always has more to send, up to so many bytes, and reads nothing.
struct Endless {
    hello: Vec<u8>,
    flood: Vec<u8>,
    left: usize,
    said: Arc<AtomicUsize>,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let hello = std::mem::take(&mut self.hello);
        if hello.is_empty() {
            let whole = buffer.remaining().min(self.left) / self.flood.len() * self.flood.len();
            buffer.put_slice(&self.flood.repeat(whole / self.flood.len()));
            self.left -= whole;
            self.said.fetch_add(whole, Ordering::SeqCst);
        } else {
            buffer.put_slice(&hello);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn sockets_are_polled_between_turns() {
    const FLOODS: usize = 4;
    const BYTES: usize = 64 << 20;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let said = Arc::new(AtomicUsize::new(0));
        for _ in 0..FLOODS {
            let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            let flood = frame(UNKNOWN, 0, 0, &[7; 1_000]);
            let socket = Endless { hello, flood, left: BYTES, said: said.clone() };
            tokio::spawn(async move {
                let mut connection =
                    shoal_http2::handshake(socket, Config::default()).await.expect("a handshake");
                std::future::poll_fn(|cx| connection.poll_accept(cx)).await.is_none()
            });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("one")).await.expect("connected");
        let (mut far, _) = listener.accept().await.expect("accepted");
        let mut worst = 0;
        for _ in 0..20 {
            let before = said.load(Ordering::SeqCst);
            near.write_all(b"x").await.expect("written");
            // Of a read that fills its buffer, the runtime would conclude that there is more.
            assert_eq!(far.read(&mut [0; 100]).await.expect("a byte"), 1);
            worst = worst.max(said.load(Ordering::SeqCst) - before);
        }
        assert!(said.load(Ordering::SeqCst) > 0, "there was no flood");
        assert!(said.load(Ordering::SeqCst) < FLOODS * BYTES, "the floods went first");
        // Some turns of each, not the sixty-one after which the runtime looks of its own accord.
        assert!(worst < FLOODS * 4 * (300 << 10), "{worst} bytes of floods before one of another");
    });
}
