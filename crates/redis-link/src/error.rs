//! What a caller can know after a failed call: certainly not done, perhaps done, or refused by Redis.

use redis::{ErrorKind, RedisError, ServerError};

/// Why a call failed, cut by what the caller may do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing was sent, or Redis refused before doing anything because it is not in service (starting,
    /// cluster down): the call can be repeated.
    #[error("{0}")]
    Unavailable(String),
    /// The call was sent and its answer did not come in time, or the connection broke: a write may have been
    /// done, or may still be done.
    #[error("{0}")]
    Unknown(String),
    /// Redis answered with an error: `OOM`, `WRONGTYPE`, `READONLY`, a script's error, ... The commands of a
    /// pipeline beside the failed one may have been done.
    #[error("redis refused: {code} {message}")]
    Server {
        /// The error's first word, as Redis or a script (`redis.error_reply('SHOAL …')`) gave it; `UNEXPECTED`
        /// if the reply has not the type that the caller asked for.
        code: String,
        /// The rest of the error.
        message: String,
    },
    /// The configuration cannot work; the text says what to change.
    #[error("{0}")]
    Config(String),
}

impl LinkError {
    /// The error of a reply that says what Redis thinks of the command.
    pub(crate) fn from_server(error: &ServerError) -> LinkError {
        let (code, message) = (error.code(), error.details().unwrap_or_default());
        if is_out_of_service(code) {
            return LinkError::Unavailable(format!("redis is not in service: {code} {message}"));
        }
        LinkError::Server { code: code.to_owned(), message: message.to_owned() }
    }

    /// The error of a reply that is not of the type asked for: the command was done.
    pub(crate) fn unexpected(error: impl std::fmt::Display) -> LinkError {
        LinkError::Server { code: "UNEXPECTED".to_owned(), message: error.to_string() }
    }

    /// A short name for metrics and spans.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            LinkError::Unavailable(_) => "unavailable",
            LinkError::Unknown(_) => "unknown",
            LinkError::Server { .. } => "server",
            LinkError::Config(_) => "config",
        }
    }
}

/// Redis answered an error by which it did nothing and which passes with time.
pub(crate) fn is_out_of_service(code: &str) -> bool {
    matches!(code, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY")
}

/// Whether the driver's error means that the connection is of no more use.
pub(crate) fn is_lost(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse)
}

/// An error of the driver for a request that was given to it.
pub(crate) fn after_send(address: &dyn std::fmt::Display, error: RedisError) -> LinkError {
    if is_lost(&error) {
        return LinkError::Unknown(format!("redis at {address}: the connection was lost: {error}"));
    }
    let text = error.to_string();
    match error.into_server_errors().as_deref() {
        Some([(_, first), ..]) => LinkError::from_server(first),
        _ => LinkError::unexpected(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &[u8]) -> LinkError {
        match redis::parse_redis_value(line).unwrap() {
            redis::Value::ServerError(error) => LinkError::from_server(&error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_redis_out_of_service_is_unavailable_and_other_errors_keep_their_code() {
        for line in [
            b"-LOADING Redis is loading the dataset in memory\r\n".as_slice(),
            b"-BUSY Redis is busy running a script.\r\n",
            b"-MASTERDOWN Link with MASTER is down\r\n",
            b"-CLUSTERDOWN The cluster is down\r\n",
        ] {
            assert!(matches!(of(line), LinkError::Unavailable(_)), "{:?}", of(line));
        }
        for (line, code) in [
            (b"-OOM command not allowed\r\n".as_slice(), "OOM"),
            (b"-WRONGTYPE Operation\r\n", "WRONGTYPE"),
            (b"-READONLY You can't write\r\n", "READONLY"),
            (b"-SHOAL limit 5\r\n", "SHOAL"),
            (b"-ERR syntax error\r\n", "ERR"),
        ] {
            assert!(
                matches!(of(line), LinkError::Server { code: found, .. } if found == code),
                "{:?}",
                of(line)
            );
        }
    }
}
