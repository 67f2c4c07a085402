//! The side that is connected to: one connection, and the requests that come on it.

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

/// A connection. Moves its bytes only while it is polled; dropped, it is cut.
#[derive(Debug)]
pub struct Connection<T>(Io<T>);

/// A request, and what answers it. If its header list is above our limits, its extensions hold the
/// [`ListTooLong`](crate::ListTooLong) that says so, and its headers are only those at the list's beginning: it is to be refused.
pub type Accepted = (Request<RecvStream>, SendResponse);

/// Serves what is connected on `socket`: resolves when the client has said its preface and its SETTINGS.
///
/// # Errors
/// When it says something else, or leaves.
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
    /// Moves bytes, and is ready with the next request, or with none when the connection has ended as it should.
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

    /// Tells the client to go elsewhere; what it has asked until it knows is still answered. The connection ends with
    /// the last answer.
    pub fn graceful_shutdown(&mut self) {
        self.0.shared.lock().leave();
    }

    /// Ends the connection and every stream of it.
    pub fn abrupt_shutdown(&mut self, reason: Reason) {
        self.0.shared.lock().end(&Error::go_away(reason, By::Us, ""));
    }

    /// Wakes the tasks that wait for the peer on any of its streams, so that they look at what was decided elsewhere.
    pub fn wake_streams(&mut self) {
        self.0.shared.lock().wake_streams();
    }

    /// What the client has begun to say and has not ended, when the connection was last polled: the preface, a header block,
    /// or the beginning of a frame. It differs from the one before when that has ended: one that stays the same for long is
    /// of a client that trickles. None as well while the client is not read because it does not read.
    pub fn unfinished(&self) -> Option<Unfinished> {
        self.0.unfinished
    }

    /// Whether requests are unanswered.
    pub fn has_streams(&self) -> bool {
        self.0.shared.lock().has_open_streams()
    }
}
