//! The calls in flight, of all cores and connections: how many there may be, and what part of them one connection may have.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::request::Parts;

/// The number of free calls for each that a connection may have. The rule is that of shared packet buffers (Choudhury and Hahne,
/// "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998): connections with many calls are refused before
/// those with few, however many there are, and some calls are always left.
const FREE_FOR_ONE: usize = 4;

/// A call counts as one for each of these that its headers begin: they are kept as long as it goes on.
const HEADER_BYTES: usize = 8 << 10;

/// The weight that a connection may have for each of its streams: most calls have short headers.
const OF_CONNECTION: usize = 2;

/// Counts the calls of a process.
#[derive(Debug)]
pub(crate) struct Calls {
    in_flight: AtomicUsize,
    pub(crate) most: usize,
    most_of_connection: usize,
}

impl Calls {
    /// Creates a count of at most `most` calls, where one connection may have `streams`.
    pub(crate) fn new(most: usize, streams: u32) -> Calls {
        let most_of_connection = OF_CONNECTION * streams as usize;
        Calls { in_flight: AtomicUsize::new(0), most, most_of_connection }
    }

    /// Counts one call more, of the given weight, of a connection whose calls then weigh `own`. Returns whether that is within
    /// the bounds.
    pub(crate) fn enter(&self, weight: usize, own: usize) -> bool {
        let others = self.in_flight.fetch_add(weight, Ordering::Relaxed);
        let free = self.most.saturating_sub(others);
        own <= self.most_of_connection.min(free.div_ceil(FREE_FOR_ONE))
    }

    pub(crate) fn leave(&self, weight: usize) {
        self.in_flight.fetch_sub(weight, Ordering::Relaxed);
    }
}

/// Returns as how many calls one with these headers counts.
pub(crate) fn weight(parts: &Parts) -> usize {
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    1 + (bytes + parts.uri.path().len()) / HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many calls each of `connections` gets that want as many as they can get.
    fn greedy(most: usize, connections: usize) -> (Calls, Vec<usize>) {
        let calls = Calls::new(most, u32::MAX / 2);
        let mut own = vec![0; connections];
        for _ in 0..most {
            for own in &mut own {
                if calls.enter(1, *own + 1) {
                    *own += 1;
                } else {
                    calls.leave(1);
                }
            }
        }
        (calls, own)
    }

    #[test]
    fn one_connection_gets_a_fifth() {
        assert_eq!(greedy(1_000, 1).1, [200]);
        for connections in [2, 10, 50, 200] {
            let (calls, own) = greedy(32_768, connections);
            let all: usize = own.iter().sum();
            eprintln!("{connections} connections have {} to {} calls each", own[connections - 1], own[0]);
            assert!(all < 32_768, "{all}");
            // A newcomer gets about as many as each of them.
            let next = (1..).take_while(|own| calls.enter(1, *own)).count();
            assert!(next * 2 > own[0], "{next} of {}", own[0]);
        }
    }

    #[test]
    fn the_whole_is_never_passed() {
        let calls = Calls::new(8, 100);
        assert!((0..8).all(|_| calls.enter(1, 1)));
        assert!(!calls.enter(1, 1));
        calls.leave(1);
        calls.leave(1);
        assert!(calls.enter(1, 1));
    }

    #[test]
    fn long_headers_count_as_several_calls() {
        let request = |bytes: usize| {
            let request = http::Request::post("/a.B/C").header("x", "y".repeat(bytes));
            weight(&request.body(()).expect("valid").into_parts().0)
        };
        assert_eq!((request(100), request(8_000), request(60_000)), (1, 1, 8));
        let calls = Calls::new(32_768, 1_000);
        assert_eq!((1..).take_while(|n| calls.enter(8, n * 8)).count(), 250);
    }
}
