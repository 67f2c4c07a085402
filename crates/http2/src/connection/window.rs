//! How much each stream may send (RFC 9113 §6.9), relative to the peer's SETTINGS_INITIAL_WINDOW_SIZE: a stream keeps what it
//! has beside that, so that a change of the setting costs nothing for streams that do not wait for it.

use crate::connection::Core;
use crate::error::{Error, Reason};
use crate::frame::WINDOW_MAX;
use crate::stream::queue::For;

impl Core {
    /// Returns how many bytes the stream may send: fewer than none after the peer took back what was sent already (§6.9.2).
    pub(crate) fn send_window(&self, key: usize) -> i64 {
        i64::from(self.peer.window) + self.streams[key].send_offset
    }

    /// Adds to a stream's window, and wakes the stream if it waited for that. Returns false if the window is too large then.
    pub(crate) fn widen(&mut self, key: usize, more: i64) -> bool {
        let stream = &mut self.streams[key];
        stream.send_offset += more;
        stream.unreturned = 0;
        self.offset_max = self.offset_max.max(stream.send_offset);
        let window = self.send_window(key);
        if window > 0 {
            self.feed(key);
        }
        window <= WINDOW_MAX
    }

    /// Follows the peer's SETTINGS_INITIAL_WINDOW_SIZE, which holds for the streams that are open too (§6.9.2).
    ///
    /// # Errors
    /// When a stream's window is too large then. All streams are looked at only if that is possible: never more often than
    /// a stream's window was enlarged and the largest one was used or given up since.
    pub(crate) fn resize_windows(&mut self, window: u32) -> Result<(), Error> {
        let wider = window > self.peer.window;
        self.peer.window = window;
        if i64::from(window) + self.offset_max > WINDOW_MAX {
            let open = self.streams.iter().filter(|(_, stream)| !stream.is_over());
            self.offset_max = open.map(|(_, stream)| stream.send_offset).max().unwrap_or(0);
            if i64::from(window) + self.offset_max > WINDOW_MAX {
                return Err(self.broken(Reason::FLOW_CONTROL_ERROR, "a stream's window is too large"));
            }
        }
        let mut next = self.starved.first();
        while wider && let Some(key) = next {
            next = self.streams[key].place.after();
            if self.send_window(key) > 0 {
                self.feed(key);
            }
        }
        Ok(())
    }

    /// Wakes a stream if it waits for its window, or for its share of the connection's.
    fn feed(&mut self, key: usize) {
        match self.streams[key].place.line() {
            For::Window => self.starved.remove(&mut self.streams, key),
            For::Share => self.sated.remove(&mut self.streams, key),
            For::Nothing | For::Opening | For::Room => return,
        }
        self.streams[key].wake_writer();
    }
}
