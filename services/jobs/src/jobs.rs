//! The queue as one clone offers it: what each call asks of the store, of the waiting workers and of the watches. Knows
//! neither the wire nor an engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use shoal_kit::{Invalid, page, reason};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::hub::Hub;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::new_job::{NewJob, PAYLOAD_BYTES_MAX, too_large};
use crate::job::{Failure, Job, State};
use crate::leaser::{GuardedClaim, Leaser};
use crate::request::lease::LeaseRequest;
use crate::request::page_token;
use crate::store::{Counts, Enqueued, Page, Store};
use crate::watch::{Seen, Watch};

/// Items of a page when none are asked for.
const PAGE_DEFAULT: usize = 50;
/// Most jobs of one page.
const PAGE_JOBS_MAX: usize = 100;
/// Most queues of one page.
pub(crate) const PAGE_QUEUES_MAX: usize = 100;
/// Queues of a page whose jobs are counted at the same time.
const COUNTS_AT_ONCE: usize = 16;
/// Longest message of a failure.
pub(crate) const FAILURE_BYTES_MAX: usize = 4 << 10;

/// The jobs of a store, as one clone offers them.
#[derive(Clone)]
pub(crate) struct Jobs {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    leaser: Leaser,
    draining: CancellationToken,
}

/// A page of queues in the order of their names.
pub(crate) struct QueuePage {
    /// Each queue's name and the numbers of its jobs.
    pub(crate) queues: Vec<(QueueName, Counts)>,
    /// The token of the next page; empty after the last.
    pub(crate) next_page_token: String,
}

impl Jobs {
    /// Offers the jobs of `store`, with the calls that wait at this clone.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        leaser: Leaser,
        draining: CancellationToken,
    ) -> Self {
        Self { store, hub, leaser, draining }
    }

    /// Adds one job.
    pub(crate) async fn enqueue(&self, job: NewJob) -> Result<Enqueued, Error> {
        let enqueued = self.store.enqueue_all(vec![job]).await?.pop();
        enqueued.ok_or_else(|| Error::Internal("one job was enqueued and none came back".to_owned()))
    }

    /// Adds jobs of one queue, all or none.
    pub(crate) async fn enqueue_batch(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, Error> {
        self.store.enqueue_all(jobs).await
    }

    /// Returns a job.
    pub(crate) async fn get(&self, id: &JobId) -> Result<Job, Error> {
        self.store.get(id).await?.ok_or_else(|| Error::not_found(id))
    }

    /// Lists jobs of a queue in one state. A token goes with the state it was made for.
    pub(crate) async fn list(
        &self,
        queue: &QueueName,
        state: State,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page, Error> {
        let max = page::size(page_size, PAGE_DEFAULT, PAGE_JOBS_MAX)?;
        let after = page_token::parse_of_jobs(state, page_token)?;
        let page = self.store.list(queue, state, max, after).await?;
        Ok(Page { next: page.next.map(|next| page_token::of_jobs(state, &next)), ..page })
    }

    /// Cancels a job.
    pub(crate) async fn cancel(&self, id: &JobId) -> Result<Job, Error> {
        self.store.cancel(id).await
    }

    /// Counts the jobs of a queue.
    pub(crate) async fn queue(&self, queue: &QueueName) -> Result<Counts, Error> {
        self.store.count(queue).await?.ok_or_else(|| Error::NoQueue { queue: queue.clone() })
    }

    /// Lists queues by name. The token is the last name of the page before.
    pub(crate) async fn queues(&self, page_size: i32, page_token: &str) -> Result<QueuePage, Error> {
        let max = page::size(page_size, PAGE_DEFAULT, PAGE_QUEUES_MAX)?;
        let after = page_token::check(page_token)?;
        let mut names = self.store.queues().await?;
        names.retain(|name| name.as_str() > after);
        names.sort_unstable();
        let more = names.len() > max;
        names.truncate(max);
        let next_page_token = names.last().filter(|_| more).map(ToString::to_string).unwrap_or_default();
        let counted: Vec<_> = futures::stream::iter(names)
            .map(|name| async move { self.store.count(&name).await.map(|counts| (name, counts)) })
            .buffered(COUNTS_AT_ONCE)
            .try_collect()
            .await?;
        // A queue that was dropped meanwhile is none.
        let queues = counted.into_iter().filter_map(|(name, counts)| Some((name, counts?)));
        Ok(QueuePage { queues: queues.collect(), next_page_token })
    }

    /// Opens a watch of a job. A watcher that has `seen` a state is not sent that one again.
    pub(crate) async fn watch(&self, id: JobId, seen: Option<Seen>) -> Result<Watch, Error> {
        Watch::open(self.store.clone(), &self.hub, id, seen, self.draining.clone()).await
    }

    /// Claims ready jobs for a worker, which waits up to `wait` for the first.
    pub(crate) async fn lease(&self, request: &LeaseRequest, wait: Duration) -> Result<GuardedClaim, Error> {
        self.leaser.lease(request, wait).await
    }

    /// Moves the end of a lease to `duration` from now.
    pub(crate) async fn extend(&self, id: &JobId, fence: u64, duration: Duration) -> Result<Moment, Error> {
        self.store.extend(id, fence, duration).await
    }

    /// Finishes a leased job.
    pub(crate) async fn complete(&self, id: &JobId, fence: u64, result: Bytes) -> Result<Job, Error> {
        self.store.complete(id, fence, result).await
    }

    /// Ends the attempt of a leased job.
    pub(crate) async fn fail(&self, id: &JobId, fence: u64, failure: Failure) -> Result<Job, Error> {
        self.store.fail(id, fence, failure).await
    }
}

/// Refuses a result that is too large.
pub(crate) fn check_result(result: &[u8]) -> Result<(), Invalid> {
    if result.len() > PAYLOAD_BYTES_MAX { Err(too_large("result", result.len())) } else { Ok(()) }
}

/// Refuses the message of a failure that is too long.
pub(crate) fn check_message(message: &str) -> Result<(), Invalid> {
    if message.len() > FAILURE_BYTES_MAX {
        let problem = format!("must have at most {FAILURE_BYTES_MAX} bytes");
        return Err(Invalid::new(reason::MESSAGE_TOO_LONG, "message", problem));
    }
    Ok(())
}
