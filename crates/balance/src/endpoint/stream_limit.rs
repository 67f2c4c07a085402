//! The streams of one connection beside the limit its peer set, and which of several connections takes the next call. Pure.
//!
//! A call over the limit would wait on its connection, unseen, while another connection could take it (the peer's
//! SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113 §5.1.2). So connections are filled one after the other to four fifths; past
//! that a further one is wanted, and is there before the last fifth is used up.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Counts of one connection.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Calls, from the pick on.
    calls: AtomicU32,
    /// Health calls of our own.
    health: AtomicU32,
    limit: AtomicU32,
    /// Whether calls wait for the peer's window or for a stream, and would not on another connection.
    short: AtomicBool,
    /// Whether a call was sent since this was last asked.
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
    /// One more call. Returns whether the connection is crowded now: four fifths of the limit are used, and there is one
    /// that another connection would add to.
    pub(crate) fn open(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.is_crowded() && self.limit() > 0
    }

    /// A call is over.
    pub(crate) fn close(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// A health call begins. It is over when the seat is dropped.
    pub(crate) fn slot(&self) -> StreamSlot<'_> {
        self.health.fetch_add(1, Ordering::Relaxed);
        StreamSlot(self)
    }

    /// The limit as the peer announced it; `u32::MAX` when it announced none. Returns whether that is news.
    pub(crate) fn set_limit(&self, limit: u32) -> bool {
        // Read first: it is asked with every frame, and seldom news.
        self.limit.load(Ordering::Relaxed) != limit && self.limit.swap(limit, Ordering::Relaxed) != limit
    }

    /// Says whether calls wait for the peer's window or for a stream. While they do the connection counts as crowded.
    pub(crate) fn set_short(&self, short: bool) {
        if self.is_short() != short {
            self.short.store(short, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// How many streams the peer allows.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Calls that are not over.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether one more call would be sent at once.
    pub(crate) fn has_room(&self) -> bool {
        self.in_use() < self.limit()
    }

    /// Whether a call was sent since this was last asked, or is still going on.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed) || self.calls() > 0
    }

    fn is_crowded(&self) -> bool {
        self.is_short() || u64::from(self.in_use()) * 5 >= u64::from(self.limit()) * 4
    }

    /// Calls and health calls.
    pub(crate) fn in_use(&self) -> u32 {
        self.calls.load(Ordering::Relaxed) + self.health.load(Ordering::Relaxed)
    }
}

/// A health call of our own, while it goes on.
#[derive(Debug)]
pub(crate) struct StreamSlot<'a>(&'a Streams);

impl Drop for StreamSlot<'_> {
    fn drop(&mut self) {
        self.0.health.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connection that takes the next call: the first that is not crowded, so that the others may fall idle; else the one
/// with the most room. `None` only of none.
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

    /// Which of connections with these limits and calls takes the next one.
    #[track_caller]
    fn check(connections: &[(u32, u32)], chosen: Option<usize>) {
        let all: Vec<Streams> = connections.iter().map(|(limit, calls)| streams(*limit, *calls)).collect();
        let next =
            next(&all, |streams| streams).map(|next| all.iter().position(|s| std::ptr::eq(s, next)).unwrap());
        assert_eq!(next, chosen, "{connections:?}");
    }

    #[test]
    fn connections_are_filled_one_after_the_other_to_four_fifths() {
        check(&[], None);
        check(&[(100, 79), (100, 0)], Some(0));
        check(&[(100, 80), (100, 0)], Some(1));
        check(&[(100, 80), (100, 80), (100, 5)], Some(2));
        check(&[(100, 95), (100, 90), (100, 93)], Some(1));
        check(&[(1, 1), (1, 0)], Some(1));
        check(&[(u32::MAX, 1_000_000), (100, 0)], Some(0));
    }

    #[test]
    fn one_whose_peer_reads_nothing_is_passed_over() {
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
    fn it_is_crowded_from_four_fifths_on() {
        let streams = streams(10, 0);
        for calls in 1..=10 {
            assert_eq!(streams.open(), calls >= 8, "{calls} of 10");
            assert_eq!(streams.has_room(), calls < 10, "{calls} of 10");
        }
        streams.close();
        assert!(streams.has_room());
    }

    #[test]
    fn a_limit_of_one_is_crowded_by_one_and_a_limit_may_change() {
        let streams = streams(1, 0);
        assert!(streams.open());
        assert!(streams.set_limit(100) && !streams.set_limit(100), "it is news once");
        assert!(streams.has_room() && !streams.open());
        streams.set_limit(0);
        assert!(!streams.has_room() && !streams.open(), "another connection would have none either");
    }

    #[test]
    fn a_health_call_takes_a_stream_too() {
        let streams = streams(1, 0);
        let slot = streams.slot();
        assert!(!streams.has_room());
        assert_eq!(streams.calls(), 0);
        drop(slot);
        assert!(streams.has_room());
    }

    #[test]
    fn one_that_was_called_between_two_looks_was_used() {
        let streams = streams(100, 1);
        assert!(streams.was_used() && streams.was_used(), "it still is");
        streams.close();
        assert!(!streams.was_used());
        streams.open();
        streams.close();
        assert!(streams.was_used() && !streams.was_used());
    }
}
