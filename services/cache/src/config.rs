//! Section `[cache]` of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use schemars::JsonSchema;
use serde::Deserialize;
use shoal_kit::settings::DurationText;

use crate::key::NamespaceName;
use crate::limit::{
    BATCH_IDS_MAX, DECLARED_MAX, OBJECT_PREFIX, TABLE_PREFIX, TTL_MAX, TTL_MIN, VALUE_BYTES_CEILING, WAIT_MAX,
};

/// The loader name of kinds that are loaded from the data service.
const DATA_LOADER: &str = "data";

/// Section `[cache]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Redis for the cache alone. None: the common one.
    pub redis: Option<String>,
    /// Carries the keys of a half-moved slot of a Cluster to its new node when calls wait for it. Turn it off to move slots slowly,
    /// or to give a move up. Default true.
    pub redis_finish_moves: bool,
    /// Prefix of every key in Redis. Default `cache:`.
    pub key_prefix: String,
    /// RAM for entries when there is no Redis, in bytes, for all clones of the process. Default 256 MiB.
    pub memory_bytes_max: usize,
    /// Loads that one clone has going on or waiting for their turn, all kinds together. Default 4096.
    pub flights_max: usize,
    /// Settings of undeclared namespaces, and of declared ones where they say nothing.
    pub default: NamespaceConfig,
    /// Declared namespaces: `[cache.namespace.NAME]`.
    pub namespace: BTreeMap<String, NamespaceConfig>,
    /// Declared kinds: `[cache.object.KIND]`.
    pub object: BTreeMap<String, ObjectConfig>,
}

/// Section `[cache.namespace.NAME]`; what is not set is as in `[cache.default]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Time to live of a Set that names none. Default 10 minutes.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub ttl: Option<Duration>,
    /// Part by which a default ttl is shortened at random at most, 0 to 0.5, so that what was stored together does not
    /// end together. Default 0.1. A ttl that a Set names is kept as it is.
    pub jitter: Option<f64>,
    /// Largest value in bytes. Default 1 MiB, at most 8 MiB.
    pub max_value: Option<usize>,
    /// Values above this many bytes are packed by zstd if that saves an eighth. Default 1024.
    pub compress_above: Option<usize>,
    /// The age from which on a reader who asks for a lease is told to refresh an entry, which is a hit meanwhile. It must be shorter
    /// than ttl. Default: none.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub soft_ttl: Option<Duration>,
    /// Time for which an expired entry is kept, for readers that accept a stale value while its loader fails; at most 30 days.
    /// Default 0s.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub stale_if_error: Option<Duration>,
    /// Time for which a lease that Get gave holds, 1 ms to 60 s. Default 10 s.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub load_timeout: Option<Duration>,
}

/// Section `[cache.object.KIND]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectConfig {
    /// Loader: `http://HOST:PORT`, `ADDR,ADDR`, `dns:HOST:PORT`, `srv:NAME` or `file:PATH` of an `ObjectLoaderService`;
    /// or `data`.
    pub loader: Option<String>,
    /// Table for `loader = "data"`. Default: what follows `data.` in the kind.
    pub table: Option<String>,
    /// Time to live of an object whose loader names none. Default: of undeclared namespaces; of rows 1 minute.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub ttl: Option<Duration>,
    /// Time to live of `not found`. Default 5 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub negative_ttl: Duration,
    /// Longest time of a load, and the longest time that a caller waits for one. Default 2 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub load_timeout: Duration,
    /// The time after which a caller gets the expired object, if there is one that `stale_if_error` allows, while the load goes
    /// on. Default: it waits for `load_timeout`.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub load_soft_timeout: Option<Duration>,
    /// The time after which an object is loaded anew while callers still get the one that is there; up to a tenth shorter at
    /// random (`jitter`). Default: it is loaded anew when it has expired.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub soft_ttl: Option<Duration>,
    /// The time after its expiry for which an object is still served while its loader fails. A caller may allow less with
    /// `max_stale`. Default 0: never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub stale_if_error: Duration,
    /// The time for which a clone serves an expired object without asking the loader again after it failed. Default 1 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub stale_throttle: Duration,
    /// Loads of this kind that one clone has going on: calls of its loader. Default 64. A caller waits for a turn for half of
    /// `load_timeout` at most.
    pub loads_max: usize,
    /// Objects that one call of the loader asks for, 1 to 100. Default 100.
    pub batch_max: usize,
    /// Failures in a row after which a clone leaves the loader alone for a while; 0: it never does. Default 5. A failure is a
    /// time-out, a loader that cannot be reached or breaks its contract, and an answer of UNKNOWN, INTERNAL, DATA_LOSS or
    /// RESOURCE_EXHAUSTED.
    pub breaker_failures: u32,
    /// The time for which it is left alone at first, up to a quarter longer or shorter. It doubles with each failed attempt
    /// to come back, up to 32 times. Default 1 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub breaker_pause: Duration,
    /// Jitter, as in a namespace. Default 0.1.
    pub jitter: Option<f64>,
    /// Largest value to cache, as in a namespace. A larger object is returned and not cached.
    pub max_value: Option<usize>,
    /// Size above which values are packed, as in a namespace.
    pub compress_above: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: None,
            redis_finish_moves: true,
            key_prefix: "cache:".to_owned(),
            memory_bytes_max: 256 << 20,
            flights_max: 4096,
            default: NamespaceConfig::default(),
            namespace: BTreeMap::new(),
            object: BTreeMap::new(),
        }
    }
}

