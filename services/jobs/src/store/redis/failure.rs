//! The meaning of a failed call to Redis.

use shoal_kit::EngineError;
use shoal_redis_link::LinkError;

use crate::error::Error;

/// The name of the engine in errors.
pub(super) const ENGINE: &str = "redis";

/// Makes the error of a failed step, which may have been taken if no answer came.
pub(super) fn error(error: LinkError) -> Error {
    let engine = ENGINE;
    Error::Engine(match error {
        LinkError::Unavailable(detail) => EngineError::Unavailable { engine, detail },
        LinkError::Unknown(detail) => EngineError::Unknown { engine, detail },
        LinkError::Moving(detail) => EngineError::Moving { engine, detail },
        LinkError::Full(detail) => {
            EngineError::Full { engine, detail, remedy: "raise its maxmemory, or let workers work off jobs" }
        }
        LinkError::ReadOnly(detail) => EngineError::ReadOnly { engine, detail },
        LinkError::Denied(detail) => EngineError::Misconfigured { engine, detail },
        LinkError::Server { code, message } => {
            return Error::Internal(format!("redis: {code} {message}"));
        }
        LinkError::Config(detail) => return Error::Internal(detail),
    })
}

/// Makes the error of a failed read, which changes nothing.
pub(super) fn read_error(failed: LinkError) -> Error {
    match error(failed) {
        Error::Engine(error) => Error::Engine(error.of_read()),
        other => other,
    }
}
