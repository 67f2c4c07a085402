//! The capacity to send DATA on a connection: which stream sends next, and how much, within the stream's window, the
//! connection's window, the room of the send buffer, and the stream's share of the connection's window (RFC 9113 §6.9).
//!
//! A stream that may send nothing waits in one of three queues: for its own window, for room on the connection, or for its
//! share. Room goes to the head of the queue: [`wake`](Capacity::wake) and [`wake_more`](Capacity::wake_more) are one walk from
//! there, with different limits. A stream that sends goes to the end. Room is not reserved for the streams that are woken: one
//! of them may have nothing to send any more, and the others would wait for it.
//!
//! The peer shares its connection-level window among many streams, and a peer that does not read a body gives nothing back:
//! two such bodies would take the whole window. What a stream has sent and not been given back is therefore at most five
//! quarters of what is left for the others (dynamic thresholds, Choudhury and Hahne 1998): five ninths of a window that is all
//! there, and five ninths of the rest for the next stream. That is a little more than half, because peers give back a window of
//! which half is used, and not before.
//!
//! A stream keeps the window that it has beside SETTINGS_INITIAL_WINDOW_SIZE, so that a change of the setting costs nothing for
//! streams that do not wait for it.

use crate::connection::streams::Streams;
use crate::error::{Error, Reason};
use crate::frame::WINDOW_DEFAULT;
use crate::stream::Stream;
use crate::stream::queue::{Queue, WaitsFor};
use crate::window::Window;

/// Bytes that one stream may send while others wait for the connection.
pub(crate) const QUANTUM: usize = 16 << 10;

/// Streams that are woken at least when there is room: one may have nothing to send any more, and the others are not to wait
/// for it.
const WOKEN_MIN: usize = 8;

/// The window that the peer gives the connection, and the streams that wait for a part of it.
#[derive(Debug)]
pub(crate) struct Capacity {
    window: Window,
    /// The largest that the window was so far.
    window_max: Window,
    /// SETTINGS_INITIAL_WINDOW_SIZE of the peer.
    initial: Window,
    /// An upper bound of what any open stream has beside `initial`.
    beside_max: Window,
    /// Makes a stream leave others a share of the connection's window.
    shares: bool,
    /// Streams with something to send and no window of their own.
    waiting_for_window: Queue,
    /// Streams with something to send for which the connection had no room.
    waiting_for_room: Queue,
    /// Streams with something to send that have had their share of the connection's window.
    waiting_for_share: Queue,
}

impl Capacity {
    pub(crate) fn new(shares: bool) -> Capacity {
        let window = Window::new(WINDOW_DEFAULT);
        Capacity {
            window,
            window_max: window,
            initial: window,
            beside_max: Window::default(),
            shares,
            waiting_for_window: Queue::new(WaitsFor::Window),
            waiting_for_room: Queue::new(WaitsFor::Room),
            waiting_for_share: Queue::new(WaitsFor::Share),
        }
    }

    /// Returns the window of the connection.
    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// Returns how many streams wait for the given reason.
    pub(crate) fn waiting(&self, what: WaitsFor) -> usize {
        match what {
            WaitsFor::Window => self.waiting_for_window.len(),
            WaitsFor::Room => self.waiting_for_room.len(),
            WaitsFor::Share => self.waiting_for_share.len(),
            WaitsFor::Nothing | WaitsFor::Opening => 0,
        }
    }

