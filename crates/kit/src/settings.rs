//! Configuration: flags beat the environment (`SHOAL_*`), which beats the TOML file, which beats the defaults. Read once
//! at start; nothing reads the environment later.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::{Figment, Provider as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::CommonArgs;
use crate::logs::LogFormat;
use crate::role::Role;
use crate::serve::Drain;
use crate::telemetry::TelemetryConfig;

/// Keys at the top of the file that are not a role's section.
const KEYS: [&str; 14] = [
    "listen",
    "admin",
    "insecure",
    "clones",
    "data_dir",
    "ephemeral",
    "redis",
    "cassandra",
    "otlp",
    "trace_ratio",
    "log_format",
    "log",
    "drain",
    "peer",
];

/// Settings of a process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen for gRPC.
    pub listen: SocketAddr,
    /// Where the admin port listens.
    pub admin: SocketAddr,
    /// Where embedded engines keep their files; none: in a temporary folder.
    pub data_dir: Option<PathBuf>,
    /// Redis for every role whose section names no other.
    redis: Option<String>,
    /// Cassandra or Scylla contact points.
    pub cassandra: Vec<String>,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// How to end.
    pub drain: Drain,
    /// How many clones of each role `up` runs.
    pub clones: BTreeMap<Role, usize>,
    /// Where the clones of other roles are, by role: an address list, `file:PATH`, `dns:HOST:PORT` or `srv:NAME`.
    pub peers: BTreeMap<Role, String>,
    figment: Figment,
}

#[derive(Deserialize)]
struct Raw {
    listen: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    #[serde(default)]
    insecure: bool,
    clones: Option<Clones>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    ephemeral: bool,
    redis: Option<String>,
    cassandra: Option<OneOrMany>,
    otlp: Option<String>,
    trace_ratio: Option<f64>,
    #[serde(default)]
    log_format: LogFormat,
    log: Option<String>,
    #[serde(default, with = "humantime_serde::option")]
    drain: Option<Duration>,
    #[serde(default)]
    peer: Peers,
}

/// `"a,b"` or `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// `2`, `"session=3,jobs=1"` or a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Clones {
    All(usize),
    Text(String),
    Table(BTreeMap<String, usize>),
}

/// `"session=ADDR;cache=dns:cache:7000"` or a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Peers {
    Text(String),
    Table(BTreeMap<String, String>),
}

impl Default for Peers {
    fn default() -> Self {
        Peers::Table(BTreeMap::new())
    }
}

/// Used when nothing else is given.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Defaults {
    /// gRPC.
    pub listen: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
    /// Log filter.
    pub log: &'static str,
}

impl Settings {
    /// Reads flags, environment and file.
    ///
    /// # Errors
    /// With the place and the reason, when any of them is not valid.
    pub fn load(args: &CommonArgs, defaults: Defaults) -> anyhow::Result<Self> {
        let mut figment = Figment::new();
        if let Some(path) = &args.config {
            ensure!(path.is_file(), "configuration file {} does not exist", path.display());
            figment = figment.merge(Toml::file_exact(path));
        }
        let figment = figment.merge(environment()).merge(Serialized::defaults(args));
        Self::from_figment(figment, defaults)
    }

