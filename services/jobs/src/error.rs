//! Every error of the service, one variant for each way in which a caller reacts, and the one place where errors become the
//! status that callers see.

use std::time::Duration;

use shoal_kit::Invalid;
use shoal_kit::reason;
use shoal_kit::{ApiError, EngineError};
use tonic::{Code, Status};

use crate::job::State;
use crate::job::id::{JobId, QueueName};

/// An error of the queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// A field of the request is not acceptable.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The job does not exist: it was never enqueued, or its retention has passed.
    #[error("no job {id}; it was never enqueued here, or finished and its retention has passed")]
    NotFound {
        /// The id as the caller wrote it.
        id: String,
    },
    /// The lease is not, or no longer, this worker's.
    #[error(
        "the lease {fence} on job {id} is lost: it ran out, or the job was finished otherwise; stop working on it"
    )]
    LeaseLost {
        /// The job.
        id: JobId,
        /// The fencing token that the worker sent.
        fence: u64,
    },
    /// A job that has ended cannot be cancelled.
    #[error("job {id} has ended already ({state:?}) and cannot be cancelled")]
    Finished {
        /// The job.
        id: JobId,
        /// The final state of the job.
        state: State,
    },
    /// The queue does not exist: no job was enqueued to it, or it has been empty and unused for a day.
    #[error(
        "no queue {queue}: a queue is there once a job was enqueued to it, until it has been empty for a day"
    )]
    NoQueue {
        /// The name of the queue.
        queue: QueueName,
    },
    /// An Enqueue was repeated after its job was finished and gone.
    #[error(
        "this request_id made job {id}, which has finished and whose retention has passed; nothing was enqueued"
    )]
    Forgotten {
        /// The job.
        id: JobId,
        /// The place of the request in its batch, from 0.
        index: usize,
    },
    /// A request_id was used before for another job.
    #[error("the request_id of requests[{index}] was used for another job")]
    RequestDiffers {
        /// The place of the request in its batch, from 0.
        index: usize,
    },
    /// A new queue would be one too many.
    #[error(
        "there are {max} queues with jobs or in use, the most there can be; use one of them, work some off, or raise queues_max"
    )]
    TooManyQueues {
        /// The limit.
        max: usize,
    },
    /// The clone has as many waiting calls as it takes.
    #[error("this clone has {max} {what} open, the most it takes; try another clone or later")]
    TooManyWaiting {
        /// The limit.
        max: usize,
        /// The kind of calls.
        what: &'static str,
    },
    /// The Redis may drop jobs when memory is short.
    #[error(
        "redis is configured to evict ({policy}) and would lose jobs silently; set its maxmemory-policy to noeviction"
    )]
    Evicts {
        /// Redis' `maxmemory-policy`.
        policy: String,
    },
    /// The engine refused the step, or did not answer. Without an answer the step may have been taken, or may still be taken.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The clone is about to end.
    #[error("this clone is shutting down; call again to go on at another one")]
    Draining,
    /// A defect of the service, or a damaged record.
    #[error("{0}")]
    Internal(String),
}

/// Makes the fault of [`Error::RequestDiffers`].
fn request_differs(field: impl Into<String>) -> ApiError {
    ApiError::invalid(
        reason::REQUEST_ID_REUSED,
        field,
        "was used for an Enqueue with other fields; give each job a request_id of its own",
    )
}

/// Time after which callers of a draining clone should call again. Another clone, if there is one, serves them then.
const DRAINING_RETRY_AFTER: Duration = Duration::from_millis(250);

impl Error {
    /// Makes the fault of a batch, naming the field of the request that the store's error is about.
    pub(crate) fn in_batch(self) -> ApiError {
        let field = |index: usize| format!("requests[{index}].request_id");
        match self {
            Self::RequestDiffers { index } => request_differs(field(index)),
            Self::Forgotten { ref id, index } => {
                let (field, id) = (field(index), id.to_string());
                ApiError::new(Code::AlreadyExists, reason::JOB_EXPIRED, format!("{field}: {self}"))
                    .meta("id", id)
                    .meta("field", field)
            }
            other => other.into(),
        }
    }

    /// Makes the error for a job that does not exist.
    pub(crate) fn not_found(id: &JobId) -> Self {
        Self::NotFound { id: id.to_string() }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(invalid) => invalid.into(),
            Error::NotFound { id } => {
                ApiError::new(Code::NotFound, reason::JOB_NOT_FOUND, message).meta("id", id)
            }
            Error::LeaseLost { id, fence } => ApiError::new(Code::Aborted, reason::LEASE_LOST, message)
                .meta("id", id.to_string())
                .meta("fencing_token", fence.to_string()),
            Error::Finished { id, state } => {
                ApiError::new(Code::FailedPrecondition, reason::JOB_FINISHED, message)
                    .meta("id", id.to_string())
                    .meta("state", format!("{state:?}"))
            }
            Error::NoQueue { queue } => ApiError::new(Code::NotFound, reason::QUEUE_NOT_FOUND, message)
                .meta("queue", queue.to_string()),
            Error::Forgotten { id, .. } => {
                ApiError::new(Code::AlreadyExists, reason::JOB_EXPIRED, message).meta("id", id.to_string())
            }
            Error::RequestDiffers { .. } => request_differs("request_id"),
            Error::TooManyQueues { max } => {
                ApiError::new(Code::ResourceExhausted, reason::TOO_MANY_QUEUES, message)
                    .meta("max", max.to_string())
            }
            Error::TooManyWaiting { max, what } => {
                ApiError::new(Code::ResourceExhausted, reason::TOO_MANY_WAITING, message)
                    .meta("max", max.to_string())
                    .meta("what", what)
                    .retry_after(Duration::from_secs(1))
            }
            Error::Evicts { policy } => {
                ApiError::new(Code::FailedPrecondition, reason::ENGINE_EVICTS, message)
                    .meta("policy", policy)
                    .of_backend()
            }
            Error::Engine(error) => {
                error.into_fault("repeat the call (an Enqueue with a request_id is safe to repeat)")
            }
            Error::Draining => {
                ApiError::new(Code::Unavailable, reason::DRAINING, message).retry_after(DRAINING_RETRY_AFTER)
            }
            Error::Internal(detail) => ApiError::internal(detail),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        ApiError::from(error).into()
    }
}
