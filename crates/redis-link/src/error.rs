//! The errors of calls, by what their caller can know: the call was certainly not done, was perhaps done, or was refused by Redis
//! for a reason.

use redis::{ErrorKind, RedisError, ServerError};

/// The reason why a call failed, by what the caller may do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The call was not sent, or Redis did nothing because it is not in service (starting, cluster down): the call can be
    /// repeated.
    #[error("{0}")]
    Unavailable(String),
    /// The call was sent and its answer did not come in time, or the connection broke: a write may have been
    /// done, or may still be done.
    #[error("{0}")]
    Unknown(String),
    /// The slot is moving from one node of a Cluster to another, and neither node can do this until it has moved: nothing was
    /// done, and the call can be repeated shortly.
    #[error("{0}")]
    Moving(String),
    /// Redis has reached its `maxmemory` and may not evict. It refuses calls that need memory, and has done nothing of this one.
    /// Reads pass, and so do scripts whose first write frees memory.
    #[error("redis is full: {0}")]
    Full(String),
    /// Redis answers reads and refuses writes, because it is a replica or cannot save: nothing was done.
    #[error("redis takes no writes: {0}")]
    ReadOnly(String),
    /// Redis does not accept this client's password, or does not permit its user this command: nothing was done.
    #[error("redis denies access: {0}")]
    Denied(String),
    /// Redis answered with another error: `WRONGTYPE`, a script's error, ... The commands of a pipeline beside the failed
    /// one may have been done.
    #[error("redis refused: {code} {message}")]
    Server {
        /// The error's first word, as Redis or a script (`redis.error_reply('SHOAL …')`) gave it; `UNEXPECTED`
        /// if the reply is not of the type that the caller asked for.
        code: String,
        /// The rest of the error.
        message: String,
    },
    /// The configuration cannot work; the text says what to change.
    #[error("{0}")]
    Config(String),
}

impl LinkError {
    /// Maps an error that Redis answered to a command.
    pub(crate) fn from_server(error: &ServerError) -> LinkError {
        let (code, message) = (error.code(), error.details().unwrap_or_default());
        if is_out_of_service(code) {
            return LinkError::Unavailable(format!("redis is not in service: {code} {message}"));
        }
        if let Some(trouble) = Trouble::of_code(code) {
            return trouble.error();
        }
        LinkError::Server { code: code.to_owned(), message: message.to_owned() }
    }

    /// Returns the error of a call whose other parts were done.
    pub(crate) fn of_part(self) -> LinkError {
        match self {
            LinkError::Unavailable(text) | LinkError::Moving(text) => LinkError::Unknown(text),
            other => other,
        }
    }

    /// Returns the error of a reply that is not of the type asked for: the command was done.
    pub(crate) fn unexpected(error: impl std::fmt::Display) -> LinkError {
        LinkError::Server { code: "UNEXPECTED".to_owned(), message: error.to_string() }
    }

    /// Returns a short name for metrics and spans.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            LinkError::Unavailable(_) => "unavailable",
            LinkError::Unknown(_) => "unknown",
            LinkError::Moving(_) => "moving",
            LinkError::Full(_) => "full",
            LinkError::ReadOnly(_) => "read_only",
            LinkError::Denied(_) => "denied",
            LinkError::Server { .. } => "server",
            LinkError::Config(_) => "config",
        }
    }
}

/// The reason why a Redis that answers refuses calls. Each reason lasts until an operator acts.
///
/// Redis refuses a script at its first write or not at all, so a refused script has done nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Full,
    Replica,
    CannotSave,
    TooFewReplicas,
    NoPassword,
    WrongPassword,
    NotPermitted,
}