    fn from_figment(figment: Figment, defaults: Defaults) -> anyhow::Result<Self> {
        refuse_unknown_keys(&figment)?;
        let raw: Raw = figment.extract().context("configuration")?;
        let listen = raw.listen.unwrap_or(defaults.listen);
        let admin = raw.admin.unwrap_or(defaults.admin);
        for (flag, address) in [("--listen", listen), ("--admin", admin)] {
            ensure!(
                raw.insecure || address.ip().is_loopback(),
                "{flag} {address} is not a loopback address and the connection would be plaintext; put it behind TLS \
                 of your own and say --insecure, or listen on 127.0.0.1"
            );
        }
        let trace_ratio = raw.trace_ratio.unwrap_or(1.0);
        ensure!((0.0..=1.0).contains(&trace_ratio), "trace_ratio must be between 0 and 1, not {trace_ratio}");
        Ok(Self {
            listen,
            admin,
            data_dir: (!raw.ephemeral).then(|| raw.data_dir.unwrap_or_else(|| PathBuf::from("./.shoal"))),
            redis: raw.redis,
            cassandra: match raw.cassandra {
                None => Vec::new(),
                Some(OneOrMany::Many(list)) => list,
                Some(OneOrMany::One(text)) => {
                    text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
                }
            },
            telemetry: TelemetryConfig {
                otlp: raw.otlp,
                sample_ratio: trace_ratio,
                log_format: raw.log_format,
                log_filter: raw.log.unwrap_or_else(|| defaults.log.to_owned()),
            },
            drain: Drain { grace: raw.drain.unwrap_or(Drain::default().grace), ..Drain::default() },
            clones: clones(raw.clones)?,
            peers: peers(raw.peer)?,
            figment,
        })
    }

    /// A section of the file, such as `session` or `gateway.upstream`; its default when there is none.
    ///
    /// # Errors
    /// With the key, when a value is not valid or a key is unknown.
    pub fn section<T: DeserializeOwned + Default>(&self, path: &str) -> anyhow::Result<T> {
        if self.figment.find_value(path).is_err() {
            return Ok(T::default());
        }
        self.figment.extract_inner(path).with_context(|| format!("configuration, section [{path}]"))
    }

    /// What tells a clone that has a process of its own from its siblings, in logs, spans and metrics: its host and port.
    pub fn clone_name(&self) -> String {
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        format!("{}:{}", host.trim(), self.listen.port())
    }

    /// The Redis of a role: its section's `redis` key, else the common one.
    pub fn redis_of(&self, role: Role) -> Option<String> {
        self.figment.extract_inner(&format!("{role}.redis")).ok().or_else(|| self.redis.clone())
    }
}

/// `SHOAL_*`: the keys of the file, sections as `SHOAL_SESSION__IDLE_TTL`. Other variables of that prefix are not ours to
/// refuse. `SHOAL_DATA` is the flag's name; in the file `data` is a section.
fn environment() -> Env {
    Env::prefixed("SHOAL_")
        .filter(|key| {
            // As the environment spells it, in whatever case.
            let key = key.as_str().to_ascii_lowercase();
            match key.split_once("__") {
                Some((section, _)) => Role::parse(section).is_some() || ["peer", "clones"].contains(&section),
                None => key == "data" || KEYS.contains(&key.as_str()),
            }
        })
        .map(|key| if key == "data" { "data_dir".into() } else { key.into() })
        .split("__")
}

fn refuse_unknown_keys(figment: &Figment) -> anyhow::Result<()> {
    let data = figment.data().context("configuration")?;
    for key in data.get(&figment::Profile::Default).into_iter().flat_map(|dict| dict.keys()) {
        if !KEYS.contains(&key.as_str()) && Role::parse(key).is_none() {
            let source = figment.find_metadata(key).map(|m| m.name.to_string()).unwrap_or_default();
            bail!(
                "unknown key `{key}` ({source}); keys are {} and the sections of each role",
                KEYS.join(", ")
            );
        }
    }
    Ok(())
}

