//! A job and the steps of its life. Pure: stores keep it, and the scripts of the Redis store take the same steps.

pub(crate) mod backoff;
pub(crate) mod id;
pub(crate) mod moment;
pub(crate) mod new_job;

use std::time::Duration;

use bytes::Bytes;

use self::id::JobId;
use self::moment::Moment;

/// Leases that may run out without an answer before the job counts as one that kills its workers.
pub(crate) const LOST_MAX: u32 = 3;

/// Errors kept with a job; older ones are dropped.
pub(crate) const ERRORS_MAX: usize = 10;

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    /// Its id.
    pub(crate) id: JobId,
    /// What was enqueued; never changes.
    pub(crate) spec: Spec,
    /// When it was enqueued.
    pub(crate) create: Moment,
    /// Where it stands.
    pub(crate) progress: JobProgress,
}

/// What was enqueued.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// What the worker dispatches on.
    pub(crate) kind: String,
    /// Opaque input.
    pub(crate) payload: Bytes,
    /// W3C `traceparent` of the span that enqueued it; empty when there was none.
    pub(crate) traceparent: String,
    /// Attempts before it is dead.
    pub(crate) max_attempts: u32,
    /// Wait after the first failure.
    pub(crate) backoff: Duration,
    /// How long it can be read once it is final.
    pub(crate) retention: Duration,
}

/// Where a job is in its life. The numbers are stored, and are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Waits for its time.
    Scheduled = 1,
    /// Waits for a worker.
    Ready = 2,
    /// Leased.
    Running = 3,
    /// Final: completed.
    Succeeded = 4,
    /// Failed, waits for its backoff.
    Retrying = 5,
    /// Final: gave up.
    Dead = 6,
    /// Final: cancelled.
    Cancelled = 7,
}

impl State {
    /// The state of a number.
    #[must_use]
    pub(crate) fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Scheduled,
            2 => Self::Ready,
            3 => Self::Running,
            4 => Self::Succeeded,
            5 => Self::Retrying,
            6 => Self::Dead,
            7 => Self::Cancelled,
            _ => return None,
        })
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }

    /// Whether the job waits for a moment.
    #[must_use]
    pub(crate) fn is_timed(self) -> bool {
        matches!(self, Self::Scheduled | Self::Retrying)
    }
}

/// How a lease ended by its holder's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// CompleteJob.
    Completed = 1,
    /// FailJob.
    Failed = 2,
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobError {
    /// Which.
    pub(crate) attempt: u32,
    /// The worker's words.
    pub(crate) message: String,
    /// When it was reported.
    pub(crate) time: Moment,
}

/// What changes in a job's life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobProgress {
    /// Where it is.
    pub(crate) state: State,
    /// Grows by one with each change, from 1.
    pub(crate) version: u64,
    /// Leases that were not lost or handed back, the present one included.
    pub(crate) attempt: u32,
    /// Leases that ran out.
    pub(crate) lost_count: u32,
    /// When it becomes ready, in a timed state.
    pub(crate) run_at: Option<Moment>,
    /// When it was last leased.
    pub(crate) start: Option<Moment>,
    /// When it became final.
    pub(crate) finish: Option<Moment>,
    /// What it gave.
    pub(crate) result: Bytes,
    /// The last errors, oldest first.
    pub(crate) errors: Vec<JobError>,
    /// The lease that last ended by its holder's word: a repeat of that word is recognised.
    pub(crate) closed: Option<(u64, Verdict)>,
}

impl JobProgress {
    /// A job that was just enqueued, to run at once or at a later moment.
    #[must_use]
    pub(crate) fn enqueued(run_at: Option<Moment>) -> Self {
        Self {
            state: if run_at.is_some() { State::Scheduled } else { State::Ready },
            version: 1,
            attempt: 0,
            lost_count: 0,
            run_at,
            start: None,
            finish: None,
            result: Bytes::new(),
            errors: Vec::new(),
            closed: None,
        }
    }

    /// Its moment has come.
    pub(crate) fn promote(&mut self) {
        self.enter(State::Ready);
    }

    /// A worker takes it.
    pub(crate) fn lease(&mut self, now: Moment) {
        self.attempt += 1;
        self.start = Some(now);
        self.enter(State::Running);
    }

    /// The worker never got it: as if it had not been leased.
    pub(crate) fn release(&mut self) {
        self.attempt = self.attempt.saturating_sub(1);
        self.enter(State::Ready);
    }

