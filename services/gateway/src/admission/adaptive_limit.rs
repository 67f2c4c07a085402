//! Admits as many calls to an upstream as it answers in time, holds a few more back for a moment, and refuses the others at once:
//! rejecting early lets the caller fail over; a growing queue does not. One for each upstream and core.
//!
//! A call counts until its answer begins. A stream that goes on for hours is no load that could be shed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::admission::gradient::{Bounds, Gradient};
use crate::config::Overload;

/// The limit of one upstream on one core.
pub(crate) struct AdaptiveLimit {
    state: Mutex<State>,
    queue_max: usize,
    queue_wait: Duration,
    /// The limit as Prometheus sees it.
    gauge: metrics::Gauge,
}

struct State {
    gradient: Gradient,
    unanswered: usize,
    queue: VecDeque<oneshot::Sender<Permit>>,
}

/// A call that was let in. Dropped, it counts no more.
pub(crate) struct Permit {
    /// The limit that the call counts against; none once it counts no longer.
    limiter: Option<Arc<AdaptiveLimit>>,
}

/// A call that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitExceeded {
    /// The limit.
    pub(crate) limit: usize,
    /// The time that the call waited in vain.
    pub(crate) waited: Duration,
}

impl AdaptiveLimit {
    /// The share of one of `cores` in what `settings` say of all.
    pub(crate) fn new(
        settings: &Overload,
        cores: usize,
        gauge: metrics::Gauge,
        now: Instant,
    ) -> Arc<AdaptiveLimit> {
        let share = |all: usize| (all as f64 / cores as f64).max(1.0);
        let (min, max) = (share(settings.min), share(settings.max));
        let gradient = Gradient::new(Bounds { min, max, tolerance: settings.tolerance }, now);
        gauge.set(gradient.limit() as f64);
        let state = State { gradient, unanswered: 0, queue: VecDeque::new() };
        Arc::new(AdaptiveLimit {
            state: Mutex::new(state),
            queue_max: settings.queue.div_ceil(cores),
            queue_wait: settings.queue_wait,
            gauge,
        })
    }

    /// Lets a call in, at once or within the time that calls are held back.
    pub(crate) async fn enter(self: &Arc<AdaptiveLimit>) -> Result<Permit, LimitExceeded> {
        let (limit, place) = {
            let mut state = self.state();
            let limit = state.gradient.limit();
            if state.unanswered < limit && state.queue.is_empty() {
                state.unanswered += 1;
                return Ok(Permit::of(self));
            }
            // Those who left the queue, at the deadline or with their callers, leave their places.
            if state.queue.len() >= self.queue_max {
                state.queue.retain(|waiting| !waiting.is_closed());
            }
            if state.queue.len() >= self.queue_max {
                return Err(LimitExceeded { limit, waited: Duration::ZERO });
            }
            let (turn, place) = oneshot::channel();
            state.queue.push_back(turn);
            (limit, place)
        };
        match timeout(self.queue_wait, place).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(LimitExceeded { limit, waited: self.queue_wait }),
        }
    }

    /// The limit, and how many are held back.
    pub(crate) fn now(&self) -> (usize, usize) {
        let state = self.state();
        let queued = state.queue.iter().filter(|waiting| !waiting.is_closed()).count();
        (state.gradient.limit(), queued)
    }

    /// Counts one unanswered call fewer: the next ones may come in.
    fn leave(self: &Arc<AdaptiveLimit>, latency: Option<Duration>) {
        let mut state = self.state();
        if let Some(latency) = latency {
            let unanswered = state.unanswered;
            if state.gradient.answered(latency, unanswered, Instant::now()) {
                self.gauge.set(state.gradient.limit() as f64);
            }
        }
        state.unanswered -= 1;
        while state.unanswered < state.gradient.limit()
            && let Some(turn) = state.queue.pop_front()
        {
            match turn.send(Permit::of(self)) {
                Ok(()) => state.unanswered += 1,
                // Its call has gone, and it never counted.
                Err(mut gone) => gone.limiter = None,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    fn of(limiter: &Arc<AdaptiveLimit>) -> Permit {
        Permit { limiter: Some(limiter.clone()) }
    }

    /// The call's answer has begun, after `latency`, which says how busy the upstream is.
    pub(crate) fn answered(mut self, latency: Duration) {
        if let Some(limiter) = self.limiter.take() {
            limiter.leave(Some(latency));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(limiter) = self.limiter.take() {
            limiter.leave(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(60);

    /// Creates a limit of two calls at once and two that wait.
    fn limiter(queue_wait: Duration) -> Arc<AdaptiveLimit> {
        let settings = Overload { min: 4, max: 4, queue: 4, queue_wait, ..Overload::default() };
        AdaptiveLimit::new(&settings, 2, metrics::Gauge::noop(), Instant::now())
    }

    #[tokio::test]
    async fn calls_queue_then_are_refused() {
        let limiter = limiter(LONG);
        let first = limiter.enter().await.expect("room");
        let second = limiter.enter().await.expect("room");
        let waiting = |limiter: &Arc<AdaptiveLimit>| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.enter().await })
        };
        let (third, fourth) = (waiting(&limiter), waiting(&limiter));
        tokio::task::yield_now().await;
        assert_eq!(limiter.now(), (2, 2));
        let refused = limiter.enter().await.err().expect("no place in the queue");
        assert_eq!(refused, LimitExceeded { limit: 2, waited: Duration::ZERO });
        first.answered(MS);
        let third = third.await.expect("no panic").expect("its turn");
        assert_eq!(limiter.now(), (2, 1));
        drop((third, second));
        let _fourth = fourth.await.expect("no panic").expect("its turn");
        assert!(limiter.enter().await.is_ok(), "a call that is dropped leaves too");
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_that() {
        let limiter = limiter(20 * MS);
        let _inside = (limiter.enter().await.expect("room"), limiter.enter().await.expect("room"));
        let begun = Instant::now();
        let refused = limiter.enter().await.err().expect("in vain");
        assert_eq!(refused, LimitExceeded { limit: 2, waited: 20 * MS });
        assert!(begun.elapsed() >= 20 * MS && limiter.now() == (2, 0));
    }

    #[tokio::test]
    async fn leaving_the_queue_takes_no_turn() {
        let limiter = limiter(LONG);
        let first = limiter.enter().await.expect("room");
        let second = limiter.enter().await.expect("room");
        for _ in 0..10 {
            let gone = timeout(MS, limiter.enter()).await;
            assert!(gone.is_err(), "it waited");
        }
        assert_eq!(limiter.now(), (2, 0));
        let waiting = {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.enter().await.map(drop) })
        };
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(waiting.await.expect("no panic"), Ok(()), "the turn was not one of those who left");
        drop(second);
        let again = [limiter.enter().await, limiter.enter().await];
        assert!(again.iter().all(Result::is_ok), "every place is there again");
    }

    #[tokio::test]
    async fn leaving_call_passes_its_turn() {
        let limiter = limiter(LONG);
        let (first, _second) = (limiter.enter().await.expect("room"), limiter.enter().await.expect("room"));
        let mut leaving = Box::pin(limiter.enter());
        assert!(futures::poll!(&mut leaving).is_pending());
        let mut waiting = Box::pin(limiter.enter());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        drop(leaving);
        assert!(waiting.await.is_ok());
    }
}
