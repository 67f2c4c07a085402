//! A gRPC call over a plain h2 connection, unary or with a stream of answers. Every load consists of these.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Windows wide enough that the generator is never what holds a server back.
const WINDOW: u32 = 8 << 20;

/// Time that a server may take to accept a connection and to say its settings.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Method and request of the calls of a load.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    /// The request, framed as gRPC does.
    pub(crate) framed: Bytes,
}

impl Call {
    pub(crate) fn new(path: &'static str, message: &impl prost::Message) -> Self {
        Self { path, framed: framed(message) }
    }

    pub(crate) fn uri(&self, address: SocketAddr) -> anyhow::Result<Uri> {
        Ok(format!("http://{address}{}", self.path).parse()?)
    }
}

/// A message behind its gRPC prefix.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(length + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it.
    let _ = message.encode(&mut framed);
    framed.freeze()
}

/// Answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `grpc-status`, of the trailers or of a trailers-only answer; `None` if the server sent none.
    pub(crate) status: Option<u16>,
    /// `grpc-message`: mostly empty if the status is OK.
    pub(crate) message: String,
    pub(crate) body_bytes: usize,
}

/// A connection with its driver on the current runtime. The server has said its settings.
///
/// # Errors
/// When nothing listens there, or what listens does not speak HTTP/2 without TLS.
pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    timeout(CONNECT_WITHIN, connected(address))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {CONNECT_WITHIN:?}")))
        .with_context(|| format!("connecting to {address} by HTTP/2 without TLS"))
}

async fn connected(address: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let ping = connection.ping_pong();
    let driver = tokio::spawn(connection);
    if let Some(mut ping) = ping {
        // Frames keep their order: the server's settings, with the streams it allows, come before the answer to this.
        if let Err(error) = ping.ping(h2::Ping::opaque()).await {
            // The driver knows better why.
            driver.await??;
            return Err(error.into());
        }
    }
    Ok(sender)
}

/// Makes one call and reads its answer to the end; `body`, if any, gets what was answered.
///
/// # Errors
/// When the connection or the stream breaks.
pub(crate) async fn once(
    sender: &mut SendRequest<Bytes>,
    uri: &Uri,
    request: Bytes,
    body: Option<&mut BytesMut>,
) -> anyhow::Result<Answer> {
    with_metadata(sender, uri, &HeaderMap::new(), request, body).await
}

/// Makes one call with metadata and reads its answer to the end; `body`, if any, gets what was answered.
///
/// # Errors
/// When the connection or the stream breaks.
pub(crate) async fn with_metadata(
    sender: &mut SendRequest<Bytes>,
    uri: &Uri,
    metadata: &HeaderMap,
    request: Bytes,
    mut body: Option<&mut BytesMut>,
) -> anyhow::Result<Answer> {
    let mut head = http::Request::post(uri.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    if !metadata.is_empty() {
        head.headers_mut().extend(metadata.clone());
    }
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut stream) = sender.send_request(head, false)?;
    stream.send_data(request, true)?;
    let response = response.await?;
    ensure!(response.status() == http::StatusCode::OK, "HTTP {}", response.status());
    let mut status = status_of(response.headers());
    let mut message = message_of(response.headers());
    let mut from = response.into_body();
    let mut body_bytes = 0;
    while let Some(chunk) = from.data().await {
        let chunk = chunk?;
        body_bytes += chunk.len();
        from.flow_control().release_capacity(chunk.len())?;
        if let Some(body) = &mut body {
            body.put_slice(&chunk);
        }
    }
    if let Some(trailers) = from.trailers().await? {
        status = status_of(&trailers);
        message = message_of(&trailers);
    }
    Ok(Answer { status, message, body_bytes })
}

fn status_of(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Returns `grpc-message`, whose bytes may be percent-encoded.
fn message_of(headers: &HeaderMap) -> String {
    let message = headers.get("grpc-message").map(|message| decoded(message.as_bytes()));
    message.map(|message| String::from_utf8_lossy(&message).into_owned()).unwrap_or_default()
}

fn decoded(message: &[u8]) -> Vec<u8> {
    let digit = |at: usize| char::from(*message.get(at)?).to_digit(16);
    let mut decoded = Vec::with_capacity(message.len());
    let mut at = 0;
    while let Some(byte) = message.get(at).copied() {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_decoded() {
        let decoded = |text: &str| String::from_utf8(decoded(text.as_bytes())).expect("UTF-8");
        assert_eq!(decoded("key:%20%C3%A9%25"), "key: é%");
        assert_eq!(decoded("100% of 5%2"), "100% of 5%2");
    }
}
