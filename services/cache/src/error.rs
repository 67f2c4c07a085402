//! Errors of the cache, and the one place that says what callers see of them.

use std::time::Duration;

use shoal_kit::reason;
use shoal_kit::{ApiError, Invalid};
use tonic::Code;

use crate::loader::LoadError;
use crate::store::StoreError;

/// The reason for which a call failed. Cloned to everyone who waited for the same load.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    /// An argument is not valid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A value is larger than its namespace allows.
    #[error("a value of {bytes} bytes is over the {bytes_max} bytes of namespace `{namespace}`")]
    ValueTooLarge {
        /// The namespace.
        namespace: String,
        /// The size of the value.
        bytes: usize,
        /// The limit of the namespace.
        bytes_max: usize,
    },
    /// An entry cannot be added to.
    #[error("the value is no integer, or the sum is too large")]
    NotIncremented {
        /// True if the sum is beyond 64 bits.
        overflow: bool,
    },
    /// The kind has no declared loader.
    #[error("kind `{kind}` is not declared")]
    KindNotDeclared {
        /// The kind.
        kind: String,
    },
    /// A kind reads from the data service, and this clone does not know where that is.
    #[error("kind `{kind}` needs the data service")]
    NoDataPeer {
        /// The kind.
        kind: String,
    },
    /// The loader knows no such object.
    #[error("there is no object of kind `{kind}` with this id")]
    ObjectNotFound {
        /// The kind.
        kind: String,
    },
    /// Too many loads are going on at this clone.
    #[error("too many loads of kind `{kind}`")]
    Busy {
        /// The kind.
        kind: String,
        /// The number of loads that may go on at once.
        loads_max: usize,
    },
    /// The loading task was stopped before it had an answer.
    #[error("the load was interrupted")]
    Interrupted,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The loader failed.
    #[error("loader of `{kind}`: {error}")]
    Load {
        /// The kind.
        kind: String,
        /// The loader, as the configuration names it.
        loader: String,
        /// The loader's failure.
        error: Box<LoadError>,
    },
    /// The loader is left alone, because it failed again and again.
    #[error("loader of `{kind}` is left alone for {retry_after:?}")]
    Paused {
        /// The kind.
        kind: String,
        /// The loader, as the configuration names it.
        loader: String,
        /// The time after which it is worth to call again.
        retry_after: Duration,
        /// The last failure of the loader.
        last: Option<Box<LoadError>>,
    },
}