    /// Returns whether streams wait for room on the connection.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting_for_room.is_empty()
    }

    /// Returns whether streams wait for the connection's window, most of which is missing. On another connection they would
    /// not wait.
    pub(crate) fn is_short_of_window(&self) -> bool {
        let waiting = self.has_waiting() || !self.waiting_for_share.is_empty();
        waiting && self.window.bytes() < self.window_max.bytes() / 4
    }

    /// Returns how many bytes the stream may send, of which `buffer` fit into the send buffer, or what it has to wait for. A
    /// stream that comes while others wait goes behind them; while others wait, each sends a quantum.
    pub(crate) fn grant(&self, stream: &Stream, buffer: usize) -> Result<usize, WaitsFor> {
        let own = self.stream_window(stream).available();
        let share = self.share(stream);
        let room = self.window.available().min(buffer);
        let is_alone = self.waiting_for_room.is_empty();
        if own == 0 {
            Err(WaitsFor::Window)
        } else if share == 0 && self.window > Window::default() {
            Err(WaitsFor::Share)
        } else if room == 0 || !(is_alone || stream.waits_for() == WaitsFor::Room) {
            Err(WaitsFor::Room)
        } else {
            let quantum = if is_alone { usize::MAX } else { QUANTUM };
            Ok(own.min(room).min(quantum).min(share))
        }
    }

    /// Takes bytes off the windows of the stream and of the connection.
    pub(crate) fn take(&mut self, stream: &mut Stream, bytes: usize) {
        stream.send_window.take(bytes);
        stream.unreturned += bytes as i64;
        self.window.take(bytes);
    }

    /// Puts a stream at the end of a queue, unless it stands in it.
    pub(crate) fn wait(&mut self, streams: &mut Streams, key: usize, what: WaitsFor) {
        let now = streams[key].waits_for();
        if now == what {
            return;
        }
        if let Some(queue) = self.queue(now) {
            streams.remove_from(queue, key);
        }
        if let Some(queue) = self.queue(what) {
            streams.push_to(queue, key);
        }
    }

    fn queue(&mut self, what: WaitsFor) -> Option<&mut Queue> {
        match what {
            WaitsFor::Window => Some(&mut self.waiting_for_window),
            WaitsFor::Room => Some(&mut self.waiting_for_room),
            WaitsFor::Share => Some(&mut self.waiting_for_share),
            WaitsFor::Nothing | WaitsFor::Opening => None,
        }
    }

    /// Wakes the streams that have waited longest for the connection, as many as the room is enough for. They leave the queue
    /// when they send. `buffer` is what fits into the send buffer.
    pub(crate) fn wake(&self, streams: &mut Streams, buffer: usize) {
        let room = self.window.available().min(buffer);
        if room > 0 {
            self.wake_from_head(streams, WOKEN_MIN + room / QUANTUM, usize::MAX);
        }
    }

    /// Wakes the streams that come next, when those that were woken have had their chance and left room. They keep their
    /// places.
    pub(crate) fn wake_more(&self, streams: &mut Streams, buffer: usize) {
        if self.window.available().min(buffer) > 0 {
            self.wake_from_head(streams, usize::MAX, WOKEN_MIN);
        }
    }

    /// Wakes streams from the head of the queue that were not woken yet: at most `wakes` of its first `places`.
    fn wake_from_head(&self, streams: &mut Streams, places: usize, mut wakes: usize) {
        let mut next = self.waiting_for_room.first();
        for _ in 0..places {
            let Some(key) = next else { return };
            if wakes == 0 {
                return;
            }
            let stream = &mut streams[key];
            if stream.wake_writer() {
                wakes -= 1;
            }
            next = stream.next_in_queue();
        }
    }

    /// Returns whether there is room, and streams wait for it that were not woken.
    pub(crate) fn has_unwoken(&self, streams: &Streams, buffer: usize) -> bool {
        if !self.has_waiting() || self.window.available().min(buffer) == 0 {
            return false;
        }
        let mut queue =
            std::iter::successors(self.waiting_for_room.first(), |key| streams[*key].next_in_queue());
        queue.any(|key| streams[key].writer.is_some())
    }

    /// Adds what the peer gives the connection, and lets streams wait for room that have a share of it again.
    ///
    /// # Errors
    /// When the window is too large then.
    pub(crate) fn widen(&mut self, streams: &mut Streams, more: u32) -> Result<(), Error> {
        self.window.give(more);
        if self.window.is_too_large() {
            let why = "the connection's window is too large";
            return Err(Error::connection(Reason::FLOW_CONTROL_ERROR, why));
        }
        self.window_max = self.window_max.max(self.window);
        let mut next = self.waiting_for_share.first();
        while let Some(key) = next {
            next = streams[key].next_in_queue();
            if self.share(&streams[key]) > 0 {
                self.wait(streams, key, WaitsFor::Room);
            }
        }
        Ok(())
    }

    /// Adds what the peer gives a stream, and wakes the stream if it waited for that. Returns false if the window is too large
    /// then.
    pub(crate) fn widen_stream(&mut self, streams: &mut Streams, key: usize, more: u32) -> bool {
        let stream = &mut streams[key];
        stream.send_window.give(more);
        stream.unreturned = 0;
        self.beside_max = self.beside_max.max(stream.send_window);
        let window = self.stream_window(stream);
        if window > Window::default() {
            self.wake_for_window(streams, key);
        }
        !window.is_too_large()
    }

    /// Follows the peer's SETTINGS_INITIAL_WINDOW_SIZE, which holds for the streams that are open too (§6.9.2).
    ///
    /// # Errors
    /// When a stream's window is too large then. All streams are looked at only if that is possible: never more often than
    /// a stream's window was enlarged and the largest one was used or given up since.
    pub(crate) fn set_initial(&mut self, streams: &mut Streams, initial: u32) -> Result<(), Error> {
        let wider = Window::new(initial) > self.initial;
        self.initial = Window::new(initial);
        if self.initial.plus(self.beside_max).is_too_large() {
            let open = streams.iter().filter(|stream| !stream.is_over());
            self.beside_max = open.map(|stream| stream.send_window).max().unwrap_or_default();
            if self.initial.plus(self.beside_max).is_too_large() {
                let why = "a stream's window is too large";
                return Err(Error::connection(Reason::FLOW_CONTROL_ERROR, why));
            }
        }
        let mut next = self.waiting_for_window.first();
        while wider && let Some(key) = next {
            next = streams[key].next_in_queue();
            if self.stream_window(&streams[key]) > Window::default() {
                self.wake_for_window(streams, key);
            }
        }
        Ok(())
    }

    /// Returns SETTINGS_INITIAL_WINDOW_SIZE of the peer.
    pub(crate) fn initial(&self) -> Window {
        self.initial
    }

    /// Returns the window of a stream.
    fn stream_window(&self, stream: &Stream) -> Window {
        self.initial.plus(stream.send_window)
    }

    /// Wakes a stream if it waits for its window, or for its share of the connection's.
    fn wake_for_window(&mut self, streams: &mut Streams, key: usize) {
        if matches!(streams[key].waits_for(), WaitsFor::Window | WaitsFor::Share) {
            self.wait(streams, key, WaitsFor::Nothing);
            streams[key].wake_writer();
        }
    }

    /// Returns how many bytes the stream may send before it has its share of the connection's window.
    fn share(&self, stream: &Stream) -> usize {
        if !self.shares {
            return usize::MAX;
        }
        let free = self.window.bytes().max(0);
        // The peer gives back to streams and to the connection in different frames. Of the connection's, no more is missing.
        let missing = (self.window_max.bytes() - self.window.bytes()).max(0);
        let unreturned = stream.unreturned.min(missing);
        // The most for which `unreturned + share <= (free - share) * 5 / 4`.
        usize::try_from((5 * free - 4 * unreturned + 8) / 9).unwrap_or(0)
    }
}
