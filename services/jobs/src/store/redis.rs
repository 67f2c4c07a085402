//! Jobs on Redis or Redis Cluster: each step is one script on one queue's keys, which share a hash tag.
//!
//! | key of a queue | holds |
//! |---|---|
//! | `:j:ID` string | header and payload, see [`record`](super::record) |
//! | `:s:ID` hash | where the job stands: `st` state, `v` version, `a` attempt, `l` lost, `rt` `sm` `fm` run, start and finish times, `r` result, `en` and `e0`–`e9` errors, `ff` `fo` how the last lease was closed. Absent: as enqueued |
//! | `:r:TENANT:BAND` list | ready ids of a flow; so far one flow, no tenant and band 1 |
//! | `:k` hash | how many jobs are scheduled, ready and retrying, by state |
//! | `:z:STATE` zset | moment of forgetting → id of a finished job |
//! | `:d` zset | moment → id of a job that waits for it |
//! | `:run` hash | id → fence and worker |
//! | `:c:FENCE` string · `:left` hash | ids of one claim · fence → how many of them it still holds |
//! | `:leases` zset | moment → fence of a claim that runs out then |
//! | `:n:TICKET` string | fence that a LeaseJobs call got, or `x` if it may get none |
//! | `:i:KEY` string | id that a request_id made |
//! | `:f` string | the last fence |
//! | `:ev` stream | ids and versions that a script changed, one entry a script |
//!
//! Beside the queues: `queues`, a zset of their names by last use, and the channel `wake`.

mod announce;
#[cfg(test)]
mod faults;
mod policy;
mod script;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::Value;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script};
use tokio::time::Instant;

use self::announce::Follows;
use self::policy::Policy;
use self::script::{Fields, read};
use super::{
    Ask, CLAIM_BYTES_MAX, Claim, Counts, Following, PAGE_LOOKS_MAX, Page, QUEUES_MAX, Store, TEND_MAX,
    Tended, record,
};
use crate::backoff::{self, BACKOFF_MAX};
use crate::config::Config;
use crate::error::Error;
use crate::hub::Hub;
use crate::id::{JobId, QueueName};
use crate::job::{Failure, Job, Standing, State};
use crate::moment::Moment;
use crate::new_job::{NewJob, REQUEST_ID_TTL, Run};

const ENGINE: &str = "redis";

/// How long a ticket is remembered: longer than a call can be under way.
const TICKET_TTL: Duration = Duration::from_secs(60);

/// How often a clone says that it uses a queue.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// A queue that nobody used for so long and that is empty is dropped from the registry.
const RETIRE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How often a clone looks for such queues.
const RETIRE_INTERVAL: Duration = Duration::from_secs(600);

/// One clone's store. See the [module](self).
#[derive(Clone)]
pub(crate) struct Redis {
    link: Link,
    prefix: Arc<str>,
    wake: Arc<str>,
    deadline: Duration,
    policy: Arc<Policy>,
    follows: Arc<Follows>,
    known: Arc<Mutex<Known>>,
}

/// Queues that this clone has used lately, and since when it has not said so.
#[derive(Debug, Default)]
struct Known {
    used: HashMap<QueueName, Instant>,
    retired: Option<Instant>,
}

impl Known {
    fn note(&mut self, queue: &QueueName) {
        self.used.retain(|_, at| at.elapsed() < TOUCH_INTERVAL);
        self.used.insert(queue.clone(), Instant::now());
    }
}

impl Redis {
    /// Connects in the background; calls answer UNAVAILABLE until Redis does.
    pub(crate) fn open(url: &str, config: &Config) -> Result<Self, LinkError> {
        let link = Link::open(LinkConfig {
            connections: config.redis_connections,
            call_deadline: config.redis_deadline,
            scripts: script::all(),
            ..LinkConfig::new(url, "jobs")
        })?;
        Ok(Self {
            link,
            prefix: config.key_prefix.as_str().into(),
            wake: format!("{}wake", config.key_prefix).into(),
            deadline: config.redis_deadline,
            policy: Arc::default(),
            follows: Arc::default(),
            known: Arc::default(),
        })
    }