impl Default for ObjectConfig {
    fn default() -> Self {
        Self {
            loader: None,
            table: None,
            ttl: None,
            negative_ttl: Duration::from_secs(5),
            load_timeout: Duration::from_secs(2),
            load_soft_timeout: None,
            soft_ttl: None,
            stale_if_error: Duration::ZERO,
            stale_throttle: Duration::from_secs(1),
            loads_max: 64,
            batch_max: BATCH_IDS_MAX,
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(1),
            jitter: None,
            max_value: None,
            compress_above: None,
        }
    }
}

/// The policy for the entries of a namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// Time to live when none is named.
    pub ttl: Duration,
    /// The part by which it is shortened at random, at most.
    pub jitter: f64,
    /// Largest value in bytes.
    pub value_bytes_max: usize,
    /// Values above this are packed.
    pub compress_above: usize,
    /// The age from which on a refresh is due.
    pub soft_ttl: Option<Duration>,
    /// The time for which an expired entry may be served.
    pub stale_if_error: Duration,
    /// The time for which the lease of a caller holds.
    pub load_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            jitter: 0.1,
            value_bytes_max: 1 << 20,
            compress_above: 1024,
            soft_ttl: None,
            stale_if_error: Duration::ZERO,
            load_timeout: Duration::from_secs(10),
        }
    }
}

impl Policy {
    fn with(&self, config: &NamespaceConfig) -> Policy {
        Policy {
            ttl: config.ttl.unwrap_or(self.ttl),
            jitter: config.jitter.unwrap_or(self.jitter),
            value_bytes_max: config.max_value.unwrap_or(self.value_bytes_max),
            compress_above: config.compress_above.unwrap_or(self.compress_above),
            soft_ttl: config.soft_ttl.or(self.soft_ttl),
            stale_if_error: config.stale_if_error.unwrap_or(self.stale_if_error),
            load_timeout: config.load_timeout.unwrap_or(self.load_timeout),
        }
    }

    /// Returns a time to live, shortened at random.
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 - self.jitter * fastrand::f64()).max(TTL_MIN)
    }
}

/// The source of the objects of a kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// An `ObjectLoaderService`.
    Loader {
        /// The source as the operator wrote it.
        named: String,
        /// The source as the balancing client takes it.
        source: String,
    },
    /// Rows of a table.
    Table(String),
}

/// The policy for loading and keeping the objects of a kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KindPolicy {
    pub(crate) source: Source,
    pub(crate) policy: Policy,
    pub(crate) negative_ttl: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) load_soft_timeout: Option<Duration>,
    pub(crate) soft_ttl: Option<Duration>,
    pub(crate) stale_if_error: Duration,
    pub(crate) stale_throttle: Duration,
    pub(crate) loads_max: usize,
    pub(crate) batch_max: usize,
    pub(crate) breaker: BreakerPolicy,
}