fn clones(raw: Option<Clones>) -> anyhow::Result<BTreeMap<Role, usize>> {
    /// More clones in one process than this help nobody.
    const CLONES_MAX: usize = 64;
    let services = || Role::ALL.into_iter().filter(|role| *role != Role::Gateway);
    let mut counts: BTreeMap<Role, usize> = services().map(|role| (role, 2)).collect();
    let given: Vec<(String, usize)> = match raw {
        None => Vec::new(),
        Some(Clones::All(n)) => services().map(|role| (role.name().to_owned(), n)).collect(),
        Some(Clones::Table(table)) => table.into_iter().collect(),
        Some(Clones::Text(text)) => match text.trim().parse::<usize>() {
            Ok(n) => services().map(|role| (role.name().to_owned(), n)).collect(),
            Err(_) => text
                .split(',')
                .map(|part| {
                    let (role, n) = part.split_once('=').unwrap_or((part, ""));
                    let n = n.trim().parse().with_context(|| format!("clones: `{part}` is not ROLE=N"))?;
                    Ok((role.trim().to_owned(), n))
                })
                .collect::<anyhow::Result<_>>()?,
        },
    };
    for (name, n) in given {
        let role = Role::parse(&name).filter(|role| *role != Role::Gateway);
        let Some(role) = role else { bail!("clones: `{name}` is not session, cache, data or jobs") };
        ensure!((1..=CLONES_MAX).contains(&n), "clones: {role}={n} is not between 1 and {CLONES_MAX}");
        counts.insert(role, n);
    }
    Ok(counts)
}

fn peers(raw: Peers) -> anyhow::Result<BTreeMap<Role, String>> {
    let given: Vec<(String, String)> = match raw {
        Peers::Table(table) => table.into_iter().collect(),
        Peers::Text(text) => text
            .split(';')
            .filter(|part| !part.trim().is_empty())
            .map(|part| {
                let (role, source) =
                    part.split_once('=').with_context(|| format!("peer `{part}` is not ROLE=ADDRESSES"))?;
                Ok((role.trim().to_owned(), source.trim().to_owned()))
            })
            .collect::<anyhow::Result<_>>()?,
    };
    given
        .into_iter()
        .map(|(name, source)| {
            let role = Role::parse(&name).with_context(|| format!("peer: `{name}` is not a role"))?;
            Ok((role, source))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, flags: &CommonArgs) -> anyhow::Result<Settings> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 7000));
        let figment = Figment::new().merge(Toml::string(toml)).merge(Serialized::defaults(flags));
        Settings::from_figment(figment, Defaults { listen: loopback, admin: loopback, log: "info" })
    }

    #[test]
    fn flags_beat_the_file() {
        let flags = CommonArgs { redis: Some("redis://flag".into()), ..CommonArgs::default() };
        let settings = check("redis = 'redis://file'\notlp = 'http://o'", &flags).expect("valid");
        assert_eq!(settings.redis_of(Role::Session).as_deref(), Some("redis://flag"));
        assert_eq!(settings.telemetry.otlp.as_deref(), Some("http://o"));
    }

    #[test]
    fn a_role_may_have_a_redis_of_its_own() {
        let settings = check("redis = 'a'\n[cache]\nredis = 'b'", &CommonArgs::default()).expect("valid");
        assert_eq!(settings.redis_of(Role::Cache).as_deref(), Some("b"));
        assert_eq!(settings.redis_of(Role::Jobs).as_deref(), Some("a"));
    }

    #[test]
    fn clones_are_a_number_or_a_list() {
        let all = check("clones = 3", &CommonArgs::default()).expect("valid");
        assert_eq!(all.clones[&Role::Data], 3);
        let flags = CommonArgs { clones: Some("session=3,jobs=1".into()), ..CommonArgs::default() };
        let some = check("", &flags).expect("valid");
        assert_eq!(
            (some.clones[&Role::Session], some.clones[&Role::Jobs], some.clones[&Role::Cache]),
            (3, 1, 2)
        );
    }

    #[test]
    fn bad_settings_are_refused_with_their_name() {
        for (toml, part) in [
            ("listne = 'x'", "listne"),
            ("clones = 0", "not between"),
            ("clones = 'gateway=2'", "gateway"),
            ("listen = '0.0.0.0:7000'", "--insecure"),
            ("trace_ratio = 2", "trace_ratio"),
            ("[peer]\nsessions = 'a'", "sessions"),
        ] {
            let error = check(toml, &CommonArgs::default()).expect_err(toml);
            assert!(format!("{error:#}").contains(part), "{toml}: {error:#}");
        }
    }
}
