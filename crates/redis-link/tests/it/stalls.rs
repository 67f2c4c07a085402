//! Times in which the machine did not run these tests: they share two cores with whatever else is built and tested,
//! and a bound on the link is no bound on the scheduler.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// The interval between two looks.
const TICK: Duration = Duration::from_millis(5);

/// Looks at the clock from when it is made until it is dropped.
pub(crate) struct Stalls {
    seen: Arc<Mutex<Vec<(Instant, Instant)>>>,
    _task: AbortOnDropHandle<()>,
}

impl Stalls {
    pub(crate) fn watch() -> Stalls {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let due = Instant::now() + TICK;
                sleep(TICK).await;
                // A timer is late by a millisecond or two on a machine that is idle.
                if due.elapsed() > TICK {
                    record.lock().unwrap().push((due, Instant::now()));
                }
            }
        });
        Stalls { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// The time from one instant to another, less what was stalled of it.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Duration {
        let stalled: Duration = self
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(|(start, end)| (*end).min(to).saturating_duration_since((*start).max(from)))
            .sum();
        (to - from).saturating_sub(stalled)
    }

    pub(crate) fn since(&self, from: Instant) -> Duration {
        self.between(from, Instant::now())
    }
}
