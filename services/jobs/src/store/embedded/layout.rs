//! The keyspaces of the embedded store and the keys in them. Keys of a queue begin with its name and a zero byte, which no
//! name has; numbers are big-endian, so that they sort.

use prost::Message;
use shoal_embedded::{Database, Error, Keyspace};

use crate::job::State;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;

/// The keyspaces.
#[derive(Clone)]
pub(super) struct Layout {
    /// id → header.
    pub(super) jobs: Keyspace,
    /// id → [`StoredProgress`](crate::store::record::StoredProgress); the keyspace is named `standing`.
    pub(super) progress: Keyspace,
    /// queue, place → tail: ready jobs in order.
    pub(super) ready: Keyspace,
    /// queue, moment, tail → nothing: jobs that wait for their moment.
    pub(super) due: Keyspace,
    /// queue, fence → [`ClaimRecord`].
    pub(super) claims: Keyspace,
    /// queue, moment, fence → nothing: when claims run out.
    pub(super) leases: Keyspace,
    /// queue, ticket → fence, or 0 if it may not claim.
    pub(super) tickets: Keyspace,
    /// queue, request_id → moment of forgetting, id's tail, fingerprint of what it asked for.
    pub(super) requests: Keyspace,
    /// moment, a letter, key → nothing: what is forgotten when.
    pub(super) ends: Keyspace,
    /// queue, state, moment of forgetting, tail → nothing: finished jobs.
    pub(super) finished: Keyspace,
    /// queue → [`QueueRecord`].
    pub(super) queues: Keyspace,
}

impl Layout {
    pub(super) fn open(db: &Database) -> Result<Self, Error> {
        Ok(Self {
            jobs: db.keyspace("job")?,
            progress: db.keyspace("standing")?,
            ready: db.keyspace("ready")?,
            due: db.keyspace("due")?,
            claims: db.keyspace("claim")?,
            leases: db.keyspace("lease")?,
            tickets: db.keyspace("ticket")?,
            requests: db.keyspace("request")?,
            ends: db.keyspace("end")?,
            finished: db.keyspace("finished")?,
            queues: db.keyspace("queue")?,
        })
    }
}

/// The record of a queue. Its lower bounds keep scans from walking over deleted keys.
#[derive(Clone, PartialEq, Message)]
pub(super) struct QueueRecord {
    /// The last fence.
    #[prost(uint64, tag = "1")]
    pub(super) fence: u64,
    /// The lowest place of a ready job.
    #[prost(uint64, tag = "2")]
    pub(super) head: u64,
    /// The place behind the last ready job.
    #[prost(uint64, tag = "3")]
    pub(super) tail: u64,
    /// The earliest moment in `due`.
    #[prost(uint64, tag = "4")]
    pub(super) due_from: u64,
    /// The earliest moment in `leases`.
    #[prost(uint64, tag = "5")]
    pub(super) leases_from: u64,
    /// The number of jobs, requests and tickets. A queue without any is forgotten.
    #[prost(uint64, tag = "6")]
    pub(super) records: u64,
    /// The number of jobs in each state, from state 1.
    #[prost(uint64, repeated, tag = "7")]
    pub(super) states: Vec<u64>,
}

/// Number of states of a job.
const STATES: usize = 7;
/// Place of a queue's first job. Lower places are for jobs that are given back.
const FIRST_PLACE: u64 = 1 << 40;

impl QueueRecord {
    pub(super) fn new() -> Self {
        Self { head: FIRST_PLACE, tail: FIRST_PLACE, states: vec![0; STATES], ..Self::default() }
    }

    /// Counts a job that leaves one state and enters another. A new job leaves none, a forgotten one enters none.
    pub(super) fn moved(&mut self, from: Option<State>, to: Option<State>) {
        self.states.resize(STATES, 0);
        if let Some(state) = from {
            let count = &mut self.states[state as usize - 1];
            *count = count.saturating_sub(1);
        }
        if let Some(state) = to {
            self.states[state as usize - 1] += 1;
        }
    }
}

/// The record of a claim, with its jobs.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ClaimRecord {
    #[prost(uint64, tag = "1")]
    pub(super) expire: u64,
    #[prost(string, tag = "2")]
    pub(super) ticket: String,
    /// The worker, for people who look at a stuck job.
    #[prost(string, tag = "3")]
    pub(super) worker: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) tails: Vec<String>,
    /// The number of its jobs that it still holds.
    #[prost(uint32, tag = "5")]
    pub(super) left: u32,
}

/// Kind of record that `ends` forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Job,
    Request,
    Ticket,
}

/// Makes the key of a job.
pub(super) fn job(id: &JobId) -> Vec<u8> {
    of_queue(id.queue(), id.tail().as_bytes())
}

/// Makes a key of a queue.
pub(super) fn of_queue(queue: &QueueName, rest: &[u8]) -> Vec<u8> {
    [queue.as_str().as_bytes(), &[0], rest].concat()
}

/// Makes a key of a queue that sorts by a number.
pub(super) fn numbered(queue: &QueueName, number: u64, rest: &[u8]) -> Vec<u8> {
    of_queue(queue, &[&number.to_be_bytes(), rest].concat())
}

/// Returns the number in a key that [`numbered`] made, and what follows it.
pub(super) fn number_in<'a>(queue: &QueueName, key: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (number, rest) = key.get(queue.as_str().len() + 1..)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(number.try_into().ok()?), rest))
}

/// Makes the beginning of the keys of a queue's finished jobs in a state.
pub(super) fn finished_in(queue: &QueueName, state: State) -> Vec<u8> {
    of_queue(queue, &[state as u8])
}

/// Makes the key of a finished job.
pub(super) fn finished(id: &JobId, state: State, forget: u64) -> Vec<u8> {
    [&finished_in(id.queue(), state)[..], &forget.to_be_bytes(), id.tail().as_bytes()].concat()
}

/// Makes the key of a record to forget at a moment.
pub(super) fn end(at: Moment, end: End, key: &[u8]) -> Vec<u8> {
    let letter = match end {
        End::Job => b'j',
        End::Request => b'r',
        End::Ticket => b't',
    };
    [&at.0.to_be_bytes(), &[letter][..], key].concat()
}

/// Reads a key that [`end`] made.
pub(super) fn end_in(key: &[u8]) -> Option<(Moment, End, &[u8])> {
    let (at, rest) = key.split_at_checked(8)?;
    let end = match rest.first()? {
        b'j' => End::Job,
        b'r' => End::Request,
        b't' => End::Ticket,
        _ => return None,
    };
    Some((Moment(u64::from_be_bytes(at.try_into().ok()?)), end, &rest[1..]))
}

/// Returns the queue that a key belongs to.
pub(super) fn queue_in(key: &[u8]) -> Option<QueueName> {
    let name = key.split(|byte| *byte == 0).next()?;
    QueueName::parse(std::str::from_utf8(name).ok()?).ok()
}
