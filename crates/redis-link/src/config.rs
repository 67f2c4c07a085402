//! The configuration of a link: where Redis is and how long to wait for it. It is parsed once and valid from then on.

use std::fmt;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};

use crate::endpoint::Endpoint;
use crate::error::LinkError;
use crate::health::Health;
use crate::health::eviction::Eviction;
use crate::meter::Meter;
use crate::script::Script;

/// The configuration of a link: plain values that [`Link::open`](crate::Link::open) validates.
#[derive(Clone)]
pub struct LinkConfig {
    /// `redis://[user:password@]host:port[/db]`; several of them, separated by commas, are seeds of a Cluster.
    /// `redis+sentinel://[user:password@]host:port[,host:port]/name[/db]` names Sentinels and the primary
    /// that they know by that name.
    pub url: String,
    /// The service that uses the link, for spans, metrics and `CLIENT LIST` (`shoal-ROLE`): `session`, `cache`, ...
    pub role: &'static str,
    /// Connections to each node, 1 to 64. The first half carries writes and the rest reads; a single connection carries both.
    /// A half uses its next connection only while the earlier ones are busy: under light load calls share one connection and
    /// its system calls, and under heavy load a slow reply delays only part of the calls. [`Link::bulk`](crate::Link::bulk)
    /// has one connection more.
    pub connections: usize,
    /// The time a whole call may take.
    pub call_deadline: Duration,
    /// The time one attempt to connect may take, with the handshake and the loading of scripts.
    pub connect_deadline: Duration,
    /// The number of consecutive time-outs after which calls to a node fail at once.
    pub breaker_threshold: u32,
    /// Scripts to load on every new connection, so that no call gets `NOSCRIPT` after a restart. The first use of any other
    /// script adds it.
    pub scripts: Vec<Script>,
    /// Puts the node's address into errors, which the callers of a service may see. Logs and
    /// [`Link::ready_now`](crate::Link::ready_now) always name the node.
    pub show_addresses: bool,
    /// The eviction policy that the role needs. If Redis has another one, the log, [`Link::loses`](crate::Link::loses) and
    /// [`Link::ready_now`](crate::Link::ready_now) say so.
    pub eviction: Eviction,
    /// Carries the keys of a slot whose move has begun to the new node when calls wait for that slot ([`Script::new`]). Turn
    /// this off to move slots slowly, or to abandon a move.
    pub finish_moves: bool,
    /// The record of the state of Redis; share one among all links of a role in a process.
    pub health: Health,
}

impl LinkConfig {
    /// Returns the defaults for a Redis in the same data centre: two connections, and 200 ms for a call.
    #[must_use]
    pub fn new(url: impl Into<String>, role: &'static str) -> LinkConfig {
        LinkConfig {
            url: url.into(),
            role,
            connections: 2,
            call_deadline: Duration::from_millis(200),
            connect_deadline: Duration::from_millis(250),
            breaker_threshold: 5,
            scripts: Vec::new(),
            show_addresses: false,
            eviction: Eviction::Indifferent,
            finish_moves: true,
            health: Health::new(role),
        }
    }
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL: it may hold a password.
        f.debug_struct("LinkConfig")
            .field("role", &self.role)
            .field("connections", &self.connections)
            .field("call_deadline", &self.call_deadline)
            .field("connect_deadline", &self.connect_deadline)
            .field("breaker_threshold", &self.breaker_threshold)
            .field("scripts", &self.scripts)
            .field("show_addresses", &self.show_addresses)
            .field("finish_moves", &self.finish_moves)
            .finish_non_exhaustive()
    }
}

