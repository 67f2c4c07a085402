//! The meaning of the driver's errors to a caller.

use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};

use crate::error::Error;

/// Name of the engine in errors.
pub(super) const ENGINE: &str = "cassandra";

/// Purpose of a statement, which decides what its failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// The statement reads, and may always be repeated.
    Read,
    /// The statement writes, and may be repeated.
    Write,
    /// The statement creates or alters, and may be repeated.
    Schema,
}

impl Intent {
    /// Makes the error of a statement without an answer, which may or may not have been carried out.
    pub(super) fn unanswered(self, detail: String) -> Error {
        match self {
            Intent::Read => Error::ReadFailed { engine: ENGINE, detail },
            Intent::Write | Intent::Schema => Error::OutcomeUnknown { detail, token: None },
        }
    }

    /// Makes the error for an unreachable Cassandra. A write may have been tried on an earlier node.
    fn unreachable(self, detail: String) -> Error {
        match self {
            Intent::Read => Error::Unavailable { engine: ENGINE, detail },
            Intent::Write | Intent::Schema => self.unanswered(detail),
        }
    }

    /// Makes the error of a statement that failed.
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

/// Makes the error of a failed PREPARE, which changes nothing whatever the statement is for.
pub(super) fn prepare_failed(error: &PrepareError) -> Error {
    match error {
        PrepareError::ConnectionPoolError(error) => {
            Error::Unavailable { engine: ENGINE, detail: error.to_string() }
        }
        PrepareError::AllAttemptsFailed { first_attempt } => Intent::Read.attempt_failed(first_attempt),
        other => Error::Internal(format!("cassandra: {other}")),
    }
}

/// Returns whether Cassandra itself answered, if only to refuse.
pub(super) fn is_answer(error: &ExecutionError) -> bool {
    let attempt = match error {
        ExecutionError::LastAttemptError(attempt) => attempt,
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) => first_attempt,
        _ => return false,
    };
    matches!(attempt, RequestAttemptError::DbError(..))
}
