//! Reads many jobs of the embedded store: counts and pages, each of one instant.

use prost::Message;
use shoal_embedded::{Keyspace, Slice, Snapshot};

use super::layout::{self, ClaimRecord, Layout, QueueRecord};
use super::step::{damaged, engine, ready_from};
use crate::error::Error;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::{Job, State};
use crate::request::page_token;
use crate::store::record::{self, StoredProgress};
use crate::store::{Counts, PAGE_LOOKS_MAX, Page};

/// The store at one instant.
pub(super) struct Reader<'a> {
    pub(super) snapshot: Snapshot,
    pub(super) layout: &'a Layout,
    pub(super) now: Moment,
}

/// A page that is being filled.
struct Filling {
    page: Page,
    state: State,
    max: usize,
    looks: usize,
}

impl Reader<'_> {
    /// Returns the job, unless its retention has passed.
    pub(super) fn job(&self, id: &JobId) -> Result<Option<Job>, Error> {
        self.job_of(id, |header| header)
    }

    fn job_of(&self, id: &JobId, part: impl Fn(&[u8]) -> &[u8]) -> Result<Option<Job>, Error> {
        let key = layout::job(id);
        let Some(header) = self.get(&self.layout.jobs, &key)? else { return Ok(None) };
        let Some(stored) = self.get(&self.layout.progress, &key)? else { return Ok(None) };
        let stored = StoredProgress::decode(&stored[..]).map_err(|_| damaged("progress"))?;
        if stored.forget.is_some_and(|forget| forget <= self.now.0) {
            return Ok(None);
        }
        let progress = stored.progress().ok_or_else(|| damaged("progress"))?;
        record::job(id, part(&header), progress).map(Some)
    }

    pub(super) fn queue_record(&self, queue: &QueueName) -> Result<Option<QueueRecord>, Error> {
        let Some(marks) = self.get(&self.layout.queues, queue.as_str())? else { return Ok(None) };
        QueueRecord::decode(&marks[..]).map(Some).map_err(|_| damaged("queue"))
    }

    pub(super) fn count(&self, queue: &QueueName) -> Result<Option<Counts>, Error> {
        let Some(marks) = self.queue_record(queue)? else { return Ok(None) };
        let of = |state: State| marks.states.get(state as usize - 1).copied().unwrap_or(0);
        let mut head = None;
        for ready in
            self.snapshot.range(&self.layout.ready, ready_from(queue, marks.head)).take(PAGE_LOOKS_MAX)
        {
            let (_, tail) = ready.map_err(engine)?;
            if let Some(job) = self.brief(queue, &tail)?.filter(|job| job.progress.state == State::Ready) {
                head = Some(job.create);
                break;
            }
        }
        Ok(Some(Counts {
            scheduled: of(State::Scheduled),
            ready: of(State::Ready),
            running: of(State::Running),
            succeeded: of(State::Succeeded),
            retrying: of(State::Retrying),
            dead: of(State::Dead),
            cancelled: of(State::Cancelled),
            head,
            now: self.now,
        }))
    }

    /// Lists jobs in one state. The token is the last key that was looked at, and for a claim how far the page got in it.
    pub(super) fn list(
        &self,
        queue: &QueueName,
        state: State,
        max: usize,
        after: Option<&str>,
    ) -> Result<Page, Error> {
        let mut filling =
            Filling { page: Page { jobs: Vec::new(), next: None }, state, max, looks: PAGE_LOOKS_MAX };
        let Some(marks) = self.queue_record(queue)? else { return Ok(filling.page) };
        let (keyspace, prefix, first) = match state {
            State::Ready => {
                (&self.layout.ready, layout::of_queue(queue, &[]), layout::numbered(queue, marks.head, &[]))
            }
            State::Running => (
                &self.layout.leases,
                layout::of_queue(queue, &[]),
                layout::numbered(queue, marks.leases_from, &[]),
            ),
            State::Scheduled | State::Retrying => {
                (&self.layout.due, layout::of_queue(queue, &[]), layout::numbered(queue, marks.due_from, &[]))
            }
            State::Succeeded | State::Dead | State::Cancelled => {
                let prefix = layout::finished_in(queue, state);
                (&self.layout.finished, prefix.clone(), prefix)
            }
        };
        let (from, mut skip) = match after {
            None => (first, 0),
            Some(token) => {
                parse(token).filter(|(key, _)| key.starts_with(&prefix)).ok_or_else(page_token::invalid)?
            }
        };
        let mut end = prefix;
        end.extend([0xff; 9]);
        for entry in self.snapshot.range(keyspace, from.clone()..end) {
            let (key, value) = entry.map_err(engine)?;
            if after.is_some() && skip == 0 && key[..] == from[..] {
                continue;
            }
            if filling.is_full() {
                return Ok(filling.page);
            }
            let tails = match state {
                State::Ready => vec![value.to_vec()],
                State::Running => self.claimed(queue, &key)?.into_iter().map(String::into_bytes).collect(),
                _ => vec![key[key.len() - crate::job::id::TAIL_LEN..].to_vec()],
            };
            for (place, tail) in tails.iter().enumerate().skip(std::mem::take(&mut skip)) {
                if filling.is_full() {
                    filling.page.next = Some(token(&key, place));
                    return Ok(filling.page);
                }
                filling.look(self.brief(queue, tail)?);
            }
            filling.page.next = Some(token(&key, 0));
        }
        filling.page.next = None;
        Ok(filling.page)
    }

    fn claimed(&self, queue: &QueueName, lease: &[u8]) -> Result<Vec<String>, Error> {
        let (_, fence) = layout::number_in(queue, lease).ok_or_else(|| damaged("lease"))?;
        let claim = layout::of_queue(queue, fence);
        let Some(bytes) = self.get(&self.layout.claims, claim)? else { return Ok(Vec::new()) };
        Ok(ClaimRecord::decode(&bytes[..]).map_err(|_| damaged("claim"))?.tails)
    }

    fn brief(&self, queue: &QueueName, tail: &[u8]) -> Result<Option<Job>, Error> {
        let tail = std::str::from_utf8(tail).unwrap_or_default();
        let id = JobId::of_tail(queue, tail).ok_or_else(|| damaged("id"))?;
        self.job_of(&id, record::without_payload)
    }

    fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>, Error> {
        self.snapshot.get(keyspace, key).map_err(engine)
    }
}

impl Filling {
    fn is_full(&self) -> bool {
        self.page.jobs.len() >= self.max || self.looks == 0
    }

    fn look(&mut self, job: Option<Job>) {
        self.looks -= 1;
        if let Some(mut job) = job.filter(|job| job.progress.state == self.state) {
            job.progress.result = bytes::Bytes::new();
            job.progress.errors.clear();
            self.page.jobs.push(job);
        }
    }
}

fn token(key: &[u8], place: usize) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}/{place}")
}

fn parse(token: &str) -> Option<(Vec<u8>, usize)> {
    let (hex, place) = token.split_once('/')?;
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    Some((bytes.collect::<Option<_>>()?, place.parse().ok()?))
}
