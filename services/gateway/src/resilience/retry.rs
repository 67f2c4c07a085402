//! Decides whether a call that failed is made again, by what gRPC calls transparent retries (no endpoint has processed it) and
//! policy retries (it may have been processed, and its method is safe to repeat). Pure.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;

use crate::config::Retry;
use crate::resilience::pushback::Pushback;

/// A pushback longer than this is no retry but another call.
const PUSHBACK_MAX: Duration = Duration::from_secs(10);

/// The failure of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The attempt never left this process.
    NotSent,
    /// The endpoint says that it did not process it: REFUSED_STREAM, or above the last stream of its GOAWAY.
    Refused,
    /// The connection broke, and whether the endpoint processed the call is unknown.
    Lost,
    /// The endpoint answered UNAVAILABLE and nothing else, maybe with what it wants of further attempts.
    Unavailable(Option<Pushback>),
}

/// The facts about a call that decide whether it may be repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// The descriptors call the method safe to repeat.
    pub(crate) idempotent: bool,
    /// The whole request so far is at hand.
    pub(crate) replayable: bool,
}

/// An attempt that failed while another one went on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedAttempt {
    pub(crate) endpoint: SocketAddr,
    pub(crate) pushback: Option<Pushback>,
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: Retry,
    /// The attempts that an endpoint may have seen.
    seen: u32,
    sent: u32,
    refused: bool,
    tried: Vec<SocketAddr>,
    /// The pushback of an endpoint that failed beside another.
    pushback: Option<Pushback>,
}

impl Attempts {
    pub(crate) fn new(policy: Retry) -> Attempts {
        Attempts { policy, seen: 0, sent: 0, refused: false, tried: Vec::new(), pushback: None }
    }

    /// The number of the attempt that begins now, from 1.
    pub(crate) fn begin(&mut self) -> u32 {
        self.sent += 1;
        self.sent
    }

    /// Returns how many were begun.
    pub(crate) fn made(&self) -> u32 {
        self.sent
    }

    /// Endpoints that failed this call: another one is better.
    pub(crate) fn tried(&self) -> &[SocketAddr] {
        &self.tried
    }

    /// All were tried: any may be tried again.
    pub(crate) fn forget_tried(&mut self) {
        self.tried.clear();
    }

