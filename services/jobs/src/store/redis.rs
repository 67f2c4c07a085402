//! Jobs on Redis or Redis Cluster: each step is one script on one queue's keys, which share a hash tag.
//!
//! | key of a queue | holds |
//! |---|---|
//! | `:j:ID` string | header and payload, see [`record`](super::record) |
//! | `:s:ID` hash | where the job stands: `st` state, `v` version, `a` attempt, `l` lost, `rt` `sm` `fm` run, start and finish times, `r` result, `en` and `e0`–`e9` errors, `ff` `fo` how the last lease was closed. Absent: as enqueued |
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
#[cfg(test)]
mod faults;
#[cfg(test)]
mod moving;
mod registry;
mod script;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::Value;
use shoal_kit::EngineError;
use shoal_redis_link::{Link, LinkConfig, LinkError, Script, StoreName};
use tokio::time::{Instant, timeout_at};

use self::announce::Follows;
use self::registry::Known;
use self::script::{Fields, read};
use super::schedule::{CLAIM, Moments};
use super::{
    Ask, CLAIM_BYTES_MAX, Claim, Counts, Enqueued, Following, PAGE_LOOKS_MAX, Page, Store, TEND_MAX, Tended,
    record,
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

/// Jobs that have ended and are forgotten leave the lists so long after that, so that many leave together.
const FORGET_AFTER: Duration = Duration::from_secs(5);

/// The part of an interval for which one clone's question of the schedule is enough for all: less than there is between two of
/// its own, so that one of them asks within each interval.
const TURN: f64 = 0.8;

/// A clone that found another asking the schedule leaves that to it for so many intervals: for clones beside it the store does
/// no work. One that died is followed by another within these.
const TURNS_LEFT_TO_ANOTHER: u32 = 2;

/// One clone's store. See the [module](self).
#[derive(Clone)]
pub(crate) struct Redis {
    link: Link,
    prefix: Arc<str>,
    wake: Arc<str>,
    deadline: Duration,
    follows: Arc<Follows>,
    known: Arc<Mutex<Known>>,
    notes: Arc<Mutex<Notes>>,
    /// How often the schedule is asked by all clones together.
    turn: Duration,
    queues_max: usize,
}

/// What this clone has to say to the schedule, with its next question.
#[derive(Debug, Default)]
struct Notes {
    due: Moments,
    settled: Vec<QueueName>,
    /// The last answer was not all.
    more: bool,
    /// Set if this clone asked last, as far as it knows.
    leads: bool,
    /// Intervals that are left to the clone that asks.
    left_to_another: u32,
}

impl Notes {
    fn is_pressing(&self) -> bool {
        self.more || !self.settled.is_empty() || !self.due.is_empty()
    }
}

impl Redis {
    /// Connects in the background; calls answer UNAVAILABLE until Redis does.
    pub(crate) fn open(link: LinkConfig, config: &Config) -> Result<Self, LinkError> {
        let link = Link::open(LinkConfig {
            connections: config.redis_connections,
            call_deadline: config.redis_deadline,
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

    /// What all keys of a queue begin with.
    fn root(&self, queue: &QueueName) -> String {
        format!("{}{{{queue}}}:", self.prefix)
    }

    async fn run(&self, script: &Script, queue: &QueueName, args: &[&[u8]]) -> Result<Vec<Value>, Error> {
        self.run_by(Instant::now() + self.deadline, script, queue, args).await
    }

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

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_within(&self, queue: &QueueName, within: Duration) {
        self.notes().due.note(queue, Instant::now() + within);
    }

    /// A job has ended, and is to be forgotten.
    fn note_ended(&self, job: &Job) {
        if job.standing.state.is_final() {
            self.note_within(job.id.queue(), job.spec.retention + FORGET_AFTER);
        }
    }

    /// Whether this clone is the one to ask the schedule now.
    async fn takes_turn(&self) -> Result<bool, Error> {
        {
            let mut notes = self.notes();
            if notes.left_to_another > 0 {
                notes.left_to_another -= 1;
                return Ok(false);
            }
        }
        let mut take = redis::cmd("SET");
        take.arg(format!("{}{{queues}}:asked", self.prefix))
            .arg(1)
            .arg("NX")
            .arg("PX")
            .arg(millis(self.turn));
        let taken = match self.link.query::<Option<String>>(&take).await {
            Ok(taken) => taken.is_some(),
            // There is no room for a turn: then each clone asks, for work goes on.
            Err(LinkError::Full(_)) => true,
            Err(failed) => return Err(error(failed)),
        };
        let mut notes = self.notes();
        notes.leads = taken;
        if !taken {
            notes.left_to_another = TURNS_LEFT_TO_ANOTHER;
        }
        Ok(taken)
    }

    /// One question of the schedule, with what this clone has to say.
    async fn ask_schedule(
        &self,
        max: usize,
        due: &HashMap<QueueName, Instant>,
        settled: &[QueueName],
    ) -> Result<Vec<String>, Error> {
        let base = format!("{}{{queues}}:", self.prefix);
        let now = Instant::now();
        let mut args =
            [max as u128, CLAIM.as_millis(), settled.len() as u128].map(|n| n.to_string()).to_vec();
        args.extend(settled.iter().map(ToString::to_string));
        for (queue, at) in due {
            args.extend([queue.to_string(), at.saturating_duration_since(now).as_millis().to_string()]);
        }
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.link.script(&script::SCHEDULE, &[base.as_bytes()], &args).await.map_err(error)
    }

    async fn put(&self, jobs: Vec<NewJob>, deadline: Instant) -> Result<Vec<Enqueued>, Error> {
        let Some(queue) = jobs.first().map(|job| job.queue.clone()) else { return Ok(Vec::new()) };
        if let Some(policy) = self.link.loses() {
            return Err(Error::Evicts { policy });
        }
        // That its queue is noted adds no job.
        let detail = || format!("not within {:?}", self.deadline);
        let noted = timeout_at(deadline, self.touch(&queue)).await;
        noted
            .unwrap_or_else(|_| Err(EngineError::Unavailable { engine: ENGINE, detail: detail() }.into()))?;
        let ids: Vec<_> = jobs.iter().map(|job| JobId::generate(&job.queue)).collect();
        let mut args = vec![millis(REQUEST_ID_TTL), vec![record::FORMAT]];
        for (id, job) in ids.iter().zip(&jobs) {
            let (mode, time) = match job.run {
                Run::Now => ("n", 0),
                Run::After(delay) => ("a", u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
                Run::At(moment) => ("t", moment.0),
            };
            args.push(id.tail().as_bytes().to_vec());
            // The script writes what comes before, with Redis' time.
            args.push(record::header(&job.spec, Moment::default()).split_off(record::AFTER_CREATE));
            args.push(
                job.request.as_ref().map(|request| request.id.clone().into_bytes()).unwrap_or_default(),
            );
            args.push(job.request.as_ref().map(|request| request.fingerprint.to_vec()).unwrap_or_default());
            args.push(mode.as_bytes().to_vec());
            args.push(time.to_string().into_bytes());
        }
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        // Before the step: it may be taken though nobody hears of it.
        for job in &jobs {
            match job.run {
                Run::Now => {}
                Run::After(delay) => self.note_within(&queue, delay),
                Run::At(moment) => self.note_within(&queue, Moment::of_this_machine().until(moment)),
            }
        }
        let reply = self.run_by(deadline, &script::ENQUEUE, &queue, &args).await?;
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
        let asked = Instant::now();
        let reply = match self.run(&script::LEASE, queue, &args).await {
            Err(unknown @ Error::Engine(EngineError::Unknown { .. })) => {
                self.note_within(queue, ask.duration);
                return Err(unknown);
            }
            reply => reply?,
        };
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
            self.notes().due.note(queue, asked + ask.duration);
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
            "ok" => {
                let job = script::job_of(id, next())?.ok_or_else(|| Error::not_found(id))?;
                self.note_ended(&job);
                if job.standing.state == State::Retrying {
                    // The first wait is the shortest, less a fifth at most.
                    self.note_within(id.queue(), job.spec.backoff * 4 / 5);
                }
                Ok(job)
            }
            "lost" => Err(Error::LeaseLost { id: id.clone(), fence }),
            _ => Err(Error::not_found(id)),
        }
    }
}

/// What the script says of one job that was to be added.
fn enqueued(made: Value, job: NewJob) -> Result<Enqueued, Error> {
    let mut parts = read::<Vec<Value>>(made)?.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (outcome, tail): (String, String) = (read(next())?, read(next())?);
    let id = JobId::of_tail(&job.queue, &tail).ok_or_else(|| Error::Internal(format!("an id: {tail}")))?;
    match outcome.as_str() {
        "known" => {
            let job = script::job_of(&id, next())?.ok_or_else(|| Error::not_found(&id))?;
            Ok(Enqueued { job, deduplicated: true })
        }
        "gone" => Err(Error::Forgotten { id, index: read(next())? }),
        "differs" => Err(Error::RequestDiffers { index: read(next())? }),
        _ => {
            let (create, run_at): (Vec<u8>, String) = (read(next())?, read(next())?);
            let standing = Standing::enqueued(run_at.parse().ok().map(Moment));
            let job = Job { id, spec: job.spec, create: Moment(big_endian(&create)), standing };
            Ok(Enqueued { job, deduplicated: false })
        }
    }
}

impl Store for Redis {
    fn enqueue_all(&self, jobs: Vec<NewJob>) -> BoxFuture<'_, Result<Vec<Enqueued>, Error>> {
        async move {
            // Up to three calls, and one deadline for the caller.
            self.put(jobs, Instant::now() + self.deadline).await
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
            let (text, sooner) = (fence.to_string(), Instant::now() + duration);
            let duration = millis(duration);
            let args = [id.tail().as_bytes(), text.as_bytes(), &duration];
            let mut reply = self.run(&script::EXTEND, id.queue(), &args).await?.into_iter();
            let mut next = || reply.next().unwrap_or(Value::Nil);
            match read::<String>(next())?.as_str() {
                "ok" => {
                    self.notes().due.note(id.queue(), sooner);
                    read(next()).map(Moment)
                }
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
                _ => {
                    self.note_ended(&job);
                    Ok(job)
                }
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
            if counts == [0; 7] {
                let mut registered = redis::cmd("ZSCORE");
                registered.arg(self.registry()).arg(queue.as_str());
                let registered: Option<f64> = self.link.query(&registered).await.map_err(read_error)?;
                if registered.is_none() {
                    return Ok(None);
                }
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

    fn note(&self, queue: &QueueName, within: Duration) {
        self.note_within(queue, within);
    }

    fn due(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        async move {
            if !self.notes().is_pressing() && !self.takes_turn().await? {
                return Ok(Vec::new());
            }
            let (due, settled) = {
                let mut notes = self.notes();
                notes.more = false;
                (notes.due.take(), std::mem::take(&mut notes.settled))
            };
            match self.ask_schedule(max, &due, &settled).await {
                Ok(queues) => {
                    self.notes().more = queues.len() >= max;
                    Ok(queues.iter().filter_map(|name| QueueName::parse(name).ok()).collect())
                }
                Err(error) => {
                    // Said again with the next question; that it was heard twice does no harm.
                    let mut notes = self.notes();
                    due.iter().for_each(|(queue, at)| notes.due.note(queue, *at));
                    notes.settled.extend(settled);
                    Err(error)
                }
            }
        }
        .boxed()
    }

    fn leads(&self) -> bool {
        self.notes().leads
    }

    fn settle(&self, queue: &QueueName, next: Option<Duration>) {
        let mut notes = self.notes();
        notes.settled.push(queue.clone());
        if let Some(within) = next {
            notes.due.note(queue, Instant::now() + within);
        }
    }

    fn queues(&self) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        async move {
            self.retire().await?;
            self.listed().await
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
        self.link.ready_now()
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
    let engine = ENGINE;
    Error::Engine(match error {
        LinkError::Unavailable(detail) => EngineError::Unavailable { engine, detail },
        LinkError::Unknown(detail) => EngineError::Unknown { engine, detail },
        LinkError::Moving(detail) => EngineError::Moving { engine, detail },
        LinkError::Full(detail) => {
            EngineError::Full { engine, detail, remedy: "raise its maxmemory, or let workers work off jobs" }
        }
        LinkError::ReadOnly(detail) => EngineError::ReadOnly { engine, detail },
        LinkError::Denied(detail) => EngineError::Misconfigured { engine, detail },
        LinkError::Server { code, message } => {
            return Error::Internal(format!("redis: {code} {message}"));
        }
        LinkError::Config(detail) => return Error::Internal(detail),
    })
}

/// The same for a read, of which nothing can be left undone.
fn read_error(failed: LinkError) -> Error {
    match error(failed) {
        Error::Engine(error) => Error::Engine(error.of_read()),
        other => other,
    }
}
