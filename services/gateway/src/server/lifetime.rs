//! The lifetime of a client connection: it is limited, so that clients come to a gateway that was added later, and not without
//! calls. Pure: it is told the time.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::config::Connection;

/// Ages differ by up to this share, so that connections made at once are not made again at once.
const JITTER: f64 = 0.1;

/// The time in which a client without calls must acknowledge that it is to leave, before its connection is closed. A call that
/// crosses the GOAWAY is still served.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// The lifetime of one connection.
#[derive(Debug)]
pub(crate) struct Lifetime {
    old_at: Option<Instant>,
    idle: Option<Duration>,
    /// The time by which the connection must have made a call.
    used_by: Option<Instant>,
    grace: Duration,
    /// The time since when the connection leaves.
    leaving: Option<Instant>,
    /// When it was looked at last.
    seen_at: Instant,
    /// And how many calls it had had by then.
    seen: u32,
}

/// The decision about a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LifetimeVerdict {
    /// The connection goes on.
    GoesOn,
    /// The connection takes no more calls, and those it has may finish.
    Leaves(LeaveReason),
    /// The connection ends: the calls it still has were given time enough.
    Over,
}

/// The reason why a connection takes no more calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveReason {
    Old,
    Idle,
    /// The connection never made a call.
    Unused,
}

impl Lifetime {
    pub(crate) fn new(settings: &Connection, now: Instant, rng: &mut Rng) -> Lifetime {
        let age = settings.max_age.mul_f64(1.0 + JITTER * (2.0 * rng.f64() - 1.0));
        Lifetime {
            // A time too far for the clock is never.
            old_at: if age.is_zero() { None } else { now.checked_add(age) },
            idle: (!settings.max_idle.is_zero()).then_some(settings.max_idle),
            used_by: if settings.first_call.is_zero() { None } else { now.checked_add(settings.first_call) },
            grace: settings.max_age_grace,
            leaving: None,
            seen_at: now,
            seen: 0,
        }
    }

    /// When it is to be looked at next; none: never.
    pub(crate) fn next(&self) -> Option<Instant> {
        if let Some(since) = self.leaving {
            let look_at = self.seen_at.checked_add(LEAVES_WITHIN);
            return [since.checked_add(self.grace), look_at].into_iter().flatten().min();
        }
        let idle_at = self.idle.and_then(|idle| self.seen_at.checked_add(idle));
        [self.old_at, idle_at, self.used_by].into_iter().flatten().min()
    }

