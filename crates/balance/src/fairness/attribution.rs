//! Whether an error that endpoints answer with is theirs, or comes with who asks: INTERNAL may mean that the endpoint is
//! broken, or that the request is one that no endpoint can take.
//!
//! One share's errors are held against an endpoint once another endpoint has served that share well meanwhile. Until then
//! they are only counted, and after a few of them the share's next call goes elsewhere, for a second opinion. If others fail
//! the share too, they are compared: an endpoint that fails so often in a row that the others' rate of errors does not
//! explain it is broken, and else the errors are the share's own. So one caller, whatever it sends, takes no endpoint away
//! from others, and an endpoint that is broken is found by any caller that has good calls, though others fail it now and
//! then. Pure: it is told the time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// For how long after the last error the ones before it are remembered.
const REMEMBERED: Duration = Duration::from_secs(10);

/// So many errors of one endpoint in a row, and another one is asked.
const SECOND_OPINION_AFTER: u32 = 3;

/// So many errors of one endpoint in a row, at least, set it apart from others that fail too.
const APART_AFTER: u32 = 5;

/// An endpoint is like the others as long as the chance that one of these would fail as often in a row is above this.
const CHANCE_MIN: f64 = 1e-6;

/// Calls of one share at the others, without which there is nothing to compare with.
const COMPARED_MIN: u32 = 8;

/// Endpoints whose errors are told apart. Of more, those with the fewest are forgotten.
const TOLD_APART_MAX: usize = 8;

/// Calls after which the older of them count half.
const CALLS_MAX: u32 = 256;

/// What an error says of the endpoint that answered with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// That it is broken: another one has served the same share well.
    Endpoint,
    /// It counts, and does not decide.
    Open,
    /// Nothing: others answer this share alike.
    Caller,
}

/// The errors of one share at the endpoints of one upstream.
#[derive(Clone, Debug)]
pub(crate) struct Errors {
    last: Instant,
    /// Of endpoints that have failed, the last one that did at the end.
    failing: Vec<Record>,
    /// Of all endpoints that have not.
    others: Calls,
}

/// What a share has had of one endpoint.
#[derive(Clone, Copy, Debug)]
struct Record {
    endpoint: SocketAddr,
    /// Errors since it has served well.
    in_a_row: u32,
    calls: Calls,
}

/// How calls went.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    well: u32,
    badly: u32,
}

impl Calls {
    fn add(&mut self, well: bool) {
        *(if well { &mut self.well } else { &mut self.badly }) += 1;
        if self.all() >= CALLS_MAX {
            // What was not once does not become never.
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

    /// Whether so many errors in a row are more than a rate of errors like this explains (by Laplace's rule of succession).
    fn explains(self, in_a_row: u32) -> bool {
        let rate = f64::from(self.badly + 1) / f64::from(self.all() + 2);
        in_a_row < APART_AFTER || rate.powf(f64::from(in_a_row)) > CHANCE_MIN
    }
}

impl Errors {
    pub(crate) fn new(now: Instant) -> Errors {
        Errors { last: now, failing: Vec::new(), others: Calls::default() }
    }

    /// The share was answered with an error by `endpoint`.
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

    /// The share was served well by `endpoint`.
    pub(crate) fn served(&mut self, endpoint: SocketAddr) {
        match self.failing.iter_mut().find(|record| record.endpoint == endpoint) {
            Some(record) => {
                record.in_a_row = 0;
                record.calls.add(true);
            }
            None => self.others.add(true),
        }
    }

    /// The endpoint that is not to be asked next.
    pub(crate) fn avoids(&self, now: Instant) -> Option<SocketAddr> {
        let [only] = &self.failing[..] else { return None };
        let asks = self.others.all() == 0 && only.in_a_row >= SECOND_OPINION_AFTER;
        (asks && !self.is_over(now)).then_some(only.endpoint)
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > REMEMBERED
    }

    /// How the share fared at all that are known.
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

    /// What each error in a row of them means; a port that is negative has served well.
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
    fn what_all_endpoints_answer_alike_is_the_callers() {
        use Blame::{Caller, Open};
        assert_eq!(blames(&[1, 1, 1, 2, 1, 1]), [Open, Open, Open, Caller, Caller, Caller]);
        assert_eq!(
            blames(&[1, 2, -1, -2, 1, 2]),
            [Open, Caller, Caller, Caller],
            "good calls between do not help it"
        );
    }

    #[test]
    fn what_one_endpoint_alone_answers_is_the_endpoints() {
        use Blame::{Endpoint, Open};
        assert_eq!(blames(&[1, -2, 1, -2, 1]), [Open, Endpoint, Endpoint]);
        assert_eq!(blames(&[1, -1, 1]), [Open, Open], "its own good calls say nothing of others");
    }

    #[test]
    fn another_endpoint_is_asked_after_a_few_errors_of_one() {
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
    fn errors_of_long_ago_are_forgotten() {
        let now = Instant::now();
        let mut errors = Errors::new(now);
        errors.failed(endpoint(1), now);
        assert_eq!(errors.failed(endpoint(2), now + 2 * REMEMBERED), Blame::Open);
    }

    /// How often each of three endpoints is blamed for 10,000 calls of one share that go to any of them, where the first
    /// answers so much of them with an error and the others so much.
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
    fn a_broken_endpoint_is_found_amid_few_errors_of_others() {
        for background in [0.001, 0.01, 0.1, 0.3] {
            let [broken, well, well_too] = blamed(1.0, background);
            assert!(broken > 3_000, "{broken} with {background}");
            assert!(well + well_too <= 3, "{well} and {well_too} with {background}");
        }
    }

    #[test]
    fn where_all_endpoints_err_alike_none_is_blamed_for_long() {
        for rate in [0.01, 0.1, 0.5, 0.9, 1.0] {
            let blamed: u32 = blamed(rate, rate).iter().sum();
            assert!(blamed <= 8, "{blamed} with {rate}: before a second one has failed");
        }
    }
}