    /// Waits for Redis, so that a start against one that is up serves from its first call.
    pub(crate) async fn connected(&self, within: Duration) -> Result<(), LinkError> {
        self.link.ready(within).await
    }

    /// What all keys of a queue begin with.
    fn root(&self, queue: &QueueName) -> String {
        format!("{}{{{queue}}}:", self.prefix)
    }

    async fn run(&self, script: &Script, queue: &QueueName, args: &[&[u8]]) -> Result<Vec<Value>, Error> {
        let root = self.root(queue);
        let mut all = vec![self.wake.as_bytes(), queue.as_str().as_bytes()];
        all.extend(args);
        self.link.script(script, &[root.as_bytes()], &all).await.map_err(error)
    }

    /// Says now and then that this queue is used, so that every clone tends it.
    async fn touch(&self, queue: &QueueName) -> Result<(), Error> {
        if self.known().used.get(queue).is_some_and(|at| at.elapsed() < TOUCH_INTERVAL) {
            return Ok(());
        }
        if !self.register(std::slice::from_ref(queue)).await? {
            return Err(Error::TooManyQueues { max: QUEUES_MAX });
        }
        self.known().note(queue);
        Ok(())
    }

    /// Whether there was room for all.
    async fn register(&self, queues: &[QueueName]) -> Result<bool, Error> {
        let max = QUEUES_MAX.to_string();
        let mut args = vec![max.as_bytes()];
        args.extend(queues.iter().map(|queue| queue.as_str().as_bytes()));
        let refused: Vec<Value> =
            self.link.script(&script::QUEUES, &[self.registry().as_bytes()], &args).await.map_err(error)?;
        Ok(refused.is_empty())
    }

    /// Drops queues from the registry that nobody uses any more.
    async fn retire(&self) -> Result<(), Error> {
        let registry = self.registry();
        let last = self.known().retired.replace(Instant::now());
        if last.is_some_and(|at| at.elapsed() < RETIRE_INTERVAL) {
            self.known().retired = last;
            return Ok(());
        }
        let age = RETIRE_AFTER.as_secs().to_string();
        for queue in self.registered().await? {
            // Its last use is compared once more in the script: it may be used while we look.
            let idle: i64 = {
                let root = self.root(&queue);
                let args = [self.wake.as_bytes(), queue.as_str().as_bytes()];
                let last: Option<f64> = self
                    .link
                    .query(redis::cmd("ZSCORE").arg(&registry).arg(queue.as_str()))
                    .await
                    .map_err(error)?;
                let now: (u64, u64) = self.link.query(&redis::cmd("TIME")).await.map_err(error)?;
                if last.is_none_or(|last| last + RETIRE_AFTER.as_secs_f64() > now.0 as f64) {
                    continue;
                }
                self.link.script(&script::RETIRE, &[root.as_bytes()], &args).await.map_err(error)?
            };
            if idle == 1 {
                let args = [queue.as_str().as_bytes(), age.as_bytes()];
                let _: i64 =
                    self.link.script(&script::DROP, &[registry.as_bytes()], &args).await.map_err(error)?;
            }
        }
        Ok(())
    }

    async fn registered(&self) -> Result<Vec<QueueName>, Error> {
        let mut zrange = redis::cmd("ZRANGE");
        zrange.arg(self.registry()).arg(0).arg(-1);
        let names: Vec<String> = self.link.query(&zrange).await.map_err(error)?;
        Ok(names.iter().filter_map(|name| QueueName::parse(name).ok()).collect())
    }