    /// Looks at it: whether it has calls, and how many it has had. One that is looked at twice without a call is idle, so
    /// that it is let go after one to two of the idle times.
    pub(crate) fn check(&mut self, now: Instant, busy: bool, calls: u32) -> LifetimeVerdict {
        if let Some(since) = self.leaving {
            let cut = since.checked_add(self.grace).is_some_and(|at| now >= at);
            let looked = now >= self.seen_at + LEAVES_WITHIN;
            if looked {
                self.seen_at = now;
            }
            return if cut || (looked && !busy) { LifetimeVerdict::Over } else { LifetimeVerdict::GoesOn };
        }
        let old = self.old_at.is_some_and(|at| now >= at);
        let looked = self.idle.is_some_and(|idle| now >= self.seen_at + idle);
        let idle = looked && !busy && calls == self.seen;
        if looked {
            (self.seen_at, self.seen) = (now, calls);
        }
        let used_late = self.used_by.is_some_and(|at| now >= at);
        let unused = used_late && calls == 0;
        if used_late {
            self.used_by = None;
        }
        if !old && !idle && !unused {
            return LifetimeVerdict::GoesOn;
        }
        (self.leaving, self.seen_at) = (Some(now), now);
        LifetimeVerdict::Leaves(match (old, idle) {
            (true, _) => LeaveReason::Old,
            (_, true) => LeaveReason::Idle,
            _ => LeaveReason::Unused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lifetime(age_s: u64, idle_s: u64) -> (Lifetime, Instant) {
        let settings = Connection {
            max_age: SECOND * age_s as u32,
            max_age_grace: SECOND * 60,
            max_idle: SECOND * idle_s as u32,
            first_call: Duration::ZERO,
        };
        let now = Instant::now();
        (Lifetime::new(&settings, now, &mut Rng::with_seed(3)), now)
    }

    #[test]
    fn ages_differ_within_a_tenth() {
        let never = Duration::ZERO;
        let settings = Connection {
            max_age: SECOND * 1_800,
            max_idle: never,
            first_call: never,
            ..Connection::default()
        };
        let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
        let ages: Vec<f64> = (0..1_000)
            .map(|_| Lifetime::new(&settings, now, &mut rng).next().expect("an end") - now)
            .map(|age| age.as_secs_f64())
            .collect();
        assert!(ages.iter().all(|age| (1_620.0..=1_980.0).contains(age)));
        let (low, high) =
            (ages.iter().filter(|a| **a < 1_700.0).count(), ages.iter().filter(|a| **a > 1_900.0).count());
        assert!(low > 150 && high > 150, "{low} {high}");
    }

    #[test]
    fn old_connection_ends_after_its_grace() {
        let (mut lifetime, now) = lifetime(100, 0);
        let old = lifetime.next().expect("an end");
        assert_eq!(lifetime.check(old - SECOND, true, 9), LifetimeVerdict::GoesOn);
        assert_eq!(lifetime.check(old, true, 9), LifetimeVerdict::Leaves(LeaveReason::Old));
        assert_eq!(lifetime.next(), Some(old + LEAVES_WITHIN));
        for _ in 1..12 {
            let at = lifetime.next().expect("a time");
            assert_eq!(lifetime.check(at, true, 9), LifetimeVerdict::GoesOn);
        }
        assert_eq!(lifetime.next(), Some(old + SECOND * 60));
        assert_eq!(lifetime.check(old + SECOND * 60, true, 9), LifetimeVerdict::Over);
        assert!(old > now + SECOND * 89);
    }

    #[test]
    fn only_idle_connections_leave() {
        let (mut lifetime, now) = lifetime(0, 10);
        assert_eq!(lifetime.next(), Some(now + SECOND * 10));
        assert_eq!(lifetime.check(now + SECOND * 10, false, 1), LifetimeVerdict::GoesOn, "it had a call");
        assert_eq!(lifetime.check(now + SECOND * 20, true, 1), LifetimeVerdict::GoesOn, "it has one");
        assert_eq!(lifetime.check(now + SECOND * 25, false, 1), LifetimeVerdict::GoesOn, "not yet");
        assert_eq!(lifetime.check(now + SECOND * 30, false, 1), LifetimeVerdict::Leaves(LeaveReason::Idle));
    }

    #[test]
    fn unused_connection_leaves_soon() {
        let (settings, now) = (Connection::default(), Instant::now());
        let at = now + settings.first_call;
        let mut used = Lifetime::new(&settings, now, &mut Rng::with_seed(3));
        assert_eq!(used.check(at, false, 1), LifetimeVerdict::GoesOn);
        assert_eq!(used.next(), Some(now + settings.max_idle), "once");
        let mut unused = Lifetime::new(&settings, now, &mut Rng::with_seed(3));
        assert_eq!(unused.next(), Some(at));
        assert_eq!(unused.check(at, false, 0), LifetimeVerdict::Leaves(LeaveReason::Unused));
        assert_eq!(unused.check(at + LEAVES_WITHIN / 2, false, 0), LifetimeVerdict::GoesOn);
        assert_eq!(unused.check(at + LEAVES_WITHIN, false, 0), LifetimeVerdict::Over);
    }

    #[test]
    fn leaving_ends_with_the_last_call() {
        let (mut lifetime, now) = lifetime(0, 10);
        assert_eq!(lifetime.check(now + SECOND * 10, false, 0), LifetimeVerdict::Leaves(LeaveReason::Idle));
        // A call has crossed the GOAWAY.
        assert_eq!(lifetime.check(now + SECOND * 15, true, 1), LifetimeVerdict::GoesOn);
        assert_eq!(lifetime.check(now + SECOND * 20, false, 1), LifetimeVerdict::Over);
    }

    #[test]
    fn zero_is_never() {
        let (mut lifetime, now) = lifetime(0, 0);
        assert_eq!(lifetime.next(), None);
        assert_eq!(lifetime.check(now + SECOND * 1_000_000, false, 0), LifetimeVerdict::GoesOn);
    }
}
