//! The state machine of one connection, without its socket. Bytes of the peer go in by [`receive`](Core::receive), bytes for
//! the peer come out of the send buffer.
//!
//! [`Core`] joins its parts, each of which keeps its fields to itself: the streams, the capacity to send, the counters of
//! abuse, the settings of the peer, and the shutdown. What frames mean is in [`receive`], what may be sent in [`send`].

mod abuse;
mod budget;
mod capacity;
mod foreign_protocol;
mod id_hashing;
mod late_resets;
mod ping;
mod receive;
mod send;
mod send_buffer;
mod settings;
mod shutdown;
mod streams;

pub(crate) use ping::Ping;
pub use receive::Unfinished;
pub use send::SendError;
pub(crate) use send_buffer::Writing;

use std::fmt;
use std::task::Waker;

use http::Request;

use crate::config::Config;
use crate::connection::abuse::Abuse;
use crate::connection::capacity::Capacity;
use crate::connection::late_resets::LateResets;
use crate::connection::receive::Inbound;
use crate::connection::send_buffer::SendBuffer;
use crate::connection::settings::PeerSettings;
use crate::connection::shutdown::Shutdown;
use crate::connection::streams::Streams;
use crate::error::{By, Error, Reason};
use crate::frame::{self, PREFACE, WINDOW_DEFAULT};
use crate::hpack::{Encoder, ListTooLong};
use crate::message::Targets;
use crate::stream::queue::WaitsFor;
use crate::stream::{Received, Receiving, Sending, Stream};
use crate::window::ReceiveWindow;

/// SETTINGS_HEADER_TABLE_SIZE of both sides: the default, which every peer knows.
pub(crate) const TABLE_BYTES: usize = 4096;

/// Tells which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// The state of one connection. See the [module](self).
pub(crate) struct Core {
    role: Role,
    config: Config,
    send_buffer: SendBuffer,
    /// The task that moves the bytes, when it sleeps.
    driver: Option<Waker>,
    peer: PeerSettings,
    inbound: Inbound,
    encoder: Encoder,
    targets: Targets,
    streams: Streams,
    late_resets: LateResets,
    capacity: Capacity,
    receive_window: ReceiveWindow,
    /// The position in all that is ever written where the headers end that were sent last by a client.
    headers_end: u64,
    abuse: Abuse,
    ping: Ping,
    shutdown: Shutdown,
}

impl fmt::Debug for Core {
    /// Shows the state in numbers, and nothing of what callers send.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("role", &self.role)
            .field("streams", &self.streams.len())
            .field("capacity", &self.streams.capacity())
            .field("ids", &self.streams.ids())
            .field("open", &self.streams.open())
            .field("last_id", &self.streams.last_id())
            .field("queued", &self.streams.queued())
            .field("accept", &self.streams.requests())
            .field("waiting_for_room", &self.capacity.waiting(WaitsFor::Room))
            .field("waiting_for_window", &self.capacity.waiting(WaitsFor::Window))
            .field("waiting_for_share", &self.capacity.waiting(WaitsFor::Share))
            .field("block", &self.inbound.block_bytes())
            .field("pending_accept_resets", &self.abuse.pending_accept_resets())
            .field("stream_errors", &self.abuse.stream_errors())
            .field("send_window", &self.capacity.window().bytes())
            .field("receive_window", &self.receive_window.bytes())
            .field("released", &self.receive_window.released())
            .field("unsent", &self.send_buffer.bytes())
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(role: Role, config: Config) -> Core {
        let mut settings = vec![
            (frame::SETTING_WINDOW, config.stream_window),
            (frame::SETTING_HEADER_LIST, config.header_list_max),
        ];
        let mut send_buffer = SendBuffer::default();
        match role {
            Role::Client => {
                send_buffer.frames().extend_from_slice(PREFACE);
                settings.push((frame::SETTING_PUSH, 0));
            }
            Role::Server => settings.push((frame::SETTING_STREAMS, config.streams_max)),
        }
        frame::write_settings(send_buffer.frames(), &settings);
        let more = config.connection_window.saturating_sub(WINDOW_DEFAULT);
        if more > 0 {
            frame::write_window_update(send_buffer.frames(), 0, more);
        }
        Core {
            role,
            send_buffer,
            driver: None,
            peer: PeerSettings::default(),
            inbound: Inbound::new(role),
            encoder: Encoder::with_secrets(&config.secrets),
            targets: Targets::default(),
            streams: Streams::new(config.locally_reset_max),
            late_resets: LateResets::default(),
            capacity: Capacity::new(config.leaves_window && role == Role::Client),
            receive_window: ReceiveWindow::new(config.connection_window.max(WINDOW_DEFAULT)),
            headers_end: 0,
            abuse: Abuse::new(role, &config),
            ping: Ping::default(),
            shutdown: Shutdown::default(),
            config,
        }
    }

