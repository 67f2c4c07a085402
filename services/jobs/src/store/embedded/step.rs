//! A transaction on the embedded store: the steps of a job's life with the indexes they keep. It runs alone, on the writer's
//! thread.

mod lease;

use prost::Message;
use shoal_embedded::{Keyspace, Slice, Tx};
use shoal_kit::EngineError;

use super::layout::{self, End, Layout, QueueRecord};
use crate::error::Error;
use crate::job::backoff;
use crate::job::id::TAIL_LEN;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::new_job::{NewJob, REQUEST_ID_TTL, Run};
use crate::job::{Failure, Job, JobProgress, Report, State};
use crate::store::record::{self, StoredProgress};
use crate::store::{Enqueued, PROMOTE_MAX};

/// Announcements of a transaction, which go to the hubs once it is durable.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) ready: Vec<QueueName>,
    pub(super) due: Vec<(QueueName, Moment)>,
    pub(super) changed: Vec<(JobId, u64)>,
}

/// A transaction at a moment.
pub(super) struct Step<'a, 'tx> {
    pub(super) tx: &'a mut Tx<'tx>,
    pub(super) layout: &'a Layout,
    /// The time of the transaction in microseconds.
    pub(super) now_us: u64,
    pub(super) queues_max: usize,
    pub(super) news: News,
}

/// Progress of a job, with the fence of the claim that holds it.
struct Live {
    progress: JobProgress,
    fence: u64,
}

impl Step<'_, '_> {
    pub(super) fn now(&self) -> Moment {
        Moment(self.now_us / 1000)
    }

    pub(super) fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, Error> {
        let Some(queue) = jobs.first().map(|job| &job.queue) else { return Ok(Vec::new()) };
        let known = self.get(&self.layout.queues, queue.as_str())?.is_some();
        // An empty queue is forgotten with its last record, so every queue here counts.
        if !known && self.tx.range(&self.layout.queues, ..).count() >= self.queues_max {
            return Err(Error::TooManyQueues { max: self.queues_max });
        }
        let mut marks = self.queue_record(queue)?;
        self.promote(queue, &mut marks)?;
        let jobs = jobs.iter().enumerate();
        let jobs = jobs.map(|(index, job)| self.add(index, job, &mut marks)).collect::<Result<_, _>>()?;
        self.put_queue_record(queue, &marks);
        Ok(jobs)
    }

    /// Adds one job; `index` is its place in the batch.
    fn add(&mut self, index: usize, new: &NewJob, marks: &mut QueueRecord) -> Result<Enqueued, Error> {
        let queue = &new.queue;
        let now = self.now();
        let request = new
            .request
            .as_ref()
            .map(|request| (layout::of_queue(queue, request.id.as_bytes()), request.fingerprint));
        if let Some((key, fingerprint)) = &request
            && let Some(value) = self.get(&self.layout.requests, key)?
            && let Some((forget, made)) = value.split_at_checked(8)
            && forget > &now.0.to_be_bytes()[..]
        {
            let (tail, of) = made.split_at_checked(TAIL_LEN).ok_or_else(|| damaged("request_id"))?;
            if !of.is_empty() && of != fingerprint {
                return Err(Error::RequestDiffers { index });
            }
            let id = tail_of(queue, tail)?;
            let job = self.job(&id)?.ok_or(Error::Forgotten { id, index })?;
            return Ok(Enqueued { job, deduplicated: true });
        }
        let id = JobId::generate(queue);
        let run_at = match new.run {
            Run::Now => None,
            Run::After(delay) => Some(now.after(delay)),
            Run::At(moment) => (moment > now).then_some(moment),
        };
        let progress = JobProgress::enqueued(run_at);
        let header = record::header(&new.spec, now);
        self.tx.put(&self.layout.jobs, layout::job(&id), header.clone());
        marks.records += 1;
        if let Some((key, fingerprint)) = request {
            let forget = now.after(REQUEST_ID_TTL);
            let value = [&forget.0.to_be_bytes(), id.tail().as_bytes(), &fingerprint].concat();
            self.tx.put(&self.layout.ends, layout::end(forget, End::Request, &key), Slice::from([]));
            self.tx.put(&self.layout.requests, key, value);
            marks.records += 1;
        }
        match run_at {
            Some(moment) => self.wait_until(&id, moment),
            None => self.append(&id, marks)?,
        }
        marks.moved(None, Some(progress.state));
        self.keep(&id, &progress, 0, None);
        let job = record::job(&id, &header, progress)?;
        Ok(Enqueued { job, deduplicated: false })
    }

