//! Whether an error that endpoints answer with is theirs, or comes with who asks: INTERNAL may mean that the endpoint is
//! broken, or that the request is one that no endpoint can take.
//!
//! One share's errors are held against an endpoint once another endpoint has served that share well meanwhile. Until then
//! they are only counted, and after a few of them the share's next call goes elsewhere, for a second opinion: if that fails
//! too, its errors are its own for a while. So one caller, whatever it sends, takes no endpoint away from others, and an
//! endpoint that is broken is found by any caller that has good calls. Pure: it is told the time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// For how long after the last error the ones before it are remembered.
const REMEMBERED: Duration = Duration::from_secs(10);

/// So many errors of one endpoint in a row, and another one is asked.
const SECOND_OPINION_AFTER: u32 = 3;

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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errors {
    endpoint: SocketAddr,
    in_a_row: u32,
    last: Instant,
    elsewhere: Elsewhere,
}

/// How the share fared at another endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elsewhere {
    Unknown,
    Well,
    Badly,
}

impl Errors {
    /// The share was answered with an error by `endpoint`; `before` is what is remembered.
    pub(crate) fn failed(before: Option<Errors>, endpoint: SocketAddr, now: Instant) -> (Errors, Blame) {
        let fresh = Errors { endpoint, in_a_row: 1, last: now, elsewhere: Elsewhere::Unknown };
        let Some(before) = before.filter(|before| !before.is_over(now)) else { return (fresh, Blame::Open) };
        let same = before.endpoint == endpoint;
        let elsewhere = match before.elsewhere {
            Elsewhere::Badly => Elsewhere::Badly,
            elsewhere if same => elsewhere,
            // Two of them fail.
            _ => Elsewhere::Badly,
        };
        let in_a_row = if same { before.in_a_row.saturating_add(1) } else { 1 };
        let blame = match elsewhere {
            Elsewhere::Unknown => Blame::Open,
            Elsewhere::Well => Blame::Endpoint,
            Elsewhere::Badly => Blame::Caller,
        };
        (Errors { endpoint, in_a_row, last: now, elsewhere }, blame)
    }

    /// The share was served well by `endpoint`.
    pub(crate) fn served(&mut self, endpoint: SocketAddr) {
        if endpoint == self.endpoint {
            self.in_a_row = 0;
        } else if self.elsewhere == Elsewhere::Unknown {
            self.elsewhere = Elsewhere::Well;
        }
    }

    /// The endpoint that is not to be asked next.
    pub(crate) fn avoids(&self, now: Instant) -> Option<SocketAddr> {
        let asks = self.elsewhere == Elsewhere::Unknown && self.in_a_row >= SECOND_OPINION_AFTER;
        (asks && !self.is_over(now)).then_some(self.endpoint)
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > REMEMBERED
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
        let (mut errors, mut blames) = (None, Vec::new());
        for port in ports {
            let endpoint = endpoint(port.unsigned_abs() as u16);
            if *port > 0 {
                let (after, blame) = Errors::failed(errors, endpoint, Instant::now());
                errors = Some(after);
                blames.push(blame);
            } else if let Some(errors) = &mut errors {
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
        let mut errors = None;
        for _ in 0..SECOND_OPINION_AFTER {
            assert_eq!(errors.and_then(|errors: Errors| errors.avoids(now)), None);
            errors = Some(Errors::failed(errors, endpoint(1), now).0);
        }
        let mut errors = errors.expect("failed");
        assert_eq!(errors.avoids(now), Some(endpoint(1)));
        assert_eq!(errors.avoids(now + 2 * REMEMBERED), None, "long ago");
        errors.served(endpoint(2));
        assert_eq!(errors.avoids(now), None);
    }

    #[test]
    fn errors_of_long_ago_are_forgotten() {
        let now = Instant::now();
        let (errors, _) = Errors::failed(None, endpoint(1), now);
        let (_, blame) = Errors::failed(Some(errors), endpoint(2), now + 2 * REMEMBERED);
        assert_eq!(blame, Blame::Open);
    }
}