/// The settings of the breaker of a kind's loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BreakerPolicy {
    /// Failures in a row that open it; 0: it never opens.
    pub(crate) failures: u32,
    /// The first pause.
    pub(crate) pause: Duration,
}

impl Config {
    /// Returns the policy of namespaces that are not declared.
    pub(crate) fn undeclared(&self) -> Policy {
        Policy::default().with(&self.default)
    }

    /// Returns the policies of the declared namespaces, by name.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&str, Policy)> {
        self.namespace.iter().map(|(name, config)| (name.as_str(), self.undeclared().with(config)))
    }

    /// Returns the kinds that are declared, by name.
    ///
    /// # Errors
    /// Returns an error with the kind if its loader is not valid.
    pub(crate) fn kinds(&self) -> anyhow::Result<Vec<(String, KindPolicy)>> {
        let kind = |(kind, config): (&String, &ObjectConfig)| {
            let policy = self.kind(kind, config).with_context(|| format!("[cache.object.\"{kind}\"]"))?;
            Ok((kind.clone(), policy))
        };
        self.object.iter().map(kind).collect()
    }

    /// Returns the kind `data.TABLE` when it is not declared.
    pub(crate) fn built_in(&self, table: &str) -> KindPolicy {
        self.loaded(Source::Table(table.to_owned()), &ObjectConfig::default())
    }

    fn kind(&self, kind: &str, config: &ObjectConfig) -> anyhow::Result<KindPolicy> {
        let table = kind.strip_prefix(TABLE_PREFIX);
        let source = match (config.loader.as_deref(), table) {
            (Some(DATA_LOADER), _) | (None, Some(_)) => {
                let table = config.table.as_deref().or(table);
                let table = table.context("loader = \"data\" needs table = \"NAME\"")?;
                Source::Table(table.to_owned())
            }
            (Some(_), Some(_)) => {
                anyhow::bail!("kinds that begin with `{TABLE_PREFIX}` are loaded from the data service")
            }
            (None, None) => anyhow::bail!("needs loader = \"http://HOST:PORT\" or loader = \"data\""),
            (Some(named), None) => Source::Loader { named: named.to_owned(), source: source_of(named)? },
        };
        Ok(self.loaded(source, config))
    }

    fn loaded(&self, source: Source, config: &ObjectConfig) -> KindPolicy {
        let &ObjectConfig { ttl, jitter, max_value, compress_above, .. } = config;
        // Rows change by other ways than through the cache: a minute bounds how long a forgotten Delete shows.
        let base = match source {
            Source::Table(_) => Policy { ttl: Duration::from_secs(60), ..self.undeclared() },
            Source::Loader { .. } => self.undeclared(),
        };
        KindPolicy {
            source,
            policy: Policy {
                soft_ttl: config.soft_ttl,
                stale_if_error: config.stale_if_error,
                ..base.with(&NamespaceConfig {
                    ttl,
                    jitter,
                    max_value,
                    compress_above,
                    ..NamespaceConfig::default()
                })
            },
            negative_ttl: config.negative_ttl,
            load_timeout: config.load_timeout,
            load_soft_timeout: config.load_soft_timeout,
            soft_ttl: config.soft_ttl,
            stale_if_error: config.stale_if_error,
            stale_throttle: config.stale_throttle,
            loads_max: config.loads_max,
            batch_max: config.batch_max,
            breaker: BreakerPolicy { failures: config.breaker_failures, pause: config.breaker_pause },
        }
    }

    /// Returns the largest value of any namespace.
    pub(crate) fn value_bytes_max(&self) -> usize {
        let declared = self.namespace.values().map(|namespace| namespace.max_value);
        let objects = self.object.values().map(|object| object.max_value);
        let largest = declared.chain(objects).flatten().max().unwrap_or(0);
        largest.max(self.undeclared().value_bytes_max)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Returns an error with the key and what it may be.
    pub fn validate(&self) -> anyhow::Result<()> {
        let prefix = self.key_prefix.as_str();
        ensure!(
            prefix.len() <= 64 && prefix.bytes().all(|b| b.is_ascii_graphic() && b != b'{' && b != b'}'),
            "[cache] key_prefix must be at most 64 visible characters without {{ and }}, not `{prefix}`"
        );
        ensure!((1..=1 << 20).contains(&self.flights_max), "[cache] flights_max must be 1 to 1048576");
        check_policy("[cache.default]", &self.undeclared())?;
        ensure!(self.namespace.len() <= DECLARED_MAX, "at most {DECLARED_MAX} [cache.namespace.NAME]");
        for (name, policy) in self.namespaces() {
            let section = format!("[cache.namespace.\"{name}\"]");
            NamespaceName::parse(name).context(section.clone())?;
            ensure!(
                !name.starts_with(OBJECT_PREFIX),
                "{section}: the namespace of a kind takes its policy from [cache.object.KIND]"
            );
            check_policy(&section, &policy)?;
        }
        ensure!(self.object.len() <= DECLARED_MAX, "at most {DECLARED_MAX} [cache.object.KIND]");
        for (kind, policy) in self.kinds()? {
            let section = format!("[cache.object.\"{kind}\"]");
            NamespaceName::of_kind(&kind).context(section.clone())?;
            check_policy(&section, &policy.policy)?;
            check_ttl(&section, "negative_ttl", policy.negative_ttl)?;
            ensure!(
                (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&policy.load_timeout),
                "{section} load_timeout must be 1 ms to 60 s, not {:?}",
                policy.load_timeout
            );
            if let Some(soft) = policy.load_soft_timeout {
                ensure!(
                    soft <= policy.load_timeout,
                    "{section} load_soft_timeout must be at most load_timeout, {:?}, not {soft:?}",
                    policy.load_timeout
                );
                ensure!(
                    !policy.stale_if_error.is_zero(),
                    "{section} load_soft_timeout needs stale_if_error: without it there is no expired object to serve"
                );
            }
            if let Some(soft) = policy.soft_ttl {
                check_ttl(&section, "soft_ttl", soft)?;
            }
            for (key, time) in
                [("stale_if_error", policy.stale_if_error), ("stale_throttle", policy.stale_throttle)]
            {
                ensure!(time <= TTL_MAX, "{section} {key} must be at most 30 days, not {time:?}");
            }
            ensure!(
                (1..=BATCH_IDS_MAX).contains(&policy.batch_max),
                "{section} batch_max must be 1 to {BATCH_IDS_MAX}, not {}",
                policy.batch_max
            );
            let pause = policy.breaker.pause;
            ensure!(
                (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&pause),
                "{section} breaker_pause must be 1 ms to 60 s, not {pause:?}"
            );
            ensure!((1..=10_000).contains(&policy.loads_max), "{section} loads_max must be 1 to 10000");
        }
        let least = 2 * self.value_bytes_max();
        ensure!(
            self.memory_bytes_max >= least,
            "[cache] memory_bytes_max must be at least {least}, twice the largest max_value, not {}",
            self.memory_bytes_max
        );
        Ok(())
    }
}

