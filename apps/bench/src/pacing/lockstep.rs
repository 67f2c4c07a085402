//! A lock that makes its callers follow the Universal Scalability Law exactly, so that a fit has a known answer.
//!
//! A call has a parallel part of length P under the shared side of a fair readers-writer lock, then a serial part of length
//! S under its exclusive side. In a closed loop of N callers without pauses, no serial part begins before the last parallel
//! part has ended, and no parallel part begins before the last serial part has: all go in rounds of P + N·S. So
//! X(N) = N / (P + N·S) = γN / (1 + α(N−1)), with γ = 1/(P+S) and α = S/(P+S): Amdahl's law, which a plain mutex would not
//! give: its callers overlap with each other's parallel parts, and it is the asynchronous repairman of which Amdahl's law is
//! the synchronous bound (Gunther, "A New Interpretation of Amdahl's Law and Geometric Scalability", 2002).
//!
//! With a serial part of c for every other call in flight a round is P + N·(N−1)·c, and X(N) = γN / (1 + βN(N−1)), with γ = 1/P
//! and β = c/P: coherence alone.
//!
//! The parts are moments of a schedule, not sleeps one after another: a thread that wakes late shortens what follows
//! instead of lengthening the round, and a caller's round trip after the end of a round is not part of it, up to P.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

use super::clock::Clock;

/// The lock.
pub(crate) struct Lockstep {
    clock: Clock,
    lock: RwLock<()>,
    /// End of the last serial part in the schedule.
    free_at: Mutex<Instant>,
    in_flight: AtomicUsize,
}

/// A call in flight.
struct InFlight<'l>(&'l AtomicUsize);

impl<'l> InFlight<'l> {
    fn begin(count: &'l AtomicUsize) -> InFlight<'l> {
        count.fetch_add(1, Ordering::Relaxed);
        InFlight(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lockstep {
    pub(crate) fn new(clock: Clock) -> Lockstep {
        let (lock, free_at, in_flight) = (RwLock::new(()), Mutex::new(Instant::now()), AtomicUsize::new(0));
        Lockstep { clock, lock, free_at, in_flight }
    }

    /// Makes a call whose serial part depends on the number of other calls in flight.
    pub(crate) async fn call(&self, parallel: Duration, serial: impl Fn(u32) -> Duration) {
        let arrived = Instant::now();
        let _in_flight = InFlight::begin(&self.in_flight);
        let shared = self.lock.read().await;
        let free_at = *self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = if arrived < free_at + parallel { free_at } else { arrived };
        let ready = begun + parallel;
        self.clock.until(ready).await;
        // Nobody can have ended since the first of this round was ready.
        let others = self.in_flight.load(Ordering::Relaxed).saturating_sub(1);
        let serial = serial(u32::try_from(others).unwrap_or(u32::MAX));
        drop(shared);
        let _exclusive = self.lock.write().await;
        let end = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = ready.max(*free_at) + serial;
            *free_at
        };
        self.clock.until(end).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const PARALLEL: Duration = Duration::from_millis(16);

    /// Returns the time of a round of a closed loop of `callers`.
    async fn round(callers: u32, serial: fn(u32) -> Duration) -> Duration {
        const ROUNDS: u32 = 10;
        let lockstep = Arc::new(Lockstep::new(Clock::start().expect("a thread")));
        let begun = Instant::now();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let lockstep = Arc::clone(&lockstep);
            all.spawn(async move {
                for _ in 0..ROUNDS {
                    lockstep.call(PARALLEL, serial).await;
                }
            });
        }
        while all.join_next().await.is_some() {}
        begun.elapsed() / ROUNDS
    }

    /// Measures until a round is as long as in theory: on a busy machine one may be longer, but never shorter.
    async fn check(callers: u32, serial: fn(u32) -> Duration, theory: Duration) {
        const WITHIN: Duration = Duration::from_secs(60);
        let begun = Instant::now();
        loop {
            let round = round(callers, serial).await;
            let ratio = round.as_secs_f64() / theory.as_secs_f64();
            // The schedule of the first round may have begun before its callers.
            assert!(ratio > 0.88, "a round took {round:?}, and {theory:?} in theory");
            if ratio < 1.05 {
                return;
            }
            assert!(begun.elapsed() < WITHIN, "a round took {round:?}, and {theory:?} in theory");
        }
    }

    #[tokio::test]
    async fn serial_parts_follow_amdahl() {
        let serial = |_| Duration::from_millis(4);
        check(1, serial, Duration::from_millis(20)).await;
        check(8, serial, Duration::from_millis(48)).await;
    }

    #[tokio::test]
    async fn crosstalk_grows_with_the_square() {
        let serial = |others| Duration::from_micros(200) * others;
        check(1, serial, PARALLEL).await;
        check(16, serial, Duration::from_millis(16 + 48)).await;
    }
}
