//! When a call that is slow is sent to a second endpoint too (Dean and Barroso, "The Tail at Scale", 2013; gRFC A6): after
//! the 95th percentile of its method, as measured here, and for no more than a small share of the calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::resilience::latency_histogram::LatencyHistogram;
use crate::resilience::pushback::Pushback;
use crate::resilience::retry_budget::RetryBudget;

/// The percentile after which a call is slow.
const SLOW: f64 = 0.95;
/// The fewest samples of a percentile; with fewer it says little, and nothing is sent twice.
const SAMPLES_MIN: u64 = 100;
/// A percentile is computed anew after this.
const FRESH_MS: u64 = 500;
/// The shortest delay before a call is sent twice: below it a scheduler's hiccup looks like a slow endpoint.
const AFTER_MIN: Duration = Duration::from_millis(1);

/// Methods whose latency is followed; those past it are not hedged without a delay of their own.
const METHODS_MAX: usize = 4_096;

/// After an endpoint asked not to repeat a call at all, and at most after one that named a time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The hedging of one upstream's calls on one core.
pub(crate) struct Hedges {
    base: Instant,
    budget: Mutex<RetryBudget>,
    methods: Mutex<HashMap<Box<str>, Arc<Method>>>,
    /// Milliseconds since `base`.
    paused_until_ms: AtomicU64,
}

/// The latency of one method.
pub(crate) struct Method {
    latencies: LatencyHistogram,
    slow_micros: AtomicU64,
    /// Milliseconds since the base at which that is out of date.
    stale_at_ms: AtomicU64,
}

impl Hedges {
    /// At most `share` of the calls are sent twice.
    pub(crate) fn new(share: f64, now: Instant) -> Hedges {
        Hedges {
            base: now,
            budget: Mutex::new(RetryBudget::new(share, 0.0, now)),
            methods: Mutex::default(),
            paused_until_ms: AtomicU64::new(0),
        }
    }

    /// Returns what is known of a method.
    pub(crate) fn method(&self, path: &str) -> Option<Arc<Method>> {
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(method) = methods.get(path) {
            return Some(method.clone());
        }
        if methods.len() >= METHODS_MAX {
            return None;
        }
        let method = Arc::new(Method {
            latencies: LatencyHistogram::new(),
            slow_micros: AtomicU64::new(0),
            stale_at_ms: AtomicU64::new(0),
        });
        methods.insert(path.into(), method.clone());
        Some(method)
    }

    /// A call that may be hedged was made: earns its share.
    pub(crate) fn call(&self, now: Instant) {
        self.budget(|budget| budget.call(now));
    }

    /// Returns whether one call may be sent twice now.
    pub(crate) fn may(&self, now: Instant) -> bool {
        self.ms(now) >= self.paused_until_ms.load(Ordering::Relaxed)
            && self.budget(|budget| budget.left(now) >= 1.0)
    }

    /// Pays for one call to be sent twice, if that may be.
    pub(crate) fn take(&self, now: Instant) -> bool {
        self.ms(now) >= self.paused_until_ms.load(Ordering::Relaxed) && self.budget(|budget| budget.take(now))
    }

    /// An endpoint asked for fewer attempts: none is sent twice for a while.
    pub(crate) fn pause(&self, pushback: Pushback, now: Instant) {
        let pause = match pushback {
            Pushback::Never => PAUSE,
            Pushback::After(pause) => pause.min(PAUSE_MAX),
        };
        self.paused_until_ms.fetch_max(self.ms(now + pause), Ordering::Relaxed);
    }

    /// A call of the method was answered after `latency`, at least: of two attempts only the first to answer is known.
    pub(crate) fn answered(&self, method: &Method, latency: Duration, now: Instant) {
        method.latencies.record(latency, now - self.base);
    }

    /// After how long a call of the method is slow, if that is known.
    pub(crate) fn slow(&self, method: &Method, now: Instant) -> Option<Duration> {
        let ms = self.ms(now);
        if ms >= method.stale_at_ms.load(Ordering::Relaxed) {
            let summary = method.latencies.summary(now - self.base);
            let slow = summary.percentile(SLOW).filter(|_| summary.count() >= SAMPLES_MIN);
            let micros =
                slow.map_or(0, |slow| u64::try_from(slow.max(AFTER_MIN).as_micros()).unwrap_or(u64::MAX));
            method.slow_micros.store(micros, Ordering::Relaxed);
            method.stale_at_ms.store(ms + FRESH_MS, Ordering::Relaxed);
        }
        let micros = method.slow_micros.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from((now - self.base).as_millis()).unwrap_or(u64::MAX)
    }

    fn budget<T>(&self, with: impl FnOnce(&mut RetryBudget) -> T) -> T {
        with(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slow_is_the_methods_95th_percentile() {
        let now = Instant::now();
        let hedges = Hedges::new(0.05, now);
        let (fast, slow) =
            (hedges.method("/a.B/Fast").expect("room"), hedges.method("/a.B/Slow").expect("room"));
        for n in 1..100 {
            hedges.answered(&fast, MS * n, now);
        }
        assert_eq!(hedges.slow(&fast, now), None, "99 samples say little");
        hedges.answered(&fast, 100 * MS, now);
        assert_eq!(hedges.slow(&fast, now), None, "and are not counted at every call");
        let later = now + MS * 500;
        let after = hedges.slow(&fast, later).expect("known");
        assert!(after >= 95 * MS && after < 107 * MS, "{after:?}");
        assert_eq!(hedges.slow(&slow, later), None);
        assert_eq!(hedges.slow(&fast, now + Duration::from_secs(60)), None, "what was long ago is forgotten");
    }

    #[test]
    fn no_hedge_within_a_millisecond() {
        let now = Instant::now();
        let hedges = Hedges::new(0.05, now);
        let method = hedges.method("/a.B/C").expect("room");
        (0..200).for_each(|_| hedges.answered(&method, MS / 10, now));
        assert_eq!(hedges.slow(&method, now), Some(AFTER_MIN));
    }

    #[test]
    fn hedges_stay_within_their_share() {
        let now = Instant::now();
        let hedges = Hedges::new(0.05, now);
        assert!(!hedges.take(now), "nothing is earned yet");
        let mut twice = 0;
        for n in 0..10_000 {
            let now = now + MS * n;
            hedges.call(now);
            twice += u32::from(hedges.take(now));
        }
        assert!((495..=500).contains(&twice), "{twice} of 10000");
    }

    #[test]
    fn pushback_pauses_hedging() {
        let now = Instant::now();
        for (pushback, pause) in [(Pushback::After(700 * MS), 700 * MS), (Pushback::Never, PAUSE)] {
            let hedges = Hedges::new(1.0, now);
            (0..3).for_each(|_| hedges.call(now));
            hedges.pause(pushback, now);
            hedges.pause(Pushback::After(MS), now);
            assert!(!hedges.take(now + pause - MS));
            assert!(hedges.take(now + pause));
        }
    }
}
