//! The stored form of a job. Its header never changes; scripts read the fixed part of the header.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::error::Error;
use crate::job::id::JobId;
use crate::job::moment::Moment;
use crate::job::{Job, JobError, JobProgress, Report, Spec, State};

/// The first byte of a header: its format.
pub(crate) const FORMAT: u8 = 1;
/// The place in a header behind the format and the create time.
pub(crate) const AFTER_CREATE: usize = 9;
/// Length of the fixed part: format, create (8), max_attempts (2), backoff_ms (4), retention_ms (4); big-endian. [`Input`]
/// follows it.
const FIXED_LEN: usize = 19;

/// The variable part of a header.
#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    traceparent: String,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
}

/// Writes the header of a job. A store whose clock is elsewhere overwrites bytes 1 to 8 with its own time.
pub(crate) fn header(spec: &Spec, create: Moment) -> Vec<u8> {
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    let input = Input {
        kind: spec.kind.clone(),
        traceparent: spec.traceparent.clone(),
        payload: spec.payload.clone(),
    };
    let mut bytes = Vec::with_capacity(FIXED_LEN + input.encoded_len());
    bytes.push(FORMAT);
    bytes.extend(create.0.to_be_bytes());
    bytes.extend(u16::try_from(spec.max_attempts).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(millis(spec.backoff).to_be_bytes());
    bytes.extend(millis(spec.retention).to_be_bytes());
    bytes.extend(input.encode_to_vec());
    bytes
}

/// Reads a job from its header and its progress.
pub(crate) fn job(id: &JobId, header: &[u8], progress: JobProgress) -> Result<Job, Error> {
    let damaged = || Error::Internal(format!("the record of job {id} is damaged"));
    let (fixed, input) = header.split_at_checked(FIXED_LEN).ok_or_else(damaged)?;
    if fixed[0] != FORMAT {
        return Err(Error::Internal(format!("job {id} has format {}, written by another version", fixed[0])));
    }
    let number =
        |range: std::ops::Range<usize>| fixed[range].iter().fold(0, |n: u64, b| n << 8 | u64::from(*b));
    let input = Input::decode(input).map_err(|_| damaged())?;
    let spec = Spec {
        kind: input.kind,
        payload: input.payload,
        traceparent: input.traceparent,
        max_attempts: number(9..11) as u32,
        backoff: Duration::from_millis(number(11..15)),
        retention: Duration::from_millis(number(15..19)),
    };
    Ok(Job { id: id.clone(), spec, create: Moment(number(1..9)), progress })
}

/// Bytes of a header that always hold everything but the payload, given the limits of [`crate::job::new_job`].
pub(crate) const BRIEF_LEN: usize = 300;

/// Returns the part of a header before the payload.
pub(crate) fn without_payload(header: &[u8]) -> &[u8] {
    let mut end = FIXED_LEN.min(header.len());
    // Fields come in the order of their tags; kind and traceparent have at most 128 bytes.
    while let Some((&tag, rest)) = header[end..].split_first()
        && matches!(tag >> 3, 1 | 2)
    {
        let mut after = rest;
        let Ok(len) = prost::encoding::decode_varint(&mut after) else { break };
        let next = header.len() - after.len() + len as usize;
        if next > header.len() {
            break;
        }
        end = next;
    }
    &header[..end]
}

/// A [`JobProgress`] as the embedded store writes it, with what only a store needs to know.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredProgress {
    #[prost(uint32, tag = "1")]
    state: u32,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(uint32, tag = "3")]
    attempt: u32,
    #[prost(uint32, tag = "4")]
    lost_count: u32,
    #[prost(uint64, optional, tag = "5")]
    run_at: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    start: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    finish: Option<u64>,
    #[prost(bytes = "bytes", tag = "8")]
    result: Bytes,
    #[prost(message, repeated, tag = "9")]
    errors: Vec<StoredError>,
    #[prost(uint64, tag = "10")]
    closed_fence: u64,
    #[prost(uint32, tag = "11")]
    closed_report: u32,
    /// The fence of the claim that holds the job; 0: none.
    #[prost(uint64, tag = "12")]
    pub(crate) fence: u64,
    /// The moment when the job is forgotten, once it is final.
    #[prost(uint64, optional, tag = "13")]
    pub(crate) forget: Option<u64>,
}

