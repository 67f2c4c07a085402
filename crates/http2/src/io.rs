//! Moves bytes between a [`Core`] and its socket.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::connection::Core;
use crate::connection::Unfinished;
use crate::connection::send_buffer::Writing;
use crate::error::Error;

/// What is read at once: little, until a peer has filled it.
const READ_BYTES_MIN: usize = 20 << 10;
const READ_BYTES_MAX: usize = 40 << 10;

/// Bytes taken from the socket before other connections have their turn.
const TURN_BYTES: usize = 256 << 10;

/// A connection's state, shared with the handles of its streams.
#[derive(Debug)]
pub(crate) struct Shared(Mutex<Core>);

impl Shared {
    pub(crate) fn new(core: Core) -> Arc<Shared> {
        Arc::new(Shared(Mutex::new(core)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing in here panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket and the state of what is spoken on it.
#[derive(Debug)]
pub(crate) struct Io<T> {
    socket: T,
    pub(crate) shared: Arc<Shared>,
    writing: Writing,
    received: BytesMut,
    read_bytes: usize,
    /// Frames lie in `received` that were not looked at, because of the answers they would have taken, or because others had
    /// their turn.
    behind: bool,
    /// A new turn begins when it is polled.
    turn: bool,
    /// Of its turn.
    bytes_left: usize,
    /// There was room, when the connection was last polled, that those who were woken for it may not want.
    left: bool,
    shut: bool,
    /// What the peer had begun to say when it was waited for.
    pub(crate) unfinished: Option<Unfinished>,
}

/// Why moving bytes came to a stop.
pub(crate) enum Moved {
    /// A request came.
    Request,
    /// The connection is over as it should.
    Over,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Io<T> {
    pub(crate) fn new(socket: T, core: Core) -> Io<T> {
        Io {
            socket,
            shared: Shared::new(core),
            writing: Writing::default(),
            received: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            behind: false,
            turn: true,
            bytes_left: 0,
            left: false,
            shut: false,
            unfinished: None,
        }
    }

    /// Moves what can be moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Moved, Error>> {
        let Io {
            socket,
            shared,
            writing,
            received,
            read_bytes,
            behind,
            turn,
            bytes_left,
            left,
            shut,
            unfinished,
        } = self;
        if std::mem::take(left) {
            shared.lock().share_room_left();
        }
        loop {
            let mut core = shared.lock();
            if std::mem::take(turn) {
                *bytes_left = TURN_BYTES;
                core.begin_turn();
            }
            let mut flushed = true;
            while core.out.hand_out(writing) && flushed {
                // Others write frames meanwhile.
                drop(core);
                let written = writing.poll(cx, socket);
                core = shared.lock();
                match written {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        core.end(&lost(&error));
                        return Poll::Ready(Err(core.over.clone().unwrap_or_else(|| lost(&error))));
                    }
                    Poll::Pending => flushed = false,
                }
            }
            if !core.waiting.is_empty() {
                core.share_room();
            }
            if !core.queued.is_empty() {
                core.open_queued();
                if flushed && !core.out.is_empty() && *bytes_left > 0 {
                    *bytes_left = bytes_left.saturating_sub(core.out.bytes());
                    continue;
                }
            }
            if flushed {
                core.replies = 0;
                if core.over.is_some() || core.is_done() {
                    return close(&mut core, socket, shut, cx);
                }
            } else if core.over.is_some() || core.is_stuffed() {
                // It is not the peer that is waited for, as far as one can see.
                *unfinished = None;
                *turn = true;
                core.driver = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if !core.accept.is_empty() {
                return Poll::Ready(Ok(Moved::Request));
            }
            if *bytes_left == 0 || core.had_its_turn() {
                *unfinished = None;
                *turn = true;
                drop(core);
                let_others_go_first(cx);
                return Poll::Pending;
            }
            if std::mem::take(behind) {
                *behind = take(&mut core, received);
                continue;
            }
            drop(core);
            if received.capacity() - received.len() < READ_BYTES_MIN / 4 {
                received.reserve(*read_bytes);
            }
            let room = received.capacity() - received.len();
            let read = pin!(socket.read_buf(received)).poll(cx);
            let mut core = shared.lock();
            match read {
                Poll::Ready(Ok(0)) => {
                    let error = Error::io("the peer closed the connection");
                    let quiet = core.open == 0 && core.queued.is_empty();
                    core.end(&error);
                    return Poll::Ready(if quiet { Ok(Moved::Over) } else { Err(error) });
                }
                Poll::Ready(Ok(read)) => {
                    *bytes_left = bytes_left.saturating_sub(read);
                    if read == room {
                        *read_bytes = READ_BYTES_MAX;
                    }
                    *behind = take(&mut core, received);
                }
                Poll::Ready(Err(error)) => {
                    core.end(&lost(&error));
                    return Poll::Ready(Err(lost(&error)));
                }
                Poll::Pending => {
                    // Another thread may have come between.
                    if flushed && (!core.out.is_empty() || core.over.is_some() || core.is_done()) {
                        continue;
                    }
                    if received.is_empty() {
                        *received = BytesMut::new();
                        *read_bytes = READ_BYTES_MIN;
                    }
                    if core.has_room_left() {
                        // To be polled again, where there is one thread after those who were woken.
                        *left = true;
                        cx.waker().wake_by_ref();
                    }
                    *unfinished = core.unfinished(received);
                    *turn = true;
                    core.driver = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Takes what was received. Says whether some of it is left although it is complete.
fn take(core: &mut Core, received: &mut BytesMut) -> bool {
    if let Err(error) = core.receive(received) {
        core.end(&error);
    }
    core.is_stuffed() || core.had_its_turn()
}

/// Has the task polled again after those who are ready and, where there is one thread, those whose sockets have become so. Woken
/// at once, it would come before these: the runtime looks at sockets when nothing is left to be polled, or after 61 polls.
fn let_others_go_first(cx: &mut Context<'_>) {
    // Its first poll leaves the waker with the runtime, and there is nothing else to it.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

/// Says goodbye to the socket, all being said.
fn close<T: AsyncWrite + Unpin>(
    core: &mut Core,
    socket: &mut T,
    shut: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Moved, Error>> {
    if !*shut {
        match Pin::new(socket).poll_shutdown(cx) {
            Poll::Pending => return Poll::Pending,
            // It is gone already, or not.
            Poll::Ready(_) => *shut = true,
        }
    }
    match &core.over {
        Some(error) => Poll::Ready(Err(error.clone())),
        None => {
            core.end(&Error::io("the connection was ended"));
            Poll::Ready(Ok(Moved::Over))
        }
    }
}

fn lost(error: &io::Error) -> Error {
    Error::io(&error.to_string())
}

impl<T> Drop for Io<T> {
    fn drop(&mut self) {
        self.shared.lock().end(&Error::io("the connection was cut"));
    }
}
