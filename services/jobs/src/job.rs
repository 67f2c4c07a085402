//! A job and the steps of its life. Pure rules: stores keep jobs, and the scripts of the Redis store take the same steps.

pub(crate) mod backoff;
pub(crate) mod id;
pub(crate) mod moment;
pub(crate) mod new_job;

use std::time::Duration;

use bytes::Bytes;

use self::id::JobId;
use self::moment::Moment;

/// Number of lost leases at which a job is dead, because it seems to kill its workers.
pub(crate) const LOST_MAX: u32 = 3;

/// Most errors kept with a job; older ones are dropped.
pub(crate) const ERRORS_MAX: usize = 10;

/// A job: what was enqueued, and how far it has come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    /// The id of the job.
    pub(crate) id: JobId,
    /// The job as it was enqueued; it never changes.
    pub(crate) spec: Spec,
    /// The moment when it was enqueued.
    pub(crate) create: Moment,
    /// The progress of the job.
    pub(crate) progress: JobProgress,
}

/// A job as it was enqueued.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// The kind of work, by which a worker chooses its handler.
    pub(crate) kind: String,
    /// The input of the work; opaque here.
    pub(crate) payload: Bytes,
    /// The W3C `traceparent` of the span that enqueued the job; empty when there was none.
    pub(crate) traceparent: String,
    /// The number of failed attempts after which the job is dead.
    pub(crate) max_attempts: u32,
    /// The wait after the first failure.
    pub(crate) backoff: Duration,
    /// The time for which the job can be read once it is final.
    pub(crate) retention: Duration,
}

/// State of a job. The numbers are stored, and are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// The job waits for its time.
    Scheduled = 1,
    /// The job waits for a worker.
    Ready = 2,
    /// The job is leased.
    Running = 3,
    /// Final: a worker completed the job.
    Succeeded = 4,
    /// An attempt failed, and the job waits for its backoff.
    Retrying = 5,
    /// Final: the service gave the job up.
    Dead = 6,
    /// Final: the job was cancelled.
    Cancelled = 7,
}

impl State {
    /// Returns the state of a number.
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

    /// Returns whether no state comes after this one.
    #[must_use]
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }

    /// Returns whether a job in this state waits for a moment.
    #[must_use]
    pub(crate) fn is_timed(self) -> bool {
        matches!(self, Self::Scheduled | Self::Retrying)
    }
}

/// Report with which a worker ended its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Report {
    /// The worker called CompleteJob.
    Completed = 1,
    /// The worker called FailJob.
    Failed = 2,
}

/// Error of a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobError {
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The message of the worker.
    pub(crate) message: String,
    /// The moment when the failure was reported.
    pub(crate) time: Moment,
}

/// Progress of a job: everything that changes in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobProgress {
    /// The present state.
    pub(crate) state: State,
    /// The version, which grows by one with each change, from 1.
    pub(crate) version: u64,
    /// The number of leases that were not lost or handed back, the present one included.
    pub(crate) attempt: u32,
    /// The number of leases that ran out.
    pub(crate) lost_count: u32,
    /// The moment when the job becomes ready, in a timed state.
    pub(crate) run_at: Option<Moment>,
    /// The moment when the job was last leased.
    pub(crate) start: Option<Moment>,
    /// The moment when the job became final.
    pub(crate) finish: Option<Moment>,
    /// The result of a completed job.
    pub(crate) result: Bytes,
    /// The last errors, oldest first.
    pub(crate) errors: Vec<JobError>,
    /// The lease that a report ended last, and which report: a repeat of it is recognised.
    pub(crate) closed: Option<(u64, Report)>,
}

impl JobProgress {
    /// Makes the progress of a job that was just enqueued, to run at once or at a later moment.
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

    /// Makes the job ready, because its moment has come.
    pub(crate) fn promote(&mut self) {
        self.enter(State::Ready);
    }

    /// Gives the job to a worker.
    pub(crate) fn lease(&mut self, now: Moment) {
        self.attempt += 1;
        self.start = Some(now);
        self.enter(State::Running);
    }

    /// Takes back a lease that its worker never received, as if the job had not been leased.
    pub(crate) fn release(&mut self) {
        self.attempt = self.attempt.saturating_sub(1);
        self.enter(State::Ready);
    }

    /// Ends a lease that ran out. The attempt does not count, the loss does.
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

    /// Finishes the job, because its worker is done.
    pub(crate) fn complete(&mut self, now: Moment, fence: u64, result: Bytes) {
        self.result = result;
        self.closed = Some((fence, Report::Completed));
        self.finish = Some(now);
        self.enter(State::Succeeded);
    }

    /// Cancels the job.
    pub(crate) fn cancel(&mut self, now: Moment) {
        self.finish = Some(now);
        self.enter(State::Cancelled);
    }

    /// Ends an attempt that failed: the job waits for its backoff, or is dead.
    pub(crate) fn fail(&mut self, now: Moment, fence: u64, failure: Failure, spec: &Spec, seed: u16) {
        self.add_error(self.attempt, failure.message, now);
        self.closed = Some((fence, Report::Failed));
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

/// Failure of an attempt, as the worker reports it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The message for people.
    pub(crate) message: String,
    /// Set if another attempt would fail as well.
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
    fn third_lost_lease_is_the_end() {
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
    fn failures_back_off_until_the_last() {
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
    fn only_last_errors_are_kept() {
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
