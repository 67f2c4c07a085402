//! Where jobs live. The traits speak of jobs, leases and due times; the engines are beside this file.
//!
//! [`JobStore`] keeps jobs and queues, [`DueStore`] knows when something of a queue is due, and [`Announcer`] tells a
//! clone what the others did. A [`Store`] is all three.
//!
//! # What holds of every store
//!
//! * **After `Ok`** the step was taken, whole, and every clone sees it. Its durability is the engine's: an embedded
//!   store has it on the disk; Redis has it as its `appendfsync` says.
//! * **After an [`EngineError`](shoal_kit::EngineError) that is certain** nothing was done.
//! * **After [`EngineError::Unknown`](shoal_kit::EngineError::Unknown)** the step may have been taken, or may still be taken.
//!   `complete` and `fail` recognise their repeat by the fence, `enqueue_all` by the request_id, and an unknown
//!   `lease` is undone by `release`.
//! * **After a crash** of a clone nothing is half done. A lease nobody answers for runs out, and any clone's `promote_due`
//!   gives its jobs back.
//! * Time is the engine's. A fence is greater than every fence given before in the queue, also after a fail-over.
//! * Jobs of a queue are leased in the order in which they became ready.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::Error;
use crate::hub::Hub;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::new_job::NewJob;
use crate::job::{Failure, Job, State};
use crate::request::lease::LeaseRequest;

#[cfg(test)]
mod conformance;
mod due_times;
mod embedded;
mod record;
mod redis;

pub(crate) use self::embedded::EmbeddedStore;
pub(crate) use self::redis::RedisStore;

/// Bytes of payloads after which a claim takes no further job, so that its answer fits the 4 MiB that gRPC clients
/// accept by default.
pub(crate) const CLAIM_BYTES_MAX: usize = 3 << 20;
/// Jobs looked at for one page: where few have the wanted state, a page is short.
pub(crate) const PAGE_LOOKS_MAX: usize = 1000;
/// Steps that one `promote_due` takes before it lets other commands in.
pub(crate) const PROMOTE_MAX: usize = 200;

/// Jobs claimed together, under one fence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim {
    /// The fencing token, greater than every earlier one of the queue.
    pub(crate) fence: u64,
    /// The moment when the lease runs out.
    pub(crate) expire: Moment,
    /// The jobs in the order in which they became ready. May be empty.
    pub(crate) jobs: Vec<Job>,
    /// Set if more jobs were ready.
    pub(crate) more: bool,
}

/// The state of a queue after [`DueStore::promote_due`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promoted {
    /// Set if jobs are ready now.
    pub(crate) ready: bool,
    /// The time until something of this queue is next due; zero if there was more than one call takes.
    pub(crate) next: Option<Duration>,
    /// The number of jobs whose lease had run out and which this call took from their workers.
    pub(crate) lost: u64,
}

/// Numbers of jobs of a queue by state. Finished jobs count while they can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) scheduled: u64,
    pub(crate) ready: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) retrying: u64,
    pub(crate) dead: u64,
    pub(crate) cancelled: u64,
    /// The moment when the job at the head of the queue was enqueued.
    pub(crate) head: Option<Moment>,
    /// The engine's time.
    pub(crate) now: Moment,
}

/// A page of jobs of a queue in one state, without payload, result and errors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) jobs: Vec<Job>,
    /// The token of the next page; none after the last.
    pub(crate) next: Option<String>,
}

/// Keeps the interest in a queue's changes alive until it is dropped.
pub(crate) type Following = Box<dyn std::any::Any + Send + Sync>;

/// A job that was to be added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Enqueued {
    /// The job as it is now.
    pub(crate) job: Job,
    /// Set if an earlier request with the same request_id made the job.
    pub(crate) deduplicated: bool,
}

/// Everything that a clone needs of an engine.
pub(crate) trait Store: JobStore + DueStore + Announcer {
    /// Returns `Ok` if calls have a chance, else the reason why not.
    fn ready(&self) -> Result<(), String>;
}