impl Error {
    /// Returns whether it says that the loader is broken, away or overloaded, and nothing about the object.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Error::Load { error, .. } => error.is_outage(),
            Error::Busy { .. } | Error::Paused { .. } | Error::Interrupted => true,
            Error::Invalid(_)
            | Error::ValueTooLarge { .. }
            | Error::NotIncremented { .. }
            | Error::KindNotDeclared { .. }
            | Error::NoDataPeer { .. }
            | Error::ObjectNotFound { .. }
            | Error::Store(_) => false,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(invalid) => invalid.into(),
            Error::ValueTooLarge { namespace, bytes, bytes_max } => ApiError::invalid(
                reason::VALUE_TOO_LARGE,
                "value",
                format!(
                    "{bytes} bytes are over the limit of {bytes_max} bytes of namespace `{namespace}`; \
                     send less, or raise max_value in [cache.namespace.{namespace}]"
                ),
            )
            .meta("namespace", namespace)
            .meta("bytes", bytes.to_string())
            .meta("bytes_max", bytes_max.to_string()),
            Error::NotIncremented { overflow } => ApiError::new(
                Code::FailedPrecondition,
                reason::NOT_INCREMENTED,
                match overflow {
                    true => "the sum is beyond 64 bits; the value was left as it is",
                    false => "the value is no integer as decimal text; Set it before you increment it",
                },
            ),
            Error::KindNotDeclared { kind } => ApiError::new(
                Code::FailedPrecondition,
                reason::KIND_NOT_DECLARED,
                format!(
                    "kind `{kind}` is not declared; add [cache.object.\"{kind}\"] with loader = \"http://HOST:PORT\" to the \
                     configuration of the cache, or use the built-in kind data.TABLE"
                ),
            )
            .meta("kind", kind),
            Error::NoDataPeer { kind } => ApiError::new(
                Code::FailedPrecondition,
                reason::NO_DATA_PEER,
                format!(
                    "kind `{kind}` is read from the data service, and this clone does not know where that is; \
                     start it with --peer data=HOST:PORT"
                ),
            )
            .meta("kind", kind),
            Error::ObjectNotFound { kind } => ApiError::new(
                Code::NotFound,
                reason::OBJECT_NOT_FOUND,
                format!("there is no object of kind `{kind}` with this id"),
            )
            .meta("kind", kind),
            // The loader is slow, for every clone, and this one has room for loads of other kinds.
            Error::Busy { kind, loads_max } => ApiError::new(
                Code::ResourceExhausted,
                reason::TOO_MANY_LOADS,
                format!("{loads_max} loads of kind `{kind}` are going on at this clone already; try again shortly"),
            )
            .meta("kind", kind)
            .meta("loads_max", loads_max.to_string())
            .retry_after(Duration::from_millis(100))
            .of_backend(),
            Error::Interrupted => ApiError::new(
                Code::Unavailable,
                reason::LOAD_INTERRUPTED,
                "this clone stopped before the load was done; call again",
            ),
            Error::Store(error) => store(error),
            // Every clone asks the same loader: none is to be shunned or asked instead for what that answered.
            Error::Load { kind, loader, error } => {
                load(&error, &loader).meta("kind", kind).meta("loader", loader).of_backend()
            }
            Error::Paused { kind, loader, retry_after, last } => {
                let last = last.map_or_else(|| "no answer".to_owned(), |last| last.to_string());
                ApiError::new(
                    Code::Unavailable,
                    reason::LOADER_PAUSED,
                    format!(
                        "loader {loader} failed again and again ({last}), and this clone leaves it alone; \
                         call again in {retry_after:.0?}"
                    ),
                )
                .meta("kind", kind)
                .meta("loader", loader)
                .meta("last", last)
                .retry_after(retry_after)
                .of_backend()
            }
        }
    }
}

fn store(error: StoreError) -> ApiError {
    match error {
        StoreError::Engine(error) => error.into_fault("call again, it is safe to repeat"),
        StoreError::Broken { detail } => ApiError::internal(detail),
    }
}

fn load(error: &LoadError, loader: &str) -> ApiError {
    match error {
        LoadError::Unreachable { detail } => ApiError::new(
            Code::Unavailable,
            reason::LOADER_UNAVAILABLE,
            format!("loader {loader} is not reachable ({detail}); try again shortly"),
        )
        .retry_after(Duration::from_millis(500)),
        LoadError::TimedOut { after } => ApiError::new(
            Code::Unavailable,
            reason::LOADER_TIMED_OUT,
            format!("loader {loader} did not answer within {after:?}; try again, or raise its timeout"),
        )
        .retry_after(Duration::from_secs(1)),
        LoadError::Rejected { code, reason, message } => ApiError::new(
            code_of(*code),
            reason::LOADER_REFUSED,
            format!("loader {loader} answered {code:?}: {message}"),
        )
        .meta("loader_code", format!("{code:?}"))
        .meta("loader_reason", reason.clone()),
        LoadError::Protocol { detail } => ApiError::new(
            Code::Internal,
            reason::LOADER_PROTOCOL,
            format!("loader {loader} broke the contract of ObjectLoaderService: {detail}"),
        ),
        LoadError::InvalidId { problem } => {
            ApiError::invalid(reason::INVALID_OBJECT_ID, "id", problem.clone())
        }
    }
}

/// Returns the code for the caller of a loader's own error: the loader's, except that a loader without its service says
/// nothing about which methods the cache has.
fn code_of(of_loader: Code) -> Code {
    match of_loader {
        Code::Unimplemented => Code::FailedPrecondition,
        code => code,
    }
}
