//! The simplest client that follows GOAWAY: one connection, no health checks, no balancing. When its gateway leaves, it goes to
//! the next one, and sends again only the calls that were never processed.

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Response;
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// The number of times an unprocessed call goes to the next gateway.
const MOVES_MAX: usize = 10;

/// A client of several gateways, connected to one of them.
pub(super) struct Follower {
    addresses: Vec<String>,
    at: usize,
    sender: Option<SendRequest<Bytes>>,
    _connection: Option<AbortOnDropHandle<()>>,
}

impl Follower {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self { addresses, at: 0, sender: None, _connection: None }
    }

    /// Makes a unary call.
    pub(super) async fn call<R: Message + Default>(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> Result<R, Status> {
        let mut why = String::new();
        for _ in 0..MOVES_MAX {
            let Some(sender) = self.sender().await else { continue };
            match exchange(sender, path, message).await {
                Ok(answer) => return answer,
                Err(error) if refused(&error) => why = error.to_string(),
                Err(error) => return Err(Status::unavailable(format!("cut off: {error}"))),
            }
            self.sender = None;
        }
        Err(Status::unavailable(format!("no gateway took it: {why}")))
    }

    /// Returns the sender of a connection that takes calls, or `None` if this gateway cannot be reached; the next gateway
    /// follows then.
    async fn sender(&mut self) -> Option<SendRequest<Bytes>> {
        if let Some(sender) = self.sender.take()
            && let Ok(ready) = sender.ready().await
        {
            self.sender = Some(ready.clone());
            return Some(ready);
        }
        self.at = (self.at + 1) % self.addresses.len();
        let socket = TcpStream::connect(&self.addresses[self.at]).await.ok()?;
        let (sender, connection) = h2::client::handshake(socket).await.ok()?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        // The connection before has no call any more: there is one at a time.
        self._connection = Some(AbortOnDropHandle::new(driver));
        let ready = sender.ready().await.ok()?;
        self.sender = Some(ready.clone());
        Some(ready)
    }
}

/// Returns whether the gateway has said that it did not process the call (RFC 9113 §8.7).
fn refused(error: &h2::Error) -> bool {
    let reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || reset)
}

async fn exchange<R: Message + Default>(
    mut sender: SendRequest<Bytes>,
    path: &str,
    message: &impl Message,
) -> Result<Result<R, Status>, h2::Error> {
    let request = http::Request::post(format!("http://mesh.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("valid");
    // A connection that has just learnt that it is to end refuses here, before anything is sent.
    let (response, mut body): (_, SendStream<Bytes>) = sender.send_request(request, false)?;
    let length = u32::try_from(message.encoded_len()).expect("short");
    let framed = [&[0][..], &length.to_be_bytes(), &message.encode_to_vec()].concat();
    // An answer may come before all is sent.
    let _ = body.send_data(framed.into(), true);
    answer(response.await?).await
}

async fn answer<R: Message + Default>(
    response: Response<RecvStream>,
) -> Result<Result<R, Status>, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut data = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        data.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?;
    let status = Status::from_header_map(trailers.as_ref().unwrap_or(&head.headers));
    Ok(match status {
        Some(status) if status.code() == tonic::Code::Ok => {
            R::decode(&data[5..]).map_err(|error| Status::internal(error.to_string()))
        }
        Some(status) => Err(status),
        None => Err(Status::unknown("an answer without a status")),
    })
}
