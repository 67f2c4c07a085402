//! A job to enqueue: the fields of an Enqueue call, checked against their limits.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shoal_kit::{Invalid, reason};

use crate::job::Spec;
use crate::job::backoff::BACKOFF_MAX;
use crate::job::id::QueueName;
use crate::job::moment::Moment;

/// Longest kind.
pub(crate) const KIND_BYTES_MAX: usize = 128;
/// Largest payload or result: both pass through Redis' memory and one message.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Longest request_id.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;
/// Time for which a request_id is remembered.
pub(crate) const REQUEST_ID_TTL: Duration = Duration::from_secs(3600);
/// Longest delay, and farthest run time from now.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Number of attempts when the caller gives none.
pub(crate) const ATTEMPTS_DEFAULT: u32 = 5;
/// Most attempts.
pub(crate) const ATTEMPTS_MAX: u32 = 100;
/// Wait after the first failure when the caller gives none.
pub(crate) const BACKOFF_DEFAULT: Duration = Duration::from_secs(1);
/// Shortest wait after the first failure: a shorter one would be a hot loop of failures.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(1);
/// Time for which a finished job can be read when the caller gives none.
pub(crate) const RETENTION_DEFAULT: Duration = Duration::from_secs(3600);
/// Shortest retention, so that a watcher or a worker that repeats a call still finds the final state.
pub(crate) const RETENTION_MIN: Duration = Duration::from_secs(10);
/// Longest retention.
pub(crate) const RETENTION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A job to enqueue.
#[derive(Debug, Clone)]
pub(crate) struct NewJob {
    /// The queue of the job.
    pub(crate) queue: QueueName,
    /// The work to do.
    pub(crate) spec: Spec,
    /// The time when the job is to run.
    pub(crate) run: Run,
    /// The request_id, by which a repeat finds the first job.
    pub(crate) request: Option<RequestKey>,
}

/// A request_id and a fingerprint of the job that it stands for. Each queue has request ids of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// The id as the caller gave it.
    pub(crate) id: String,
    /// A hash of the job's fields. The same id with another fingerprint stands for another job.
    pub(crate) fingerprint: [u8; FINGERPRINT_LEN],
}

/// Bytes of a fingerprint, which is kept with every request_id: enough to notice a mistake.
pub(crate) const FINGERPRINT_LEN: usize = 8;

impl RequestKey {
    /// Makes the key. The trace is not in the fingerprint, because each call has its own.
    fn new(id: String, spec: &Spec, run: Run) -> Self {
        let mut hash = Sha256::new();
        for text in [spec.kind.as_bytes(), &spec.payload] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.update(spec.max_attempts.to_be_bytes());
        hash.update(spec.backoff.as_nanos().to_be_bytes());
        hash.update(spec.retention.as_nanos().to_be_bytes());
        let (when, time) = match run {
            Run::Now => (0, 0),
            Run::After(delay) => (1, delay.as_nanos()),
            Run::At(moment) => (2, u128::from(moment.0)),
        };
        hash.update([when]);
        hash.update(time.to_be_bytes());
        let mut fingerprint = [0; FINGERPRINT_LEN];
        fingerprint.copy_from_slice(&hash.finalize()[..FINGERPRINT_LEN]);
        Self { id, fingerprint }
    }
}

/// Time when a job is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// The job runs as soon as a worker is free.
    Now,
    /// The job runs after this time, by the engine's clock.
    After(Duration),
    /// The job does not run before this moment.
    At(Moment),
}

