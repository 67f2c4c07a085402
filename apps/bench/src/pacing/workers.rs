//! Workers with a service time: so many calls in service at once, each for at least a given time, the others in line.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::clock::Clock;

/// The workers of a machine. Calls are served in the order in which they come.
pub(crate) struct Workers {
    clock: Clock,
    time: Duration,
    idle: Semaphore,
    /// Moments at which the idle workers ended their last calls.
    free_at: Mutex<BinaryHeap<Reverse<Instant>>>,
}

/// A worker that serves a call.
pub(crate) struct Serving<'w> {
    workers: &'w Workers,
    /// Moment at which its service time ends.
    due: Instant,
    _permit: SemaphorePermit<'w>,
}

impl Workers {
    /// Returns `count` workers, each of which takes at least `time` for a call.
    pub(crate) fn new(clock: Clock, count: usize, time: Duration) -> Workers {
        let free_at = std::iter::repeat_n(Reverse(Instant::now()), count).collect();
        Workers { clock, time, idle: Semaphore::new(count), free_at: Mutex::new(free_at) }
    }

    /// Waits for a worker. A call that waited is served from the moment at which the worker was free, whenever this
    /// thread came to notice: what a machine serves does not depend on how late a timer of this one is.
    pub(crate) async fn serve(&self) -> Option<Serving<'_>> {
        let arrived = Instant::now();
        let permit = self.idle.acquire().await.ok()?;
        let Reverse(free_at) = self.free_at.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(Serving { workers: self, due: arrived.max(free_at) + self.time, _permit: permit })
    }
}

impl Serving<'_> {
    /// Waits for the end of the service time, if that is not past.
    pub(crate) async fn finish(mut self) {
        let now = Instant::now();
        if now > self.due {
            // The call itself took longer than the floor.
            self.due = now;
        } else {
            self.workers.clock.until(self.due).await;
        }
    }
}

/// Gives the worker back, also when its call was cancelled. The permit follows.
impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut free_at = self.workers.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        free_at.push(Reverse(self.due));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn workers_bound_the_throughput() {
        let time = Duration::from_millis(10);
        let workers = Arc::new(Workers::new(Clock::start().expect("a thread"), 4, time));
        let begun = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let workers = Arc::clone(&workers);
            calls.spawn(async move { workers.serve().await.expect("open").finish().await });
        }
        while calls.join_next().await.is_some() {}
        // Ten rounds of four.
        assert!(begun.elapsed() >= Duration::from_millis(99), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn slow_calls_take_their_own_time() {
        let workers = Workers::new(Clock::start().expect("a thread"), 1, Duration::from_millis(1));
        let begun = Instant::now();
        let serving = workers.serve().await.expect("open");
        tokio::time::sleep(Duration::from_millis(20)).await;
        serving.finish().await;
        workers.serve().await.expect("open").finish().await;
        assert!(begun.elapsed() >= Duration::from_millis(21), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn cancelled_calls_free_their_worker() {
        let workers = Workers::new(Clock::start().expect("a thread"), 1, Duration::from_millis(5));
        drop(workers.serve().await.expect("open"));
        let again = tokio::time::timeout(Duration::from_secs(10), async {
            workers.serve().await.expect("open").finish().await;
        });
        again.await.expect("served");
    }
}
