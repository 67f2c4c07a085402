//! Jobs on Redis: add, read, finish, fail, cancel.

use bytes::Bytes;
use redis::Value;
use shoal_kit::EngineError;
use shoal_redis_link::Script;
use tokio::time::{Instant, timeout_at};

use super::failure::{ENGINE, read_error};
use super::script::{Fields, big_endian, millis, read};
use super::{RedisStore, script};
use crate::error::Error;
use crate::job::backoff::{self, BACKOFF_MAX};
use crate::job::id::JobId;
use crate::job::moment::Moment;
use crate::job::new_job::{NewJob, REQUEST_ID_TTL, Run};
use crate::job::{Failure, Job, JobProgress, State};
use crate::store::{Enqueued, record};

impl RedisStore {
    /// Adds jobs with up to three calls, which share one deadline.
    pub(super) async fn enqueue_jobs(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>, Error> {
        let deadline = Instant::now() + self.deadline;
        let Some(queue) = jobs.first().map(|job| job.queue.clone()) else { return Ok(Vec::new()) };
        if let Some(policy) = self.link.loses() {
            return Err(Error::Evicts { policy });
        }
        // Registering the queue adds no job, so a failure here is certain.
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
            // The script writes the beginning, with Redis' time.
            args.push(record::header(&job.spec, Moment::default()).split_off(record::AFTER_CREATE));
            args.push(
                job.request.as_ref().map(|request| request.id.clone().into_bytes()).unwrap_or_default(),
            );
            args.push(job.request.as_ref().map(|request| request.fingerprint.to_vec()).unwrap_or_default());
            args.push(mode.as_bytes().to_vec());
            args.push(time.to_string().into_bytes());
        }
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        // Noted before the step, which may be taken although its answer is lost.
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

    /// Reads a job without a script.
    pub(super) async fn read_job(&self, id: &JobId) -> Result<Option<Job>, Error> {
        let root = self.root(id.queue());
        let mut both = redis::pipe();
        // In this order: a header that is there has its fields, which live longer.
        both.cmd("GET").arg(format!("{root}j:{}", id.tail()));
        both.cmd("HGETALL").arg(format!("{root}s:{}", id.tail()));
        let (header, fields): (Option<Bytes>, Fields) =
            self.link.pipeline(&both).await.map_err(read_error)?;
        script::job(id, header, &fields)
    }

    /// Ends an attempt.
    pub(super) async fn fail_job(&self, id: &JobId, fence: u64, failure: &Failure) -> Result<Job, Error> {
        let permanent: &[u8] = if failure.permanent { b"1" } else { b"0" };
        let seed = backoff::seed(id.tail()).to_string();
        let args: [&[u8]; 4] = [failure.message.as_bytes(), permanent, seed.as_bytes(), &millis(BACKOFF_MAX)];
        self.close(&script::FAIL, id, fence, &args).await
    }

    /// Cancels a job.
    pub(super) async fn cancel_job(&self, id: &JobId) -> Result<Job, Error> {
        let mut reply = self.run(&script::CANCEL, id.queue(), &[id.tail().as_bytes()]).await?.into_iter();
        let mut next = || reply.next().unwrap_or(Value::Nil);
        let outcome: String = read(next())?;
        let job = match outcome.as_str() {
            "none" => None,
            _ => script::job_of(id, next())?,
        };
        let job = job.ok_or_else(|| Error::not_found(id))?;
        match outcome.as_str() {
            "final" => Err(Error::Finished { id: id.clone(), state: job.progress.state }),
            _ => {
                self.note_ended(&job);
                Ok(job)
            }
        }
    }

    /// Ends a lease by its worker's report.
    pub(super) async fn close(
        &self,
        script: &Script,
        id: &JobId,
        fence: u64,
        args: &[&[u8]],
    ) -> Result<Job, Error> {
        let text = fence.to_string();
        let mut all = vec![id.tail().as_bytes(), text.as_bytes()];
        all.extend(args);
        let mut reply = self.run(script, id.queue(), &all).await?.into_iter();
        let mut next = || reply.next().unwrap_or(Value::Nil);
        match read::<String>(next())?.as_str() {
            "ok" => {
                let job = script::job_of(id, next())?.ok_or_else(|| Error::not_found(id))?;
                self.note_ended(&job);
                if job.progress.state == State::Retrying {
                    // The first wait is the shortest, and is shortened by a fifth at most.
                    self.note_within(id.queue(), job.spec.backoff * 4 / 5);
                }
                Ok(job)
            }
            "lost" => Err(Error::LeaseLost { id: id.clone(), fence }),
            _ => Err(Error::not_found(id)),
        }
    }
}

/// Reads the script's answer for one job that was to be added.
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
            let progress = JobProgress::enqueued(run_at.parse().ok().map(Moment));
            let job = Job { id, spec: job.spec, create: Moment(big_endian(&create)), progress };
            Ok(Enqueued { job, deduplicated: false })
        }
    }
}
