//! The calls in flight, of all cores and connections: how many there may be, and what part of them one connection may have.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::request::Parts;

/// A connection has at most one call for so many that could still begin. The rule is that of shared packet buffers
/// (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998): whoever takes much is
/// refused before whoever takes little, however many do so, and something is always left.
const FREE_FOR_ONE: usize = 4;

/// A call counts as one for each of these that its headers begin: they are kept as long as it goes on.
const HEADER_BYTES: usize = 8 << 10;

/// A connection has at most so many for each call it may have: most calls have short headers.
const OF_CONNECTION: usize = 2;

/// Counts the calls of a process.
#[derive(Debug)]
pub(crate) struct Calls {
    in_flight: AtomicUsize,
    pub(crate) most: usize,
    most_of_connection: usize,
}

impl Calls {
    /// So many altogether, where a connection may have `streams`.
    pub(crate) fn new(most: usize, streams: u32) -> Calls {
        let most_of_connection = OF_CONNECTION * streams as usize;
        Calls { in_flight: AtomicUsize::new(0), most, most_of_connection }
    }

    /// One more that counts as `weight`, of a connection that then has `own`. Says whether that is not too many.
    pub(crate) fn enter(&self, weight: usize, own: usize) -> bool {
        let others = self.in_flight.fetch_add(weight, Ordering::Relaxed);
        let free = self.most.saturating_sub(others);
        own <= self.most_of_connection.min(free.div_ceil(FREE_FOR_ONE))
    }

    pub(crate) fn leave(&self, weight: usize) {
        self.in_flight.fetch_sub(weight, Ordering::Relaxed);
    }
}

/// As how many calls one with these headers counts.
pub(crate) fn weight(parts: &Parts) -> usize {
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    1 + (bytes + parts.uri.path().len()) / HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many calls each of `connections` gets that want as many as they can get.
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
    fn one_connection_has_a_fifth_and_many_leave_something_to_the_next() {
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
    fn long_headers_count_as_several_calls_and_a_connection_has_a_bound_of_those() {
        let request = |bytes: usize| {
            let request = http::Request::post("/a.B/C").header("x", "y".repeat(bytes));
            weight(&request.body(()).expect("valid").into_parts().0)
        };
        assert_eq!((request(100), request(8_000), request(60_000)), (1, 1, 8));
        let calls = Calls::new(32_768, 1_000);
        assert_eq!((1..).take_while(|n| calls.enter(8, n * 8)).count(), 250);
    }
}
