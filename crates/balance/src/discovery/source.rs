//! Parses the source of an upstream's targets as an operator writes it. Resolves nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::discovery::target::{DEFAULT_WEIGHT, Target};

/// The most targets one upstream may have. A longer list is a mistake, not a service.
pub(crate) const TARGETS_MAX: usize = 1024;

/// The way an upstream's targets are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A list that never changes: `127.0.0.1:7101,127.0.0.1:7102`.
    Static(Vec<Target>),
    /// A file with one target per line, watched for changes: `file:/etc/shoal/cache.targets`.
    File(PathBuf),
    /// Every A and AAAA record of a name, asked again every five seconds: `dns:cache:7100`.
    Dns {
        /// The name to resolve.
        host: String,
        /// The port, the same for every address.
        port: u16,
    },
    /// Every SRV record of a name, asked again every five seconds: `srv:_grpc._tcp.cache.internal`. The records give ports and
    /// weights. The lowest priority that has an address is used.
    Srv(String),
}

/// The reason why a source or a target file is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The source is empty.
    #[error(
        "no target is named: write `host-ip:port[,host-ip:port...]`, `file:/path`, `dns:host:port` or `srv:name` \
         (in a file: one `ip:port` a line)"
    )]
    Empty,
    /// An item is not `ip:port`.
    #[error("`{0}` is not an `ip:port` address; for a name write `dns:host:port`")]
    Address(String),
    /// The same address appears twice.
    #[error("{0} is listed twice")]
    Duplicate(SocketAddr),
    /// `file:` without a path.
    #[error("`file:` needs a path, as in `file:/etc/shoal/cache.targets`")]
    Path,
    /// `dns:` without a usable host and port.
    #[error("`{0}` is not `dns:host:port` with a port from 1 to 65535")]
    Dns(String),
    /// `srv:` without a usable name.
    #[error("`{0}` is not `srv:name`, as in `srv:_grpc._tcp.cache.internal`; its port is in its records")]
    Srv(String),
    /// A word after the address that is not a weight.
    #[error("`{0}` is not valid after an address: use `weight=N` with N from 1 to 4294967295")]
    Attribute(String),
    /// The list has more targets than one upstream may have.
    #[error("more than {TARGETS_MAX} targets")]
    TooMany,
    /// An error in a file, with its line.
    #[error("line {line}: {error}")]
    Line {
        /// The line number, counted from 1.
        line: usize,
        /// The error in that line.
        error: Box<ParseError>,
    },
}

impl FromStr for Source {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Source, ParseError> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("file:") {
            return if path.is_empty() { Err(ParseError::Path) } else { Ok(Source::File(path.into())) };
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return parse_dns(name).ok_or_else(|| ParseError::Dns(text.into()));
        }
        if let Some(name) = text.strip_prefix("srv:") {
            let sane = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || ":/,".contains(c));
            return if sane { Ok(Source::Srv(name.into())) } else { Err(ParseError::Srv(text.into())) };
        }
        let mut targets = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            push(&mut targets, parse_target(item)?)?;
        }
        if targets.is_empty() { Err(ParseError::Empty) } else { Ok(Source::Static(targets)) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Static(targets) => {
                for (index, target) in targets.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{target}")?;
                }
                Ok(())
            }
            Source::File(path) => write!(f, "file:{}", path.display()),
            Source::Dns { host, port } => write!(f, "dns:{host}:{port}"),
            Source::Srv(name) => write!(f, "srv:{name}"),
        }
    }
}

/// Parses a target file: one `ip:port [weight=N]` per line; `#` starts a comment.
///
/// A file without targets is an error: a half-written file looks like that.
pub(crate) fn parse_file(text: &str) -> Result<Vec<Target>, ParseError> {
    let mut targets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        parse_target(line)
            .and_then(|target| push(&mut targets, target))
            .map_err(|error| ParseError::Line { line: index + 1, error: Box::new(error) })?;
    }
    if targets.is_empty() { Err(ParseError::Empty) } else { Ok(targets) }
}

fn parse_target(text: &str) -> Result<Target, ParseError> {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap_or_default();
    let address = address.parse().map_err(|_| ParseError::Address(address.into()))?;
    let mut weight = DEFAULT_WEIGHT;
    for word in words {
        weight = word
            .strip_prefix("weight=")
            .and_then(|number| number.parse().ok())
            .filter(|weight| *weight > 0)
            .ok_or_else(|| ParseError::Attribute(word.into()))?;
    }
    Ok(Target { address, weight })
}

fn push(targets: &mut Vec<Target>, target: Target) -> Result<(), ParseError> {
    if targets.iter().any(|known| known.address == target.address) {
        return Err(ParseError::Duplicate(target.address));
    }
    if targets.len() == TARGETS_MAX {
        return Err(ParseError::TooMany);
    }
    targets.push(target);
    Ok(())
}

fn parse_dns(text: &str) -> Option<Source> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let sane = !host.is_empty() && !host.contains(char::is_whitespace) && !host.contains('/');
    sane.then(|| Source::Dns { host: host.into(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trip(text: &str) {
        let source: Source = text.parse().unwrap();
        assert_eq!(source.to_string(), text);
        assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let error = text.parse::<Source>().unwrap_err().to_string();
        assert!(error.contains(message), "{text:?}: {error}");
    }

    #[test]
    fn every_form_round_trips() {
        round_trip("127.0.0.1:1,127.0.0.1:2");
        round_trip("127.0.0.1:1 weight=3,[::1]:2");
        round_trip("file:/etc/shoal/cache.targets");
        round_trip("dns:cache.internal:7100");
        round_trip("srv:_grpc._tcp.cache.internal.");
    }

    #[test]
    fn ignores_spaces_and_empty_items() {
        let source: Source = " 127.0.0.1:1 , ,127.0.0.1:2, ".parse().unwrap();
        assert_eq!(source.to_string(), "127.0.0.1:1,127.0.0.1:2");
    }

    #[test]
    fn errors_say_what_to_write() {
        refused("", "dns:host:port");
        refused(" , ", "no target is named");
        refused("cache:7100", "for a name write `dns:host:port`");
        refused("127.0.0.1", "`127.0.0.1` is not");
        refused("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1 is listed twice");
        refused("127.0.0.1:1 weight=0", "`weight=0`");
        refused("127.0.0.1:1 zone=a", "`zone=a`");
        refused("file:", "needs a path");
        refused("dns:cache", "dns:host:port");
        refused("dns::80", "dns:host:port");
        refused("dns:cache:0", "from 1 to 65535");
        refused("dns:cache:99999", "from 1 to 65535");
        refused("srv:", "srv:_grpc._tcp");
        refused("srv:cache:7100", "its port is in its records");
    }

    #[test]
    fn file_has_comments_and_weights() {
        let targets = parse_file("# ours\n\n127.0.0.1:1\n127.0.0.1:2 weight=4 # big\r\n").unwrap();
        assert_eq!(
            targets.iter().map(Target::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:1", "127.0.0.1:2 weight=4"]
        );
    }

    #[test]
    fn bad_file_error_names_line() {
        let error = parse_file("127.0.0.1:1\nnonsense\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2: `nonsense`"), "{error}");
        assert_eq!(parse_file("# nothing\n"), Err(ParseError::Empty));
    }

    #[test]
    fn refuses_too_many_targets() {
        let text: String = (0..=TARGETS_MAX).map(|port| format!("127.0.0.1:{}\n", port + 1)).collect();
        assert!(parse_file(&text).unwrap_err().to_string().contains("more than 1024"));
    }
}
