//! Detects an endpoint that has stopped answering: the time since the first unanswered call is a lower bound of its latency
//! while its callers still wait. Without it a stalled endpoint stays cheap until the first caller gives up.
//!
//! Calls that were waiting when another was answered no longer count: such a call is long, and its endpoint is not silent. The
//! detector also counts how often in a row callers gave up: the believed latency doubles each time, so that the endpoint is
//! tried ever less while it stays silent.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The longest silence that counts. A call may simply take longer, such as a poll that waits for an event. The next call starts
/// a new silence, so that an endpoint that is really stalled costs a call or two each time and not all of them.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The silence and the stalls of one endpoint.
#[derive(Debug)]
pub(crate) struct StallDetector {
    base: Instant,
    /// The unanswered calls among those made since the last answer.
    waiting: AtomicU32,
    /// The time of the first of them, in microseconds since `base`.
    since_us: AtomicU64,
    /// The number of time-outs since the last answer.
    stalls: AtomicU32,
    /// The time of the last of them, in microseconds since `base`.
    stalled_us: AtomicU64,
}

impl StallDetector {
    pub(crate) fn new(now: Instant) -> StallDetector {
        StallDetector {
            base: now,
            waiting: AtomicU32::new(0),
            since_us: AtomicU64::new(0),
            stalls: AtomicU32::new(0),
            stalled_us: AtomicU64::new(0),
        }
    }

    /// Counts a call.
    pub(crate) fn asked(&self, now: Instant) {
        // The order matters: a reader in between sees no waiting call, rather than one that waits since long ago.
        if self.waiting.load(Ordering::Relaxed) == 0 || self.since(now) > SILENCE_MAX {
            self.since_us.store(self.us(now), Ordering::Relaxed);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Records an answer.
    pub(crate) fn answered(&self) {
        // A call that is made at this moment may be missed or counted twice. The next answer corrects that.
        self.waiting.store(0, Ordering::Relaxed);
        if self.stalls.load(Ordering::Relaxed) != 0 {
            self.stalls.store(0, Ordering::Relaxed);
        }
    }

    /// Removes a call that ended without an answer, or that may be a stream. Must not be called if another call was answered
    /// meanwhile.
    pub(crate) fn given_up(&self) {
        let one_less = |waiting: u32| waiting.checked_sub(1);
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// Records that a call picked at `picked` timed out while no call was answered. Returns how often that has happened in a
    /// row; calls that waited at the same time count once.
    pub(crate) fn stalled(&self, picked: Instant, now: Instant) -> u32 {
        if self.us(picked) >= self.stalled_us.load(Ordering::Relaxed) {
            self.stalled_us.store(self.us(now), Ordering::Relaxed);
            self.stalls.fetch_add(1, Ordering::Relaxed);
        }
        self.stalls.load(Ordering::Relaxed)
    }

    /// Returns the length of the silence in seconds; zero while no call waits, and when the silence is longer than counts.
    pub(crate) fn get(&self, now: Instant) -> f64 {
        let silent = self.since(now);
        if self.waiting.load(Ordering::Relaxed) == 0 || silent > SILENCE_MAX {
            return 0.0;
        }
        silent.as_secs_f64()
    }

    fn since(&self, now: Instant) -> Duration {
        Duration::from_micros(self.us(now).saturating_sub(self.since_us.load(Ordering::Relaxed)))
    }

    fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn silent(detector: &StallDetector, at: Instant, expected_s: f64) {
        let silent_s = detector.get(at);
        assert!((silent_s - expected_s).abs() < 1e-6, "{silent_s} is not {expected_s}");
    }

    #[test]
    fn silence_grows_until_any_answer() {
        let now = Instant::now();
        let detector = StallDetector::new(now);
        silent(&detector, now + 500 * MS, 0.0);
        detector.asked(now + 500 * MS);
        detector.asked(now + 600 * MS);
        silent(&detector, now + 700 * MS, 0.2);
        detector.answered();
        silent(&detector, now + 750 * MS, 0.0);
        detector.asked(now + 760 * MS);
        silent(&detector, now + 900 * MS, 0.14);
        detector.answered();
        detector.given_up();
        silent(&detector, now + 900 * MS, 0.0);
    }

    #[test]
    fn giving_up_removes_one_call() {
        let now = Instant::now();
        let detector = StallDetector::new(now);
        detector.asked(now);
        detector.asked(now + 10 * MS);
        detector.given_up();
        silent(&detector, now + 100 * MS, 0.1);
        detector.given_up();
        silent(&detector, now + 100 * MS, 0.0);
        detector.asked(now + 200 * MS);
        silent(&detector, now + 201 * MS, 0.001);
    }

    #[test]
    fn long_silence_expires_and_restarts() {
        let now = Instant::now();
        let detector = StallDetector::new(now);
        detector.asked(now);
        silent(&detector, now + 5_000 * MS, 5.0);
        silent(&detector, now + 5_001 * MS, 0.0);
        detector.asked(now + 9_000 * MS);
        silent(&detector, now + 9_300 * MS, 0.3);
        detector.asked(now + 13_000 * MS);
        silent(&detector, now + 14_000 * MS, 5.0);
    }

    #[test]
    fn simultaneous_stalls_count_once() {
        let now = Instant::now();
        let detector = StallDetector::new(now);
        for _ in 0..10 {
            assert_eq!(detector.stalled(now, now + 1_000 * MS), 1);
        }
        assert_eq!(
            detector.stalled(now + 999 * MS, now + 1_999 * MS),
            1,
            "it was picked before the first gave up"
        );
        assert_eq!(detector.stalled(now + 2_000 * MS, now + 3_000 * MS), 2);
        assert_eq!(detector.stalled(now + 4_000 * MS, now + 5_000 * MS), 3);
        detector.asked(now + 6_000 * MS);
        detector.answered();
        assert_eq!(detector.stalled(now + 7_000 * MS, now + 8_000 * MS), 1);
    }
}
