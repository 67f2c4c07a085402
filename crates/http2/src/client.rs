//! The client side: one connection, and the handle that sends requests on it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::Config;
use crate::connection::SendError;
use crate::connection::{Core, Role};
use crate::error::Error;
use crate::handle::{Handle, ResponseFuture, SendStream};
use crate::io::{Io, Moved, Shared};
use crate::pings::Pings;

/// A connection: a future that moves its bytes, and resolves when the connection has ended. Dropping it cuts the connection.
/// The connection ends when the peer ends it, and, once [retired](Connection::retire) or after the peer's GOAWAY, with its
/// last stream.
#[derive(Debug)]
pub struct Connection<T>(Io<T>);

/// Sends requests. The handle is cheap to clone.
#[derive(Clone, Debug)]
pub struct SendRequest(Arc<Shared>);

/// The state of a connection, for the task that drives it. It is asked for with each poll, and so all at once.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The peer's GOAWAY, if it has sent one.
    pub left: Option<Error>,
    /// The number of streams that the peer allows; `u32::MAX` as long as it has not said.
    pub streams_max: u32,
    /// Tells whether resets wait for [`Connection::send_late_resets`].
    pub has_late_resets: bool,
    /// Tells what [`SendRequest::is_short_of_window`] returns.
    pub is_short_of_window: bool,
    /// Tells whether requests wait to be sent.
    pub has_queued: bool,
}

/// Begins an HTTP/2 connection on `socket`. Requests may be sent at once, before the peer has sent anything.
pub fn connect<T>(socket: T, config: Config) -> (SendRequest, Pings, Connection<T>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let io = Io::new(socket, Core::new(Role::Client, config));
    let shared = &io.shared;
    (SendRequest(shared.clone()), Pings::new(shared), Connection(io))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Sends no more requests. The connection ends with the last response.
    pub fn retire(&mut self) {
        self.0.shared.lock().retire();
    }

    /// Returns the state of the connection.
    pub fn standing(&self) -> Standing {
        let core = self.0.shared.lock();
        Standing {
            left: core.peer_goaway(),
            streams_max: core.peer().streams_max(),
            has_late_resets: core.has_late_resets(),
            is_short_of_window: core.is_short_of_window(),
            has_queued: core.has_queued(),
        }
    }

    /// Returns whether late resets wait to be sent.
    pub fn has_late_resets(&self) -> bool {
        self.0.shared.lock().has_late_resets()
    }

    /// Sends, with the next poll, the late resets that were waiting when this was last called: their requests have reached
    /// the peer in the time between.
    pub fn send_late_resets(&mut self) {
        self.0.shared.lock().send_late_resets();
    }

    /// Returns the peer's GOAWAY, if it has sent one.
    pub fn left_by_peer(&self) -> Option<Error> {
        self.0.shared.lock().peer_goaway()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.0.poll(cx) {
            // There are none for a client.
            Poll::Ready(Ok(Moved::Over | Moved::Request)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl SendRequest {
    /// Opens a stream for a request with an absolute URI. With `end` the request has no body. Waits for nothing: a stream
    /// that the peer does not allow yet is opened when it does.
    ///
    /// # Errors
    /// When the connection takes no more requests, or no peer would take this one.
    pub fn send_request(
        &self,
        request: &Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream), SendError> {
        let key = self.0.lock().send_request(request, end)?;
        let handle = Handle::new(self.0.clone(), key);
        Ok((ResponseFuture(handle.clone()), SendStream(handle)))
    }

    /// Returns how many requests wait to be sent: for a stream, or for the headers of others to be written.
    pub fn queued(&self) -> usize {
        self.0.lock().queued()
    }

    /// Returns whether streams wait for the peer's connection-level window, most of which is taken by bodies that the peer
    /// does not read. On another connection they would not wait.
    pub fn is_short_of_window(&self) -> bool {
        self.0.lock().is_short_of_window()
    }

    /// Returns how many streams the peer allows; `u32::MAX` as long as it has not said.
    pub fn streams_max(&self) -> usize {
        usize::try_from(self.0.lock().peer().streams_max()).unwrap_or(usize::MAX)
    }
}