/// A [`JobError`] as the embedded store writes it.
#[derive(Clone, PartialEq, Message)]
struct StoredError {
    #[prost(uint32, tag = "1")]
    attempt: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(uint64, tag = "3")]
    time: u64,
}

impl StoredProgress {
    /// Makes the stored form.
    pub(crate) fn of(progress: &JobProgress, fence: u64, forget: Option<Moment>) -> Self {
        let errors = progress.errors.iter().map(|error| StoredError {
            attempt: error.attempt,
            message: error.message.clone(),
            time: error.time.0,
        });
        let (closed_fence, closed_report) =
            progress.closed.map_or((0, 0), |(fence, report)| (fence, report as u32));
        Self {
            state: u32::from(progress.state as u8),
            version: progress.version,
            attempt: progress.attempt,
            lost_count: progress.lost_count,
            run_at: progress.run_at.map(|moment| moment.0),
            start: progress.start.map(|moment| moment.0),
            finish: progress.finish.map(|moment| moment.0),
            result: progress.result.clone(),
            errors: errors.collect(),
            closed_fence,
            closed_report,
            fence,
            forget: forget.map(|moment| moment.0),
        }
    }

    /// Returns the progress; `None` if it was written by a version that knows other states.
    pub(crate) fn progress(self) -> Option<JobProgress> {
        let closed = match self.closed_report {
            0 => None,
            number => Some((self.closed_fence, report(number as u8)?)),
        };
        let errors = self.errors.into_iter().map(|error| JobError {
            attempt: error.attempt,
            message: error.message,
            time: Moment(error.time),
        });
        Some(JobProgress {
            state: State::of(u8::try_from(self.state).ok()?)?,
            version: self.version,
            attempt: self.attempt,
            lost_count: self.lost_count,
            run_at: self.run_at.map(Moment),
            start: self.start.map(Moment),
            finish: self.finish.map(Moment),
            result: self.result,
            errors: errors.collect(),
            closed,
        })
    }
}

/// Returns the report of a number.
pub(crate) fn report(number: u8) -> Option<Report> {
    match number {
        1 => Some(Report::Completed),
        2 => Some(Report::Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::id::QueueName;

    #[test]
    fn records_are_read_as_written() {
        let id = JobId::generate(&QueueName::parse("q").unwrap());
        let spec = Spec {
            kind: "k".repeat(crate::job::new_job::KIND_BYTES_MAX),
            payload: Bytes::from(vec![7; 1000]),
            traceparent: "t".repeat(55),
            max_attempts: 100,
            backoff: Duration::from_millis(1234),
            retention: Duration::from_secs(7 * 24 * 3600),
        };
        let mut progress = JobProgress::enqueued(Some(Moment(9)));
        progress.errors.push(JobError { attempt: 1, message: "m".into(), time: Moment(3) });
        progress.closed = Some((u64::MAX, Report::Failed));
        progress.result = Bytes::from_static(b"r");
        let written = StoredProgress::of(&progress, 7, Some(Moment(8))).encode_to_vec();
        let read = StoredProgress::decode(&*written).unwrap();
        assert_eq!((read.fence, read.forget), (7, Some(8)));
        let written = header(&spec, Moment(u64::MAX));
        let read = job(&id, &written, read.progress().unwrap()).unwrap();
        let whole = Job { id: id.clone(), spec, create: Moment(u64::MAX), progress: progress.clone() };
        assert_eq!(read, whole);
        assert!(without_payload(&written).len() <= BRIEF_LEN);
        assert_eq!(without_payload(&written[..BRIEF_LEN]), without_payload(&written));
        let brief = job(&id, without_payload(&written), progress).unwrap();
        assert_eq!(brief, Job { spec: Spec { payload: Bytes::new(), ..whole.spec.clone() }, ..whole });
    }
}
