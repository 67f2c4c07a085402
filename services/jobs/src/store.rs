//! Where jobs live. The trait speaks of jobs, leases and due times; the engines are beside it.
//!
//! # What holds of every store
//!
//! * **After `Ok`** the step was taken, whole, and every clone sees it. How durable it is the engine says: embedded, it
//!   is on the disk; on Redis, as its `appendfsync` says.
//! * **After an [`EngineError`](shoal_kit::EngineError) that is certain** nothing was done.
//! * **After [`EngineError::Unknown`](shoal_kit::EngineError::Unknown)** the step may have been taken, or may still be taken.
//!   `complete` and `fail` recognise their repeat by the fence, `enqueue` by the request_id, and an unknown
//!   `lease` is undone by `release`.
//! * **After a crash** of a clone nothing is half done. A lease nobody answers for runs out, and any clone's `tend` gives
//!   its jobs back.
//! * Time is the engine's. A fence is greater than every fence given before in the queue, also after a fail-over.
//! * Jobs of a queue are leased in the order in which they became ready.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::Error;
use crate::hub::Hub;
use crate::id::{JobId, QueueName};
use crate::job::{Failure, Job, State};
use crate::moment::Moment;
use crate::new_job::NewJob;

#[cfg(test)]
mod conformance;
mod embedded;
mod record;
mod redis;
mod schedule;

pub(crate) use self::embedded::Embedded;
pub(crate) use self::redis::Redis;

/// Most jobs of one claim.
pub(crate) const CLAIM_JOBS_MAX: usize = 100;
/// Bytes of payloads after which a claim takes no further job, so that its answer fits the 4 MiB that gRPC clients
/// accept by default.
pub(crate) const CLAIM_BYTES_MAX: usize = 3 << 20;
/// Most jobs of one page.
pub(crate) const PAGE_JOBS_MAX: usize = 100;
/// Jobs looked at for one page: where few have the wanted state, a page is short.
pub(crate) const PAGE_LOOKS_MAX: usize = 1000;
/// Steps one `tend` takes before it lets others in.
pub(crate) const TEND_MAX: usize = 200;

/// What one worker asks for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Of which queue.
    pub(crate) queue: QueueName,
    /// At most this many jobs, 1 to [`CLAIM_JOBS_MAX`].
    pub(crate) max_jobs: usize,
    /// Who.
    pub(crate) worker: String,
    /// For how long.
    pub(crate) duration: Duration,
    /// Unique to this call: [`Store::release`] finds by it what an unanswered call claimed.
    pub(crate) ticket: String,
}

/// Jobs claimed together, under one fence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim {
    /// Greater than every earlier one of the queue.
    pub(crate) fence: u64,
    /// When the lease runs out.
    pub(crate) expire: Moment,
    /// In the order in which they became ready. May be empty.
    pub(crate) jobs: Vec<Job>,
    /// More were ready.
    pub(crate) more: bool,
}

/// What `tend` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tended {
    /// Jobs are ready now.
    pub(crate) ready: bool,
    /// When something of this queue is next due, from now; zero if there was more than one `tend` takes.
    pub(crate) next: Option<Duration>,
}

/// Jobs of a queue by state. Finished ones count while they can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) scheduled: u64,
    pub(crate) ready: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) retrying: u64,
    pub(crate) dead: u64,
    pub(crate) cancelled: u64,
    /// Since when the job at the head of the queue exists.
    pub(crate) head: Option<Moment>,
    /// By the engine's clock.
    pub(crate) now: Moment,
}

/// Some jobs of a queue in one state, without payload, result and errors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) jobs: Vec<Job>,
    /// Where the next page begins; none after the last.
    pub(crate) next: Option<String>,
}

/// Keeps the interest in a queue's changes alive until it is dropped.
pub(crate) type Following = Box<dyn std::any::Any + Send + Sync>;

/// A job that was to be added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Enqueued {
    /// As it is now.
    pub(crate) job: Job,
    /// It was there: an earlier one with the same request_id made it.
    pub(crate) deduplicated: bool,
}

