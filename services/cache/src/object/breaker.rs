//! A breaker for the loader of a kind, a state machine without a clock of its own: after some failures in a row the loader is left alone for a while, and comes back to its
//! full load step by step.
//!
//! | state | loads | until |
//! |---|---|---|
//! | closed | all | `failures` outages in a row |
//! | open | none | a pause, which doubles with each failed recovery and is varied at random, so that clones do not return together |
//! | recovering | one, then twice as many after each success | an outage opens it again; it closes when the kind's `loads_max` is allowed |

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::BreakerPolicy;
use crate::loader::LoadError;

/// The longest pause, as a multiple of the first.
const PAUSE_GROWTH_MAX: u32 = 32;
/// The part by which a pause is longer or shorter at random, at most.
const PAUSE_JITTER: f64 = 0.25;
/// The wait that a refusal during recovery suggests: about a load of a loader that is well.
const RECOVERY_RETRY: Duration = Duration::from_millis(100);

/// The breaker of a kind, at one clone.
#[derive(Debug)]
pub(crate) struct Breaker {
    policy: BreakerPolicy,
    /// The loads of a loader that is well.
    loads_max: usize,
    state: Mutex<State>,
    gauge: metrics::Gauge,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The last outage.
    last: Option<LoadError>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed {
        /// Outages in a row.
        failures: u32,
    },
    Open {
        until: Instant,
        /// The next pause, as a multiple of the first.
        growth: u32,
    },
    Recovering {
        allowed: usize,
        running: usize,
        growth: u32,
    },
}

/// The refusal of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paused {
    /// The time after which it is worth to ask again.
    pub(crate) retry_after: Duration,
    /// The outage that opened the breaker.
    pub(crate) last: Option<LoadError>,
}

/// The leave to call the loader once. Dropped without an outcome it says nothing about the loader.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    breaker: &'a Breaker,
    /// Set for a load of the recovery.
    recovering: bool,
}

impl Breaker {
    /// Makes a closed breaker that exports its state as `gauge`: 0 closed, 1 recovering, 2 open.
    pub(crate) fn new(policy: BreakerPolicy, loads_max: usize, gauge: metrics::Gauge) -> Self {
        gauge.set(0.0);
        let state = Mutex::new(State { phase: Phase::Closed { failures: 0 }, last: None });
        Self { policy, loads_max, state, gauge }
    }

    /// Admits a load, or says for how long there is none.
    pub(crate) fn admit(&self, now: Instant) -> Result<Admission<'_>, Paused> {
        let mut state = self.lock();
        let recovering = match state.phase {
            Phase::Closed { .. } => false,
            Phase::Open { until, growth } => {
                if let Some(paused) = state.left(until, now) {
                    return Err(paused);
                }
                self.enter(&mut state, Phase::Recovering { allowed: 1, running: 1, growth });
                true
            }
            Phase::Recovering { allowed, running, growth } => {
                if running >= allowed {
                    return Err(Paused { retry_after: RECOVERY_RETRY, last: state.last.clone() });
                }
                state.phase = Phase::Recovering { allowed, running: running + 1, growth };
                true
            }
        };
        drop(state);
        Ok(Admission { breaker: self, recovering })
    }

    /// Returns the pause, while it is open.
    pub(crate) fn paused(&self, now: Instant) -> Option<Paused> {
        let state = self.lock();
        match state.phase {
            Phase::Open { until, .. } => state.left(until, now),
            Phase::Closed { .. } | Phase::Recovering { .. } => None,
        }
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        self.gauge.set(match phase {
            Phase::Closed { .. } => 0.0,
            Phase::Recovering { .. } => 1.0,
            Phase::Open { .. } => 2.0,
        });
    }

    fn open(&self, state: &mut State, growth: u32, error: &LoadError, now: Instant) {
        let spread = 1.0 + PAUSE_JITTER * (2.0 * fastrand::f64() - 1.0);
        let until = now + (self.policy.pause * growth).mul_f64(spread);
        state.last = Some(error.clone());
        self.enter(state, Phase::Open { until, growth: (2 * growth).min(PAUSE_GROWTH_MAX) });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn left(&self, until: Instant, now: Instant) -> Option<Paused> {
        let retry_after = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(Paused { retry_after, last: self.last.clone() })
    }
}

