//! The state of the queues in `/metrics`: numbers of jobs and the age of the oldest ready one, counted when somebody asks.
//!
//! One reading costs the store one list of queues and one count for each of at most [`QUEUES_MAX`] queues, 16 at a time. The
//! admin port asks one clone of a process, and no more often than it allows.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::jobs::{Jobs, PAGE_QUEUES_MAX};
use crate::store::Counts;

/// Most queues that one process shows: the first that it met, by name.
const QUEUES_MAX: usize = PAGE_QUEUES_MAX;

/// The queues that are shown.
#[derive(Default)]
pub(crate) struct QueueMetrics(Mutex<HashSet<String>>);

impl QueueMetrics {
    /// Reads the queues and shows them. A queue that is gone is shown as empty. An engine that does not answer leaves the last
    /// state; `shoal_engine_up` says so.
    pub(crate) async fn read(&self, jobs: &Jobs) {
        let Ok(page) = jobs.queues(i32::MAX, "").await else { return };
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = shown.clone();
        for (queue, counts) in page.queues {
            gone.remove(queue.as_str());
            if shown.len() < QUEUES_MAX || shown.contains(queue.as_str()) {
                show(queue.as_str(), &counts);
                shown.insert(queue.to_string());
            }
        }
        gone.iter().for_each(|queue| show(queue, &Counts::default()));
    }
}

fn show(queue: &str, counts: &Counts) {
    let states = [
        ("scheduled", counts.scheduled),
        ("ready", counts.ready),
        ("running", counts.running),
        ("retrying", counts.retrying),
        ("dead", counts.dead),
    ];
    for (state, jobs) in states {
        metrics::gauge!("shoal_jobs_queue_jobs", "queue" => queue.to_owned(), "state" => state)
            .set(jobs as f64);
    }
    let age = counts.head.map_or(0.0, |head| head.until(counts.now).as_secs_f64());
    metrics::gauge!("shoal_jobs_queue_oldest_ready_seconds", "queue" => queue.to_owned()).set(age);
}
