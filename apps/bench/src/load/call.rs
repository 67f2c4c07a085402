//! A gRPC call over a plain h2 connection, unary or with a stream of answers. Every load consists of these.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Uri;
use tokio::net::TcpStream;

/// Windows wide enough that the generator is never what holds a server back.
const WINDOW: u32 = 8 << 20;

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
    let bytes = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(bytes.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    framed.put_slice(&bytes);
    framed.freeze()
}

/// Answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `grpc-status`, of the trailers or of a trailers-only answer; `None` if the server sent none.
    pub(crate) status: Option<u16>,
    pub(crate) body_bytes: usize,
}

/// A connection with its driver on the current runtime.
pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .enable_push(false)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
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
    mut body: Option<&mut BytesMut>,
) -> anyhow::Result<Answer> {
    let head = http::Request::post(uri.clone())
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, mut stream) = sender.send_request(head, false)?;
    stream.send_data(request, true)?;
    let response = response.await?;
    ensure!(response.status() == http::StatusCode::OK, "HTTP {}", response.status());
    let mut status = status_of(response.headers());
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
    }
    Ok(Answer { status, body_bytes })
}

fn status_of(headers: &http::HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