/// The settings that all connections of a link share.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) role: &'static str,
    pub(crate) meter: Meter,
    pub(crate) connections: usize,
    pub(crate) call_deadline: Duration,
    pub(crate) connect_deadline: Duration,
    pub(crate) breaker_threshold: u32,
    /// The Sentinels to ask for the address of the single Redis.
    pub(crate) sentinel: Option<SentinelConfig>,
    /// User, password, database.
    pub(crate) login: RedisConnectionInfo,
    pub(crate) show_addresses: bool,
    pub(crate) eviction: Eviction,
    pub(crate) finish_moves: bool,
    pub(crate) health: Health,
}

/// The Sentinels of a URL, and the name that they have for the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentinelConfig {
    pub(crate) sentinels: Vec<Endpoint>,
    pub(crate) primary: String,
}

impl Settings {
    /// Returns the time a whole call may take.
    pub(crate) fn deadline(&self, bulk: bool) -> Duration {
        if bulk { self.call_deadline * BULK_DEADLINE } else { self.call_deadline }
    }

    /// Returns the name of a node in errors; it has the address if the link shows addresses.
    pub(crate) fn place(&self, endpoint: &Endpoint) -> String {
        if self.show_addresses { format!("redis at {endpoint}") } else { "redis".to_owned() }
    }
}

/// The multiple of the usual deadline that a call with a big value has.
const BULK_DEADLINE: u32 = 10;

impl LinkConfig {
    /// Returns the seeds (a single one is not a Cluster), the settings that all connections share, and the scripts.
    pub(crate) fn validate(self) -> Result<(Vec<Endpoint>, Settings, Vec<Script>), LinkError> {
        let config = |text: String| Err(LinkError::Config(text));
        if !(1..=64).contains(&self.connections) {
            return config(format!("connections is {}: give 1 to 64", self.connections));
        }
        if self.call_deadline.is_zero() || self.connect_deadline.is_zero() || self.breaker_threshold == 0 {
            return config(
                "call_deadline, connect_deadline and breaker_threshold must be over zero".to_owned(),
            );
        }
        let mut parsed = Vec::new();
        let mut sentinel = None;
        for url in urls(&self.url) {
            match url.strip_prefix(SENTINEL) {
                Some(rest) => {
                    let (endpoint, login, config) = parse_sentinel(rest)?;
                    sentinel = Some(config);
                    parsed.push((endpoint, login));
                }
                None => parsed.push(parse(url)?),
            }
        }
        if sentinel.is_some() && parsed.len() > 1 {
            return config("a redis+sentinel:// URL stands alone: all Sentinels are in one URL".to_owned());
        }
        let login = parsed[0].1.clone();
        let same = |other: &RedisConnectionInfo| {
            (other.db(), other.username(), other.password())
                == (login.db(), login.username(), login.password())
        };
        if parsed.len() > 1 && (login.db() != 0 || !parsed.iter().all(|(_, other)| same(other))) {
            return config(
                "all seeds of a Redis Cluster need the same user and password, and database 0".to_owned(),
            );
        }
        let settings = Settings {
            role: self.role,
            meter: Meter::new(self.role),
            connections: self.connections,
            call_deadline: self.call_deadline,
            connect_deadline: self.connect_deadline,
            breaker_threshold: self.breaker_threshold,
            sentinel,
            login,
            show_addresses: self.show_addresses,
            eviction: self.eviction,
            finish_moves: self.finish_moves,
            health: self.health,
        };
        Ok((parsed.into_iter().map(|(endpoint, _)| endpoint).collect(), settings, self.scripts))
    }
}

/// Describes the Redis of a URL for people: hosts, ports and the database, without user and password.
#[must_use]
pub fn describe(url: &str) -> String {
    let name = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        // A password may hold an `@`; nothing after it can.
        let rest = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        // Any part of a malformed URL may be the password.
        if is_place(rest) { rest.to_owned() } else { "…".to_owned() }
    };
    urls(url).map(name).collect::<Vec<_>>().join(",")
}

