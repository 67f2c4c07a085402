//! Tells HTTP/2 from anything else by a connection's first bytes, so that a plain HTTP/1 request gets an answer a
//! person can read instead of a dropped connection.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A client that says nothing for this long is let go.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// The HTTP/2 client preface.
    Http2,
    /// An HTTP/1 request line.
    Http1,
    /// Neither, or nothing in time.
    Other,
}

/// Looks at a connection's first bytes without taking them.
pub async fn read_preface(stream: &TcpStream) -> Preface {
    let mut first = [0u8; HTTP2.len()];
    let look = async {
        let mut seen = 0;
        loop {
            match stream.peek(&mut first).await {
                Ok(0) | Err(_) => return Preface::Other,
                Ok(n) if !HTTP2.starts_with(&first[..n]) => return other(&first[..n]),
                Ok(n) if n == HTTP2.len() => return Preface::Http2,
                // A peer that trickles its preface: peek returns at once while bytes lie there.
                Ok(n) if n == seen => tokio::time::sleep(Duration::from_millis(5)).await,
                Ok(n) => seen = n,
            }
        }
    };
    tokio::time::timeout(FIRST_BYTES_WITHIN, look).await.unwrap_or(Preface::Other)
}

fn other(first: &[u8]) -> Preface {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT "];
    if METHODS.iter().any(|m| first.starts_with(&m[..m.len().min(first.len())])) {
        Preface::Http1
    } else {
        Preface::Other
    }
}

/// Answers a plain HTTP/1 request in its own language and closes.
pub async fn refuse_http1(mut stream: TcpStream) {
    const BODY: &str = "This port speaks gRPC over HTTP/2 (prior knowledge), not HTTP/1.\n\
        Try: grpcurl -plaintext HOST:PORT list\n";
    let answer = format!(
        "HTTP/1.1 426 Upgrade Required\r\nupgrade: h2c\r\nconnection: upgrade, close\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    // The request's bytes are read first: closing with unread bytes would reset the connection under the answer.
    let mut request = [0u8; 4096];
    let _ = stream.try_read(&mut request);
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
