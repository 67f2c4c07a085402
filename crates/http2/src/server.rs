//! The server side: one connection, and the requests that come on it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::Config;
use crate::connection::Unfinished;
use crate::connection::{Core, Role};
use crate::error::{By, Error, Reason};
use crate::handle::{Handle, RecvStream, SendResponse};
use crate::io::{Io, Moved};
use crate::pings::Pings;

/// A connection. Moves its bytes only while it is polled. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Connection<T>(Io<T>);

/// A request, and the handle that answers it. If the header list is above our limits, the request's extensions hold the
/// [`ListTooLong`](crate::ListTooLong) that says so, and its headers are only those at the beginning of the list: it is to
/// be refused.
pub type Accepted = (Request<RecvStream>, SendResponse);

/// Serves the client on `socket`. Resolves when the client has sent its preface and its SETTINGS.
///
/// # Errors
/// When the client sends something else, or closes the connection.
pub async fn handshake<T>(socket: T, config: Config) -> Result<Connection<T>, Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = Io::new(socket, Core::new(Role::Server, config));
    poll_fn(|cx| match io.poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(Moved::Over)) => {
            Poll::Ready(Err(Error::io("the client left before it had said a word")))
        }
        Poll::Ready(Ok(Moved::Request)) => Poll::Ready(Ok(())),
        Poll::Pending if io.shared.lock().peer().received_initial_settings() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok(Connection(io))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Moves bytes. Ready with the next request, or with none when the connection has ended as it should.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        loop {
            let accepted = self.0.shared.lock().next_request();
            if let Some((request, key)) = accepted {
                let handle = Handle::new(self.0.shared.clone(), key);
                let respond = SendResponse(handle.clone());
                return Poll::Ready(Some(Ok((request.map(|()| handle.reading()), respond))));
            }
            match self.0.poll(cx) {
                Poll::Ready(Ok(Moved::Request)) => {}
                Poll::Ready(Ok(Moved::Over)) => return Poll::Ready(None),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Returns what asks the client whether it is there.
    pub fn pings(&self) -> Pings {
        Pings::new(&self.0.shared)
    }

    /// Begins a graceful shutdown: tells the client to open no more streams. Streams that it opens before it has seen that
    /// are still served. The connection ends with the last response.
    pub fn graceful_shutdown(&mut self) {
        self.0.shared.lock().leave();
    }

    /// Ends the connection and every stream of it.
    pub fn abrupt_shutdown(&mut self, reason: Reason) {
        self.0.shared.lock().end(&Error::go_away(reason, By::Us, ""));
    }

    /// Wakes the tasks that wait for the peer on any stream of the connection, so that they look at what was decided
    /// elsewhere.
    pub fn wake_streams(&mut self) {
        self.0.shared.lock().wake_streams();
    }

    /// Returns what the client had begun to send and not ended when the connection was last polled: the preface, a header
    /// block, or the beginning of a frame. A new value means that the earlier one has ended: a value that stays the same for
    /// long is that of a client that trickles. None, too, while nothing is read because the client does not read.
    pub fn unfinished(&self) -> Option<Unfinished> {
        self.0.unfinished
    }

    /// Returns whether streams are open.
    pub fn has_streams(&self) -> bool {
        self.0.shared.lock().has_open_streams()
    }
}