fn check_policy(section: &str, policy: &Policy) -> anyhow::Result<()> {
    check_ttl(section, "ttl", policy.ttl)?;
    ensure!((0.0..=0.5).contains(&policy.jitter), "{section} jitter must be 0 to 0.5, not {}", policy.jitter);
    if let Some(soft) = policy.soft_ttl {
        check_ttl(section, "soft_ttl", soft)?;
        ensure!(
            soft < policy.ttl,
            "{section} soft_ttl must be shorter than ttl ({:?}), not {soft:?}",
            policy.ttl
        );
    }
    ensure!(
        policy.stale_if_error <= TTL_MAX,
        "{section} stale_if_error must be at most 30 days, not {:?}",
        policy.stale_if_error
    );
    ensure!(
        (TTL_MIN..=WAIT_MAX).contains(&policy.load_timeout),
        "{section} load_timeout must be 1 ms to 60 s, not {:?}",
        policy.load_timeout
    );
    let max = policy.value_bytes_max;
    ensure!(
        max <= VALUE_BYTES_CEILING,
        "{section} max_value must be at most {VALUE_BYTES_CEILING}, not {max}"
    );
    Ok(())
}

fn check_ttl(section: &str, key: &str, ttl: Duration) -> anyhow::Result<()> {
    ensure!((TTL_MIN..=TTL_MAX).contains(&ttl), "{section} {key} must be 1 ms to 30 days, not {ttl:?}");
    Ok(())
}

