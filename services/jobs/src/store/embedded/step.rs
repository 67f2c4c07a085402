//! One transaction on the embedded store: the steps of a job's life with the indexes they keep. Runs alone, on the
//! writer's thread.

use prost::Message;
use shoal_embedded::{Keyspace, Slice, Tx};
use shoal_kit::EngineError;

use super::layout::{self, Claimed, End, Layout, Marks};
use crate::backoff;
use crate::error::Error;
use crate::id::TAIL_LEN;
use crate::id::{JobId, QueueName};
use crate::job::{Failure, Job, Standing, State, Verdict};
use crate::moment::Moment;
use crate::new_job::{NewJob, REQUEST_ID_TTL, Run};
use crate::store::record::{self, Stood};
use crate::store::{Ask, CLAIM_BYTES_MAX, Claim, Enqueued, TEND_MAX};

/// How long a ticket that claimed nothing is remembered.
const TICKET_TTL: std::time::Duration = std::time::Duration::from_secs(60);

/// What a transaction says to the hubs once it is kept.
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
    /// Microseconds.
    pub(super) now_us: u64,
    pub(super) queues_max: usize,
    pub(super) news: News,
}

/// A job's standing with what its store knows of it.
struct Live {
    standing: Standing,
    fence: u64,
}

impl Step<'_, '_> {
    pub(super) fn now(&self) -> Moment {
        Moment(self.now_us / 1000)
    }

