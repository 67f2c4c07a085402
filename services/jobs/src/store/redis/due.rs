//! The due times of queues on Redis: what this clone notes, and the question that one clone asks for all.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::Value;
use shoal_redis_link::LinkError;
use tokio::time::Instant;

use super::failure::error;
use super::script::{millis, read};
use super::{RedisStore, script};
use crate::error::Error;
use crate::job::Job;
use crate::job::id::QueueName;
use crate::store::due_times::{CLAIM, DueTimes};
use crate::store::{DueStore, PROMOTE_MAX, Promoted};

/// Time after which forgotten jobs leave the lists of finished jobs, so that many leave together.
const FORGET_AFTER: Duration = Duration::from_secs(5);

/// The part of an interval for which one clone's question is enough for all. It is less than the time between two questions of
/// one clone, so that some clone asks within each interval.
pub(super) const TURN: f64 = 0.8;

/// Number of intervals for which a clone that found another one asking leaves the question to it. A clone that asked and died is
/// followed by another within these.
const TURNS_LEFT_TO_ANOTHER: u32 = 2;

/// Notes of this clone, which its next question takes to the other clones.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) due: DueTimes,
    settled: Vec<QueueName>,
    /// Set if the last answer was not everything that is due.
    more: bool,
    /// Set if this clone asked last, as far as it knows.
    leads: bool,
    /// The number of intervals that are still left to the clone that asks.
    left_to_another: u32,
}

impl Notes {
    /// Returns whether the notes must not wait for another clone's question.
    fn is_pressing(&self) -> bool {
        self.more || !self.settled.is_empty() || !self.due.is_empty()
    }
}

impl RedisStore {
    /// Locks the notes, also after a panic.
    pub(super) fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something of a queue is due within this time.
    pub(super) fn note_within(&self, queue: &QueueName, within: Duration) {
        self.notes().due.note(queue, Instant::now() + within);
    }

    /// Notes when a job that has ended is to be forgotten.
    pub(super) fn note_ended(&self, job: &Job) {
        if job.progress.state.is_final() {
            self.note_within(job.id.queue(), job.spec.retention + FORGET_AFTER);
        }
    }

    /// Returns whether this clone is the one to ask now.
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
            // Redis has no room for the turn. Then each clone asks, so that work goes on.
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

    /// Asks which queues are due, and hands over what this clone has noted.
    async fn ask_due(
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
}

impl DueStore for RedisStore {
    fn promote_due<'a>(&'a self, queue: &'a QueueName) -> BoxFuture<'a, Result<Promoted, Error>> {
        async move {
            let reply = self.run(&script::TEND, queue, &[PROMOTE_MAX.to_string().as_bytes()]).await?;
            let (ready, next, lost): (u64, i64, u64) = read(Value::Array(reply))?;
            Ok(Promoted { ready: ready > 0, next: u64::try_from(next).ok().map(Duration::from_millis), lost })
        }
        .boxed()
    }

    fn note(&self, queue: &QueueName, within: Duration) {
        self.note_within(queue, within);
    }

    fn take_due(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueName>, Error>> {
        async move {
            if !self.notes().is_pressing() && !self.takes_turn().await? {
                return Ok(Vec::new());
            }
            let (due, settled) = {
                let mut notes = self.notes();
                notes.more = false;
                (notes.due.take(), std::mem::take(&mut notes.settled))
            };
            match self.ask_due(max, &due, &settled).await {
                Ok(queues) => {
                    self.notes().more = queues.len() >= max;
                    Ok(queues.iter().filter_map(|name| QueueName::parse(name).ok()).collect())
                }
                Err(error) => {
                    // Handed over again with the next question; hearing a note twice does no harm.
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
}
