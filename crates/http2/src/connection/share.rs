//! What one stream may take of the connection-level window of its peer, which many streams share (RFC 9113 §6.9.1). A peer
//! that does not read a body gives nothing back: two such bodies would take the whole window, and nobody else could send.
//!
//! What a stream has sent and not been given back is at most five quarters of what is left for the others (dynamic thresholds,
//! Choudhury and Hahne 1998): five ninths of a window that is all there, and five ninths of the rest for the next one. A little
//! more than half, because peers give back a window of which half is used, and not before.

use crate::connection::{Core, Role};

impl Core {
    /// How many bytes the stream may send before it has its share.
    pub(crate) fn share(&self, key: usize) -> usize {
        if !self.config.leaves_window || self.role == Role::Server {
            return usize::MAX;
        }
        let free = self.send_window.max(0);
        // The peer gives back to streams and to the connection in different frames. Of the connection's, no more is missing.
        let missing = (self.send_window_max - self.send_window).max(0);
        let unreturned = self.streams[key].unreturned.min(missing);
        // The most for which `unreturned + share <= (free - share) * 5 / 4`.
        usize::try_from((5 * free - 4 * unreturned + 8) / 9).unwrap_or(0)
    }

    /// The peer has given back, or given, some of the connection's window: streams that had their share may have one again.
    pub(crate) fn share_again(&mut self) {
        self.send_window_max = self.send_window_max.max(self.send_window);
        let mut next = self.sated.first();
        while let Some(key) = next {
            next = self.streams[key].place.after();
            if self.share(key) > 0 {
                self.sated.remove(&mut self.streams, key);
                self.waiting.push(&mut self.streams, key);
            }
        }
    }

    /// Whether streams wait for the peer's connection-level window, most of which is missing: on another connection they would
    /// not.
    pub(crate) fn is_short_of_window(&self) -> bool {
        !(self.waiting.is_empty() && self.sated.is_empty()) && self.send_window < self.send_window_max / 4
    }
}
