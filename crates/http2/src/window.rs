//! Flow-control windows (RFC 9113 §6.9): how many bytes one side may still send, and when the other side allows more.

use crate::frame::WINDOW_MAX;

/// Counts the bytes that may still be sent. A window falls below zero when the peer takes back what was sent already (§6.9.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Window(i64);

impl Window {
    /// Makes a window of so many bytes.
    pub(crate) fn new(bytes: u32) -> Window {
        Window(i64::from(bytes))
    }

    /// Returns how many bytes may be sent now.
    pub(crate) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Returns the bytes with their sign.
    pub(crate) fn bytes(self) -> i64 {
        self.0
    }

    /// Takes off bytes that were sent. Bytes beyond the window are counted too.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// Adds bytes that the other side allows.
    pub(crate) fn give(&mut self, bytes: u32) {
        self.0 += i64::from(bytes);
    }

    /// Returns the sum of both. The window of a stream is SETTINGS_INITIAL_WINDOW_SIZE and what the stream has beside it.
    pub(crate) fn plus(self, other: Window) -> Window {
        Window(self.0 + other.0)
    }

    /// Returns whether the window is larger than the protocol allows (§6.9.1).
    pub(crate) fn is_too_large(self) -> bool {
        self.0 > WINDOW_MAX
    }
}

/// Counts what the peer may still send, and what was read and is not given back yet.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    window: Window,
    released: u32,
}

impl ReceiveWindow {
    /// Makes a window of so many bytes.
    pub(crate) fn new(bytes: u32) -> ReceiveWindow {
        ReceiveWindow { window: Window::new(bytes), released: 0 }
    }

    /// Returns how many bytes the peer may send, with their sign.
    pub(crate) fn bytes(&self) -> i64 {
        self.window.bytes()
    }

    /// Returns how many bytes were read and are not given back.
    pub(crate) fn released(&self) -> u32 {
        self.released
    }

    /// Takes off bytes that the peer sent. Returns false if they are more than the peer was allowed.
    pub(crate) fn receive(&mut self, bytes: usize) -> bool {
        self.window.take(bytes);
        self.window.bytes() >= 0
    }

    /// Returns whether the peer may send so many bytes.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        bytes as i64 <= self.window.bytes()
    }

    /// Allows the peer more, beside what it is given back.
    pub(crate) fn widen(&mut self, more: u32) {
        self.window.give(more);
    }

    /// Counts bytes that were read. Once `update_at` bytes are released, gives them all back and returns how many they are:
    /// the increment of a WINDOW_UPDATE.
    pub(crate) fn release(&mut self, bytes: u32, update_at: i64) -> Option<u32> {
        self.released += bytes;
        if self.released == 0 || i64::from(self.released) < update_at {
            return None;
        }
        let more = std::mem::take(&mut self.released);
        self.window.give(more);
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrunk_window_allows_nothing() {
        let mut beside = Window::default();
        beside.take(100);
        let window = Window::new(40).plus(beside);
        assert_eq!((window.bytes(), window.available()), (-60, 0));
        let mut largest = Window::new(u32::MAX >> 1);
        assert!(!largest.is_too_large());
        largest.give(1);
        assert!(largest.is_too_large());
    }

    #[test]
    fn released_bytes_come_back_together() {
        let mut window = ReceiveWindow::new(10);
        assert!(window.allows(10) && !window.allows(11));
        assert!(window.receive(10));
        assert_eq!(window.release(0, 0), None, "an update of nothing is an error");
        assert_eq!(window.release(4, 5), None);
        assert_eq!((window.bytes(), window.released()), (0, 4));
        assert_eq!(window.release(1, 5), Some(5));
        assert_eq!((window.bytes(), window.released()), (5, 0));
        assert!(!window.receive(6), "one more than allowed");
    }
}