    /// Its lease ran out: the attempt does not count, the loss does.
    pub(crate) fn lose(&mut self, now: Moment) {
        self.lost_count += 1;
        let attempt = self.attempt;
        self.attempt = attempt.saturating_sub(1);
        if self.lost_count >= LOST_MAX {
            self.add_error(attempt, format!("{LOST_MAX} leases ran out without an answer"), now);
            self.finish = Some(now);
            self.enter(State::Dead);
        } else {
            self.enter(State::Ready);
        }
    }

    /// Its worker is done.
    pub(crate) fn complete(&mut self, now: Moment, fence: u64, result: Bytes) {
        self.result = result;
        self.closed = Some((fence, Verdict::Completed));
        self.finish = Some(now);
        self.enter(State::Succeeded);
    }

    /// Nobody wants it any more.
    pub(crate) fn cancel(&mut self, now: Moment) {
        self.finish = Some(now);
        self.enter(State::Cancelled);
    }

    /// Its worker failed.
    pub(crate) fn fail(&mut self, now: Moment, fence: u64, failure: Failure, spec: &Spec, seed: u16) {
        self.add_error(self.attempt, failure.message, now);
        self.closed = Some((fence, Verdict::Failed));
        if failure.permanent || self.attempt >= spec.max_attempts {
            self.finish = Some(now);
            self.enter(State::Dead);
        } else {
            self.enter(State::Retrying);
            self.run_at = Some(now.after(backoff::delay(spec.backoff, self.attempt, seed)));
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.version += 1;
        self.run_at = None;
    }

    fn add_error(&mut self, attempt: u32, message: String, time: Moment) {
        if self.errors.len() == ERRORS_MAX {
            self.errors.remove(0);
        }
        self.errors.push(JobError { attempt, message, time });
    }
}

/// Why a worker gives up on an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// For people.
    pub(crate) message: String,
    /// Another attempt would fail as well.
    pub(crate) permanent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(max_attempts: u32) -> Spec {
        Spec {
            kind: "k".into(),
            payload: Bytes::new(),
            traceparent: String::new(),
            max_attempts,
            backoff: Duration::from_secs(1),
            retention: Duration::from_secs(3600),
        }
    }

    #[test]
    fn a_lost_lease_is_no_attempt_and_the_third_is_the_end() {
        let mut job = JobProgress::enqueued(None);
        for round in 1..LOST_MAX {
            job.lease(Moment(u64::from(round)));
            job.lose(Moment(10));
            assert_eq!((job.state, job.attempt, job.lost_count), (State::Ready, 0, round));
        }
        job.lease(Moment(20));
        job.lose(Moment(30));
        assert_eq!((job.state, job.lost_count, job.finish), (State::Dead, LOST_MAX, Some(Moment(30))));
        assert_eq!(job.errors.len(), 1);
    }

    #[test]
    fn failures_wait_and_the_last_one_is_the_end() {
        let mut job = JobProgress::enqueued(None);
        let failure = || Failure { message: "no".into(), permanent: false };
        job.lease(Moment(0));
        job.fail(Moment(1000), 1, failure(), &spec(2), 0);
        assert_eq!(job.state, State::Retrying);
        assert!(job.run_at > Some(Moment(1800)) && job.run_at <= Some(Moment(2000)));
        job.promote();
        assert_eq!(job.run_at, None);
        job.lease(Moment(3000));
        job.fail(Moment(4000), 2, failure(), &spec(2), 0);
        assert_eq!((job.state, job.attempt, job.errors.len()), (State::Dead, 2, 2));
    }

    #[test]
    fn only_the_last_errors_are_kept() {
        let mut job = JobProgress::enqueued(None);
        for attempt in 0..ERRORS_MAX as u32 + 5 {
            job.lease(Moment(0));
            job.fail(Moment(0), 1, Failure { message: attempt.to_string(), permanent: false }, &spec(100), 0);
        }
        assert_eq!(job.errors.len(), ERRORS_MAX);
        assert_eq!(job.errors[0].message, "5");
    }

    #[test]
    fn every_change_has_a_new_version() {
        let mut job = JobProgress::enqueued(Some(Moment(5)));
        assert_eq!((job.state, job.version), (State::Scheduled, 1));
        job.promote();
        job.lease(Moment(6));
        job.release();
        assert_eq!((job.state, job.version, job.attempt), (State::Ready, 4, 0));
        job.lease(Moment(7));
        job.complete(Moment(8), 9, Bytes::from_static(b"r"));
        assert_eq!((job.state, job.version, job.attempt), (State::Succeeded, 6, 1));
    }
}