    pub(super) fn complete(&mut self, id: &JobId, fence: u64, result: bytes::Bytes) -> Result<Job, Error> {
        let now = self.now();
        self.close(id, fence, Report::Completed, |job| job.progress.complete(now, fence, result))
    }

    pub(super) fn fail(&mut self, id: &JobId, fence: u64, failure: Failure) -> Result<Job, Error> {
        let (now, seed) = (self.now(), backoff::seed(id.tail()));
        self.close(id, fence, Report::Failed, |job| job.progress.fail(now, fence, failure, &job.spec, seed))
    }

    /// Ends a lease by its worker's report.
    fn close(
        &mut self,
        id: &JobId,
        fence: u64,
        report: Report,
        step: impl FnOnce(&mut Job),
    ) -> Result<Job, Error> {
        let mut job = self.job(id)?.ok_or_else(|| Error::not_found(id))?;
        let held = self.live(id)?.map_or(0, |live| live.fence);
        if held != fence || fence == 0 {
            if job.progress.closed == Some((fence, report)) {
                return Ok(job);
            }
            return Err(Error::LeaseLost { id: id.clone(), fence });
        }
        step(&mut job);
        let mut marks = self.queue_record(id.queue())?;
        self.settle(id, &job, State::Running, &mut marks)?;
        self.let_go(id.queue(), fence, &mut marks)?;
        self.put_queue_record(id.queue(), &marks);
        Ok(job)
    }

    pub(super) fn cancel(&mut self, id: &JobId) -> Result<Job, Error> {
        let mut job = self.job(id)?.ok_or_else(|| Error::not_found(id))?;
        let before = job.progress.state;
        if before == State::Cancelled {
            return Ok(job);
        }
        if before.is_final() {
            return Err(Error::Finished { id: id.clone(), state: before });
        }
        let held = self.live(id)?.map_or(0, |live| live.fence);
        if let Some(moment) = job.progress.run_at {
            self.tx.delete(&self.layout.due, layout::numbered(id.queue(), moment.0, id.tail().as_bytes()));
        }
        job.progress.cancel(self.now());
        let mut marks = self.queue_record(id.queue())?;
        // A ready job stays in its list and is passed over there.
        self.settle(id, &job, before, &mut marks)?;
        if held != 0 {
            self.let_go(id.queue(), held, &mut marks)?;
        }
        self.put_queue_record(id.queue(), &marks);
        Ok(job)
    }

    /// Makes ready what is due and gives back what was lost. Returns whether there was more than one step takes, and the
    /// number of jobs whose lease had run out.
    pub(super) fn promote_due(&mut self, queue: &QueueName) -> Result<(bool, u64), Error> {
        let mut marks = self.queue_record(queue)?;
        let mut steps = self.promote(queue, &mut marks)?;
        let now = self.now();
        let range = layout::numbered(queue, marks.leases_from, &[])..layout::numbered(queue, now.0 + 1, &[]);
        let (mut all, mut lost) = (true, 0);
        for lease in self.tx.range(&self.layout.leases, range) {
            if steps >= PROMOTE_MAX {
                all = false;
                break;
            }
            let (key, _) = lease.map_err(engine)?;
            let (expire, fence) = layout::number_in(queue, &key).ok_or_else(|| damaged("lease"))?;
            let fence = u64::from_be_bytes(fence.try_into().map_err(|_| damaged("lease"))?);
            marks.leases_from = expire;
            let Some(claimed) = self.claimed(queue, fence)? else {
                self.tx.delete(&self.layout.leases, key);
                continue;
            };
            for tail in &claimed.tails {
                let Some(id) = JobId::of_tail(queue, tail) else { continue };
                // A job that the claim no longer holds was finished, or is another worker's.
                if self.live(&id)?.is_some_and(|live| live.fence == fence)
                    && let Some(mut job) = self.job(&id)?
                {
                    job.progress.lose(now);
                    self.settle(&id, &job, State::Running, &mut marks)?;
                    steps += 1;
                    lost += 1;
                }
            }
            self.end_claim(queue, fence, &claimed, &mut marks);
        }
        if all {
            marks.leases_from = now.0 + 1;
        }
        self.put_queue_record(queue, &marks);
        Ok((!all || steps >= PROMOTE_MAX, lost))
    }