    pub(super) fn enqueue(&mut self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, Error> {
        let Some(queue) = jobs.first().map(|job| &job.queue) else { return Ok(Vec::new()) };
        let known = self.get(&self.layout.queues, queue.as_str())?.is_some();
        // One that is empty is forgotten with its last record.
        if !known && self.tx.range(&self.layout.queues, ..).count() >= self.queues_max {
            return Err(Error::TooManyQueues { max: self.queues_max });
        }
        let mut marks = self.marks(queue)?;
        self.promote(queue, &mut marks)?;
        let jobs = jobs.iter().enumerate();
        let jobs = jobs.map(|(index, job)| self.add(index, job, &mut marks)).collect::<Result<_, _>>()?;
        self.put_marks(queue, &marks);
        Ok(jobs)
    }

    /// `index` is the job's place in its batch.
    fn add(&mut self, index: usize, new: &NewJob, marks: &mut Marks) -> Result<Enqueued, Error> {
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
        let standing = Standing::enqueued(run_at);
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
        marks.moved(None, Some(standing.state));
        self.keep(&id, &standing, 0, None);
        let job = record::job(&id, &header, standing)?;
        Ok(Enqueued { job, deduplicated: false })
    }

    pub(super) fn lease(&mut self, ask: &Ask) -> Result<Claim, Error> {
        let queue = &ask.queue;
        let now = self.now();
        let mut claim = Claim { fence: 0, expire: now.after(ask.duration), jobs: Vec::new(), more: false };
        let ticket = layout::of_queue(queue, ask.ticket.as_bytes());
        if self.get(&self.layout.queues, queue.as_str())?.is_none()
            || self.get(&self.layout.tickets, &ticket)?.is_some()
        {
            return Ok(claim);
        }
        let mut marks = self.marks(queue)?;
        let promoted = self.promote(queue, &mut marks)?;
        let fence = self.now_us.max(marks.fence + 1);
        let (mut bytes, mut skipped) = (0, 0);
        for place in self.tx.range(&self.layout.ready, ready_from(queue, marks.head)) {
            let (key, tail) = place.map_err(engine)?;
            let id = tail_of(queue, &tail)?;
            let header = self.get(&self.layout.jobs, layout::job(&id))?;
            let live = self.live(&id)?.filter(|live| live.standing.state == State::Ready);
            if let (Some(header), Some(Live { mut standing, .. })) = (header, live) {
                let full = claim.jobs.len() == ask.max_jobs
                    || (!claim.jobs.is_empty() && bytes + header.len() > CLAIM_BYTES_MAX);
                if full {
                    claim.more = true;
                    break;
                }
                bytes += header.len();
                standing.lease(now);
                marks.moved(Some(State::Ready), Some(State::Running));
                self.keep(&id, &standing, fence, None);
                claim.jobs.push(record::job(&id, &header, standing)?);
            } else if skipped == TEND_MAX {
                claim.more = true;
                break;
            } else {
                // It was cancelled.
                skipped += 1;
            }
            let (place, _) = layout::number_in(queue, &key).ok_or_else(|| damaged("ready list"))?;
            marks.head = place + 1;
            self.tx.delete(&self.layout.ready, key);
        }
        if claim.jobs.is_empty() {
            if promoted + skipped > 0 {
                self.put_marks(queue, &marks);
            }
            return Ok(claim);
        }
        claim.fence = fence;
        marks.fence = fence;
        marks.records += 1;
        let claimed = Claimed {
            expire: claim.expire.0,
            ticket: ask.ticket.clone(),
            worker: ask.worker.clone(),
            tails: claim.jobs.iter().map(|job| job.id.tail().to_owned()).collect(),
            left: claim.jobs.len() as u32,
        };
        self.tx.put(&self.layout.claims, layout::numbered(queue, fence, &[]), claimed.encode_to_vec());
        let lease = layout::numbered(queue, claim.expire.0, &fence.to_be_bytes());
        self.tx.put(&self.layout.leases, lease, Slice::from([]));
        self.tx.put(&self.layout.tickets, ticket, fence.to_be_bytes());
        self.put_marks(queue, &marks);
        self.news.due.push((queue.clone(), claim.expire));
        Ok(claim)
    }

    pub(super) fn release(&mut self, queue: &QueueName, ticket: &str) -> Result<(), Error> {
        let key = layout::of_queue(queue, ticket.as_bytes());
        let mut marks = self.marks(queue)?;
        let fence = match self.get(&self.layout.tickets, &key)? {
            None => {
                let forget = self.now().after(TICKET_TTL);
                self.tx.put(&self.layout.ends, layout::end(forget, End::Ticket, &key), Slice::from([]));
                self.tx.put(&self.layout.tickets, key, 0_u64.to_be_bytes());
                marks.records += 1;
                self.put_marks(queue, &marks);
                return Ok(());
            }
            Some(value) => u64::from_be_bytes(value[..].try_into().map_err(|_| damaged("ticket"))?),
        };
        let Some(claimed) = self.claimed(queue, fence)? else { return Ok(()) };
        let was_empty = self.is_empty(queue, &marks)?;
        let mut given_back = false;
        for tail in claimed.tails.iter().rev() {
            let Some(id) = JobId::of_tail(queue, tail) else { continue };
            if let Some(mut live) = self.live(&id)?.filter(|live| live.fence == fence) {
                live.standing.release();
                marks.moved(Some(State::Running), Some(State::Ready));
                marks.head -= 1;
                self.tx.put(&self.layout.ready, layout::numbered(queue, marks.head, &[]), tail.as_bytes());
                self.keep(&id, &live.standing, 0, None);
                given_back = true;
            }
        }
        if was_empty && given_back {
            self.news.ready.push(queue.clone());
        }
        self.end_claim(queue, fence, &claimed, &mut marks);
        self.put_marks(queue, &marks);
        Ok(())
    }

    pub(super) fn complete(&mut self, id: &JobId, fence: u64, result: bytes::Bytes) -> Result<Job, Error> {
        let now = self.now();
        self.close(id, fence, Verdict::Completed, |job| job.standing.complete(now, fence, result))
    }

    pub(super) fn fail(&mut self, id: &JobId, fence: u64, failure: Failure) -> Result<Job, Error> {
        let (now, seed) = (self.now(), backoff::seed(id.tail()));
        self.close(id, fence, Verdict::Failed, |job| job.standing.fail(now, fence, failure, &job.spec, seed))
    }

    /// Ends a lease by its holder's word.
    fn close(
        &mut self,
        id: &JobId,
        fence: u64,
        verdict: Verdict,
        step: impl FnOnce(&mut Job),
    ) -> Result<Job, Error> {
        let mut job = self.job(id)?.ok_or_else(|| Error::not_found(id))?;
        let held = self.live(id)?.map_or(0, |live| live.fence);
        if held != fence || fence == 0 {
            if job.standing.closed == Some((fence, verdict)) {
                return Ok(job);
            }
            return Err(Error::LeaseLost { id: id.clone(), fence });
        }
        step(&mut job);
        let mut marks = self.marks(id.queue())?;
        self.settle(id, &job, State::Running, &mut marks)?;
        self.let_go(id.queue(), fence, &mut marks)?;
        self.put_marks(id.queue(), &marks);
        Ok(job)
    }

    pub(super) fn cancel(&mut self, id: &JobId) -> Result<Job, Error> {
        let mut job = self.job(id)?.ok_or_else(|| Error::not_found(id))?;
        let before = job.standing.state;
        if before == State::Cancelled {
            return Ok(job);
        }
        if before.is_final() {
            return Err(Error::Finished { id: id.clone(), state: before });
        }
        let held = self.live(id)?.map_or(0, |live| live.fence);
        if let Some(moment) = job.standing.run_at {
            self.tx.delete(&self.layout.due, layout::numbered(id.queue(), moment.0, id.tail().as_bytes()));
        }
        job.standing.cancel(self.now());
        let mut marks = self.marks(id.queue())?;
        // A ready one stays in its list and is passed over there.
        self.settle(id, &job, before, &mut marks)?;
        if held != 0 {
            self.let_go(id.queue(), held, &mut marks)?;
        }
        self.put_marks(id.queue(), &marks);
        Ok(job)
    }

    pub(super) fn extend(
        &mut self,
        id: &JobId,
        fence: u64,
        duration: std::time::Duration,
    ) -> Result<Moment, Error> {
        self.job(id)?.ok_or_else(|| Error::not_found(id))?;
        let held = self.live(id)?.map_or(0, |live| live.fence);
        let claimed = if held == fence { self.claimed(id.queue(), fence)? } else { None };
        let Some(mut claimed) = claimed else { return Err(Error::LeaseLost { id: id.clone(), fence }) };
        let expire = self.now().after(duration);
        let lease = |expire| layout::numbered(id.queue(), expire, &fence.to_be_bytes());
        self.tx.delete(&self.layout.leases, lease(claimed.expire));
        self.tx.put(&self.layout.leases, lease(expire.0), Slice::from([]));
        claimed.expire = expire.0;
        self.tx.put(&self.layout.claims, layout::numbered(id.queue(), fence, &[]), claimed.encode_to_vec());
        self.news.due.push((id.queue().clone(), expire));
        Ok(expire)
    }

    /// One job is not its claim's any more; the last one ends it.
    fn let_go(&mut self, queue: &QueueName, fence: u64, marks: &mut Marks) -> Result<(), Error> {
        let Some(mut claimed) = self.claimed(queue, fence)? else { return Ok(()) };
        claimed.left = claimed.left.saturating_sub(1);
        if claimed.left == 0 {
            self.end_claim(queue, fence, &claimed, marks);
        } else {
            let key = layout::numbered(queue, fence, &[]);
            self.tx.put(&self.layout.claims, key, claimed.encode_to_vec());
        }
        Ok(())
    }

    /// Promotes what is due and gives back what was lost. Whether there was more than it takes at once.
    pub(super) fn tend(&mut self, queue: &QueueName) -> Result<bool, Error> {
        let mut marks = self.marks(queue)?;
        let mut steps = self.promote(queue, &mut marks)?;
        let now = self.now();
        let range = layout::numbered(queue, marks.leases_from, &[])..layout::numbered(queue, now.0 + 1, &[]);
        let mut all = true;
        for lease in self.tx.range(&self.layout.leases, range) {
            if steps >= TEND_MAX {
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
                // A job that is not this claim's any more was finished, or is another worker's.
                if self.live(&id)?.is_some_and(|live| live.fence == fence)
                    && let Some(mut job) = self.job(&id)?
                {
                    job.standing.lose(now);
                    self.settle(&id, &job, State::Running, &mut marks)?;
                    steps += 1;
                }
            }
            self.end_claim(queue, fence, &claimed, &mut marks);
        }
        if all {
            marks.leases_from = now.0 + 1;
        }
        self.put_marks(queue, &marks);
        Ok(!all || steps >= TEND_MAX)
    }

    /// Forgets up to [`TEND_MAX`] of what has passed since `from`; up to which moment nothing is left.
    pub(super) fn forget(&mut self, from: u64) -> Result<Moment, Error> {
        let now = self.now();
        let past = from.to_be_bytes().to_vec()..(now.0 + 1).to_be_bytes().to_vec();
        let mut upto = now;
        for (forgotten, entry) in self.tx.range(&self.layout.ends, past).enumerate() {
            let (key, _) = entry.map_err(engine)?;
            let (at, end, name) = layout::end_in(&key).ok_or_else(|| damaged("end"))?;
            if forgotten == TEND_MAX {
                upto = at;
                break;
            }
            let gone = match end {
                End::Job => {
                    self.forget_finished(name)?;
                    self.tx.delete(&self.layout.standings, name);
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
                let mut marks = self.marks(&queue)?;
                marks.records = marks.records.saturating_sub(1);
                self.put_marks(&queue, &marks);
            }
            self.tx.delete(&self.layout.ends, key.clone());
        }
        Ok(upto)
    }

    fn forget_finished(&mut self, name: &[u8]) -> Result<(), Error> {
        let Some(queue) = layout::queue_in(name) else { return Ok(()) };
        let id = tail_of(&queue, &name[queue.as_str().len() + 1..])?;
        let Some(stood) = self.get(&self.layout.standings, name)? else { return Ok(()) };
        let stood = Stood::decode(&stood[..]).map_err(|_| damaged("standing"))?;
        let forget = stood.forget.unwrap_or_default();
        let state = stood.standing().ok_or_else(|| damaged("standing"))?.state;
        self.tx.delete(&self.layout.finished, layout::finished(&id, state, forget));
        let mut marks = self.marks(&queue)?;
        marks.moved(Some(state), None);
        self.put_marks(&queue, &marks);
        Ok(())
    }

    /// The job, unless it is to be forgotten.
    fn job(&self, id: &JobId) -> Result<Option<Job>, Error> {
        let Some(header) = self.get(&self.layout.jobs, layout::job(id))? else { return Ok(None) };
        let Some(stood) = self.get(&self.layout.standings, layout::job(id))? else { return Ok(None) };
        let stood = Stood::decode(&stood[..]).map_err(|_| damaged("standing"))?;
        if stood.forget.is_some_and(|forget| forget <= self.now().0) {
            return Ok(None);
        }
        let standing = stood.standing().ok_or_else(|| damaged("standing"))?;
        record::job(id, &header, standing).map(Some)
    }

    fn live(&self, id: &JobId) -> Result<Option<Live>, Error> {
        let Some(stood) = self.get(&self.layout.standings, layout::job(id))? else { return Ok(None) };
        let stood = Stood::decode(&stood[..]).map_err(|_| damaged("standing"))?;
        let fence = stood.fence;
        let standing = stood.standing().ok_or_else(|| damaged("standing"))?;
        Ok(Some(Live { standing, fence }))
    }

    /// Moves at most [`TEND_MAX`] jobs whose moment has come to the end of the ready list.
    fn promote(&mut self, queue: &QueueName, marks: &mut Marks) -> Result<usize, Error> {
        let now = self.now();
        let range = layout::numbered(queue, marks.due_from, &[])..layout::numbered(queue, now.0 + 1, &[]);
        let mut promoted = 0;
        let mut all = true;
        for due in self.tx.range(&self.layout.due, range) {
            if promoted == TEND_MAX {
                all = false;
                break;
            }
            let (key, _) = due.map_err(engine)?;
            let (moment, tail) = layout::number_in(queue, &key).ok_or_else(|| damaged("due list"))?;
            let id = tail_of(queue, tail)?;
            marks.due_from = moment;
            if let Some(mut live) = self.live(&id)?.filter(|live| live.standing.state.is_timed()) {
                marks.moved(Some(live.standing.state), Some(State::Ready));
                live.standing.promote();
                self.append(&id, marks)?;
                self.keep(&id, &live.standing, 0, None);
            }
            self.tx.delete(&self.layout.due, key);
            promoted += 1;
        }
        if all {
            marks.due_from = now.0 + 1;
        }
        Ok(promoted)
    }

    /// Puts a job that is not held any more where its state belongs.
    fn settle(&mut self, id: &JobId, job: &Job, before: State, marks: &mut Marks) -> Result<(), Error> {
        marks.moved(Some(before), Some(job.standing.state));
        let forget = job.standing.finish.map(|finish| finish.after(job.spec.retention));
        match (job.standing.run_at, forget) {
            (Some(moment), _) => self.wait_until(id, moment),
            (None, Some(forget)) => {
                self.tx.put(
                    &self.layout.ends,
                    layout::end(forget, End::Job, &layout::job(id)),
                    Slice::from([]),
                );
                let finished = layout::finished(id, job.standing.state, forget.0);
                self.tx.put(&self.layout.finished, finished, Slice::from([]));
            }
            (None, None) => self.append(id, marks)?,
        }
        self.keep(id, &job.standing, 0, forget);
        Ok(())
    }

    fn wait_until(&mut self, id: &JobId, moment: Moment) {
        let key = layout::numbered(id.queue(), moment.0, id.tail().as_bytes());
        self.tx.put(&self.layout.due, key, Slice::from([]));
        self.news.due.push((id.queue().clone(), moment));
    }

    fn append(&mut self, id: &JobId, marks: &mut Marks) -> Result<(), Error> {
        if self.is_empty(id.queue(), marks)? {
            self.news.ready.push(id.queue().clone());
        }
        self.tx.put(&self.layout.ready, layout::numbered(id.queue(), marks.tail, &[]), id.tail().as_bytes());
        marks.tail += 1;
        Ok(())
    }

    fn is_empty(&self, queue: &QueueName, marks: &Marks) -> Result<bool, Error> {
        match self.tx.range(&self.layout.ready, ready_from(queue, marks.head)).next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(engine(error)),
        }
    }

    fn keep(&mut self, id: &JobId, standing: &Standing, fence: u64, forget: Option<Moment>) {
        let stood = Stood::of(standing, fence, forget).encode_to_vec();
        self.tx.put(&self.layout.standings, layout::job(id), stood);
        self.news.changed.push((id.clone(), standing.version));
    }

    fn claimed(&self, queue: &QueueName, fence: u64) -> Result<Option<Claimed>, Error> {
        let Some(bytes) = self.get(&self.layout.claims, layout::numbered(queue, fence, &[]))? else {
            return Ok(None);
        };
        Claimed::decode(&bytes[..]).map(Some).map_err(|_| damaged("claim"))
    }

    fn end_claim(&mut self, queue: &QueueName, fence: u64, claimed: &Claimed, marks: &mut Marks) {
        self.tx.delete(&self.layout.claims, layout::numbered(queue, fence, &[]));
        self.tx.delete(&self.layout.leases, layout::numbered(queue, claimed.expire, &fence.to_be_bytes()));
        self.tx.delete(&self.layout.tickets, layout::of_queue(queue, claimed.ticket.as_bytes()));
        marks.records = marks.records.saturating_sub(1);
    }

    fn marks(&self, queue: &QueueName) -> Result<Marks, Error> {
        match self.get(&self.layout.queues, queue.as_str())? {
            Some(bytes) => Marks::decode(&bytes[..]).map_err(|_| damaged("queue")),
            None => Ok(Marks::new()),
        }
    }

    /// A queue without records is forgotten. Its fences go on all the same: they are no lower than the time.
    fn put_marks(&mut self, queue: &QueueName, marks: &Marks) {
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

pub(super) fn ready_from(queue: &QueueName, head: u64) -> std::ops::RangeInclusive<Vec<u8>> {
    layout::numbered(queue, head, &[])..=layout::numbered(queue, u64::MAX, &[])
}

fn tail_of(queue: &QueueName, tail: &[u8]) -> Result<JobId, Error> {
    let tail = std::str::from_utf8(tail).unwrap_or_default();
    JobId::of_tail(queue, tail).ok_or_else(|| damaged("id"))
}

pub(super) fn damaged(what: &str) -> Error {
    Error::Internal(format!("a {what} record of the embedded database is damaged"))
}

/// A read that failed. (A write that failed is [`super::write_failed`].)
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn engine(error: shoal_embedded::Error) -> Error {
    EngineError::Unavailable { engine: super::ENGINE, detail: error.to_string() }.into()
}
