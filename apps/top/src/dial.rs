//! A gRPC connection for a command that somebody typed. What keeps it from being made or used is said with what was tried
//! and what to look at, where tonic says only "transport error". Asks nothing itself.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, TimeoutExpired};

/// Time within which a server must answer a request that it does not understand.
const PROBE_WITHIN: Duration = Duration::from_millis(500);
/// Bytes of such an answer that tell the kind of server.
const PROBE_BYTES: usize = 512;

/// An address somebody typed, as `HOST:PORT`.
///
/// # Errors
/// When it is of another kind, saying which one is wanted.
pub fn address(typed: &str) -> anyhow::Result<&str> {
    const WANTED: &str = "an address is HOST:PORT of a gateway or a clone, such as 127.0.0.1:7000";
    let rest = match typed.split_once("://") {
        None => typed,
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(("https", _)) => {
            bail!("{typed}: connections are plaintext, and https:// asks for TLS; {WANTED}, without a scheme")
        }
        Some((scheme, _)) => bail!("{typed}: {scheme}:// is not understood; {WANTED}, without a scheme"),
    };
    let port = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(port)) if port > 0 && !rest.contains('/') => Ok(rest),
        _ => bail!("{typed}: {WANTED}"),
    }
}

/// Connects to a typed address. A server that goes away without a word is missed, not taken for idle.
///
/// # Errors
/// With what was tried and what to look at.
pub async fn connect(typed: &str, within: Duration) -> anyhow::Result<Channel> {
    let address = address(typed)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{typed} is not an address"))?
        .connect_timeout(within)
        .http2_keep_alive_interval(within)
        .keep_alive_timeout(within);
    endpoint.connect().await.map_err(|error| {
        anyhow!(
            "cannot connect to {address}: {}; is the process running, and does it listen there? It says so when it \
             starts (--listen, 127.0.0.1:7000 if nothing else was said)",
            cause(&error)
        )
    })
}

/// Returns whether a call ended because its time was over, by the server's clock or by the caller's.
pub fn is_late(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    status.code() == Code::DeadlineExceeded
}

/// Why a call over such a connection failed, where it was not a gRPC server that said so. `wanted` is the service that was
/// asked.
pub async fn explain(typed: &str, wanted: &str, status: &Status) -> anyhow::Error {
    let address = address(typed).unwrap_or(typed);
    if is_late(status) {
        return anyhow!("{address} gave no answer in time");
    }
    match status.code() {
        // The admin port answers HTTP/2 too, and that it has no such page.
        Code::Unimplemented => match kind(&probe(address).await) {
            Some(Kind::Admin) => anyhow!("{address} {}", Kind::Admin),
            _ => anyhow!("{address} has no {wanted}: it is another kind of server"),
        },
        _ if status.source().is_some() => match kind(&probe(address).await) {
            Some(kind) => anyhow!("{address} {kind}"),
            None => anyhow!("{address} was connected to and gave no gRPC answer: {}", cause(status)),
        },
        _ => anyhow!("{address}: {}", status.message()),
    }
}

/// Returns what a server answers to HTTP/1; empty if it does not answer in time.
async fn probe(address: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        // Some leave the connection open: what they said until then tells enough.
        while answer.len() < PROBE_BYTES && stream.read_buf(&mut answer).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(PROBE_WITHIN, ask).await;
    answer
}

/// A server that is not the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Admin,
    Http1,
    Tls,
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Admin => {
                "is an admin port; gRPC is at the process's other port, the one --listen says (this one has /readyz)"
            }
            Kind::Http1 => "speaks HTTP/1 and no gRPC: it is not a gateway or a clone",
            Kind::Tls => "wants TLS, and this command speaks plaintext: ask behind whatever ends the TLS",
            Kind::Other => "answers, but not in gRPC: it is not a gateway or a clone",
        })
    }
}

/// Returns the kind of server that gives such an answer, if it is known.
fn kind(answer: &[u8]) -> Option<Kind> {
    /// A TLS record of an alert.
    const TLS_ALERT: u8 = 0x15;
    let text = String::from_utf8_lossy(answer);
    match answer.first()? {
        _ if text.contains("<title>Shoal</title>") => Some(Kind::Admin),
        // What speaks HTTP/2 alone and says so.
        _ if text.to_ascii_lowercase().contains("\r\nupgrade: h2c") => None,
        _ if text.starts_with("HTTP/1") => Some(Kind::Http1),
        &TLS_ALERT => Some(Kind::Tls),
        _ => Some(Kind::Other),
    }
}

/// The innermost error: those around it say only "transport error".
fn cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port() {
        for good in
            ["127.0.0.1:7000", "http://127.0.0.1:7000", "http://127.0.0.1:7000/", "gateway:7000", "[::1]:1"]
        {
            assert!(address(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("https://127.0.0.1:7000", "TLS"),
            ("grpc://127.0.0.1:7000", "grpc:// is not understood"),
            ("127.0.0.1", "HOST:PORT"),
            (":7000", "HOST:PORT"),
            ("a:b", "HOST:PORT"),
            ("a:0", "HOST:PORT"),
            ("http://a:1/x", "HOST:PORT"),
            ("", "HOST:PORT"),
        ] {
            let error = address(bad).expect_err(bad).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn servers_are_recognized_by_http1_answers() {
        for (answer, known) in [
            (&b"HTTP/1.0 200 OK\r\n\r\n<!doctype html><title>Shoal</title>"[..], Some(Kind::Admin)),
            (b"HTTP/1.1 404 Not Found", Some(Kind::Http1)),
            (b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\n\r\n", None),
            (b"\x15\x03\x01\x00\x02", Some(Kind::Tls)),
            (b"-ERR unknown command", Some(Kind::Other)),
            (b"", None),
        ] {
            assert_eq!(kind(answer), known, "{answer:?}");
        }
    }
}
