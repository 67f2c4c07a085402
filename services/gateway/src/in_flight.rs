//! The calls in flight, of all cores and connections: how many there may be, and what part of them one connection may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::client::Client;
use crate::core::Core;
use crate::error::Error;

/// A connection has at most one call for so many that could still begin. The rule is that of shared packet buffers
/// (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998): whoever takes much is
/// refused before whoever takes little, however many do so, and something is always left.
const FREE_FOR_ONE: usize = 4;

/// Counts the calls of a process.
#[derive(Debug)]
pub(crate) struct Calls {
    in_flight: AtomicUsize,
    most: usize,
}

impl Calls {
    pub(crate) fn new(most: usize) -> Calls {
        Calls { in_flight: AtomicUsize::new(0), most }
    }

    /// One more, of a connection that then has `own`. Says whether that is not too many.
    fn enter(&self, own: usize) -> bool {
        let others = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let free = self.most.saturating_sub(others);
        own <= free.div_ceil(FREE_FOR_ONE)
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that is counted, until this is dropped.
pub(crate) struct InFlight {
    pub(crate) core: Arc<Core>,
    pub(crate) client: Arc<Client>,
}

impl InFlight {
    /// Counts a call. It is counted if it is refused too, until that is said.
    pub(crate) fn enter(core: &Arc<Core>, client: &Arc<Client>) -> (InFlight, Result<(), Error>) {
        let own = client.seat.call_began() as usize;
        let entered = if core.calls.enter(own) {
            Ok(())
        } else {
            metrics::counter!("gateway_refused_total", "limit" => "calls").increment(1);
            Err(Error::TooManyCalls { own, most: core.calls.most })
        };
        (InFlight { core: core.clone(), client: client.clone() }, entered)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.core.calls.leave();
        self.client.unread.call_ended();
        self.client.seat.call_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many calls each of `connections` gets that want as many as they can get.
    fn greedy(most: usize, connections: usize) -> (Calls, Vec<usize>) {
        let calls = Calls::new(most);
        let mut own = vec![0; connections];
        for _ in 0..most {
            for own in &mut own {
                if calls.enter(*own + 1) {
                    *own += 1;
                } else {
                    calls.leave();
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
            let next = (1..).take_while(|own| calls.enter(*own)).count();
            assert!(next * 2 > own[0], "{next} of {}", own[0]);
        }
    }

    #[test]
    fn the_whole_is_never_passed() {
        let calls = Calls::new(8);
        assert!((0..8).all(|_| calls.enter(1)));
        assert!(!calls.enter(1));
        calls.leave();
        calls.leave();
        assert!(calls.enter(1));
    }
}