    /// Returns the stream with that key.
    pub(crate) fn stream(&mut self, key: usize) -> &mut Stream {
        &mut self.streams[key]
    }

    /// Returns the settings of the peer.
    pub(crate) fn peer(&self) -> &PeerSettings {
        &self.peer
    }

    /// Returns the PINGs that ask whether the peer is there.
    pub(crate) fn ping(&mut self) -> &mut Ping {
        &mut self.ping
    }

    /// Wakes the tasks that wait on any stream.
    pub(crate) fn wake_streams(&mut self) {
        self.streams.wake_all();
    }

    /// Returns whether streams are open.
    pub(crate) fn has_open_streams(&self) -> bool {
        self.streams.open() > 0
    }

    /// Returns whether requests wait to be accepted.
    pub(crate) fn has_requests(&self) -> bool {
        self.streams.has_requests()
    }

    /// Takes out the request that waits longest to be accepted.
    pub(crate) fn next_request(&mut self) -> Option<(Request<()>, usize)> {
        let (request, key) = self.streams.accept()?;
        if self.streams[key].is_reset_pending_accept {
            self.abuse.accept_reset();
        }
        Some((request, key))
    }

    /// Takes note of what was written, and hands out what is to be written next. Returns whether there is something.
    pub(crate) fn hand_out(&mut self, writing: &mut Writing) -> bool {
        self.send_buffer.hand_out(writing)
    }

