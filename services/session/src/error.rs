//! Errors of the service, and the one place that says what callers see of them. No variant can hold a token.

use std::borrow::Cow;
use std::time::Duration;

use shoal_kit::Invalid;
use shoal_kit::reason::{self, Reason};
use shoal_kit::{ApiError, EngineError};
use tonic::{Code, Status};

use crate::session::attribute::Passed;

/// The reason for which a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The token or id has no session: it was never issued, is forged, ended, or was replaced long ago. Callers are not
    /// told which.
    #[error("there is no such session")]
    NotFound,
    /// A field of the request is wrong by itself.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A field of the request is over a limit by itself.
    #[error("{field}: over the limit `{limit}` of {max}")]
    TooMuch { field: &'static str, limit: &'static str, max: usize },
    /// The session's attributes would pass a limit; none was changed.
    #[error("the session's attributes would pass a limit")]
    AttributesFull { passed: Passed, max: usize },
    /// The session has another version than the caller expects; nothing was changed.
    #[error("the session's version is {current}")]
    VersionMismatch { expected: i64, current: i64 },
    /// The user has as many sessions as the policy allows.
    #[error("the user has {max} sessions")]
    UserFull { max: usize },
    /// The `request_id` belongs to another call.
    #[error("the request_id was used for another call")]
    RequestDiffers,
    /// The session that the `request_id` made has ended, or its token has been replaced.
    #[error("the request_id's session has ended or was rotated")]
    RequestSpent,
    /// The successor was derived with a key that was removed too early.
    #[error("the successor of this token cannot be derived any more")]
    SuccessorLost,
    /// The clone serves as many watchers as it may.
    #[error("this clone serves {max} watchers{of}")]
    WatchersFull {
        max: usize,
        /// The kind of watchers, with a space in front; empty for all of them.
        of: &'static str,
    },
    /// The clone is going away.
    #[error("the clone drains")]
    Draining,
    /// The engine did not do it, or is not known to have.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The Redis is configured to evict: it may drop sessions, and the entries that list a user's.
    #[error(
        "redis is configured to evict ({policy}) and would lose sessions and which are a user's without a word; set its \
         maxmemory-policy to noeviction"
    )]
    Evicts { policy: String },
    /// A defect of this program or of the stored data.
    #[error("{0}")]
    Internal(String),
}

/// The longest a caller should wait before it tries again what failed for a full user or clone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The pause before a watch that a draining clone ended is taken up again: another clone, if there is one, is there
/// already.
const DRAINING_RETRY_AFTER: Duration = Duration::from_millis(250);

impl Error {
    pub(crate) fn invalid(
        reason: Reason,
        field: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid(Invalid::new(reason, field, problem))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound => ApiError::new(
                Code::NotFound,
                reason::SESSION_NOT_FOUND,
                "there is no session for this token or id: it has ended or never was; sign in again",
            ),
            Error::Invalid(invalid) => invalid.into(),
            Error::TooMuch { field, limit, max } => ApiError::invalid(
                reason::LIMIT_EXCEEDED,
                field,
                format!("is over the limit {limit} = {max}; send less"),
            )
            .meta("limit", limit)
            .meta("max", max.to_string()),
            Error::AttributesFull { passed, max } => {
                let limit = match passed {
                    Passed::Count => "attributes_max",
                    Passed::Bytes => "attributes_bytes_max",
                };
                ApiError::new(
                    Code::ResourceExhausted,
                    reason::ATTRIBUTES_LIMIT_EXCEEDED,
                    format!(
                        "with this change the session's attributes would pass the limit {limit} = {max}; nothing was \
                         changed; remove some first"
                    ),
                )
                .meta("limit", limit)
                .meta("max", max.to_string())
            }
            Error::VersionMismatch { expected, current } => ApiError::new(
                Code::Aborted,
                reason::VERSION_MISMATCH,
                format!("the session is at version {current}, not {expected}; read it and decide again"),
            )
            .meta("expected_version", expected.to_string())
            .meta("current_version", current.to_string()),
            Error::UserFull { max } => ApiError::new(
                Code::ResourceExhausted,
                reason::SESSIONS_LIMIT_EXCEEDED,
                format!("the user has sessions_per_user_max = {max} sessions; revoke one first"),
            )
            .meta("limit", "sessions_per_user_max")
            .meta("max", max.to_string()),
            Error::RequestDiffers => ApiError::invalid(
                reason::REQUEST_ID_REUSED,
                "request_id",
                "was used for a CreateSession with other fields; give each session a request_id of its own",
            ),
            Error::RequestSpent => ApiError::new(
                Code::FailedPrecondition,
                reason::REQUEST_ID_SPENT,
                "the session that this request_id created has ended or was rotated; use a new request_id",
            ),
            Error::SuccessorLost => ApiError::new(
                Code::FailedPrecondition,
                reason::SUCCESSOR_LOST,
                "the token's successor was derived with a key that is no longer configured; sign in again",
            ),
            Error::WatchersFull { max, of } => ApiError::new(
                Code::ResourceExhausted,
                reason::WATCHERS_LIMIT_EXCEEDED,
                format!(
                    "this clone serves {max} watchers{of}, the most that watchers_max lets it; try another clone or raise the limit"
                ),
            )
            .meta("limit", "watchers_max")
            .meta("max", max.to_string())
            .retry_after(RETRY_AFTER),
            Error::Draining => ApiError::new(
                Code::Unavailable,
                reason::DRAINING,
                "this clone is shutting down; call again with the last resume_token: it goes on at another clone, \
                 or when one serves again",
            )
            .retry_after(DRAINING_RETRY_AFTER),
            Error::Engine(error) => error.into_fault("look before repeating it"),
            Error::Evicts { ref policy } => ApiError::new(Code::FailedPrecondition, reason::ENGINE_EVICTS, error.to_string())
                .meta("policy", policy.as_str())
                .of_backend(),
            Error::Internal(detail) => ApiError::internal(detail),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        ApiError::from(error).into()
    }
}
