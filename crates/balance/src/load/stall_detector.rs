//! For how long an endpoint that was asked has answered nobody since: a lower bound of its latency while its callers still wait.
//! Who was asking already when it answered another is not counted any more: that call is long, and its endpoint is not silent.
//! Without it a stalled endpoint stays cheap until the first of them gives up. And how often in a row one had to give up: what
//! the endpoint is believed to take doubles each time, so that it is tried ever less while it stays silent. Pure: it is told
//! the time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A detector longer than this is not believed any more: a call may simply take that long, a poll that waits for something to
/// happen. The next call finds out, and the detector begins anew with it, so that an endpoint that is stalled indeed costs a
/// call or two each time and not all of them.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The detector of one endpoint.
#[derive(Debug)]
pub(crate) struct StallDetector {
    base: Instant,
    /// Calls without an answer yet, of those made since the last answer.
    waiting: AtomicU32,
    /// When the first of them was made, in microseconds since `base`.
    since_us: AtomicU64,
    /// Times that callers timed out, without an answer since.
    stalls: AtomicU32,
    /// The last of them.
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

    /// A call was made.
    pub(crate) fn asked(&self, now: Instant) {
        // In this order: who looks between the two sees nobody waiting, and not somebody waiting since long ago.
        if self.waiting.load(Ordering::Relaxed) == 0 || self.since(now) > SILENCE_MAX {
            self.since_us.store(self.us(now), Ordering::Relaxed);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A call got its answer.
    pub(crate) fn answered(&self) {
        // A call that is made at this moment may be lost to the count, or be counted too much. The next answer puts that right.
        self.waiting.store(0, Ordering::Relaxed);
        if self.stalls.load(Ordering::Relaxed) != 0 {
            self.stalls.store(0, Ordering::Relaxed);
        }
    }

    /// A call ended without one, or is none whose answer is waited for. Not to be said if another got one meanwhile.
    pub(crate) fn given_up(&self) {
        let one_less = |waiting: u32| waiting.checked_sub(1);
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// A call picked at `picked` timed out while nobody was answered. Returns how often that has happened in a row; all that
    /// were waiting at once are one time.
    pub(crate) fn stalled(&self, picked: Instant, now: Instant) -> u32 {
        if self.us(picked) >= self.stalled_us.load(Ordering::Relaxed) {
            self.stalled_us.store(self.us(now), Ordering::Relaxed);
            self.stalls.fetch_add(1, Ordering::Relaxed);
        }
        self.stalls.load(Ordering::Relaxed)
    }

    /// How long it has been silent, in seconds; zero when nobody waits, and when it was for longer than is believed.
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
    fn it_grows_while_somebody_waits_and_ends_with_any_answer() {
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
    fn who_gives_up_ends_it_only_for_himself() {
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
    fn after_five_seconds_it_is_tried_again_and_begins_anew() {
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
    fn stalls_count_until_the_next_answer_and_all_at_once_are_one() {
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