    fn registry(&self) -> String {
        format!("{}queues", self.prefix)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, jobs: Vec<NewJob>) -> Result<Vec<Job>, Error> {
        let Some(queue) = jobs.first().map(|job| job.queue.clone()) else { return Ok(Vec::new()) };
        self.policy.check(&self.link).await?;
        self.touch(&queue).await?;
        let ids: Vec<_> = jobs.iter().map(|job| JobId::generate(&job.queue)).collect();
        let mut args = vec![millis(REQUEST_ID_TTL)];
        for (id, job) in ids.iter().zip(&jobs) {
            let (mode, time) = match job.run {
                Run::Now => ("n", 0),
                Run::After(delay) => ("a", u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
                Run::At(moment) => ("t", moment.0),
            };
            args.push(id.tail().as_bytes().to_vec());
            args.push(record::header(&job.spec, Moment::default()));
            args.push(job.request_id.clone().unwrap_or_default().into_bytes());
            args.push(mode.as_bytes().to_vec());
            args.push(time.to_string().into_bytes());
        }
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let reply = self.run(&script::ENQUEUE, &queue, &args).await?;
        reply.into_iter().zip(jobs).map(|(made, job)| enqueued(made, job)).collect()
    }

    async fn read_job(&self, id: &JobId) -> Result<Option<Job>, Error> {
        let root = self.root(id.queue());
        let mut both = redis::pipe();
        // In this order: a header that is there has its fields, which live longer.
        both.cmd("GET").arg(format!("{root}j:{}", id.tail()));
        both.cmd("HGETALL").arg(format!("{root}s:{}", id.tail()));
        let (header, fields): (Option<Bytes>, Fields) =
            self.link.pipeline(&both).await.map_err(read_error)?;
        script::job(id, header, &fields)
    }

    async fn claim(&self, ask: Ask) -> Result<Claim, Error> {
        let queue = &ask.queue;
        let (max_jobs, bytes_max) = (ask.max_jobs.to_string(), CLAIM_BYTES_MAX.to_string());
        let (duration, ttl) = (millis(ask.duration), millis(TICKET_TTL));
        let args: [&[u8]; 6] = [
            ask.ticket.as_bytes(),
            max_jobs.as_bytes(),
            &duration,
            ask.worker.as_bytes(),
            bytes_max.as_bytes(),
            &ttl,
        ];
        let reply = self.run(&script::LEASE, queue, &args).await?;
        let mut parts = reply.into_iter();
        let mut number = || -> Result<u64, Error> { read(parts.next().unwrap_or(Value::Nil)) };
        let (fence, expire, more) = (number()?, Moment(number()?), number()? == 1);
        let jobs = parts.map(|value| {
            let (tail, header, fields): (String, Bytes, Fields) = read(value)?;
            let id = JobId::of_tail(queue, &tail).ok_or_else(|| Error::Internal(format!("an id: {tail}")))?;
            script::job(&id, Some(header), &fields)?.ok_or_else(|| Error::not_found(&id))
        });
        let claim = Claim { fence, expire, jobs: jobs.collect::<Result<_, _>>()?, more };
        if !claim.jobs.is_empty() {
            self.known().note(queue);
        }
        Ok(claim)
    }

    async fn close(&self, script: &Script, id: &JobId, fence: u64, args: &[&[u8]]) -> Result<Job, Error> {
        let text = fence.to_string();
        let mut all = vec![id.tail().as_bytes(), text.as_bytes()];
        all.extend(args);
        let mut reply = self.run(script, id.queue(), &all).await?.into_iter();
        let mut next = || reply.next().unwrap_or(Value::Nil);
        match read::<String>(next())?.as_str() {
            "ok" => script::job_of(id, next())?.ok_or_else(|| Error::not_found(id)),
            "lost" => Err(Error::LeaseLost { id: id.clone(), fence }),
            _ => Err(Error::not_found(id)),
        }
    }
}

/// What the script says of one job that was to be added.
fn enqueued(made: Value, job: NewJob) -> Result<Job, Error> {
    let mut parts = read::<Vec<Value>>(made)?.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (outcome, tail): (String, String) = (read(next())?, read(next())?);
    let id = JobId::of_tail(&job.queue, &tail).ok_or_else(|| Error::Internal(format!("an id: {tail}")))?;
    match outcome.as_str() {
        "known" => script::job_of(&id, next())?.ok_or(Error::Forgotten { id }),
        "gone" => Err(Error::Forgotten { id }),
        _ => {
            let (create, run_at): (Vec<u8>, String) = (read(next())?, read(next())?);
            let standing = Standing::enqueued(run_at.parse().ok().map(Moment));
            Ok(Job { id, spec: job.spec, create: Moment(big_endian(&create)), standing })
        }
    }
}

impl Store for Redis {
    fn enqueue_all(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Vec<Job>, Error>> {
        async move {
            // Up to three calls, and one deadline for the caller.
            let all = tokio::time::timeout(self.deadline, self.put(jobs)).await;
            let detail = || format!("not within {:?}", self.deadline);
            all.unwrap_or_else(|_| Err(Error::Unknown { engine: ENGINE, detail: detail() }))
        }
        .boxed()
    }

    fn get<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Job>, Error>> {
        self.read_job(id).boxed()
    }

    fn lease(&self, ask: Ask) -> BoxFuture<'_, Result<Claim, Error>> {
        self.claim(ask).boxed()
    }

