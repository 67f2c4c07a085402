//! What the driver's errors mean to a caller.

use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};

use crate::clock::WriteTimestamp;
use crate::error::Error;

/// The engine's name in errors.
pub(super) const ENGINE: &str = "cassandra";

/// What a statement was to do: that decides what its failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// May always be repeated.
    Read,
    /// May be repeated at this timestamp.
    Write(WriteTimestamp),
    /// Creates or alters; may be repeated.
    Schema,
}

impl Intent {
    /// No answer came, and it is not known how far it went.
    pub(super) fn unanswered(self, detail: String) -> Error {
        match self {
            Intent::Read => Error::ReadFailed { engine: ENGINE, detail },
            Intent::Write(stamp) => Error::OutcomeUnknown { detail, stamp: Some(stamp) },
            Intent::Schema => Error::OutcomeUnknown { detail, stamp: None },
        }
    }

    /// Cassandra cannot be reached; a write may have been tried on an earlier node.
    fn unreachable(self, detail: String) -> Error {
        match self {
            Intent::Read => Error::Unavailable { engine: ENGINE, detail },
            Intent::Write(_) | Intent::Schema => self.unanswered(detail),
        }
    }

    pub(super) fn failed(self, error: &ExecutionError) -> Error {
        match error {
            ExecutionError::LastAttemptError(error) => self.attempt_failed(error),
            ExecutionError::ConnectionPoolError(error) => self.unreachable(error.to_string()),
            ExecutionError::EmptyPlan => {
                self.unreachable("no node is known; is data.datacenter one of the cluster's?".to_owned())
            }
            ExecutionError::RequestTimeout(_)
            | ExecutionError::SchemaAgreementError(_)
            | ExecutionError::MetadataError(_) => self.unanswered(error.to_string()),
            ExecutionError::PrepareError(error) => prepare_failed(error),
            other => Error::Internal(format!("cassandra: {other}")),
        }
    }

    fn attempt_failed(self, error: &RequestAttemptError) -> Error {
        match error {
            RequestAttemptError::BrokenConnectionError(_) | RequestAttemptError::UnableToAllocStreamId => {
                self.unreachable(error.to_string())
            }
            RequestAttemptError::DbError(
                DbError::Unavailable { .. }
                | DbError::IsBootstrapping
                | DbError::Overloaded
                | DbError::ReadTimeout { .. }
                | DbError::ReadFailure { .. }
                | DbError::WriteTimeout { .. }
                | DbError::WriteFailure { .. }
                | DbError::ServerError
                | DbError::TruncateError,
                _,
            ) => self.unanswered(error.to_string()),
            other => Error::Internal(format!("cassandra: {other}")),
        }
    }
}

/// Preparing changes nothing, whatever it was for.
pub(super) fn prepare_failed(error: &PrepareError) -> Error {
    match error {
        PrepareError::ConnectionPoolError(error) => {
            Error::Unavailable { engine: ENGINE, detail: error.to_string() }
        }
        PrepareError::AllAttemptsFailed { first_attempt } => Intent::Read.attempt_failed(first_attempt),
        other => Error::Internal(format!("cassandra: {other}")),
    }
}

/// Whether Cassandra itself answered, if only to refuse.
pub(super) fn is_answer(error: &ExecutionError) -> bool {
    let attempt = match error {
        ExecutionError::LastAttemptError(attempt) => attempt,
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) => first_attempt,
        _ => return false,
    };
    matches!(attempt, RequestAttemptError::DbError(..))
}