    /// After a failure at `endpoint`: how long to wait before the next attempt, or why there is none. `budget` takes one
    /// retry from the upstream's budget.
    pub(crate) fn again(
        &mut self,
        failure: Failure,
        endpoint: SocketAddr,
        situation: Situation,
        budget: impl FnOnce() -> bool,
        rng: &mut Rng,
    ) -> Result<Duration, &'static str> {
        self.tried.push(endpoint);
        let pushback = match failure {
            Failure::NotSent => {
                self.unsent();
                return Ok(Duration::ZERO);
            }
            Failure::Refused if !self.refused && situation.replayable => {
                self.refused = true;
                return Ok(Duration::ZERO);
            }
            Failure::Refused | Failure::Lost => None,
            Failure::Unavailable(pushback) => pushback,
        };
        self.seen += 1;
        // What was refused was not processed (RFC 9113 §8.7). A peer with few streams may refuse one right after it has ended
        // another, and be ready for it a moment later.
        if !situation.idempotent && failure != Failure::Refused {
            return Err("its method is not marked safe to repeat");
        }
        if !situation.replayable {
            return Err("its request is too long to be sent again");
        }
        if self.seen >= self.policy.attempts {
            return Err("no attempts are left");
        }
        let pushback = match (pushback, self.pushback.take()) {
            (Some(Pushback::Never), _) | (_, Some(Pushback::Never)) => {
                return Err("the endpoint asked not to");
            }
            (Some(Pushback::After(one)), Some(Pushback::After(other))) => Some(one.max(other)),
            (Some(Pushback::After(pause)), None) | (None, Some(Pushback::After(pause))) => Some(pause),
            (None, None) => None,
        };
        if pushback.is_some_and(|pushback| pushback > PUSHBACK_MAX) {
            return Err("the endpoint asked for a longer wait");
        }
        if !budget() {
            return Err("the upstream's retry budget is used up");
        }
        Ok(pushback.unwrap_or_else(|| self.backoff(rng)))
    }

    /// Another attempt was made beside the one at hand, and failed before it.
    pub(crate) fn hedge_failed(&mut self, failed_hedge: FailedAttempt) {
        self.tried.push(failed_hedge.endpoint);
        self.seen += 1;
        self.pushback = failed_hedge.pushback;
    }

    /// The attempt that was begun last never left this process.
    pub(crate) fn unsent(&mut self) {
        self.sent -= 1;
    }

    /// Doubled for each attempt, ±20 % (gRFC A6), so that the callers of one lost endpoint do not come back together.
    fn backoff(&self, rng: &mut Rng) -> Duration {
        let whole = self.policy.backoff.saturating_mul(1 << (self.seen - 1).min(10));
        whole.mul_f64(0.8 + rng.f64() * 0.4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: Situation = Situation { idempotent: true, replayable: true };
    const UNSAFE: Situation = Situation { idempotent: false, replayable: true };

    fn endpoint() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn after(
        attempts: &mut Attempts,
        failure: Failure,
        situation: Situation,
    ) -> Result<Duration, &'static str> {
        attempts.begin();
        attempts.again(failure, endpoint(), situation, || true, &mut Rng::with_seed(1))
    }

    #[test]
    fn too_long_pushback_costs_no_budget() {
        let mut attempts = Attempts::new(Retry::default());
        attempts.begin();
        let failure = Failure::Unavailable(Some(Pushback::After(PUSHBACK_MAX + Duration::from_millis(1))));
        let budget = || panic!("nothing is repeated");
        let again = attempts.again(failure, endpoint(), SAFE, budget, &mut Rng::with_seed(1));
        assert_eq!(again, Err("the endpoint asked for a longer wait"));
    }

    #[test]
    fn unsent_call_is_resent_without_limit() {
        let mut attempts = Attempts::new(Retry::default());
        for _ in 0..50 {
            assert_eq!(after(&mut attempts, Failure::NotSent, UNSAFE), Ok(Duration::ZERO));
        }
        assert_eq!(attempts.begin(), 1);
    }

    #[test]
    fn refused_call_is_resent_always() {
        let mut attempts = Attempts::new(Retry::default());
        assert_eq!(after(&mut attempts, Failure::Refused, UNSAFE), Ok(Duration::ZERO));
        for _ in 1..Retry::default().attempts {
            assert!(!after(&mut attempts, Failure::Refused, UNSAFE).expect("backs off").is_zero());
        }
        assert_eq!(after(&mut attempts, Failure::Refused, UNSAFE), Err("no attempts are left"));
    }

    #[test]
    fn lost_call_is_repeated_if_safe() {
        let mut attempts = Attempts::new(Retry::default());
        assert!(after(&mut attempts, Failure::Lost, UNSAFE).is_err());
        let mut attempts = Attempts::new(Retry::default());
        for whole_ms in [25.0, 50.0] {
            let delay = after(&mut attempts, Failure::Lost, SAFE).expect("again").as_secs_f64() * 1e3;
            assert!((whole_ms * 0.8..=whole_ms * 1.2).contains(&delay), "{delay} ms of {whole_ms}");
        }
        assert_eq!(after(&mut attempts, Failure::Lost, SAFE), Err("no attempts are left"));
    }

    #[test]
    fn unkept_request_is_not_repeated() {
        let situation = Situation { replayable: false, ..SAFE };
        for failure in [Failure::Lost, Failure::Refused] {
            let mut attempts = Attempts::new(Retry::default());
            assert!(after(&mut attempts, failure, situation).expect_err("no").contains("too long"));
        }
    }

    #[test]
    fn budget_is_asked_last() {
        let mut attempts = Attempts::new(Retry::default());
        attempts.begin();
        let refuse = || false;
        let answer = attempts.again(Failure::Lost, endpoint(), SAFE, refuse, &mut Rng::with_seed(1));
        assert!(answer.expect_err("used up").contains("budget"));
        let asked = std::cell::Cell::new(false);
        let ask = || !asked.replace(true);
        let answer = attempts.again(Failure::Lost, endpoint(), UNSAFE, ask, &mut Rng::with_seed(1));
        assert!(answer.is_err() && !asked.get(), "a call that may not be repeated costs no budget");
    }

    #[test]
    fn pushback_is_obeyed() {
        let wait = Duration::from_millis(700);
        let mut attempts = Attempts::new(Retry::default());
        let pause = Failure::Unavailable(Some(Pushback::After(wait)));
        assert_eq!(after(&mut attempts, pause, SAFE), Ok(wait));
        let stop =
            after(&mut Attempts::new(Retry::default()), Failure::Unavailable(Some(Pushback::Never)), SAFE);
        assert!(stop.expect_err("no").contains("asked not to"));
    }

    #[test]
    fn pushback_of_failed_hedge_holds() {
        let other = SocketAddr::from(([127, 0, 0, 1], 2));
        let again = |pushback| {
            let mut attempts = Attempts::new(Retry::default());
            attempts.hedge_failed(FailedAttempt { endpoint: other, pushback: Some(pushback) });
            let answer = after(&mut attempts, Failure::Lost, SAFE);
            assert_eq!(attempts.tried(), [other, endpoint()]);
            answer
        };
        let wait = Duration::from_millis(700);
        assert_eq!(again(Pushback::After(wait)), Ok(wait));
        assert!(again(Pushback::Never).expect_err("no").contains("asked not to"));
        let mut attempts = Attempts::new(Retry { attempts: 2, ..Retry::default() });
        attempts.hedge_failed(FailedAttempt { endpoint: other, pushback: None });
        assert_eq!(after(&mut attempts, Failure::Lost, SAFE), Err("no attempts are left"), "both count");
    }
}