    fn release<'a>(&'a self, queue: &'a QueueName, ticket: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let root = self.root(queue);
            let ttl = millis(TICKET_TTL);
            let args = [self.wake.as_bytes(), queue.as_str().as_bytes(), ticket.as_bytes(), &ttl];
            let _: i64 =
                self.link.script(&script::RELEASE, &[root.as_bytes()], &args).await.map_err(error)?;
            Ok(())
        }
        .boxed()
    }

    fn complete<'a>(&'a self, id: &'a JobId, fence: u64, result: Bytes) -> BoxFuture<'a, Result<Job, Error>> {
        async move { self.close(&script::COMPLETE, id, fence, &[&result]).await }.boxed()
    }

    fn fail<'a>(&'a self, id: &'a JobId, fence: u64, failure: Failure) -> BoxFuture<'a, Result<Job, Error>> {
        async move {
            let permanent: &[u8] = if failure.permanent { b"1" } else { b"0" };
            let seed = backoff::seed(id.tail()).to_string();
            let args: [&[u8]; 4] =
                [failure.message.as_bytes(), permanent, seed.as_bytes(), &millis(BACKOFF_MAX)];
            self.close(&script::FAIL, id, fence, &args).await
        }
        .boxed()
    }

    fn extend<'a>(
        &'a self,
        id: &'a JobId,
        fence: u64,
        duration: Duration,
    ) -> BoxFuture<'a, Result<Moment, Error>> {
        async move {
            let (text, duration) = (fence.to_string(), millis(duration));
            let args = [id.tail().as_bytes(), text.as_bytes(), &duration];
            let mut reply = self.run(&script::EXTEND, id.queue(), &args).await?.into_iter();
            let mut next = || reply.next().unwrap_or(Value::Nil);
            match read::<String>(next())?.as_str() {
                "ok" => read(next()).map(Moment),
                "lost" => Err(Error::LeaseLost { id: id.clone(), fence }),
                _ => Err(Error::not_found(id)),
            }
        }
        .boxed()
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Job, Error>> {
        async move {
            let mut reply = self.run(&script::CANCEL, id.queue(), &[id.tail().as_bytes()]).await?.into_iter();
            let mut next = || reply.next().unwrap_or(Value::Nil);
            let outcome: String = read(next())?;
            let job = match outcome.as_str() {
                "none" => None,
                _ => script::job_of(id, next())?,
            };
            let job = job.ok_or_else(|| Error::not_found(id))?;
            match outcome.as_str() {
                "final" => Err(Error::Finished { id: id.clone(), state: job.standing.state }),
                _ => Ok(job),
            }
        }
        .boxed()
    }

    fn count<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Option<Counts>, Error>> {
        async move {
            let reply = self.run(&script::COUNT, queue, &[]).await?;
            let (counts, head, now): ([i64; 7], Vec<u8>, u64) = {
                let mut parts = reply.into_iter();
                let mut next = || parts.next().unwrap_or(Value::Nil);
                let mut counts = [0; 7];
                for count in &mut counts {
                    *count = read(next())?;
                }
                (counts, read(next())?, read(next())?)
            };
            if counts == [0; 7] && !self.registered().await?.contains(queue) {
                return Ok(None);
            }
            let [scheduled, ready, running, succeeded, retrying, dead, cancelled] =
                counts.map(|count| u64::try_from(count).unwrap_or(0));
            let head = (!head.is_empty()).then(|| Moment(big_endian(&head)));
            let now = Moment(now);
            Ok(Some(Counts { scheduled, ready, running, succeeded, retrying, dead, cancelled, head, now }))
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        queue: &'a QueueName,
        state: State,
        max: usize,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        async move {
            let numbers =
                [state as usize, max, PAGE_LOOKS_MAX, record::BRIEF_LEN].map(|number| number.to_string());
            let mut args: Vec<&[u8]> = numbers.iter().map(|number| number.as_bytes()).collect();
            let after = after.unwrap_or_default();
            args.push(after.as_bytes());
            let mut reply = self.run(&script::LIST, queue, &args).await?.into_iter();
            let token: String = read(reply.next().unwrap_or(Value::Nil))?;
            if token == "?" {
                return Err(Error::page_token());
            }
            let jobs = reply.map(|value| {
                let (tail, header, fields): (String, Bytes, Fields) = read(value)?;
                let id =
                    JobId::of_tail(queue, &tail).ok_or_else(|| Error::Internal(format!("an id: {tail}")))?;
                let header = header.slice_ref(record::without_payload(&header));
                script::job(&id, Some(header), &fields)?.ok_or_else(|| Error::not_found(&id))
            });
            Ok(Page { jobs: jobs.collect::<Result<_, _>>()?, next: (!token.is_empty()).then_some(token) })
        }
        .boxed()
    }

    fn tend<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Tended, Error>> {
        async move {
            let reply = self.run(&script::TEND, queue, &[TEND_MAX.to_string().as_bytes()]).await?;
            let (ready, next): (u64, i64) = read(Value::Array(reply))?;
            Ok(Tended { ready: ready > 0, next: u64::try_from(next).ok().map(Duration::from_millis) })
        }
        .boxed()
    }

    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        async move {
            // On the way: what this clone keeps an eye on besides.
            if let Err(error) = self.policy.refresh(&self.link).await {
                tracing::debug!(%error, "redis' eviction policy is not known");
            }
            self.retire().await?;
            let mut queues = self.registered().await?;
            // What we use and is not listed: Redis lost the registry.
            let known: Vec<_> =
                self.known().used.keys().filter(|queue| !queues.contains(queue)).cloned().collect();
            if !known.is_empty() {
                self.register(&known).await?;
                queues.extend(known);
            }
            Ok(queues)
        }
        .boxed()
    }

    fn announce(&self, hub: Arc<Hub>) -> BoxFuture<'static, ()> {
        announce::run(self.clone(), hub).boxed()
    }

    fn follow<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Following, Error>> {
        async move { announce::follow(self, queue).await }.boxed()
    }

    fn ready(&self) -> Result<(), String> {
        self.policy.known_good()?;
        if self.link.healthy() { Ok(()) } else { Err("redis is not reachable".to_owned()) }
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn millis(duration: Duration) -> Vec<u8> {
    duration.as_millis().to_string().into_bytes()
}

/// What a failed call means: for a step, that it may have been taken.
fn error(error: LinkError) -> Error {
    match error {
        LinkError::Unavailable(detail) => Error::Unavailable { engine: ENGINE, detail },
        LinkError::Unknown(detail) => Error::Unknown { engine: ENGINE, detail },
        LinkError::Server { code, message } => match code.as_str() {
            "OOM" => Error::Full { detail: message },
            "READONLY" | "NOREPLICAS" | "MISCONF" | "NOAUTH" | "WRONGPASS" | "NOPERM" => {
                Error::Unavailable { engine: ENGINE, detail: format!("{code} {message}") }
            }
            _ => Error::Internal(format!("redis: {code} {message}")),
        },
        LinkError::Config(detail) => Error::Internal(detail),
    }
}

/// The same for a read, of which nothing can be left undone.
fn read_error(failed: LinkError) -> Error {
    match error(failed) {
        Error::Unknown { engine, detail } => Error::Unavailable { engine, detail },
        other => other,
    }
}
