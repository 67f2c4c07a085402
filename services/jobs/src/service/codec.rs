//! Reads requests into the types of the domain, and writes those as answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_kit::{Invalid, reason};
use shoal_proto::convert;
use shoal_proto::jobs::v1 as pb;
use tonic::Request;

use crate::error::Error;
use crate::job::id::{JobId, QueueName};
use crate::job::moment::Moment;
use crate::job::new_job::{JobFields, NewJob};
use crate::job::{Job, State};
use crate::store::Counts;
use crate::trace;

/// Longest id that is looked at.
const ID_BYTES_MAX: usize = 256;

/// Returns the caller's own trace context: where this clone is not traced, it is the one to link to.
pub(super) fn callers_traceparent<T>(request: &Request<T>) -> Option<String> {
    let text = request.metadata().get("traceparent")?.to_str().ok()?;
    trace::is_traceparent(text).then(|| text.to_owned())
}

/// Reads a job to enqueue.
pub(super) fn new_job(request: pb::EnqueueRequest, traceparent: String) -> Result<NewJob, Invalid> {
    let fields = JobFields {
        kind: request.kind,
        payload: request.payload,
        traceparent,
        request_id: request.request_id,
        delay: duration("delay", request.delay)?,
        run_time: moment("run_time", request.run_time)?,
        max_attempts: request.max_attempts,
        backoff: duration("backoff", request.backoff)?,
        retention: duration("retention", request.retention)?,
    };
    NewJob::check(QueueName::parse(&request.queue)?, fields)
}

/// Reads the state that a list is asked for.
pub(super) fn state(number: i32) -> Result<State, Invalid> {
    u8::try_from(number)
        .ok()
        .and_then(State::of)
        .ok_or_else(|| Invalid::new(reason::INVALID_STATE, "state", "must be one of JobState"))
}

/// Writes a lease.
pub(super) fn lease(fence: u64, expire: Moment) -> pb::Lease {
    pb::Lease { fencing_token: fence as i64, expire_time: Some(timestamp(expire)) }
}

/// Reads the id of a job. Ids are opaque to callers: an id that no job can have is simply not found.
pub(super) fn job_id(text: &str) -> Result<JobId, Error> {
    if text.is_empty() || text.len() > ID_BYTES_MAX {
        return Err(Invalid::new(reason::INVALID_ID, "id", "must be an id that Enqueue gave").into());
    }
    JobId::parse(text).ok_or_else(|| Error::NotFound { id: text.to_owned() })
}

/// Reads a fencing token.
pub(super) fn fence(token: i64) -> Result<u64, Invalid> {
    let problem = "must be the fencing_token of the job's lease";
    u64::try_from(token)
        .ok()
        .filter(|fence| *fence > 0)
        .ok_or_else(|| Invalid::new(reason::INVALID_FENCING_TOKEN, "fencing_token", problem))
}

/// Reads a duration, which must not be negative.
pub(super) fn duration(
    field: &'static str,
    value: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Invalid> {
    convert::duration(value)
        .ok_or_else(|| Invalid::new(reason::INVALID_DURATION, field, "must not be negative"))
}

/// Reads a point in time.
fn moment(field: &'static str, value: Option<prost_types::Timestamp>) -> Result<Option<Moment>, Invalid> {
    let Some(value) = value else { return Ok(None) };
    let time = SystemTime::try_from(value).map_err(|_| {
        Invalid::new(reason::INVALID_TIMESTAMP, field, "must be a time between the years 1 and 9999")
    })?;
    // A time before 1970 has passed as well.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some(Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))))
}

/// Writes a point in time.
fn timestamp(moment: Moment) -> prost_types::Timestamp {
    convert::timestamp_of_millis(i64::try_from(moment.0).unwrap_or(i64::MAX))
}

/// Writes a job.
pub(super) fn encode(job: Job) -> pb::Job {
    let progress = job.progress;
    let errors = progress.errors.into_iter().map(|error| pb::JobError {
        attempt: error.attempt as i32,
        message: error.message,
        time: Some(timestamp(error.time)),
    });
    pb::Job {
        id: job.id.to_string(),
        queue: job.id.queue().to_string(),
        kind: job.spec.kind,
        payload: job.spec.payload,
        state: encode_state(progress.state).into(),
        attempt: progress.attempt as i32,
        lost_count: progress.lost_count as i32,
        max_attempts: job.spec.max_attempts as i32,
        run_time: progress.run_at.map(timestamp),
        result: progress.result,
        errors: errors.collect(),
        create_time: Some(timestamp(job.create)),
        start_time: progress.start.map(timestamp),
        finish_time: progress.finish.map(timestamp),
        traceparent: job.spec.traceparent,
    }
}

/// Writes a queue.
pub(super) fn encode_queue(name: &QueueName, counts: &Counts) -> pb::Queue {
    let age = |head: Moment| head.until(counts.now).try_into().ok();
    pb::Queue {
        name: name.to_string(),
        scheduled_count: counts.scheduled as i64,
        ready_count: counts.ready as i64,
        running_count: counts.running as i64,
        retrying_count: counts.retrying as i64,
        succeeded_count: counts.succeeded as i64,
        dead_count: counts.dead as i64,
        cancelled_count: counts.cancelled as i64,
        oldest_ready_age: counts.head.and_then(age),
    }
}

/// Writes a state.
fn encode_state(state: State) -> pb::JobState {
    match state {
        State::Scheduled => pb::JobState::Scheduled,
        State::Ready => pb::JobState::Ready,
        State::Running => pb::JobState::Running,
        State::Succeeded => pb::JobState::Succeeded,
        State::Retrying => pb::JobState::FailedRetrying,
        State::Dead => pb::JobState::Dead,
        State::Cancelled => pb::JobState::Cancelled,
    }
}