/// Returns whether a text is `host[:port][,host[:port]…][/name…]`.
fn is_place(text: &str) -> bool {
    let hosts = text.split_once('/').map_or(text, |(hosts, _)| hosts);
    hosts.split(',').all(|host| {
        let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
        let port = after.split_once(':').map_or("", |(_, port)| port);
        !host.starts_with(':') && port.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Splits a list of URLs at its commas. A comma that no scheme follows belongs to a password or to a list of Sentinels.
fn urls(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let mut commas = list.match_indices(',').map(|(at, _)| at);
        let end = commas.find(|at| {
            let next = &list[at + 1..];
            next.trim_start()
                .split(',')
                .next()
                .is_some_and(|next| next.is_empty() || SCHEMES.iter().any(|scheme| next.starts_with(scheme)))
        });
        rest = end.map(|end| &list[end + 1..]);
        Some(list[..end.unwrap_or(list.len())].trim())
    })
}

/// The schemes of Redis URLs, with those that this link refuses.
const SCHEMES: [&str; 6] =
    ["redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://", "valkey://", "valkeys://"];

/// The scheme of a URL that names Sentinels.
const SENTINEL: &str = "redis+sentinel://";

/// The port of a Sentinel whose URL names none.
const SENTINEL_PORT: u16 = 26_379;

/// Reads `[user:password@]host:port[,host:port]/name[/db]`. The endpoint is the name of the Redis in logs and errors.
fn parse_sentinel(rest: &str) -> Result<(Endpoint, RedisConnectionInfo, SentinelConfig), LinkError> {
    let wrong = |what: &str| {
        Err(LinkError::Config(format!(
            "{what}: a URL of Sentinels is redis+sentinel://[user:password@]host:port[,host:port]/name[/db]"
        )))
    };
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
    let Some((hosts, name)) = place.split_once('/') else { return wrong("no name of the primary") };
    let (primary, db) = name.split_once('/').unwrap_or((name, ""));
    if primary.is_empty() || primary.contains(['?', '#', ' ']) {
        return wrong("no name of the primary");
    }
    let mut sentinels = Vec::new();
    for host in hosts.split(',').map(str::trim) {
        let bracketed = host.strip_prefix('[').and_then(|host| host.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(SENTINEL_PORT), str::parse);
        match port {
            Ok(port) if !host.is_empty() => sentinels.push(Endpoint { host: host.to_owned(), port }),
            _ => return wrong("a Sentinel without a host, or with a wrong port"),
        }
    }
    // User, password and database are written as in any URL of a Redis.
    let login = login.map(|login| format!("{login}@")).unwrap_or_default();
    let (_, login) = parse(&format!("redis://{login}sentinel:{SENTINEL_PORT}/{db}"))?;
    let first = &sentinels[0];
    let endpoint = Endpoint { host: format!("{primary} of the sentinel {}", first.host), port: first.port };
    Ok((endpoint, login, SentinelConfig { sentinels, primary: primary.to_owned() }))
}

/// Reads one `redis://` URL. The text of an error must not repeat the URL, which may hold a password.
fn parse(url: &str) -> Result<(Endpoint, RedisConnectionInfo), LinkError> {
    if ["rediss://", "valkeys://", "rediss+sentinel://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(LinkError::Config(
            "rediss:// asks for TLS, which is not built into this binary; use redis:// to a local TLS proxy"
                .to_owned(),
        ));
    }
    if !url.starts_with("redis://") {
        return Err(LinkError::Config(
            "a Redis URL is redis://host:port[/db], several of them separated by commas for a Cluster, or \
             redis+sentinel://host:port[,host:port]/name[/db]"
                .to_owned(),
        ));
    }
    let info = url
        .into_connection_info()
        .map_err(|error| LinkError::Config(format!("the Redis URL is wrong: {error}")))?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return Err(LinkError::Config("only redis://host:port[/db] is supported".to_owned()));
    };
    let endpoint = Endpoint { host: host.clone(), port: *port };
    // Saves a round trip for each connection; CLIENT SETNAME says who it is.
    Ok((endpoint, info.redis_settings().clone().set_skip_set_lib_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match LinkConfig::new(url, "test").validate() {
            Err(LinkError::Config(text)) => text,
            other => panic!("{url} gave {other:?}"),
        }
    }

    #[test]
    fn several_urls_name_a_cluster() {
        let (seeds, settings, _) = LinkConfig::new("redis://localhost:7001/3", "test").validate().unwrap();
        assert_eq!(seeds, [Endpoint { host: "localhost".into(), port: 7001 }]);
        assert_eq!(settings.login.db(), 3);
        let (seeds, _, _) = LinkConfig::new("redis://a:1, redis://b:2", "test").validate().unwrap();
        assert_eq!(seeds.len(), 2);
    }

    #[test]
    fn invalid_configuration_is_refused_with_reason() {
        assert!(refused("rediss://localhost:6379").contains("TLS"));
        assert!(refused("localhost:6379").contains("redis://host:port"));
        assert!(refused("redis://a:1/1,redis://b:2/1").contains("database 0"));
        assert!(refused("").contains("redis://host:port"));
        assert!(!refused("redis://user:hunter2@host:70000").contains("hunter2"));
    }

    #[test]
    fn sentinels_and_their_primary_are_read() {
        let url = "redis+sentinel://app:p,ss@a:1,b,[::1]:3/mymaster/2";
        let (seeds, settings, _) = LinkConfig::new(url, "test").validate().unwrap();
        assert_eq!(seeds.len(), 1, "one Redis, and no Cluster");
        let sentinel = settings.sentinel.unwrap();
        let found: Vec<_> =
            sentinel.sentinels.iter().map(|found| (found.host.as_str(), found.port)).collect();
        assert_eq!(found, [("a", 1), ("b", 26_379), ("::1", 3)]);
        assert_eq!(sentinel.primary, "mymaster");
        let login = settings.login;
        assert_eq!((login.username(), login.password(), login.db()), (Some("app"), Some("p,ss"), 2));
        assert_eq!(describe(url), "a:1,b,[::1]:3/mymaster/2");
        for bad in ["redis+sentinel://a:1", "redis+sentinel://a:1/", "redis+sentinel://:1/m"] {
            assert!(refused(bad).contains("redis+sentinel://"), "{bad}");
        }
        assert!(refused("redis+sentinel://a/m,redis://b:1").contains("stands alone"));
        assert!(refused("rediss+sentinel://a/m").contains("TLS"));
    }

    #[test]
    fn a_password_is_not_printed() {
        let config = LinkConfig::new("redis://user:hunter2@host:1", "test");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!format!("{:?}", config.validate().unwrap()).contains("hunter2"));
    }

    #[test]
    fn description_shows_database_without_secret() {
        for (url, described) in [
            ("redis://user:p@ss@a:1/3, redis://b:2", "a:1/3,b:2"),
            ("redis://:p,ss@a:1", "a:1"),
            ("redis://:p,ss@a:1/2,redis://:q@r,s@b:2", "a:1/2,b:2"),
            ("redis://:p/x@a:1/?protocol=resp3", "a:1"),
            ("nonsense", "nonsense"),
            ("redis://:p,a://b@h:1", "h:1"),
            ("redis://:secret", "…"),
            ("redis://user:secret", "…"),
            ("redis://:se,cret", "…"),
            ("redis://a:1,redis://:se,cret", "a:1,…"),
            ("redis://[::1]:6379/2", "[::1]:6379/2"),
        ] {
            assert_eq!(describe(url), described, "{url}");
        }
        let (seeds, _, _) = LinkConfig::new("redis://:p,ss@a:1", "test").validate().unwrap();
        assert_eq!(seeds.len(), 1, "a comma in a password makes no Cluster");
        assert!(refused("redis://a:1,").contains("redis://host:port"));
    }
}