/// Fields of an Enqueue call as the caller gives them; `None` and 0 stand for the defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobFields {
    /// See [`Spec::kind`].
    pub(crate) kind: String,
    /// See [`Spec::payload`].
    pub(crate) payload: Bytes,
    /// See [`Spec::traceparent`].
    pub(crate) traceparent: String,
    /// Makes the call safe to repeat; empty: not given.
    pub(crate) request_id: String,
    /// Time from now; excludes `run_time`.
    pub(crate) delay: Option<Duration>,
    /// Moment; excludes `delay`.
    pub(crate) run_time: Option<Moment>,
    /// See [`Spec::max_attempts`].
    pub(crate) max_attempts: i32,
    /// See [`Spec::backoff`].
    pub(crate) backoff: Option<Duration>,
    /// See [`Spec::retention`].
    pub(crate) retention: Option<Duration>,
}

impl NewJob {
    /// Checks every field of an Enqueue call.
    ///
    /// # Errors
    /// When a field is not acceptable. The first such field is named.
    pub(crate) fn check(queue: QueueName, fields: JobFields) -> Result<Self, Invalid> {
        if fields.kind.is_empty() || fields.kind.len() > KIND_BYTES_MAX {
            return Err(Invalid::new(
                reason::INVALID_KIND,
                "kind",
                format!("must have 1 to {KIND_BYTES_MAX} bytes"),
            ));
        }
        if fields.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_large("payload", fields.payload.len()));
        }
        if fields.request_id.len() > REQUEST_ID_BYTES_MAX {
            let problem = format!("must have at most {REQUEST_ID_BYTES_MAX} bytes");
            return Err(Invalid::new(reason::INVALID_REQUEST_ID, "request_id", problem));
        }
        let run = match (fields.delay, fields.run_time) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new(
                    reason::DELAY_AND_RUN_TIME,
                    "run_time",
                    "give delay or run_time, not both",
                ));
            }
            (Some(delay), None) if delay > DELAY_MAX => {
                let problem = format!("must be at most {} days", DELAY_MAX.as_secs() / 86_400);
                return Err(Invalid::new(reason::INVALID_DELAY, "delay", problem));
            }
            (None, Some(time)) if time > Moment::of_this_machine().after(DELAY_MAX) => {
                let problem = format!("must be at most {} days from now", DELAY_MAX.as_secs() / 86_400);
                return Err(Invalid::new(reason::INVALID_RUN_TIME, "run_time", problem));
            }
            (Some(Duration::ZERO), None) | (None, None) => Run::Now,
            (Some(delay), None) => Run::After(delay),
            (None, Some(time)) => Run::At(time),
        };
        let max_attempts = match u32::try_from(fields.max_attempts) {
            Ok(0) => ATTEMPTS_DEFAULT,
            Ok(n) if n <= ATTEMPTS_MAX => n,
            _ => {
                let problem = format!("must be 1 to {ATTEMPTS_MAX}, or 0 for {ATTEMPTS_DEFAULT}");
                return Err(Invalid::new(reason::INVALID_MAX_ATTEMPTS, "max_attempts", problem));
            }
        };
        let backoff = fields.backoff.unwrap_or(BACKOFF_DEFAULT);
        if !(BACKOFF_MIN..=BACKOFF_MAX).contains(&backoff) {
            return Err(Invalid::new(reason::INVALID_BACKOFF, "backoff", "must be 1 ms to 1 hour"));
        }
        let retention = fields.retention.unwrap_or(RETENTION_DEFAULT);
        if !(RETENTION_MIN..=RETENTION_MAX).contains(&retention) {
            return Err(Invalid::new(reason::INVALID_RETENTION, "retention", "must be 10 seconds to 7 days"));
        }
        let spec = Spec {
            kind: fields.kind,
            payload: fields.payload,
            traceparent: fields.traceparent,
            max_attempts,
            backoff,
            retention,
        };
        let id = fields.request_id;
        let request = (!id.is_empty()).then(|| RequestKey::new(id, &spec, run));
        Ok(Self { queue, spec, run, request })
    }

    /// Gives the job a request_id.
    #[cfg(test)]
    pub(crate) fn with_request_id(mut self, id: &str) -> Self {
        self.request = Some(RequestKey::new(id.to_owned(), &self.spec, self.run));
        self
    }
}

