//! Decides whether an error that endpoints answer with is their fault or comes with the caller's request: INTERNAL may mean
//! that the endpoint is broken, or that no endpoint can process the request.
//!
//! The errors of one share count against an endpoint once another endpoint has served that share well meanwhile. Until then
//! they are only counted, and after a few of them the share's next call goes elsewhere, for a second opinion. If other
//! endpoints fail the share too, they are compared: an endpoint that fails more often in a row than the others' error rate
//! explains is broken; otherwise the errors are the share's own. So no caller, whatever it sends, takes an endpoint away from
//! others. A broken endpoint is found by any caller with good calls, even if other endpoints fail it now and then.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The time after the last error for which earlier errors are remembered.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The number of errors of one endpoint in a row after which another endpoint is asked.
const SECOND_OPINION_AFTER: u32 = 3;

/// The smallest number of errors in a row that distinguishes an endpoint from others that fail too.
const APART_AFTER: u32 = 5;

/// The probability below which an endpoint differs from the others: that one of them would fail as often in a row.
const CHANCE_MIN: f64 = 1e-6;

/// The number of a share's calls at other endpoints that a comparison needs.
const COMPARED_MIN: u32 = 8;

/// The number of endpoints whose errors are counted separately. Beyond it, those with the fewest are forgotten.
const TOLD_APART_MAX: usize = 8;

/// The number of calls above which older ones count half.
const CALLS_MAX: u32 = 256;

/// The party at fault for an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The endpoint: another one has served the same share well.
    Endpoint,
    /// Not known yet: the error counts, but decides nothing.
    Open,
    /// The caller: other endpoints answer this share alike.
    Caller,
}

/// The errors of one share at the endpoints of one upstream.
#[derive(Clone, Debug)]
pub(crate) struct Errors {
    last: Instant,
    /// The endpoints that have failed, the most recent last.
    failing: Vec<Record>,
    /// The calls at all endpoints that have not failed.
    others: Calls,
}

/// The calls of a share at one endpoint.
#[derive(Clone, Copy, Debug)]
struct Record {
    endpoint: SocketAddr,
    /// The errors since its last success.
    in_a_row: u32,
    calls: Calls,
}

/// Counts of good and bad calls.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    well: u32,
    badly: u32,
}

impl Calls {
    fn add(&mut self, well: bool) {
        *(if well { &mut self.well } else { &mut self.badly }) += 1;
        if self.all() >= CALLS_MAX {
            // Rounded up: one error does not become none.
            self.well = self.well.div_ceil(2);
            self.badly = self.badly.div_ceil(2);
        }
    }

    fn all(self) -> u32 {
        self.well + self.badly
    }

    fn plus(self, other: Calls) -> Calls {
        Calls { well: self.well + other.well, badly: self.badly + other.badly }
    }

    /// Returns whether this error rate explains so many errors in a row (by Laplace's rule of succession).
    fn explains(self, in_a_row: u32) -> bool {
        let rate = f64::from(self.badly + 1) / f64::from(self.all() + 2);
        in_a_row < APART_AFTER || rate.powf(f64::from(in_a_row)) > CHANCE_MIN
    }
}

impl Errors {
    pub(crate) fn new(now: Instant) -> Errors {
        Errors { last: now, failing: Vec::new(), others: Calls::default() }
    }

    /// Records an error of `endpoint`. Returns whose fault it is.
    pub(crate) fn failed(&mut self, endpoint: SocketAddr, now: Instant) -> Blame {
        if self.is_over(now) {
            *self = Errors::new(now);
        }
        self.last = now;
        let known = self.failing.iter().position(|record| record.endpoint == endpoint);
        let mut record = match known {
            Some(at) => self.failing.remove(at),
            None => Record { endpoint, in_a_row: 0, calls: Calls::default() },
        };
        record.in_a_row = record.in_a_row.saturating_add(1);
        record.calls.add(false);
        if self.failing.len() >= TOLD_APART_MAX
            && let Some((least, _)) =
                self.failing.iter().enumerate().min_by_key(|(_, record)| record.calls.badly)
        {
            self.failing.remove(least);
        }
        let elsewhere = self.elsewhere();
        self.failing.push(record);
        if elsewhere.all() == 0 {
            Blame::Open
        } else if elsewhere.badly == 0 {
            Blame::Endpoint
        } else if elsewhere.well == 0 || elsewhere.all() < COMPARED_MIN || elsewhere.explains(record.in_a_row)
        {
            Blame::Caller
        } else {
            Blame::Endpoint
        }
    }

