//! Configuration: flags beat the environment (`SHOAL_*`), which beats the TOML file, which beats the defaults. Read once
//! at start; nothing reads the environment later.

mod address;
mod effective;
mod engine;
mod file;
mod flags;
mod given;
mod key;
pub mod reference;
mod refusal;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use figment::Figment;
use figment::providers::Serialized;
use figment::value::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::role::Role;
use crate::serving::serve::Drain;
use crate::telemetry::TelemetryConfig;
use crate::telemetry::logs::LogFormat;
pub use effective::Effective;
pub use flags::{CommonArgs, serve_defaults};
use given::{given, given_unknown};
use key::Key;
pub use reference::{DurationText, Reference};

/// The most clones of a role in one process; more help nobody.
const CLONES_MAX: usize = 64;

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
    /// Set if the errors that callers see name the addresses of engines. Logs and the admin port always do.
    pub show_addresses: bool,
    /// The times of the process's end.
    pub drain: Drain,
    /// The number of clones of each role that `up` runs.
    pub clones: BTreeMap<Role, usize>,
    /// Where the clones of other roles are, by role: an address list, `file:PATH`, `dns:HOST:PORT` or `srv:NAME`.
    pub peers: BTreeMap<Role, String>,
    /// A sentence for each variable that looks like a setting and is none.
    ignored: Vec<String>,
    figment: Figment,
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
    /// When any of them is not valid: naming the flag, the variable or the key, its value unless that is a secret or the
    /// key is unknown, and what it takes.
    pub fn load(args: &CommonArgs, defaults: Defaults) -> anyhow::Result<Self> {
        let mut figment = Figment::new();
        if let Some(path) = &args.config {
            figment = figment.merge(file::read(path)?);
        }
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let ignored = variables::check(names)?;
        let figment = figment.merge(variables::environment()).merge(Serialized::defaults(args));
        Ok(Self { ignored, ..Self::from_figment(figment, defaults)? })
    }

    /// The same, of a process that runs one clone.
    ///
    /// # Errors
    /// As [`Settings::load`], and when clones are asked for.
    pub fn load_one(args: &CommonArgs, defaults: Defaults) -> anyhow::Result<Self> {
        if let Some(clones) = &args.clones {
            let clones = clones.escape_debug();
            bail!(
                "--clones {clones}: this process runs one clone; start it once for each, or `shoal up` runs several"
            );
        }
        Self::load(args, defaults)
    }

    fn from_figment(figment: Figment, defaults: Defaults) -> anyhow::Result<Self> {
        refusal::refuse_unknown(&figment)?;
        let read = Read(&figment);
        let insecure = read.get(key::INSECURE)?.unwrap_or(false);
        let listen = read.address(key::LISTEN, defaults.listen, insecure)?;
        let admin = read.address(key::ADMIN, defaults.admin, insecure)?;
        ensure!(
            !address::overlap(listen, admin),
            "{} and {}: gRPC and the admin port cannot share an address; choose another port for one of them",
            read.address_given(key::LISTEN, listen),
            read.address_given(key::ADMIN, admin)
        );
        let trace_ratio = read.get(key::TRACE_RATIO)?.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&trace_ratio) {
            return Err(read.refuse(&key::TRACE_RATIO, "not a share"));
        }
        let data_dir = read.get(key::DATA_DIR)?.unwrap_or_else(|| PathBuf::from("./.shoal"));
        let drain: Option<humantime_serde::Serde<Duration>> = read.get(key::DRAIN)?;
        Ok(Self {
            listen,
            admin,
            data_dir: (!read.get(key::EPHEMERAL)?.unwrap_or(false)).then_some(data_dir),
            redis: read.get(key::REDIS)?,
            cassandra: read.contact_points()?,
            telemetry: TelemetryConfig {
                otlp: read.otlp()?,
                sample_ratio: trace_ratio,
                instance: clone_name(listen),
                log_format: read.get::<LogFormat>(key::LOG_FORMAT)?.unwrap_or_default(),
                access_log: read.get(key::ACCESS_LOG)?.unwrap_or(false),
                log_filter: read.get(key::LOG)?.unwrap_or_else(|| defaults.log.to_owned()),
            },
            show_addresses: read.get(key::SHOW_ADDRESSES)?.unwrap_or(false),
            drain: Drain {
                grace: drain.map_or(Drain::default().grace, humantime_serde::Serde::into_inner),
                ..Drain::default()
            },
            clones: read.clones()?,
            peers: read.peers()?,
            ignored: Vec::new(),
            figment,
        })
    }

    /// A section of the file, such as `session` or `gateway.upstream`; its default when there is none.
    ///
    /// # Errors
    /// When a value is not valid or a key is unknown: as [`Settings::load`].
    pub fn section<T: DeserializeOwned + Default>(&self, path: &str) -> anyhow::Result<T> {
        if self.figment.find_value(path).is_err() {
            return Ok(T::default());
        }
        self.figment.extract_inner(path).map_err(|error| given::wrong(&self.figment, path, &error))
    }

    /// The same, checked by `validate`, whose error then begins with where each value it names was given.
    ///
    /// # Errors
    /// As [`Settings::section`], and those of `validate`.
    pub fn valid_section<T: DeserializeOwned + Default>(
        &self,
        path: &str,
        validate: impl FnOnce(&T) -> anyhow::Result<()>,
    ) -> anyhow::Result<T> {
        let section = self.section(path)?;
        validate(&section).map_err(|error| {
            match given::named_in(&self.figment, path, &format!("{error:#}")) {
                named if named.is_empty() => error,
                named => error.context(named.join(", ")),
            }
        })?;
        Ok(section)
    }

    /// Refuses keys of a section that have other names now: `renamed` has the old key (`connection.age`) and the new name.
    ///
    /// # Errors
    /// When an old key is given: with where, and what to write instead.
    pub fn refuse_renamed(&self, path: &str, renamed: &[(&str, &str)]) -> anyhow::Result<()> {
        for (old, new) in renamed {
            let old = format!("{path}.{old}");
            if self.figment.find_value(&old).is_ok() {
                let parts: Vec<&str> = old.split('.').collect();
                let (key, section) = (parts.last().unwrap_or(&""), parts[..parts.len() - 1].join("."));
                bail!(
                    "{}: the key `{key}` of [{section}] is now called `{new}`",
                    given_unknown(&self.figment, &parts)
                );
            }
        }
        Ok(())
    }

    /// Where the value of a key was given and what it is, for a message about it: `SHOAL_LISTEN=127.0.0.1:7000`. None if
    /// it was not given.
    #[must_use]
    pub fn given(&self, path: &str) -> Option<String> {
        self.figment.find_value(path).ok()?;
        Some(given(&self.figment, &path.split('.').collect::<Vec<_>>()))
    }

    /// Where the Redis of a role was given; not its URL, which may hold a password.
    #[must_use]
    pub fn redis_given(&self, role: Role) -> String {
        let own = format!("{role}.redis");
        self.given(&own).or_else(|| self.given("redis")).unwrap_or(own)
    }

    /// Where the peers of a role were given.
    #[must_use]
    pub fn peer_given(&self, role: Role) -> String {
        let own = format!("peer.{role}");
        self.given(&own).or_else(|| self.given("peer")).unwrap_or(own)
    }

    /// Logs a warning for each variable that begins like a setting and is not read. Call it once logs are installed.
    pub fn log_ignored_variables(&self) {
        for warning in &self.ignored {
            tracing::warn!("{warning}");
        }
    }

    /// Returns the name that tells a clone in a process of its own from its siblings in logs, spans and metrics: its host and
    /// port.
    pub fn clone_name(&self) -> String {
        clone_name(self.listen)
    }

    /// The Redis of a role: its section's `redis` key, else the common one.
    pub fn redis_of(&self, role: Role) -> Option<String> {
        self.figment.extract_inner(&format!("{role}.redis")).ok().or_else(|| self.redis.clone())
    }
}

