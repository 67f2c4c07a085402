//! A level of load: what is offered to a target, and for how long. What came out of it is a [`Measured`].
//!
//! [`Measured`]: crate::load::measured::Measured

use std::time::Duration;

use crate::load::arrivals::Arrivals;

/// Calls that may be outstanding by default: more than that are no latency but a standstill.
pub(crate) const OUTSTANDING_MAX: usize = 10_000;

/// Time that answers are waited for by default after the last call was due.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Seed of the arrivals and of the requests where none is given.
pub(crate) const SEED: u64 = 1;

/// Rule by which calls are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Demand {
    /// An open loop: calls are made when they are due, whatever became of those before.
    Open { per_second: f64, arrivals: Arrivals },
    /// A closed loop: so many callers, each of whom makes the next call when the last one is answered, without a pause.
    Closed { callers: usize },
}

/// A load to offer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Level {
    pub(crate) demand: Demand,
    /// Seed of the arrivals and of the requests' content: the same seed makes the same calls at the same moments.
    pub(crate) seed: u64,
    /// Time for which the load runs before anything is counted.
    pub(crate) warm_up: Duration,
    /// Time that is counted: calls due in it count, whenever they are answered.
    pub(crate) duration: Duration,
    /// Bound of the calls outstanding in an open loop. Past it those that are due are not issued, and counted.
    pub(crate) outstanding_max: usize,
    /// Time to wait for answers after the last call was due. Calls without an answer by then have failed.
    pub(crate) grace: Duration,
    /// Threads that make the calls, each with its share of the connections.
    pub(crate) threads: usize,
}

impl Level {
    /// Returns an open loop of Poisson arrivals, with the default bounds and no warm-up.
    pub(crate) fn open(per_second: f64, duration: Duration) -> Level {
        Level::of(Demand::Open { per_second, arrivals: Arrivals::Poisson }, duration)
    }

    /// Returns a closed loop of `callers`, with the default bounds and no warm-up.
    pub(crate) fn closed(callers: usize, duration: Duration) -> Level {
        Level::of(Demand::Closed { callers }, duration)
    }

    fn of(demand: Demand, duration: Duration) -> Level {
        Level {
            demand,
            seed: SEED,
            warm_up: Duration::ZERO,
            duration,
            outstanding_max: OUTSTANDING_MAX,
            grace: GRACE,
            threads: 1,
        }
    }

    /// Returns the time from the first call to the last moment at which one may be due.
    pub(crate) fn whole(&self) -> Duration {
        self.warm_up + self.duration
    }
}
