//! Moves bytes between a [`Core`] and its socket.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::connection::{Core, Unfinished, Writing};
use crate::error::Error;

/// Bytes that are read at once: few, until a peer has filled them.
const READ_BYTES_MIN: usize = 20 << 10;
const READ_BYTES_MAX: usize = 40 << 10;

/// Bytes that are read or written before other connections have their turn.
const BYTE_QUANTUM: usize = 256 << 10;

/// The state of a connection, shared with the handles of its streams.
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

/// A socket and the state of the connection on it.
#[derive(Debug)]
pub(crate) struct Io<T> {
    socket: T,
    pub(crate) shared: Arc<Shared>,
    writing: Writing,
    received: BytesMut,
    read_bytes: usize,
    /// `received` holds complete frames that were not handled: too many replies wait, or it was others' turn.
    is_behind: bool,
    /// A new turn begins with the next poll.
    is_new_turn: bool,
    /// Bytes that may be moved in this turn.
    quantum_left: usize,
    /// Send capacity was left at the last poll; the streams woken for it may not use it.
    has_room_left: bool,
    is_shut: bool,
    /// The frame or header block that the peer had begun when it was last waited for.
    pub(crate) unfinished: Option<Unfinished>,
}

/// Tells why moving bytes came to a stop.
pub(crate) enum Moved {
    /// A request waits to be accepted.
    Request,
    /// The connection has ended as it should.
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
            is_behind: false,
            is_new_turn: true,
            quantum_left: 0,
            has_room_left: false,
            is_shut: false,
            unfinished: None,
        }
    }

    /// Moves the bytes that can be moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Moved, Error>> {
        let Io {
            socket,
            shared,
            writing,
            received,
            read_bytes,
            is_behind,
            is_new_turn,
            quantum_left,
            has_room_left,
            is_shut,
            unfinished,
        } = self;
        if std::mem::take(has_room_left) {
            shared.lock().wake_more_waiting();
        }
        loop {
            let mut core = shared.lock();
            if std::mem::take(is_new_turn) {
                *quantum_left = BYTE_QUANTUM;
                core.begin_turn();
            }
            let mut flushed = true;
            while core.hand_out(writing) && flushed {
                // Others write frames meanwhile.
                drop(core);
                let written = writing.poll(cx, socket);
                core = shared.lock();
                match written {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        core.end(&lost(&error));
                        return Poll::Ready(Err(core.over().cloned().unwrap_or_else(|| lost(&error))));
                    }
                    Poll::Pending => flushed = false,
                }
            }
            core.wake_waiting();
            if core.has_queued() {
                core.open_queued();
                if flushed && core.unsent() > 0 && *quantum_left > 0 {
                    *quantum_left = quantum_left.saturating_sub(core.unsent());
                    continue;
                }
            }
            if flushed {
                core.flushed();
                if core.over().is_some() || core.is_done() {
                    return close(&mut core, socket, is_shut, cx);
                }
            } else if core.over().is_some() || core.is_backpressured() {
                // The socket is waited for. What the peer would send next is not read yet.
                *unfinished = None;
                *is_new_turn = true;
                core.sleep(cx.waker());
                return Poll::Pending;
            }
            if core.has_requests() {
                return Poll::Ready(Ok(Moved::Request));
            }
            if *quantum_left == 0 || core.had_its_turn() {
                *unfinished = None;
                *is_new_turn = true;
                drop(core);
                let_others_go_first(cx);
                return Poll::Pending;
            }
            if std::mem::take(is_behind) {
                *is_behind = take(&mut core, received);
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
                    let quiet = !core.has_open_streams() && !core.has_queued();
                    core.end(&error);
                    return Poll::Ready(if quiet { Ok(Moved::Over) } else { Err(error) });
                }
                Poll::Ready(Ok(read)) => {
                    *quantum_left = quantum_left.saturating_sub(read);
                    if read == room {
                        *read_bytes = READ_BYTES_MAX;
                    }
                    *is_behind = take(&mut core, received);
                }
                Poll::Ready(Err(error)) => {
                    core.end(&lost(&error));
                    return Poll::Ready(Err(lost(&error)));
                }
                Poll::Pending => {
                    // Another thread may have come between.
                    if flushed && (core.unsent() > 0 || core.over().is_some() || core.is_done()) {
                        continue;
                    }
                    if received.is_empty() {
                        *received = BytesMut::new();
                        *read_bytes = READ_BYTES_MIN;
                    }
                    if core.has_unwoken() {
                        // Polled again, where there is one thread after the tasks that were woken.
                        *has_room_left = true;
                        cx.waker().wake_by_ref();
                    }
                    *unfinished = core.unfinished(received);
                    *is_new_turn = true;
                    core.sleep(cx.waker());
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Handles what was received. Returns whether complete frames may be left.
fn take(core: &mut Core, received: &mut BytesMut) -> bool {
    if let Err(error) = core.receive(received) {
        core.end(&error);
    }
    core.is_backpressured() || core.had_its_turn()
}

/// Has the task polled again after the tasks that are ready and, where there is one thread, those whose sockets have become
/// ready. Woken at once, it would come before these: the runtime looks at sockets when nothing is left to be polled, or after 61
/// polls.
fn let_others_go_first(cx: &mut Context<'_>) {
    // Its first poll leaves the waker with the runtime, and there is nothing else to it.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

/// Shuts the socket down, when everything is written.
fn close<T: AsyncWrite + Unpin>(
    core: &mut Core,
    socket: &mut T,
    is_shut: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Moved, Error>> {
    if !*is_shut {
        match Pin::new(socket).poll_shutdown(cx) {
            Poll::Pending => return Poll::Pending,
            // It is gone already, or not.
            Poll::Ready(_) => *is_shut = true,
        }
    }
    match core.over() {
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
