//! Tells HTTP/2 from anything else by a connection's first bytes, so that a plain HTTP/1 request gets an answer a
//! person can read instead of a dropped connection.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first octet of a TLS record of a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;
/// A record with a fatal alert, `handshake_failure` (RFC 8446 §6.2): what a client shows instead of a closed connection.
const TLS_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 40];
/// A client that has not said its preface within this is let go, whether it says nothing or trickles.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);

/// The protocol that a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// The HTTP/2 client preface.
    Http2,
    /// An HTTP/1 request line.
    Http1,
    /// A TLS handshake.
    Tls,
    /// Neither, or nothing in time.
    Other,
}

/// Reads a connection's first bytes, no more than the HTTP/2 preface, and gives them back with what they are: who serves the
/// connection [reads them again](Rewound).
pub async fn read_preface(stream: &mut (impl AsyncRead + Unpin)) -> (Preface, Bytes) {
    read_within(PREFACE_WITHIN, stream).await
}

async fn read_within(patience: Duration, stream: &mut (impl AsyncRead + Unpin)) -> (Preface, Bytes) {
    let mut first = BytesMut::with_capacity(HTTP2.len());
    let read = async {
        loop {
            let left = HTTP2.len() - first.len();
            match stream.read_buf(&mut (&mut first).limit(left)).await {
                Ok(0) | Err(_) => return Preface::Other,
                Ok(_) if !HTTP2.starts_with(&first) => return other(&first),
                Ok(_) if first.len() == HTTP2.len() => return Preface::Http2,
                Ok(_) => {}
            }
        }
    };
    let preface = tokio::time::timeout(patience, read).await.unwrap_or(Preface::Other);
    (preface, first.freeze())
}

fn other(first: &[u8]) -> Preface {
    if first.first() == Some(&TLS_HANDSHAKE) {
        return Preface::Tls;
    }
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT "];
    if METHODS.iter().any(|m| first.starts_with(&m[..m.len().min(first.len())])) {
        Preface::Http1
    } else {
        Preface::Other
    }
}

/// Lets go of a connection that does not begin as HTTP/2, with an answer in the language of its client if that is HTTP/1 or
/// TLS. Counted as `shoal_rpc_server_not_http2_total`.
pub async fn refuse(mut stream: TcpStream, preface: Preface) {
    let (protocol, answer) = match preface {
        Preface::Http1 => ("http/1", Bytes::from(http1_answer())),
        Preface::Tls => {
            tracing::debug!("a client began with TLS, and this port is plaintext");
            ("tls", Bytes::from_static(&TLS_ALERT))
        }
        Preface::Http2 | Preface::Other => ("", Bytes::new()),
    };
    // What the client has sent is read first: closing with unread bytes would reset the connection under the answer.
    let mut said = [0u8; 4096];
    let _ = stream.try_read(&mut said);
    if !protocol.is_empty() {
        metrics::counter!("shoal_rpc_server_not_http2_total", "protocol" => protocol).increment(1);
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    }
}

fn http1_answer() -> String {
    const BODY: &str = "This port speaks gRPC over HTTP/2 (prior knowledge), not HTTP/1.\n\
        Try: grpcurl -plaintext HOST:PORT list\n";
    format!(
        "HTTP/1.1 426 Upgrade Required\r\nupgrade: h2c\r\nconnection: upgrade, close\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// Reads a connection that begins with `text`, `at_once` octets at a time; returns its protocol and the bytes that were read.
    async fn read(text: &[u8], at_once: usize) -> (Preface, Bytes) {
        let (mut peer, mut ours) = tokio::io::duplex(at_once);
        let (said, read) = tokio::join!(peer.write_all(text), async move { read_preface(&mut ours).await });
        // It fails when no more is read.
        drop(said);
        read
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_recognised() {
        for at_once in [1, 7, HTTP2.len(), 64] {
            let more = [HTTP2, b"more"].concat();
            assert_eq!(read(&more, at_once).await, (Preface::Http2, Bytes::from_static(HTTP2)), "{at_once}");
            assert_eq!(read(b"GET / HTTP/1.1\r\n", at_once).await.0, Preface::Http1, "{at_once}");
            assert_eq!(read(b"PRI * HTTP/1.1\r\n", at_once).await.0, Preface::Other, "{at_once}");
            assert_eq!(read(&[22, 3, 1, 0], at_once).await.0, Preface::Tls, "{at_once}");
            assert_eq!(read(b"SSH-2.0-x\r\n", at_once).await.0, Preface::Other, "{at_once}");
        }
    }

    #[tokio::test]
    async fn tls_is_answered_with_an_alert() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        client.write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.expect("written");
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let (preface, _) = read_preface(&mut stream).await;
        refuse(stream, preface).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("closed in order");
        assert_eq!(answer, TLS_ALERT);
    }

    /// Counts how often it is asked.
    struct Counted<T> {
        inner: T,
        polls: usize,
    }

    impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.polls += 1;
            Pin::new(&mut self.inner).poll_read(cx, buffer)
        }
    }

    #[tokio::test]
    async fn a_trickling_peer_costs_no_wakeups() {
        let (mut peer, inner) = tokio::io::duplex(64);
        let mut ours = Counted { inner, polls: 0 };
        peer.write_all(b"P").await.expect("written");
        let (preface, first) = read_within(Duration::from_millis(100), &mut ours).await;
        assert_eq!((preface, &first[..]), (Preface::Other, &b"P"[..]));
        // For what is there, for what is not, and at the end.
        assert!(ours.polls <= 3, "{}", ours.polls);
    }
}
