//! A caller that speaks HTTP/2 itself, so that it sees every frame's effect.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::within;

/// A connection to a gateway.
pub(crate) struct Caller {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// The gRPC status code, from trailers or from the headers of an answer without a body.
    pub(crate) fn code(&self) -> i32 {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        let code = headers.get("grpc-status").and_then(|code| code.to_str().ok());
        code.and_then(|code| code.parse().ok()).unwrap_or(-1)
    }

    /// The status as gRPC libraries read it.
    pub(crate) fn grpc(&self) -> tonic::Status {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        tonic::Status::from_header_map(headers).expect("a status")
    }
}

/// The head of a gRPC call.
pub(crate) fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://mesh.test{path}"))
        .version(http::Version::HTTP_2)
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("valid")
}

/// A gRPC message with its five bytes of frame.
pub(crate) fn message(payload: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(payload.len()).expect("short").to_be_bytes());
    framed.extend_from_slice(payload);
    framed.into()
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Caller {
        let mut builder = h2::client::Builder::new();
        // By default h2 ends a connection with a hundred small frames that wait to be read: on a busy machine those of a
        // hundred answers do.
        builder.initial_window_size(1 << 20).data_frame_budget(16 << 20);
        Caller::connect_with(address, &builder).await
    }

    pub(crate) async fn connect_with(address: SocketAddr, builder: &h2::client::Builder) -> Caller {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
        Caller { sender, connection: tokio::spawn(connection) }
    }

    /// Begins a call.
    pub(crate) async fn begin(&self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = self.sender.clone().ready().await.expect("the connection lives");
        sender.send_request(request, end).expect("sent")
    }

    /// A whole unary call.
    pub(crate) async fn call(&self, path: &str, headers: &[(&str, &str)], payload: &[u8]) -> Answer {
        self.try_call(path, headers, payload).await.expect("an answer")
    }

    /// A whole unary call that may be broken off.
    pub(crate) async fn try_call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<Answer, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request(path, headers), false)?;
        // An answer may come before the request is sent; then the rest of it is not wanted.
        let _ = stream.send_data(message(payload), true);
        within(path, async { answer(response.await?).await }).await
    }

    /// Returns whether the connection still takes calls.
    pub(crate) async fn lives(&self) -> bool {
        self.sender.clone().ready().await.is_ok()
    }

    /// Drops the connection as a process that is killed does, with all its calls.
    pub(crate) async fn drop_connection(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }

    /// Waits until the other side has ended the connection.
    pub(crate) async fn closed(self) -> Result<(), h2::Error> {
        drop(self.sender);
        within("the end of the connection", self.connection).await.expect("no panic")
    }
}

/// Reads a response to its end.
pub(crate) async fn answer(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut body) = response.into_parts();
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        data.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?;
    Ok(Answer { status: parts.status, headers: parts.headers, data, trailers })
}