    /// Returns how many bytes wait for the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.send_buffer.bytes()
    }

    /// Notes that everything in the send buffer is written.
    pub(crate) fn flushed(&mut self) {
        self.abuse.replies_written();
    }

    /// Returns whether nothing more is read until what is to be sent is sent.
    pub(crate) fn is_backpressured(&self) -> bool {
        self.abuse.is_backpressured(self.send_buffer.bytes())
    }

    /// Notes the task that moves the bytes: it sleeps now.
    pub(crate) fn sleep(&mut self, driver: &Waker) {
        self.driver = Some(driver.clone());
    }

    /// Wakes the task that moves the bytes: something is to be sent, or to be ended.
    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Returns whether such a stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        // Only clients open streams here: theirs are odd.
        id.is_multiple_of(2) || (id > self.streams.last_id() && !self.shutdown.is_too_late(id))
    }

    /// Returns the window of a stream's peer at its beginning. The peer may use what the protocol gives it until it knows our
    /// setting.
    fn first_receive_window(&self) -> u32 {
        let window = self.config.stream_window;
        if self.peer.has_acked_ours() { window } else { window.max(WINDOW_DEFAULT) }
    }

    /// Closes a stream when both its halves have ended: its id is forgotten, and the stream too when it has no handles.
    fn close_if_over(&mut self, key: usize) {
        let stream = &self.streams[key];
        if !stream.is_over() {
            return;
        }
        let (handles, ended_well) = (stream.handles, stream.error.is_none());
        if ended_well {
            self.abuse.count_ended_well();
        }
        self.streams.close(key);
        self.stop_waiting(key);
        if handles == 0 {
            self.forget(key);
        }
        self.open_queued();
        if !self.has_open_streams() && self.is_leaving() {
            self.wake_driver();
        }
    }

    fn forget(&mut self, key: usize) {
        let mut stream = self.streams.remove(key);
        let unreleased = stream.unreleased;
        stream.let_go(unreleased);
        self.release_connection(unreleased);
    }

    /// Resets a stream: with a frame, unless the peer has reset it or does not know of it.
    fn reset(&mut self, key: usize, reason: Reason, by: By) {
        self.reset_because(key, Error::reset(reason, by), reason, by);
    }

    /// Resets a stream whose header list is too long for us. The peer has broken no rule by that.
    fn reset_too_long(&mut self, key: usize, list: ListTooLong) {
        self.reset_because(key, Error::too_long(list), Reason::CANCEL, By::Us);
    }

    fn reset_because(&mut self, key: usize, error: Error, reason: Reason, by: By) {
        let stream = &mut self.streams[key];
        if stream.is_over() {
            return;
        }
        stream.error = Some(error);
        stream.sending = Sending::Closed;
        stream.wake();
        let id = stream.id;
        if by == By::Us && id != 0 {
            frame::write_reset(self.send_buffer.frames(), id, reason);
            self.streams.remember_local_reset(id);
            self.wake_driver();
        }
        self.close_if_over(key);
    }

    /// Resets a stream that is no longer wanted. While the peer has said nothing of it, the frame that tells the peer
    /// [is late](LateResets), and the stream counts as open until then.
    pub(crate) fn give_up(&mut self, key: usize, reason: Reason) {
        let stream = &mut self.streams[key];
        let unheard = self.config.late_resets && stream.id != 0 && stream.receiving == Receiving::Head;
        if !unheard || stream.is_over() {
            return self.reset(key, reason, By::Us);
        }
        stream.error = Some(Error::reset(reason, By::Us));
        stream.sending = Sending::Closed;
        stream.counted = false;
        stream.wake();
        let id = stream.id;
        self.late_resets.push(id, reason, self.send_buffer.end());
        self.streams.remember_local_reset(id);
        self.close_if_over(key);
        self.wake_driver();
    }

    /// Returns whether late resets wait to be sent.
    pub(crate) fn has_late_resets(&self) -> bool {
        !self.late_resets.is_empty()
    }

    /// Sends the late resets that have waited for the time since the last call. A time in which their requests were still on
    /// their way to the socket does not count.
    pub(crate) fn send_late_resets(&mut self) {
        let due = self.late_resets.take_due(self.send_buffer.written());
        for (id, reason) in &due {
            frame::write_reset(self.send_buffer.frames(), *id, *reason);
            self.streams.close_late();
        }
        if !due.is_empty() {
            self.open_queued();
        }
    }

    /// Resets a stream on which the peer broke a rule (RFC 9113 §5.4.2), and counts that.
    ///
    /// # Errors
    /// When the peer has done so too often.
    fn stream_error(&mut self, id: u32, reason: Reason) -> Result<(), Error> {
        self.abuse.count_stream_error()?;
        match self.streams.key(id) {
            Some(key) => self.reset(key, reason, By::Us),
            None => self.refuse(id, reason),
        }
        Ok(())
    }

    /// Resets a stream that is not in the table: it is refused, or closed already.
    fn refuse(&mut self, id: u32, reason: Reason) {
        frame::write_reset(self.send_buffer.frames(), id, reason);
        self.abuse.count_reply();
        self.streams.remember_local_reset(id);
    }

    /// Takes note that a handle of a stream is gone. With the handle that reads goes what nobody will read. With the last
    /// handle the stream is reset, if it is not over, and forgotten.
    pub(crate) fn dropped(&mut self, key: usize, reader: bool) {
        let stream = &mut self.streams[key];
        stream.handles -= 1;
        if stream.handles > 0 {
            if reader && !(stream.receiving == Receiving::Closed && stream.received.is_empty()) {
                stream.unread = true;
                stream.received = Received::default();
                let left = stream.unreleased;
                self.release(key, left, left);
            }
            return;
        }
        if stream.is_over() {
            return self.forget(key);
        }
        // The answer is complete, and the rest of the request is of no interest (§8.1).
        let answered = self.role == Role::Server
            && matches!(stream.sending, Sending::Closed)
            && stream.receiving != Receiving::Closed;
        self.give_up(key, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
    }
}