fn clone_name(listen: SocketAddr) -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), listen.port())
}

/// Reads the keys at the top.
struct Read<'f>(&'f Figment);

impl Read<'_> {
    /// The value of a key, if it was given.
    fn get<T: DeserializeOwned>(&self, key: Key) -> anyhow::Result<Option<T>> {
        if self.0.find_value(key.name).is_err() {
            return Ok(None);
        }
        self.0.extract_inner(key.name).map(Some).map_err(|_| self.refuse(&key, "not valid"))
    }

    fn refuse(&self, key: &Key, problem: &str) -> anyhow::Error {
        self.refuse_at(&[key.name], key, problem)
    }

    /// Refuses a value at or below a key.
    fn refuse_at(&self, path: &[&str], key: &Key, problem: &str) -> anyhow::Error {
        anyhow!("{}: {problem}; {} takes {}", given(self.0, path), key.name, key.takes)
    }

    /// Refuses a key that there is not in the table of `key`, or what a text names instead of one.
    fn refuse_unknown_at(&self, path: &[&str], key: &Key, problem: &str) -> anyhow::Error {
        if path == [key.name] {
            return self.refuse_at(path, key, problem);
        }
        anyhow!("{}: {problem}; {} takes {}", given_unknown(self.0, path), key.name, key.takes)
    }

    /// Reads an address to listen on.
    fn address(&self, key: Key, default: SocketAddr, insecure: bool) -> anyhow::Result<SocketAddr> {
        let name = key.name;
        let address = match self.get::<String>(key)? {
            Some(text) => address::listening(&text).map_err(|problem| self.refuse(&key, &problem))?,
            None => default,
        };
        ensure!(
            insecure || address.ip().is_loopback(),
            "{}: not a loopback address, and connections to it would be plaintext; put TLS of your own in front and \
             say --insecure, or listen on 127.0.0.1",
            given(self.0, &[name])
        );
        Ok(address)
    }

    /// Names an address for a message that is about it, also when nobody gave it.
    fn address_given(&self, key: Key, address: SocketAddr) -> String {
        match self.0.find_value(key.name) {
            Ok(_) => given(self.0, &[key.name]),
            Err(_) => format!("{} {address} (the default)", key::flag(key.name)),
        }
    }

    /// Cassandra's, which are refused here: the driver would try one that cannot be resolved for ever.
    fn contact_points(&self) -> anyhow::Result<Vec<String>> {
        let points = self.list(key::CASSANDRA)?;
        for point in &points {
            address::contact_point(point).map_err(|problem| self.refuse(&key::CASSANDRA, problem))?;
        }
        Ok(points)
    }

    /// `"a,b"` or `["a", "b"]`.
    fn list(&self, key: Key) -> anyhow::Result<Vec<String>> {
        let list: Vec<String> = match self.0.find_value(key.name) {
            Err(_) => return Ok(Vec::new()),
            Ok(Value::String(_, text)) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
            Ok(_) => self.get(key)?.unwrap_or_default(),
        };
        if list.is_empty() { Err(self.refuse(&key, "nothing is named")) } else { Ok(list) }
    }

    /// Checked here: the exporter's own errors are for people who build it.
    fn otlp(&self) -> anyhow::Result<Option<String>> {
        let Some(endpoint) = self.get::<String>(key::OTLP)? else { return Ok(None) };
        let uri = endpoint.parse::<http::Uri>().unwrap_or_default();
        match uri.scheme_str() {
            Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(Some(endpoint)),
            Some("https") => Err(self.refuse(&key::OTLP, "spans are sent in plaintext only")),
            _ => Err(self.refuse(&key::OTLP, "not a URL of this kind")),
        }
    }

    /// `2`, `"session=3,jobs=1"` or a table.
    fn clones(&self) -> anyhow::Result<BTreeMap<Role, usize>> {
        let key = key::CLONES;
        let services = || Role::ALL.into_iter().filter(|role| *role != Role::Gateway);
        let mut counts: BTreeMap<Role, usize> = services().map(|role| (role, 2)).collect();
        let mut set = |path: &[&str], name: &str, n: Option<usize>| {
            let Some(role) = Role::parse(name).filter(|role| *role != Role::Gateway) else {
                return Err(self.refuse_unknown_at(
                    path,
                    &key,
                    &format!("`{name}` is not session, cache, data or jobs"),
                ));
            };
            let Some(n) = n.filter(|n| (1..=CLONES_MAX).contains(n)) else {
                let problem = format!("the number of {role} is not between 1 and {CLONES_MAX}");
                return Err(self.refuse_at(path, &key, &problem));
            };
            counts.insert(role, n);
            Ok(())
        };
        match self.0.find_value(key.name).ok() {
            None => {}
            Some(Value::Dict(_, table)) => {
                for (name, value) in &table {
                    set(&[key.name, name], name, number(value))?;
                }
            }
            Some(Value::String(_, text)) if text.trim().parse::<usize>().is_err() => {
                for part in text.split(',') {
                    let Some((name, n)) = part.split_once('=') else {
                        return Err(self.refuse(&key, &format!("`{}` is not ROLE=N", part.escape_debug())));
                    };
                    set(&[key.name], name.trim(), n.trim().parse().ok())?;
                }
            }
            Some(value) => {
                let n = number(&value);
                services().try_for_each(|role| set(&[key.name], role.name(), n))?;
            }
        }
        Ok(counts)
    }

    /// `"session=ADDR;cache=dns:cache:7000"` or a table.
    fn peers(&self) -> anyhow::Result<BTreeMap<Role, String>> {
        let key = key::PEER;
        let mut peers = BTreeMap::new();
        let mut set = |path: &[&str], name: &str, source: &str| {
            let Some(role) = Role::parse(name) else {
                let meant = key::nearest(name, Role::ALL.into_iter().map(Role::name))
                    .map_or(String::new(), |role| format!("; did you mean `{role}`?"));
                return Err(self.refuse_unknown_at(path, &key, &format!("`{name}` is no role{meant}")));
            };
            peers.insert(role, source.to_owned());
            Ok(())
        };
        match self.0.find_value(key.name).ok() {
            None => {}
            Some(Value::String(_, text)) => {
                for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
                    let Some((name, source)) = part.split_once('=') else {
                        return Err(
                            self.refuse(&key, &format!("`{}` is not ROLE=SOURCE", part.escape_debug()))
                        );
                    };
                    set(&[key.name], name.trim(), source.trim())?;
                }
            }
            Some(Value::Dict(_, table)) => {
                for (name, value) in &table {
                    let Some(source) = value.as_str() else {
                        return Err(self.refuse_at(&[key.name, name], &key, "not a text"));
                    };
                    set(&[key.name, name], name, source)?;
                }
            }
            Some(_) => return Err(self.refuse(&key, "not valid")),
        }
        Ok(peers)
    }
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::String(_, text) => text.trim().parse().ok(),
        // TOML's numbers are signed, the environment's are not.
        value => match (value.to_i128(), value.to_u128()) {
            (Some(n), _) => n.try_into().ok(),
            (None, n) => n.and_then(|n| n.try_into().ok()),
        },
    }
}