    /// Forgets up to [`PROMOTE_MAX`] records whose moment is between `from` and now. Returns the moment up to which none is left.
    pub(super) fn forget(&mut self, from: u64) -> Result<Moment, Error> {
        let now = self.now();
        let past = from.to_be_bytes().to_vec()..(now.0 + 1).to_be_bytes().to_vec();
        let mut upto = now;
        for (forgotten, entry) in self.tx.range(&self.layout.ends, past).enumerate() {
            let (key, _) = entry.map_err(engine)?;
            let (at, end, name) = layout::end_in(&key).ok_or_else(|| damaged("end"))?;
            if forgotten == PROMOTE_MAX {
                upto = at;
                break;
            }
            let gone = match end {
                End::Job => {
                    self.forget_finished(name)?;
                    self.tx.delete(&self.layout.progress, name);
                    self.tx.delete(&self.layout.jobs, name);
                    true
                }
                End::Request => {
                    // The same request_id may have been used again since.
                    let value = self.get(&self.layout.requests, name)?;
                    let same = value.is_some_and(|value| value.starts_with(&at.0.to_be_bytes()));
                    if same {
                        self.tx.delete(&self.layout.requests, name);
                    }
                    same
                }
                End::Ticket => {
                    self.tx.delete(&self.layout.tickets, name);
                    true
                }
            };
            if gone && let Some(queue) = layout::queue_in(name) {
                let mut marks = self.queue_record(&queue)?;
                marks.records = marks.records.saturating_sub(1);
                self.put_queue_record(&queue, &marks);
            }
            self.tx.delete(&self.layout.ends, key.clone());
        }
        Ok(upto)
    }

    fn forget_finished(&mut self, name: &[u8]) -> Result<(), Error> {
        let Some(queue) = layout::queue_in(name) else { return Ok(()) };
        let id = tail_of(&queue, &name[queue.as_str().len() + 1..])?;
        let Some(stored) = self.get(&self.layout.progress, name)? else { return Ok(()) };
        let stored = StoredProgress::decode(&stored[..]).map_err(|_| damaged("progress"))?;
        let forget = stored.forget.unwrap_or_default();
        let state = stored.progress().ok_or_else(|| damaged("progress"))?.state;
        self.tx.delete(&self.layout.finished, layout::finished(&id, state, forget));
        let mut marks = self.queue_record(&queue)?;
        marks.moved(Some(state), None);
        self.put_queue_record(&queue, &marks);
        Ok(())
    }

    /// Returns the job, unless its retention has passed.
    fn job(&self, id: &JobId) -> Result<Option<Job>, Error> {
        let Some(header) = self.get(&self.layout.jobs, layout::job(id))? else { return Ok(None) };
        let Some(stored) = self.get(&self.layout.progress, layout::job(id))? else { return Ok(None) };
        let stored = StoredProgress::decode(&stored[..]).map_err(|_| damaged("progress"))?;
        if stored.forget.is_some_and(|forget| forget <= self.now().0) {
            return Ok(None);
        }
        let progress = stored.progress().ok_or_else(|| damaged("progress"))?;
        record::job(id, &header, progress).map(Some)
    }

    /// Returns the progress of a job with its fence, also after its retention has passed.
    fn live(&self, id: &JobId) -> Result<Option<Live>, Error> {
        let Some(stored) = self.get(&self.layout.progress, layout::job(id))? else { return Ok(None) };
        let stored = StoredProgress::decode(&stored[..]).map_err(|_| damaged("progress"))?;
        let fence = stored.fence;
        let progress = stored.progress().ok_or_else(|| damaged("progress"))?;
        Ok(Some(Live { progress, fence }))
    }

    /// Moves at most [`PROMOTE_MAX`] jobs whose moment has come to the end of the ready list.
    fn promote(&mut self, queue: &QueueName, marks: &mut QueueRecord) -> Result<usize, Error> {
        let now = self.now();
        let range = layout::numbered(queue, marks.due_from, &[])..layout::numbered(queue, now.0 + 1, &[]);
        let mut promoted = 0;
        let mut all = true;
        for due in self.tx.range(&self.layout.due, range) {
            if promoted == PROMOTE_MAX {
                all = false;
                break;
            }
            let (key, _) = due.map_err(engine)?;
            let (moment, tail) = layout::number_in(queue, &key).ok_or_else(|| damaged("due list"))?;
            let id = tail_of(queue, tail)?;
            marks.due_from = moment;
            if let Some(mut live) = self.live(&id)?.filter(|live| live.progress.state.is_timed()) {
                marks.moved(Some(live.progress.state), Some(State::Ready));
                live.progress.promote();
                self.append(&id, marks)?;
                self.keep(&id, &live.progress, 0, None);
            }
            self.tx.delete(&self.layout.due, key);
            promoted += 1;
        }
        if all {
            marks.due_from = now.0 + 1;
        }
        Ok(promoted)
    }