    /// Records a success of `endpoint`.
    pub(crate) fn served(&mut self, endpoint: SocketAddr) {
        match self.failing.iter_mut().find(|record| record.endpoint == endpoint) {
            Some(record) => {
                record.in_a_row = 0;
                record.calls.add(true);
            }
            None => self.others.add(true),
        }
    }

    /// Returns the endpoint that should not be asked next.
    pub(crate) fn avoids(&self, now: Instant) -> Option<SocketAddr> {
        let [only] = &self.failing[..] else { return None };
        let asks = self.others.all() == 0 && only.in_a_row >= SECOND_OPINION_AFTER;
        (asks && !self.is_over(now)).then_some(only.endpoint)
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > REMEMBERED
    }

    /// Returns the calls of the share at all known endpoints.
    fn elsewhere(&self) -> Calls {
        self.failing.iter().fold(self.others, |sum, record| sum.plus(record.calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Returns the blame for each error in a row; a negative port is a success.
    fn blames(ports: &[i32]) -> Vec<Blame> {
        let (mut errors, mut blames) = (Errors::new(Instant::now()), Vec::new());
        for port in ports {
            let endpoint = endpoint(port.unsigned_abs() as u16);
            if *port > 0 {
                blames.push(errors.failed(endpoint, Instant::now()));
            } else {
                errors.served(endpoint);
            }
        }
        blames
    }

    #[test]
    fn same_error_everywhere_blames_caller() {
        use Blame::{Caller, Open};
        assert_eq!(blames(&[1, 1, 1, 2, 1, 1]), [Open, Open, Open, Caller, Caller, Caller]);
        assert_eq!(
            blames(&[1, 2, -1, -2, 1, 2]),
            [Open, Caller, Caller, Caller],
            "good calls between do not help it"
        );
    }

    #[test]
    fn error_of_one_blames_endpoint() {
        use Blame::{Endpoint, Open};
        assert_eq!(blames(&[1, -2, 1, -2, 1]), [Open, Endpoint, Endpoint]);
        assert_eq!(blames(&[1, -1, 1]), [Open, Open], "its own good calls say nothing of others");
    }

    #[test]
    fn few_errors_ask_another_endpoint() {
        let now = Instant::now();
        let mut errors = Errors::new(now);
        for _ in 0..SECOND_OPINION_AFTER {
            assert_eq!(errors.avoids(now), None);
            errors.failed(endpoint(1), now);
        }
        assert_eq!(errors.avoids(now), Some(endpoint(1)));
        assert_eq!(errors.avoids(now + 2 * REMEMBERED), None, "long ago");
        errors.served(endpoint(2));
        assert_eq!(errors.avoids(now), None);
    }

    #[test]
    fn forgets_old_errors() {
        let now = Instant::now();
        let mut errors = Errors::new(now);
        errors.failed(endpoint(1), now);
        assert_eq!(errors.failed(endpoint(2), now + 2 * REMEMBERED), Blame::Open);
    }

    /// Returns how often each of three endpoints is blamed for 10,000 calls of one share that go to any of them, with the error
    /// rate `first` at the first endpoint and `others` at the other two.
    fn blamed(first: f64, others: f64) -> [u32; 3] {
        let now = Instant::now();
        let (mut errors, mut rng) = (Errors::new(now), fastrand::Rng::with_seed(7));
        let mut blamed = [0; 3];
        for _ in 0..10_000 {
            let port = rng.u16(0..3);
            let rate = if port == 0 { first } else { others };
            if rng.f64() >= rate {
                errors.served(endpoint(port));
            } else if errors.failed(endpoint(port), now) == Blame::Endpoint {
                blamed[usize::from(port)] += 1;
            }
        }
        blamed
    }

    #[test]
    fn finds_broken_endpoint_among_rare_errors() {
        for background in [0.001, 0.01, 0.1, 0.3] {
            let [broken, well, well_too] = blamed(1.0, background);
            assert!(broken > 3_000, "{broken} with {background}");
            assert!(well + well_too <= 3, "{well} and {well_too} with {background}");
        }
    }

    #[test]
    fn equal_error_rates_blame_no_endpoint() {
        for rate in [0.01, 0.1, 0.5, 0.9, 1.0] {
            let blamed: u32 = blamed(rate, rate).iter().sum();
            assert!(blamed <= 8, "{blamed} with {rate}: before a second one has failed");
        }
    }
}