/// Rewrites `http://HOST:PORT` for the balancing client; any other source is left as it is.
fn source_of(named: &str) -> anyhow::Result<String> {
    ensure!(
        !named.starts_with("https://"),
        "loader `{named}`: TLS to loaders is not built in; use http:// to a local TLS proxy"
    );
    let Some(authority) = named.strip_prefix("http://") else { return Ok(named.to_owned()) };
    let authority = authority.trim_end_matches('/');
    if authority.parse::<std::net::SocketAddr>().is_ok() {
        return Ok(authority.to_owned());
    }
    Ok(format!("dns:{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(toml)?;
        config.validate()?;
        Ok(config)
    }

    #[test]
    fn namespaces_inherit_the_default() {
        let config = parse("default.ttl = '1m'\nnamespace.pages.max_value = 5\n").expect("valid");
        let pages = config.namespaces().find(|(name, _)| *name == "pages").expect("declared").1;
        assert_eq!((pages.ttl, pages.value_bytes_max), (Duration::from_secs(60), 5));
    }

    #[test]
    fn kinds_have_a_source() {
        let config = parse(
            "[object.page]\nloader = 'http://127.0.0.1:1'\nttl = '3s'\n[object.mail]\nloader = 'http://mail:1/'\n\
             [object.'data.users']\nttl = '9s'\n[object.user]\nloader = 'data'\ntable = 'users'\n",
        )
        .expect("valid");
        let kinds: BTreeMap<_, _> = config.kinds().expect("valid").into_iter().collect();
        let source = |kind: &str| match &kinds[kind].source {
            Source::Loader { source, .. } => source.clone(),
            Source::Table(table) => format!("table {table}"),
        };
        assert_eq!(source("page"), "127.0.0.1:1");
        assert_eq!(source("mail"), "dns:mail:1");
        assert_eq!((source("data.users"), source("user")), ("table users".into(), "table users".into()));
        assert_eq!(kinds["data.users"].policy.ttl, Duration::from_secs(9));
        assert_eq!(kinds["user"].policy.ttl, Duration::from_secs(60));
    }

    #[test]
    fn invalid_settings_are_named() {
        for (toml, part) in [
            ("ttl = 1", "ttl"),
            ("key_prefix = '{x}'", "key_prefix"),
            ("memory_bytes_max = 1000", "memory_bytes_max"),
            ("[namespace.'a b']", "a b"),
            ("[namespace.'object.x']", "cache.object"),
            ("[namespace.a]\nttl = '31d'", "30 days"),
            ("[namespace.a]\njitter = 0.6", "jitter"),
            ("[namespace.a]\nmax_value = 8388609", "max_value"),
            ("[object.a]", "loader"),
            ("[object.a]\nloader = 'data'", "table"),
            ("[object.a]\nloader = 'https://h:1'", "TLS"),
            ("[object.'data.a']\nloader = 'http://h:1'", "data service"),
            ("[object.a]\nloader = 'http://h:1'\nload_timeout = '2m'", "load_timeout"),
            ("[object.a]\nloader = 'http://h:1'\nbatch_max = 101", "batch_max"),
            ("[object.a]\nloader = 'http://h:1'\nload_soft_timeout = '1s'", "stale_if_error"),
            (
                "[object.a]\nloader = 'http://h:1'\nload_soft_timeout = '3s'\nstale_if_error = '1h'",
                "load_soft_timeout",
            ),
            ("[object.a]\nloader = 'http://h:1'\nstale_if_error = '31d'", "stale_if_error"),
            ("[object.a]\nloader = 'http://h:1'\nbreaker_pause = '0s'", "breaker_pause"),
        ] {
            let error = format!("{:#}", parse(toml).expect_err(toml));
            assert!(error.contains(part), "{toml}: {error}");
        }
    }
}