    /// Puts a job that no claim holds any more into the index of its state.
    fn settle(&mut self, id: &JobId, job: &Job, before: State, marks: &mut QueueRecord) -> Result<(), Error> {
        marks.moved(Some(before), Some(job.progress.state));
        let forget = job.progress.finish.map(|finish| finish.after(job.spec.retention));
        match (job.progress.run_at, forget) {
            (Some(moment), _) => self.wait_until(id, moment),
            (None, Some(forget)) => {
                self.tx.put(
                    &self.layout.ends,
                    layout::end(forget, End::Job, &layout::job(id)),
                    Slice::from([]),
                );
                let finished = layout::finished(id, job.progress.state, forget.0);
                self.tx.put(&self.layout.finished, finished, Slice::from([]));
            }
            (None, None) => self.append(id, marks)?,
        }
        self.keep(id, &job.progress, 0, forget);
        Ok(())
    }

    /// Lets a job wait for a moment.
    fn wait_until(&mut self, id: &JobId, moment: Moment) {
        let key = layout::numbered(id.queue(), moment.0, id.tail().as_bytes());
        self.tx.put(&self.layout.due, key, Slice::from([]));
        self.news.due.push((id.queue().clone(), moment));
    }

    /// Puts a job at the end of the ready list.
    fn append(&mut self, id: &JobId, marks: &mut QueueRecord) -> Result<(), Error> {
        if self.is_empty(id.queue(), marks)? {
            self.news.ready.push(id.queue().clone());
        }
        self.tx.put(&self.layout.ready, layout::numbered(id.queue(), marks.tail, &[]), id.tail().as_bytes());
        marks.tail += 1;
        Ok(())
    }

    fn is_empty(&self, queue: &QueueName, marks: &QueueRecord) -> Result<bool, Error> {
        match self.tx.range(&self.layout.ready, ready_from(queue, marks.head)).next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(engine(error)),
        }
    }

    /// Stores the progress of a job and announces its version.
    fn keep(&mut self, id: &JobId, progress: &JobProgress, fence: u64, forget: Option<Moment>) {
        let stored = StoredProgress::of(progress, fence, forget).encode_to_vec();
        self.tx.put(&self.layout.progress, layout::job(id), stored);
        self.news.changed.push((id.clone(), progress.version));
    }

    fn queue_record(&self, queue: &QueueName) -> Result<QueueRecord, Error> {
        match self.get(&self.layout.queues, queue.as_str())? {
            Some(bytes) => QueueRecord::decode(&bytes[..]).map_err(|_| damaged("queue")),
            None => Ok(QueueRecord::new()),
        }
    }

    /// Stores the record of a queue, or forgets a queue without records. Its fences go on growing all the same: they are no
    /// lower than the time.
    fn put_queue_record(&mut self, queue: &QueueName, marks: &QueueRecord) {
        if marks.records == 0 {
            self.tx.delete(&self.layout.queues, queue.as_str());
        } else {
            self.tx.put(&self.layout.queues, queue.as_str(), marks.encode_to_vec());
        }
    }

    fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        self.tx.get(keyspace, key).map_err(engine)
    }
}

/// Returns the keys of a queue's ready jobs from a place on.
pub(super) fn ready_from(queue: &QueueName, head: u64) -> std::ops::RangeInclusive<Vec<u8>> {
    layout::numbered(queue, head, &[])..=layout::numbered(queue, u64::MAX, &[])
}

/// Reads the id of a job from its stored tail.
fn tail_of(queue: &QueueName, tail: &[u8]) -> Result<JobId, Error> {
    let tail = std::str::from_utf8(tail).unwrap_or_default();
    JobId::of_tail(queue, tail).ok_or_else(|| damaged("id"))
}

/// Makes the error of a record that cannot be read.
pub(super) fn damaged(what: &str) -> Error {
    Error::Internal(format!("a {what} record of the embedded database is damaged"))
}

/// Makes the error of a read that failed. (That of a write is [`super::write_failed`].)
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn engine(error: shoal_embedded::Error) -> Error {
    EngineError::Unavailable { engine: super::ENGINE, detail: error.to_string() }.into()
}