/// Keeps jobs and queues. The [module](self) says what holds.
pub(crate) trait JobStore: Send + Sync + 'static {
    /// Adds jobs to their queue, all or none, and returns them in the same order. A job whose request_id was used within
    /// the last hour, or earlier in the batch, is the job of that request_id, as it is now. At least one job, all of one
    /// queue.
    ///
    /// # Errors
    /// [`Error::RequestDiffers`] if a request_id stands for a job with another fingerprint, and [`Error::Forgotten`] if
    /// its job is gone; then no job is added.
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

    /// Returns the job; none if it never was or its retention has passed.
    fn get<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Job>, Error>>;

    /// Claims ready jobs, those that became due first included. Does not wait. The `ticket` is unique to this call:
    /// [`JobStore::release`] finds by it what a call without an answer claimed.
    fn lease(&self, request: LeaseRequest, ticket: String) -> BoxFuture<'_, Result<Claim, Error>>;

    /// Gives back, uncharged and at the head of the queue, the jobs that the `lease` call of this ticket claimed and still
    /// holds. If that call has not happened yet, it will claim nothing (if it comes within a minute).
    fn release<'a>(&'a self, queue: &'a QueueName, ticket: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Finishes a leased job. The lease holds until the job was given back, even past its time.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the fence is not the present lease's, unless this call repeats the one that ended it.
    fn complete<'a>(&'a self, id: &'a JobId, fence: u64, result: Bytes) -> BoxFuture<'a, Result<Job, Error>>;

    /// Ends an attempt; otherwise like [`JobStore::complete`]. A repeat returns the job as it is now.
    fn fail<'a>(&'a self, id: &'a JobId, fence: u64, failure: Failure) -> BoxFuture<'a, Result<Job, Error>>;

    /// Moves the end of a lease to `duration` from now, for all jobs of its claim. Returns the new end.
    fn extend<'a>(
        &'a self,
        id: &'a JobId,
        fence: u64,
        duration: Duration,
    ) -> BoxFuture<'a, Result<Moment, Error>>;

    /// Ends a job that has not ended; its lease is lost. A repeat returns the job.
    ///
    /// # Errors
    /// [`Error::Finished`] if the job ended otherwise.
    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Job, Error>>;

    /// Counts the jobs of a queue; none if there is no such queue.
    fn count<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Counts>, Error>>;

    /// Lists at most `max` jobs (and looks at most at [`PAGE_LOOKS_MAX`]) in a state, after where the last page ended.
    /// Ready jobs come in the order in which they will be leased, running jobs by the end of their lease, scheduled and
    /// retrying jobs by their time, finished jobs by when they are forgotten. A job that changes its state meanwhile may
    /// be missed.
    fn list<'a>(
        &'a self,
        queue: &'a QueueName,
        state: State,
        max: usize,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, Error>>;

    /// Returns the names of all queues.
    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueName>, Error>>;
}

/// Knows when something of a queue is due, for all clones, and makes it happen.
pub(crate) trait DueStore: Send + Sync + 'static {
    /// Makes ready what is due and gives back what was lost, in at most [`PROMOTE_MAX`] steps. Any clone may, at any time.
    fn promote_due<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Promoted, Error>>;

    /// Notes that something of this queue is due `within` this time. The next [`DueStore::take_due`] tells all clones.
    fn note(&self, queue: &QueueName, within: Duration);

    /// Takes at most `max` queues that have something due. No other clone gets them for as long as it takes to look at them.
    fn take_due(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueName>, Error>>;

    /// Returns whether this clone asks what is due, on behalf of all; only this clone does work that one clone has to do.
    fn leads(&self) -> bool {
        true
    }

    /// Hands a queue back after a look at it; `next` is the time until something of it is next due.
    fn settle(&self, queue: &QueueName, next: Option<Duration>);
}

/// Tells a clone what happens at the engine, whichever clone did it.
pub(crate) trait Announcer: Send + Sync + 'static {
    /// Tells the hub until dropped: that a queue which was empty has a job, that something is due earlier than before, and
    /// for followed queues every change of a job. What may have been missed is announced as such.
    fn announce(&self, hub: Arc<Hub>) -> BoxFuture<'static, ()>;

    /// Follows a queue: every change of its jobs that happens from now on is announced.
    fn follow<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Following, Error>>;
}
