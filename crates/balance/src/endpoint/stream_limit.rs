//! Counts the streams of one connection against the limit of its peer, and chooses which of several connections takes the next
//! call.
//!
//! A call over the limit would wait unseen on its connection while another connection could take it (the peer's
//! SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113 §5.1.2). So connections are filled one after the other to four fifths. Past that a
//! further one is wanted, and is there before the last fifth is used up.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The stream counts of one connection.
#[derive(Debug)]
pub(crate) struct Streams {
    /// The calls, counted from the pick.
    calls: AtomicU32,
    /// The health calls of this process.
    health: AtomicU32,
    limit: AtomicU32,
    /// Set while calls wait for the peer's window or for a stream, and would not wait on another connection.
    short: AtomicBool,
    /// Set by each call, and cleared by [`Streams::was_used`].
    used: AtomicBool,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams {
            calls: AtomicU32::new(0),
            health: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            short: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }
}

impl Streams {
    /// Counts one more call. Returns whether another connection would help: four fifths of the limit are used, and the limit is
    /// not zero.
    pub(crate) fn open(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.is_crowded() && self.limit() > 0
    }

    /// Counts the end of a call.
    pub(crate) fn close(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a health call until the returned slot is dropped.
    pub(crate) fn slot(&self) -> StreamSlot<'_> {
        self.health.fetch_add(1, Ordering::Relaxed);
        StreamSlot(self)
    }

    /// Sets the limit that the peer announced, or `u32::MAX` for none. Returns whether it changed.
    pub(crate) fn set_limit(&self, limit: u32) -> bool {
        // Reads first: this runs with every frame, and the limit seldom changes.
        self.limit.load(Ordering::Relaxed) != limit && self.limit.swap(limit, Ordering::Relaxed) != limit
    }

    /// Sets whether calls wait for the peer's window or for a stream. The connection counts as crowded while they do.
    pub(crate) fn set_short(&self, short: bool) {
        if self.is_short() != short {
            self.short.store(short, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Returns how many streams the peer allows.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Returns the number of running calls.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns whether one more call would be sent at once.
    pub(crate) fn has_room(&self) -> bool {
        self.in_use() < self.limit()
    }

    /// Returns whether a call was sent since the last look, or is still running.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed) || self.calls() > 0
    }

    fn is_crowded(&self) -> bool {
        self.is_short() || u64::from(self.in_use()) * 5 >= u64::from(self.limit()) * 4
    }

    /// Returns the number of running calls and health calls.
    pub(crate) fn in_use(&self) -> u32 {
        self.calls.load(Ordering::Relaxed) + self.health.load(Ordering::Relaxed)
    }
}

/// A running health call of this process.
#[derive(Debug)]
pub(crate) struct StreamSlot<'a>(&'a Streams);

impl Drop for StreamSlot<'_> {
    fn drop(&mut self) {
        self.0.health.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the connection that takes the next call: the first that is not crowded, so that the others may become idle, or else
/// the one with the most free streams. Returns `None` only for an empty list.
pub(crate) fn next<T>(connections: &[T], streams: impl Fn(&T) -> &Streams) -> Option<&T> {
    if let [only] = connections {
        return Some(only);
    }
    let roomy = connections.iter().find(|connection| !streams(connection).is_crowded());
    roomy.or_else(|| {
        connections.iter().max_by_key(|connection| {
            let streams = streams(connection);
            let room = i64::from(streams.limit()) - i64::from(streams.in_use());
            (room > 0, !streams.is_short(), room)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(limit: u32, calls: u32) -> Streams {
        let streams = Streams::default();
        streams.set_limit(limit);
        for _ in 0..calls {
            streams.open();
        }
        streams
    }

    /// Asserts which of several connections, given by limit and calls, takes the next call.
    #[track_caller]
    fn check(connections: &[(u32, u32)], chosen: Option<usize>) {
        let all: Vec<Streams> = connections.iter().map(|(limit, calls)| streams(*limit, *calls)).collect();
        let next =
            next(&all, |streams| streams).map(|next| all.iter().position(|s| std::ptr::eq(s, next)).unwrap());
        assert_eq!(next, chosen, "{connections:?}");
    }

    #[test]
    fn fills_connections_to_four_fifths() {
        check(&[], None);
        check(&[(100, 79), (100, 0)], Some(0));
        check(&[(100, 80), (100, 0)], Some(1));
        check(&[(100, 80), (100, 80), (100, 5)], Some(2));
        check(&[(100, 95), (100, 90), (100, 93)], Some(1));
        check(&[(1, 1), (1, 0)], Some(1));
        check(&[(u32::MAX, 1_000_000), (100, 0)], Some(0));
    }

    #[test]
    fn skips_connection_short_of_window() {
        let all = [streams(100, 1), streams(100, 20)];
        let index = |all: &[Streams]| {
            next(all, |streams| streams).map(|next| all.iter().position(|s| std::ptr::eq(s, next)).unwrap())
        };
        assert_eq!(index(&all), Some(0));
        all[0].set_short(true);
        assert_eq!(index(&all), Some(1));
        assert!(all[0].open(), "another one is wanted");
        all[1].set_short(true);
        assert_eq!(index(&all), Some(0), "both are");
        all[1].set_short(false);
        all[1].set_limit(20);
        assert_eq!(index(&all), Some(0), "the other one is full");
    }

    #[test]
    fn crowded_from_four_fifths() {
        let streams = streams(10, 0);
        for calls in 1..=10 {
            assert_eq!(streams.open(), calls >= 8, "{calls} of 10");
            assert_eq!(streams.has_room(), calls < 10, "{calls} of 10");
        }
        streams.close();
        assert!(streams.has_room());
    }

    #[test]
    fn tiny_and_changed_limits_are_respected() {
        let streams = streams(1, 0);
        assert!(streams.open());
        assert!(streams.set_limit(100) && !streams.set_limit(100), "it is news once");
        assert!(streams.has_room() && !streams.open());
        streams.set_limit(0);
        assert!(!streams.has_room() && !streams.open(), "another connection would have none either");
    }

    #[test]
    fn health_call_takes_a_stream() {
        let streams = streams(1, 0);
        let slot = streams.slot();
        assert!(!streams.has_room());
        assert_eq!(streams.calls(), 0);
        drop(slot);
        assert!(streams.has_room());
    }

    #[test]
    fn call_between_looks_counts_as_use() {
        let streams = streams(100, 1);
        assert!(streams.was_used() && streams.was_used(), "it still is");
        streams.close();
        assert!(!streams.was_used());
        streams.open();
        streams.close();
        assert!(streams.was_used() && !streams.was_used());
    }
}