impl Admission<'_> {
    /// Records that the loader answered.
    pub(crate) fn succeeded(self) {
        let breaker = self.breaker;
        let mut state = breaker.lock();
        match state.phase {
            Phase::Closed { .. } => state.phase = Phase::Closed { failures: 0 },
            // A load of before the pause says nothing about the loader after it.
            Phase::Recovering { allowed, running, growth } if self.recovering => {
                let allowed = allowed.saturating_mul(2);
                if allowed >= breaker.loads_max {
                    state.last = None;
                    breaker.enter(&mut state, Phase::Closed { failures: 0 });
                } else {
                    state.phase = Phase::Recovering { allowed, running, growth };
                }
            }
            Phase::Recovering { .. } | Phase::Open { .. } => {}
        }
    }

    /// Records that the loader is broken or away.
    pub(crate) fn failed(self, error: &LoadError, now: Instant) {
        let breaker = self.breaker;
        let mut state = breaker.lock();
        match state.phase {
            Phase::Closed { failures } => {
                let failures = failures.saturating_add(1);
                if breaker.policy.failures > 0 && failures >= breaker.policy.failures {
                    breaker.open(&mut state, 1, error, now);
                } else {
                    state.phase = Phase::Closed { failures };
                }
            }
            Phase::Recovering { growth, .. } if self.recovering => {
                breaker.open(&mut state, growth, error, now);
            }
            Phase::Recovering { .. } | Phase::Open { .. } => {}
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if !self.recovering {
            return;
        }
        let mut state = self.breaker.lock();
        if let Phase::Recovering { running, .. } = &mut state.phase {
            *running = running.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        let policy = BreakerPolicy { failures: 3, pause: Duration::from_secs(1) };
        Breaker::new(policy, 8, metrics::Gauge::noop())
    }

    fn outage() -> LoadError {
        LoadError::TimedOut { after: Duration::from_secs(2) }
    }

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.admit(now).expect("admitted").failed(&outage(), now);
    }

    /// Returns the pause of a breaker that is open.
    fn pause(breaker: &Breaker, now: Instant) -> Duration {
        breaker.paused(now).expect("open").retry_after
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..2 {
            fail(&breaker, now);
            fail(&breaker, now);
            breaker.admit(now).expect("admitted").succeeded();
        }
        assert_eq!(breaker.paused(now), None, "never three in a row");
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let refused = breaker.admit(now).expect_err("open");
        assert_eq!(refused.last, Some(outage()));
        let seconds = refused.retry_after.as_secs_f64();
        assert!((0.75..=1.25).contains(&seconds), "{seconds}");
    }

    #[test]
    fn recovery_doubles_what_is_allowed() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let now = now + pause(&breaker, now);
        for allowed in [1, 2, 4] {
            let admitted: Vec<_> = std::iter::from_fn(|| breaker.admit(now).ok()).take(20).collect();
            assert_eq!(admitted.len(), allowed);
            assert!(breaker.admit(now).is_err());
            let mut admitted = admitted.into_iter();
            admitted.next().expect("one").succeeded();
            drop(admitted);
        }
        let all: Vec<_> = std::iter::from_fn(|| breaker.admit(now).ok()).take(20).collect();
        assert_eq!(all.len(), 20, "closed");
    }

    #[test]
    fn failed_recovery_pauses_longer() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let mut now = now;
        for growth in [1, 2, 4, 8, 16, 32, 32] {
            let pause = pause(&breaker, now);
            now += pause;
            let pause = pause.as_secs_f64() / f64::from(growth);
            assert!((0.75..=1.25).contains(&pause), "{pause} of {growth}");
            fail(&breaker, now);
        }
    }

    #[test]
    fn late_failure_does_not_prolong_pause() {
        let (breaker, now) = (breaker(), Instant::now());
        let late = breaker.admit(now).expect("admitted");
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let before = breaker.paused(now).expect("open").retry_after;
        late.failed(&outage(), now);
        assert_eq!(breaker.paused(now).expect("open").retry_after, before);
    }

    #[test]
    fn zero_failures_never_open_it() {
        let policy = BreakerPolicy { failures: 0, pause: Duration::from_secs(1) };
        let (breaker, now) = (Breaker::new(policy, 8, metrics::Gauge::noop()), Instant::now());
        for _ in 0..100 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.paused(now), None);
    }
}
