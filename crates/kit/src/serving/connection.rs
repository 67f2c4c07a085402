//! A connection of a clone: HTTP/2 by `crates/http2`, and a task for each call.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use shoal_coalesce::Coalesce;
use shoal_http2::{
    Config, Error, ListTooLong, Pings, Reason, RecvStream, SendResponse, SendStream, ServerConnection,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::serving::incoming::Incoming;
use crate::serving::rpc::Rpc;

/// Receive windows. Fixed: adaptive windows cost more than they give on a small-message mesh.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Streams that a client may reset before they are accepted. A gateway's shared connection carries the resets of all its
/// callers: a small number would end all their calls when a few disconnect at once.
const PENDING_ACCEPT_RESETS_MAX: usize = 4096;

/// Streams that were reset here and are remembered, so that frames still under way on them are no error. A gateway's shared
/// connection carries the uploads of all its callers.
const LOCALLY_RESET_MAX: usize = 4096;

const CONCURRENT_STREAMS_MAX: u32 = 10_000;

/// The header list that a gateway takes of its callers by default, and room for what it adds: the time that remains, the trace,
/// the number of attempts, an authority. A list within a gateway's limit is within a clone's.
const HEADER_LIST_BYTES_MAX: u32 = (64 << 10) + ADDED_BYTES_MAX;
const ADDED_BYTES_MAX: u32 = 4 << 10;

/// Fields of a header list, above what gateways take of their callers and add.
const HEADER_FIELDS_MAX: usize = 1_000;

/// The PINGs that ask whether the client is there.
const KEEPALIVE: Keepalive = Keepalive { interval: Duration::from_secs(30), within: Duration::from_secs(20) };

/// Calls that are accepted before they, and other connections, have their turn.
const CALL_QUANTUM: u32 = 64;

/// Handles of the count of a connection's calls that no call holds: those of the connection and of what reads the count.
const HOLDERS: usize = 2;

/// When a client is asked whether it is there.
#[derive(Clone, Copy)]
struct Keepalive {
    /// The time from one answer to the next PING, and the time that a client has for its first frame.
    interval: Duration,
    /// The time that a client has to answer.
    within: Duration,
}

/// Serves the client on `stream` until it has left, or, once `drain` is cancelled, until its last call has ended.
pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    rpc: Arc<Rpc>,
    drain: CancellationToken,
) {
    serve_with(KEEPALIVE, stream, peer, rpc, drain).await;
}

async fn serve_with(
    keepalive: Keepalive,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    rpc: Arc<Rpc>,
    drain: CancellationToken,
) {
    let handshake = timeout(keepalive.interval, shoal_http2::handshake(stream, config()));
    let connection = match handshake.await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "HTTP/2 handshake"),
        Err(_) => return tracing::debug!("no HTTP/2 handshake in time"),
    };
    // Held by every call until it has a response, so that its count is theirs.
    let calls = Arc::new(());
    let busy = {
        let calls = Arc::clone(&calls);
        move || Arc::strong_count(&calls) > HOLDERS
    };
    let silent = keepalive.silent(connection.pings());
    let driver = Driver { connection, peer, rpc, calls, drain: Some(Box::pin(drain.cancelled_owned())) };
    tokio::select! {
        biased;
        // While other calls are under way their responses may be ready as well, and go out together.
        ended = Coalesce::new(driver, busy) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = silent => tracing::debug!("connection ended: the client answers no PING"),
    }
}

fn config() -> Config {
    Config {
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        streams_max: CONCURRENT_STREAMS_MAX,
        header_list_max: HEADER_LIST_BYTES_MAX,
        header_fields_max: HEADER_FIELDS_MAX,
        pending_accept_resets_max: PENDING_ACCEPT_RESETS_MAX,
        locally_reset_max: LOCALLY_RESET_MAX,
        ..Config::default()
    }
}

impl Keepalive {
    /// Resolves when the client does not answer a PING in time.
    async fn silent(self, mut pings: Pings) {
        loop {
            sleep(self.interval).await;
            match timeout(self.within, pings.ping()).await {
                Ok(Ok(())) => {}
                // The connection ends by itself.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return,
            }
        }
    }
}

/// Moves the bytes of a connection and starts its calls.
struct Driver<S> {
    connection: ServerConnection<S>,
    peer: SocketAddr,
    rpc: Arc<Rpc>,
    calls: Arc<()>,
    /// The wait for the start of draining; `None` once the connection drains.
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = &mut *self;
        let mut accepted = 0;
        loop {
            if accepted == CALL_QUANTUM {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match this.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    accepted += 1;
                    tokio::spawn(call(
                        Arc::clone(&this.rpc),
                        this.peer,
                        request,
                        respond,
                        Arc::clone(&this.calls),
                    ));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if !this.drain.as_mut().is_some_and(|drain| drain.as_mut().poll(cx).is_ready()) {
                        return Poll::Pending;
                    }
                    this.drain = None;
                    this.connection.graceful_shutdown();
                }
            }
        }
    }
}

/// Answers one call. `in_flight` counts it until it has a response.
async fn call(
    rpc: Arc<Rpc>,
    peer: SocketAddr,
    request: Request<RecvStream>,
    mut respond: SendResponse,
    in_flight: Arc<()>,
) {
    if request.extensions().get::<ListTooLong>().is_some() {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        drop(respond.send_response(&response, true));
        return;
    }
    let answer = rpc.call(request.map(Incoming), peer);
    let response = tokio::select! {
        biased;
        response = answer => response,
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    drop(in_flight);
    let (head, mut body) = response.into_parts();
    let end = body.is_end_stream();
    // Fails when the client has left: nobody is there to be told.
    let Ok(mut send) = respond.send_response(&Response::from_parts(head, ()), end) else { return };
    drop(respond);
    if !end {
        drop(send_body(&mut body, &mut send).await);
    }
}

/// Sends a response's body. The body is asked for more only when there is room for that: what waits is held by the body,
/// which counts it.
///
/// # Errors
/// When the stream is over.
async fn send_body(
    body: &mut (impl Body<Data = Bytes, Error = Status> + Unpin),
    send: &mut SendStream,
) -> Result<(), Error> {
    loop {
        let frame = std::future::poll_fn(|cx| {
            ready!(send.poll_ready(cx))?;
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                Poll::Pending => send.poll_idle(cx).map(Err),
            }
        });
        let frame = match frame.await? {
            None => return send.finish(),
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                send.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
        };
        match frame.into_data() {
            Ok(data) => send.send(data, false).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return send.send_trailers(trailers);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