#[cfg(test)]
mod tests {
    use figment::providers::{Format as _, Toml};

    use super::*;

    fn check(toml: &str, flags: &CommonArgs) -> anyhow::Result<Settings> {
        let figment = Figment::new().merge(Toml::string(toml)).merge(Serialized::defaults(flags));
        Settings::from_figment(figment, crate::settings::serve_defaults())
    }

    #[test]
    fn flags_beat_the_file() {
        let flags = CommonArgs { redis: Some("redis://flag".into()), ..CommonArgs::default() };
        let settings = check("redis = 'redis://file'\notlp = 'http://o'", &flags).expect("valid");
        assert_eq!(settings.redis_of(Role::Session).as_deref(), Some("redis://flag"));
        assert_eq!(settings.telemetry.otlp.as_deref(), Some("http://o"));
    }

    #[test]
    fn a_role_may_have_its_own_redis() {
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
    fn bad_settings_are_named_with_advice() {
        for (toml, parts) in [
            ("listne = 'x'", ["configuration: listne: ", "did you mean `listen`?"]),
            ("listen = 'foo'", ["listen = \"foo\"", "127.0.0.1:7000"]),
            ("listen = 'example.com:1'", ["`example.com` is a name", "localhost:PORT"]),
            (
                "listen = '127.0.0.1:7001'",
                ["listen = \"127.0.0.1:7001\" and --admin 127.0.0.1:7001 (the default)", "share"],
            ),
            ("cassandra = 'u:SECRET@a'", ["cassandra = \"…@a\"", "SHOAL_DATA__PASSWORD"]),
            ("cassandra = ['u:SECRET@a']", ["configuration: cassandra: ", "SHOAL_DATA__PASSWORD"]),
            ("data = './d'", ["data = \"./d\"", "`data_dir`"]),
            ("[clones]\nsesion = 7", ["configuration: clones.sesion: ", "session=3,jobs=1"]),
            ("session = 5", ["session = 5", "[session]"]),
            ("clones = 0", ["clones = 0", "not between 1 and 64"]),
            ("clones = 'gateway=2'", ["gateway", "session=3,jobs=1"]),
            ("[clones]\nsession = 'x'", ["clones.session = \"x\"", "not between"]),
            ("listen = '0.0.0.0:7000'", ["listen = \"0.0.0.0:7000\"", "--insecure"]),
            ("trace_ratio = 2", ["trace_ratio = 2", "from 0 to 1"]),
            ("trace_ratio = 'x'", ["trace_ratio = \"x\"", "from 0 to 1"]),
            ("drain = 10", ["drain = 10", "such as 10s"]),
            ("ephemeral = 1", ["ephemeral = 1", "true or false"]),
            ("otlp = 'foo'", ["otlp = \"foo\"", "http://127.0.0.1:4317"]),
            ("otlp = 'https://a:1'", ["plaintext only", "http://HOST:PORT"]),
            ("cassandra = ','", ["cassandra = \",\"", "HOST:PORT"]),
            ("peer = 'cache'", ["`cache` is not ROLE=SOURCE", "dns:HOST:PORT"]),
            ("[peer]\nsessions = 'a'", ["configuration: peer.sessions: ", "did you mean `session`?"]),
            ("log_format = 'xml'", ["log_format = \"xml\"", "pretty or json"]),
        ] {
            let error = check(toml, &CommonArgs::default()).expect_err(toml).to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{toml}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn a_flag_is_named_as_it_was_written() {
        for (flags, written) in [
            (CommonArgs { listen: Some("foo".into()), ..CommonArgs::default() }, "--listen foo:"),
            (CommonArgs { clones: Some("9a".into()), ..CommonArgs::default() }, "--clones 9a:"),
            (CommonArgs { otlp: Some("u:p@foo".into()), ..CommonArgs::default() }, "--otlp …@foo:"),
        ] {
            let error = check("", &flags).expect_err(written).to_string();
            assert!(error.starts_with(written), "{error}");
        }
        let flags = CommonArgs { clones: Some("2".into()), ..CommonArgs::default() };
        let error =
            Settings::load_one(&flags, crate::settings::serve_defaults()).expect_err("one").to_string();
        assert!(error.starts_with("--clones 2: this process runs one clone"), "{error}");
    }

    #[test]
    fn an_inconsistent_section_names_its_values() {
        let toml = "[session]\nattempts = 7\nidle_ttl = '5s'\n[session.keys]\ncheck = '1:SECRET'";
        let settings = check(toml, &CommonArgs::default()).expect("known keys");
        for (problem, whole) in [
            ("attempts must be 1", "configuration: session.attempts = 7: attempts must be 1"),
            ("redis is wrong", "redis is wrong"),
            ("check is wrong", "check is wrong"),
            (
                "idle_ttl and keys.check do not fit",
                "configuration: session.idle_ttl = \"5s\", configuration: session.keys.check: idle_ttl and keys.check do \
                 not fit",
            ),
        ] {
            let refused = settings.valid_section::<Section>("session", |_| Err(anyhow!(problem)));
            assert_eq!(format!("{:#}", refused.expect_err("refused")), whole);
        }
        assert!(
            settings
                .valid_section::<Section>("session", |section| {
                    ensure!(section.attempts == 7, "read before");
                    Ok(())
                })
                .is_ok()
        );
    }

    /// A section of a service.
    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Section {
        #[serde(with = "humantime_serde")]
        idle_ttl: Duration,
        attempts: u32,
        redis: Option<String>,
        keys: Keys,
    }

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Keys {
        check: Option<String>,
    }

    #[test]
    fn a_bad_value_is_named_in_full() {
        for (toml, whole) in [
            (
                "idle_ttl = 5",
                "configuration: session.idle_ttl = 5: it takes a duration, such as 10s or 500ms",
            ),
            (
                "idle_ttl = 'x'",
                "configuration: session.idle_ttl = \"x\": it takes a duration, such as 10s or 500ms",
            ),
            (
                "attempts = -1",
                "configuration: session.attempts = -1: it takes a whole number that is not negative",
            ),
            (
                "idle_tlt = 5",
                "configuration: session.idle_tlt: there is no key `idle_tlt`, did you mean `idle_ttl`? The keys of \
                 [session] are idle_ttl, attempts, redis, keys",
            ),
            (
                "keys = { chekc = '1:SECRET' }",
                "configuration: session.keys.chekc: there is no key `chekc`, did you mean `check`? The keys of \
                 [session.keys] are check",
            ),
            ("keys = '1:SECRET'", "configuration: session.keys: it takes a section with keys of its own"),
            ("keys = { check = 5 }", "configuration: session.keys.check: it takes a string"),
            ("redis = ['redis://:SECRET@a']", "configuration: session.redis: it takes a string"),
        ] {
            let settings = check(&format!("[session]\n{toml}"), &CommonArgs::default()).expect("known keys");
            let error = settings.section::<Section>("session").expect_err(toml).to_string();
            assert_eq!(error, whole);
        }
    }
}
