//! The meaning of the driver's errors to a caller.

use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};

use crate::error::Error;

/// Name of the engine in errors.
pub(super) const ENGINE: &str = "cassandra";

/// Words by which Cassandra tells that a read met more tombstones than its `tombstone_failure_threshold`.
const TOO_MANY_TOMBSTONES: &str = "READ_TOO_MANY_TOMBSTONES";

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
        if let Some(missing) = missing(error) {
            return missing.into_error();
        }
        match error {
            RequestAttemptError::DbError(DbError::ReadFailure { .. }, text)
                if text.contains(TOO_MANY_TOMBSTONES) =>
            {
                Error::TooManyTombstones { engine: ENGINE }
            }
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

/// Part of the schema that a statement names and Cassandra does not have. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// The whole keyspace.
    Keyspace,
    /// A table of it.
    Table(String),
}

impl Missing {
    fn into_error(self) -> Error {
        match self {
            Missing::Keyspace => {
                Error::Unavailable { engine: ENGINE, detail: "the keyspace is not there".to_owned() }
            }
            Missing::Table(table) => Error::TableMissing { table },
        }
    }
}

/// Returns what a node says that it does not have, as releases of Cassandra word it.
pub(super) fn missing(error: &RequestAttemptError) -> Option<Missing> {
    let RequestAttemptError::DbError(DbError::Invalid, detail) = error else { return None };
    let detail = detail.to_ascii_lowercase();
    let absent = detail.strip_suffix(" does not exist");
    let old = detail.strip_prefix("unconfigured table ");
    if let Some(table) = old.or_else(|| absent?.strip_prefix("table ")) {
        return Some(Missing::Table(table.trim().to_owned()));
    }
    absent?.starts_with("keyspace ").then_some(Missing::Keyspace)
}

/// Returns the same of an error of a whole statement.
pub(super) fn missing_of(error: &ExecutionError) -> Option<Missing> {
    match error {
        ExecutionError::LastAttemptError(attempt)
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt: attempt }) => {
            missing(attempt)
        }
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_schema_is_no_defect() {
        let invalid = |detail: &str| RequestAttemptError::DbError(DbError::Invalid, detail.to_owned());
        assert_eq!(missing(&invalid("unconfigured table t_a")), Some(Missing::Table("t_a".to_owned())));
        assert_eq!(missing(&invalid("table t_a does not exist")), Some(Missing::Table("t_a".to_owned())));
        assert_eq!(missing(&invalid("Keyspace shoal does not exist")), Some(Missing::Keyspace));
        assert_eq!(missing(&invalid("keyspace shoal does not exist")), Some(Missing::Keyspace));
        assert_eq!(missing(&invalid("Expected 4 or 0 byte int (8)")), None);
        let failed = |detail| Intent::Read.failed(&ExecutionError::LastAttemptError(invalid(detail)));
        assert!(matches!(failed("unconfigured table t_a"), Error::TableMissing { table } if table == "t_a"));
        assert!(matches!(failed("keyspace k does not exist"), Error::Unavailable { .. }));
        assert!(matches!(failed("Expected 4 or 0 byte int (8)"), Error::Internal(_)));
    }
}