impl Trouble {
    /// Returns the trouble that the first word of an error names.
    pub(crate) fn of_code(code: &str) -> Option<Trouble> {
        Some(match code {
            "OOM" => Trouble::Full,
            "READONLY" => Trouble::Replica,
            "MISCONF" => Trouble::CannotSave,
            "NOREPLICAS" => Trouble::TooFewReplicas,
            "NOAUTH" => Trouble::NoPassword,
            "WRONGPASS" => Trouble::WrongPassword,
            "NOPERM" => Trouble::NotPermitted,
            _ => return None,
        })
    }

    /// Describes the trouble in words without an address or a secret.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Trouble::Full => "its maxmemory is used up",
            Trouble::Replica => "it is a replica (READONLY)",
            Trouble::CannotSave => "it cannot save to its disk (MISCONF)",
            Trouble::TooFewReplicas => "it has not enough good replicas (NOREPLICAS)",
            Trouble::NoPassword => "it asks for a password, and none was given (NOAUTH)",
            Trouble::WrongPassword => "it does not accept the user name or password (WRONGPASS)",
            Trouble::NotPermitted => "its user may not do what was asked (NOPERM)",
        }
    }

    pub(crate) fn error(self) -> LinkError {
        let text = self.text().to_owned();
        match self {
            Trouble::Full => LinkError::Full(text),
            Trouble::Replica | Trouble::CannotSave | Trouble::TooFewReplicas => LinkError::ReadOnly(text),
            Trouble::NoPassword | Trouble::WrongPassword | Trouble::NotPermitted => LinkError::Denied(text),
        }
    }

    /// Returns whether Redis refuses reads for this trouble as well.
    pub(crate) fn is_denial(self) -> bool {
        matches!(self, Trouble::NoPassword | Trouble::WrongPassword | Trouble::NotPermitted)
    }
}

/// Maps the error of a connection that could not be made.
pub(crate) fn of_connecting(error: &RedisError, place: &str) -> LinkError {
    // The driver says so of AUTH, and drops what Redis answered.
    if error.kind() == ErrorKind::AuthenticationFailed {
        return Trouble::WrongPassword.error();
    }
    match error.code().and_then(Trouble::of_code) {
        Some(trouble) if trouble.is_denial() => trouble.error(),
        _ => LinkError::Unavailable(format!("{place}: {error}")),
    }
}

/// Returns whether an error says that Redis did nothing and is out of service for a time.
pub(crate) fn is_out_of_service(code: &str) -> bool {
    matches!(code, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY")
}

/// Returns whether an error of the driver means that the connection is lost.
pub(crate) fn is_lost(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse)
}

/// Maps an error of the driver for a request that was given to it.
pub(crate) fn after_send(place: &str, error: RedisError) -> LinkError {
    if is_lost(&error) {
        return LinkError::Unknown(format!("{place}: the connection was lost: {error}"));
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
    fn server_errors_are_mapped_by_code() {
        for line in [
            b"-LOADING Redis is loading the dataset in memory\r\n".as_slice(),
            b"-BUSY Redis is busy running a script.\r\n",
            b"-MASTERDOWN Link with MASTER is down\r\n",
            b"-CLUSTERDOWN The cluster is down\r\n",
        ] {
            assert!(matches!(of(line), LinkError::Unavailable(_)), "{:?}", of(line));
        }
        for (line, code) in [
            (b"-WRONGTYPE Operation\r\n".as_slice(), "WRONGTYPE"),
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

    #[test]
    fn refusals_differ_by_their_reason() {
        for line in ["OOM command not allowed", "READONLY You can't", "MISCONF x", "NOREPLICAS x", "NOAUTH x"]
        {
            let error = of(format!("-{line}\r\n").as_bytes());
            let (outcome, text) = (error.outcome(), error.to_string());
            let expected = match line.split(' ').next().unwrap() {
                "OOM" => ("full", "maxmemory"),
                "NOAUTH" => ("denied", "password"),
                code => ("read_only", code),
            };
            assert!(outcome == expected.0 && text.contains(expected.1), "{line}: {error:?}");
        }
    }
}
