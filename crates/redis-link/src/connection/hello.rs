//! Reads a server's answer to HELLO: whether it is a node of a Cluster, and whether it is a replica. Every user
//! may send HELLO, and the answer is small.

use std::collections::HashMap;

use redis::{Cmd, Value};

/// The answer to `HELLO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) mode: Mode,
    /// Set if the server follows another one.
    pub(crate) replica: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Standalone,
    Cluster,
    Sentinel,
}

impl Hello {
    /// Returns the command, which changes nothing.
    pub(crate) fn ask() -> Cmd {
        redis::cmd("HELLO")
    }

    /// Reads a reply; `None` if the server does not tell, for example because a proxy does not know the command.
    pub(crate) fn of_reply(reply: Value) -> Option<Hello> {
        if matches!(reply, Value::ServerError(_)) {
            return None;
        }
        let fields: HashMap<String, Value> = redis::from_redis_value(reply).ok()?;
        let text = |name: &str| {
            fields.get(name).cloned().and_then(|value| redis::from_redis_value::<String>(value).ok())
        };
        let mode = match text("mode")?.as_str() {
            "cluster" => Mode::Cluster,
            "sentinel" => Mode::Sentinel,
            _ => Mode::Standalone,
        };
        Some(Hello { mode, replica: text("role").is_some_and(|role| role == "replica" || role == "slave") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_says_what_it_is() {
        let said = |mode: &str, role: &str| {
            let text = |text: &str| Value::BulkString(text.into());
            Hello::of_reply(Value::Array(vec![
                text("server"),
                text("redis"),
                text("proto"),
                Value::Int(2),
                text("mode"),
                text(mode),
                text("role"),
                text(role),
                text("modules"),
                Value::Array(vec![]),
            ]))
        };
        let hello = |mode, replica| Some(Hello { mode, replica });
        assert_eq!(said("standalone", "master"), hello(Mode::Standalone, false));
        assert_eq!(said("standalone", "replica"), hello(Mode::Standalone, true));
        assert_eq!(said("cluster", "master"), hello(Mode::Cluster, false));
        assert_eq!(Hello::of_reply(redis::parse_redis_value(b"-ERR unknown command\r\n").unwrap()), None);
    }
}