/// Refuses a payload or result that is over its limit.
#[must_use]
pub(crate) fn too_large(field: &'static str, len: usize) -> Invalid {
    let problem = format!(
        "must have at most {PAYLOAD_BYTES_MAX} bytes, not {len}; store it elsewhere and pass its name"
    );
    Invalid::new(reason::TOO_LARGE, field, problem)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn check(change: impl FnOnce(&mut JobFields)) -> Result<NewJob, Invalid> {
        let mut fields = JobFields { kind: "k".into(), ..JobFields::default() };
        change(&mut fields);
        NewJob::check(QueueName::parse("q").unwrap(), fields)
    }

    fn refused(change: impl FnOnce(&mut JobFields)) -> Cow<'static, str> {
        match check(change) {
            Err(Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unset_fields_have_documented_defaults() {
        let job = check(|_| {}).unwrap();
        assert_eq!((job.spec.max_attempts, job.spec.backoff), (5, Duration::from_secs(1)));
        assert_eq!((job.spec.retention, job.run), (Duration::from_secs(3600), Run::Now));
        assert_eq!(job.request, None);
    }

    #[test]
    fn fingerprint_covers_all_but_trace() {
        let of = |change: fn(&mut JobFields)| {
            let named = |w: &mut JobFields| {
                w.request_id = "r".into();
                change(w);
            };
            check(named).unwrap().request.unwrap().fingerprint
        };
        let plain = of(|_| {});
        let changes: [fn(&mut JobFields); 8] = [
            |w| w.kind = "other".into(),
            |w| w.payload = Bytes::from_static(b"x"),
            |w| w.delay = Some(Duration::from_secs(5)),
            |w| w.run_time = Some(Moment(5)),
            |w| w.max_attempts = 9,
            |w| w.backoff = Some(Duration::from_secs(2)),
            |w| w.retention = Some(Duration::from_secs(60)),
            |w| (w.kind, w.payload) = (String::from("k\0"), Bytes::new()),
        ];
        let all: std::collections::HashSet<_> = changes.map(of).into_iter().chain([plain]).collect();
        assert_eq!(all.len(), changes.len() + 1);
        assert_eq!(of(|w| w.traceparent = "00-a".into()), plain);
        assert_eq!(of(|w| w.max_attempts = 5), plain, "a default given explicitly is the same job");
    }

    #[test]
    fn every_limit_names_its_field() {
        let later = Moment::of_this_machine().after(DELAY_MAX + Duration::from_secs(60));
        assert_eq!(refused(|w| w.kind.clear()), "kind");
        assert_eq!(refused(|w| w.kind = "k".repeat(129)), "kind");
        assert_eq!(refused(|w| w.payload = vec![0; PAYLOAD_BYTES_MAX + 1].into()), "payload");
        assert_eq!(refused(|w| w.request_id = "r".repeat(129)), "request_id");
        assert_eq!(refused(|w| w.max_attempts = 101), "max_attempts");
        assert_eq!(refused(|w| w.max_attempts = -1), "max_attempts");
        assert_eq!(refused(|w| w.backoff = Some(Duration::ZERO)), "backoff");
        assert_eq!(refused(|w| w.backoff = Some(Duration::from_secs(3601))), "backoff");
        assert_eq!(refused(|w| w.retention = Some(Duration::from_secs(9))), "retention");
        assert_eq!(refused(|w| w.retention = Some(RETENTION_MAX * 2)), "retention");
        assert_eq!(refused(|w| w.delay = Some(DELAY_MAX * 2)), "delay");
        assert_eq!(refused(|w| w.run_time = Some(later)), "run_time");
        assert_eq!(refused(|w| (w.delay, w.run_time) = (Some(Duration::ZERO), Some(later))), "run_time");
        assert!(check(|w| w.payload = vec![0; PAYLOAD_BYTES_MAX].into()).is_ok());
    }
}
