//! Why an engine (Redis, a database in this process) did not do what a service asked of it, and the one place that says what
//! callers are told. Each service turns its engine's own errors into these.

use std::time::Duration;

use tonic::Code;

use crate::errors::api_error::ApiError;
use crate::errors::reason;
/// When to ask again an engine that is away or takes no writes.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why an engine did not do it. `detail` says what was seen and reaches callers: it holds no address and no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine is not reachable from this clone, or not in service. Nothing was done.
    #[error("{engine} is not reachable: {detail}")]
    Unavailable {
        /// The engine's name, in words: `redis`, `the embedded database`.
        engine: &'static str,
        /// The failure as this clone saw it.
        detail: String,
    },
    /// The engine was asked and did not answer in time: the operation may have been done, or may still be done.
    #[error("{engine} did not answer: {detail}")]
    Unknown {
        /// The engine's name.
        engine: &'static str,
        /// The failure as this clone saw it.
        detail: String,
    },
    /// The engine is moving the data of the call from one of its nodes to another. Nothing was done; shortly it can be.
    #[error("{engine} is moving what this is about: {detail}")]
    Moving {
        /// The engine's name.
        engine: &'static str,
        /// Names the part that moves.
        detail: String,
    },
    /// The engine has no room for the operation. Nothing was done; reads and removals go on.
    #[error("{engine} is full: {detail}")]
    Full {
        /// The engine's name.
        engine: &'static str,
        /// The part that is full.
        detail: String,
        /// The advice for the operator.
        remedy: &'static str,
    },
    /// The engine takes no changes from any caller. Nothing was done; reads go on.
    #[error("{engine} takes no changes: {detail}")]
    ReadOnly {
        /// The engine's name.
        engine: &'static str,
        /// Why.
        detail: String,
    },
    /// Its configuration or this clone's does not suit: a wrong password, a policy that loses data. Nothing was done.
    #[error("{engine} or the access to it is misconfigured: {detail}")]
    Misconfigured {
        /// The engine's name.
        engine: &'static str,
        /// The fault in the configuration.
        detail: String,
    },
}

impl EngineError {
    /// Returns whether nothing was done for certain, so that the operation may be repeated.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(self, EngineError::Unknown { .. })
    }

    /// The same of a read, by which nothing can have been done.
    #[must_use]
    pub fn of_read(self) -> Self {
        match self {
            EngineError::Unknown { engine, detail } => EngineError::Unavailable { engine, detail },
            certain => certain,
        }
    }

    /// Returns the error for callers. `advice` says what to do about a change whose outcome is unknown.
    ///
    /// An engine that is full, takes no changes or moves data is so for every clone: a balancer that blamed this clone would
    /// take it from the calls that still work. An engine that this clone cannot reach may be reachable from another one.
    #[must_use]
    pub fn into_fault(self, advice: &str) -> ApiError {
        match self {
            EngineError::Unavailable { engine, detail } => ApiError::new(
                Code::Unavailable,
                reason::ENGINE_UNAVAILABLE,
                format!("{engine} is not reachable ({detail}); nothing was done; try again shortly"),
            )
            .meta("engine", engine)
            .retry_after(RETRY_AFTER),
            EngineError::Unknown { engine, detail } => ApiError::new(
                Code::Unavailable,
                reason::OUTCOME_UNKNOWN,
                format!("{engine} did not answer ({detail}); the change may have been made: {advice}"),
            )
            .meta("engine", engine)
            .retry_after(RETRY_AFTER),
            EngineError::Moving { engine, detail } => ApiError::new(
                Code::Unavailable,
                reason::ENGINE_MOVING,
                format!("{engine} is moving what this is about ({detail}); nothing was done; try again shortly"),
            )
            .meta("engine", engine)
            .retry_after(RETRY_AFTER)
            .of_backend(),
            EngineError::Full { engine, detail, remedy } => ApiError::new(
                Code::ResourceExhausted,
                reason::ENGINE_FULL,
                format!(
                    "{engine} is full ({detail}); nothing was done, and reads go on; its operator can {remedy}"
                ),
            )
            .meta("engine", engine)
            .of_backend(),
            EngineError::ReadOnly { engine, detail } => ApiError::new(
                Code::Unavailable,
                reason::ENGINE_READ_ONLY,
                format!("{engine} takes no changes ({detail}); nothing was done; reads go on, try again when it does"),
            )
            .meta("engine", engine)
            .retry_after(RETRY_AFTER)
            .of_backend(),
            EngineError::Misconfigured { engine, detail } => ApiError::new(
                Code::Unavailable,
                reason::ENGINE_MISCONFIGURED,
                format!("{engine} cannot be used as it is configured ({detail}); nothing was done; its operator must see to it"),
            )
            .meta("engine", engine),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::errors::api_error::FAULT_OF;

    #[test]
    fn each_engine_error_has_its_code() {
        let (engine, detail) = ("redis", || "seen".to_owned());
        for (error, code, reason, of_engine) in [
            (
                EngineError::Unavailable { engine, detail: detail() },
                Code::Unavailable,
                "ENGINE_UNAVAILABLE",
                false,
            ),
            (EngineError::Unknown { engine, detail: detail() }, Code::Unavailable, "OUTCOME_UNKNOWN", false),
            (EngineError::Moving { engine, detail: detail() }, Code::Unavailable, "ENGINE_MOVING", true),
            (
                EngineError::Full { engine, detail: detail(), remedy: "raise it" },
                Code::ResourceExhausted,
                "ENGINE_FULL",
                true,
            ),
            (EngineError::ReadOnly { engine, detail: detail() }, Code::Unavailable, "ENGINE_READ_ONLY", true),
            (
                EngineError::Misconfigured { engine, detail: detail() },
                Code::Unavailable,
                "ENGINE_MISCONFIGURED",
                false,
            ),
        ] {
            let certain = error.is_certain();
            let fault = error.into_fault("look first");
            assert_eq!((fault.code(), fault.reason().as_str()), (code, reason));
            let message = fault.message().to_owned();
            assert!(message.contains("redis") && message.contains("seen"), "{message}");
            assert_eq!(message.contains("nothing was done"), certain, "{message}");
            assert_eq!(message.contains("look first"), !certain, "{message}");
            let status: Status = fault.into();
            assert_eq!(status.metadata().contains_key(FAULT_OF), of_engine, "{reason}");
        }
    }
}