/// A store of jobs. See the [module](self) for what holds.
pub(crate) trait Store: Send + Sync + 'static {
    /// Adds jobs to their queue, all or none, and returns them in the same order. One with a request_id that was used
    /// within the last hour, or earlier in the batch, is that job, as it is now. [`Error::RequestDiffers`] for all if that
    /// one was asked for with another fingerprint, [`Error::Forgotten`] if it is gone. At least one job, all of one queue.
    fn enqueue_all(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Vec<Enqueued>, Error>>;

    /// Adds one job.
    #[cfg(test)]
    fn enqueue(&self, job: NewJob) -> BoxFuture<'_, Result<Job, Error>> {
        Box::pin(async move {
            let mut jobs = self.enqueue_all(vec![job]).await?;
            let one = jobs.pop().ok_or_else(|| Error::Internal("no job came back".to_owned()))?;
            Ok(one.job)
        })
    }

    /// The job; none if it never was or its retention has passed.
    fn get<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Job>, Error>>;

    /// Claims ready jobs, those that became due first included. Does not wait.
    fn lease(&self, ask: Ask) -> BoxFuture<'_, Result<Claim, Error>>;

    /// Gives back, uncharged and at the head of the queue, what the `lease` call of this ticket claimed, as far as it is
    /// still its. If that call has not happened yet it will claim nothing (if it comes within a minute).
    fn release<'a>(&'a self, queue: &'a QueueName, ticket: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Finishes a leased job. The lease holds until the job was given back, even past its time.
    /// [`Error::LeaseLost`] if the fence is not the present lease's, unless this same word was said before.
    fn complete<'a>(&'a self, id: &'a JobId, fence: u64, result: Bytes) -> BoxFuture<'a, Result<Job, Error>>;

    /// Ends an attempt; as [`Store::complete`]. A repeat returns the job as it is now.
    fn fail<'a>(&'a self, id: &'a JobId, fence: u64, failure: Failure) -> BoxFuture<'a, Result<Job, Error>>;

    /// Moves the end of a lease to so long from now, for all jobs of its claim; when that is.
    fn extend<'a>(
        &'a self,
        id: &'a JobId,
        fence: u64,
        duration: Duration,
    ) -> BoxFuture<'a, Result<Moment, Error>>;

    /// Ends a job that has not ended; its lease is lost. A repeat returns the job; [`Error::Finished`] if it ended
    /// otherwise.
    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Job, Error>>;

    /// How many jobs a queue has; none if it is no queue.
    fn count<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Counts>, Error>>;

    /// At most `max` jobs (and at most [`PAGE_LOOKS_MAX`] looked at) in a state, after where the last page ended. Ready
    /// ones in the order in which they will be leased, running ones by the end of their lease, scheduled and retrying
    /// ones by their time, finished ones by when they are forgotten. A job that changes its state meanwhile
    /// may be missed.
    fn list<'a>(
        &'a self,
        queue: &'a QueueName,
        state: State,
        max: usize,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// Makes ready what is due and gives back what was lost, at most [`TEND_MAX`] steps. Any clone may, at any time.
    fn tend<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Tended, Error>>;

    /// Something of this queue is due in this time, or sooner. Remembered with the next [`Store::due`], for all clones.
    fn note(&self, queue: &QueueName, within: Duration);

    /// At most `max` queues of which something is due; no other clone gets them for as long as it takes to look at them.
    fn due(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueName>, Error>>;

    /// Returns whether this clone is the one that asks what is due, for all: what one has to do, it does.
    fn leads(&self) -> bool {
        true
    }

    /// A queue was looked at, and something of it is next due in this time.
    fn settle(&self, queue: &QueueName, next: Option<Duration>);

    /// All queues.
    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueName>, Error>>;

    /// Tells the hub what happens at the engine, whichever clone did it, until dropped. What is announced: a queue that
    /// was empty has a job; something is due earlier than before; and for followed queues every change of a job. What
    /// may have been missed is announced as such.
    fn announce(&self, hub: Arc<Hub>) -> BoxFuture<'static, ()>;

    /// Every change of a job of this queue that happens from now on is announced.
    fn follow<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Following, Error>>;

    /// Whether calls have a chance, and if not why.
    fn ready(&self) -> Result<(), String>;
}
