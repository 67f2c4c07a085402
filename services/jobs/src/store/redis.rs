//! Jobs on Redis or Redis Cluster: each step is one script on one queue's keys, which share a hash tag.
//!
//! | key of a queue | holds |
//! |---|---|
//! | `:j:ID` string | header and payload, see [`record`](super::record) |
//! | `:s:ID` hash | progress of the job: `st` state, `v` version, `a` attempt, `l` lost, `rt` `sm` `fm` run, start and finish times, `r` result, `en` and `e0`–`e9` errors, `ff` `fo` how the last lease was closed. Absent: as enqueued |
//! | `:r:TENANT:BAND` list | ready ids of a flow, and some of cancelled jobs; so far one flow, no tenant and band 1 |
//! | `:r:TENANT:BAND:first` list | ready ids that come before those, while ids of cancelled jobs are taken out: see `clean.lua` |
//! | `:k` hash | how many jobs are scheduled, ready and retrying, by state; `w` which way the lists are cleaned |
//! | `:z:STATE` zset | moment of forgetting → id of a finished job |
//! | `:d` zset | moment → id of a job that waits for it |
//! | `:run` hash | id → fence and worker |
//! | `:c:FENCE` string · `:left` hash | ids of one claim · fence → how many of them it still holds |
//! | `:leases` zset | moment → fence of a claim that runs out then |
//! | `:n:TICKET` string | fence that a LeaseJobs call got, or `x` if it may get none |
//! | `:i:KEY` string | id that a request_id made, and the fingerprint of what it asked for |
//! | `:f` string | the last fence |
//! | `:ev` stream | ids and versions that a script changed, one entry a script |
//!
//! Beside the queues: `queues`, a zset of their names by last use, `{queues}:due` and `{queues}:claimed`, which `schedule.lua`
//! describes, `{queues}:asked`, which is there for most of an interval after a clone asked for what is due, and the channel `wake`.

mod announce;
mod claim;
mod due;
mod failure;
#[cfg(test)]
mod faults;
mod job;
mod list;
#[cfg(test)]
mod moving;
mod registry;
mod script;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::Value;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script, StoreName};
use tokio::time::Instant;

use self::announce::Follows;
use self::due::{Notes, TURN};
use self::failure::error;
use self::registry::Known;
use super::{Claim, Counts, Enqueued, JobStore, Page, Store};
use crate::config::Config;
use crate::error::Error;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::new_job::NewJob;
use crate::job::{Failure, Job, State};
use crate::request::lease::LeaseRequest;

/// The store on Redis, as one clone uses it. The [module](self) has its keys.
#[derive(Clone)]
pub(crate) struct RedisStore {
    link: Link,
    prefix: Arc<str>,
    wake: Arc<str>,
    deadline: Duration,
    follows: Arc<Follows>,
    known: Arc<Mutex<Known>>,
    notes: Arc<Mutex<Notes>>,
    /// Interval at which the clones together ask which queues are due.
    turn: Duration,
    queues_max: usize,
}

impl RedisStore {
    /// Opens the store and connects in the background. Calls answer UNAVAILABLE until Redis answers.
    pub(crate) fn open(link: LinkConfig, config: &Config) -> Result<Self, LinkError> {
        let link = Link::open(LinkConfig {
            connections: config.redis_connections,
            call_deadline: config.redis_deadline,
            finish_moves: config.redis_finish_moves,
            scripts: script::all(),
            ..link
        })?;
        Ok(Self {
            link,
            prefix: config.key_prefix.as_str().into(),
            wake: format!("{}wake", config.key_prefix).into(),
            deadline: config.redis_deadline,
            follows: Arc::default(),
            known: Arc::default(),
            notes: Arc::default(),
            turn: config.tend_interval.mul_f64(TURN),
            queues_max: config.queues_max,
        })
    }

    /// Waits for Redis, so that a start against one that is up serves from its first call.
    pub(crate) async fn connected(&self, within: Duration) -> Result<(), LinkError> {
        self.link.ready(within).await
    }

    /// Reads the name that the store has of itself.
    pub(crate) fn name(&self) -> Arc<StoreName> {
        Arc::new(StoreName::new(self.link.clone(), format!("{}store-id", self.prefix)))
    }

    /// Returns the beginning of all keys of a queue.
    fn root(&self, queue: &QueueName) -> String {
        format!("{}{{{queue}}}:", self.prefix)
    }

    /// Runs a script on the keys of a queue.
    async fn run(&self, script: &Script, queue: &QueueName, args: &[&[u8]]) -> Result<Vec<Value>, Error> {
        self.run_by(Instant::now() + self.deadline, script, queue, args).await
    }

    /// Runs a script on the keys of a queue until a deadline.
    async fn run_by(
        &self,
        deadline: Instant,
        script: &Script,
        queue: &QueueName,
        args: &[&[u8]],
    ) -> Result<Vec<Value>, Error> {
        let root = self.root(queue);
        let mut all = vec![self.wake.as_bytes(), queue.as_str().as_bytes()];
        all.extend(args);
        self.link.script_until(deadline, script, &[root.as_bytes()], &all).await.map_err(error)
    }
}

impl Store for RedisStore {
    fn ready(&self) -> Result<(), String> {
        self.link.ready_now()
    }
}

impl JobStore for RedisStore {
    fn enqueue_all(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Vec<Enqueued>, Error>> {
        self.enqueue_jobs(jobs).boxed()
    }

    fn get<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Job>, Error>> {
        self.read_job(id).boxed()
    }

    fn lease(&self, request: LeaseRequest, ticket: String) -> BoxFuture<'_, Result<Claim, Error>> {
        self.claim(request, ticket).boxed()
    }

    fn release<'a>(&'a self, queue: &'a QueueName, ticket: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.release_claim(queue, ticket).boxed()
    }

    fn complete<'a>(&'a self, id: &'a JobId, fence: u64, result: Bytes) -> BoxFuture<'a, Result<Job, Error>> {
        async move { self.close(&script::COMPLETE, id, fence, &[&result]).await }.boxed()
    }

    fn fail<'a>(&'a self, id: &'a JobId, fence: u64, failure: Failure) -> BoxFuture<'a, Result<Job, Error>> {
        async move { self.fail_job(id, fence, &failure).await }.boxed()
    }

    fn extend<'a>(
        &'a self,
        id: &'a JobId,
        fence: u64,
        duration: Duration,
    ) -> BoxFuture<'a, Result<Moment, Error>> {
        self.extend_lease(id, fence, duration).boxed()
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Job, Error>> {
        self.cancel_job(id).boxed()
    }

    fn count<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Counts>, Error>> {
        self.count_jobs(queue).boxed()
    }

    fn list<'a>(
        &'a self,
        queue: &'a QueueName,
        state: State,
        max: usize,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        self.list_jobs(queue, state, max, after).boxed()
    }

    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        async move {
            self.retire().await?;
            self.listed().await
        }
        .boxed()
    }
}
