//! The `[gateway]` section: upstreams that are not Shoal's own, cores, limits, deadlines, retries.

mod balance;
mod callers;
mod limits;
pub(crate) mod own_services;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_balance::Source;
use shoal_kit::role::Role;
use shoal_kit::settings::DurationText;

use crate::config::own_services::{LOCAL, role_of};

pub use balance::{Balance, Ejection};
pub(crate) use callers::CallerLimits;
pub use callers::{Callers, NamedCaller};
pub use limits::Limits;

/// The section `[gateway]` of the configuration file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads that carry calls, each with its own connections; if unset, one for each core of the machine.
    pub cores: Option<usize>,
    /// Upstreams beside the Shoal roles of `peer`, by name.
    pub upstream: BTreeMap<String, UpstreamConfig>,
    /// Limits of one client and of the process.
    pub limits: Limits,
    /// The lifetime of client connections.
    pub connection: Connection,
    /// Deadlines of calls.
    pub deadline: Deadline,
    /// Quotas of callers.
    pub callers: Callers,
    /// Load balancing.
    pub balance: Balance,
    /// Ejection of endpoints that fail.
    pub ejection: Ejection,
    /// Protection of upstreams from more calls than they can answer.
    pub overload: Overload,
    /// Retries.
    pub retry: Retry,
    /// Hedging, where a route asks for it.
    pub hedge: Hedging,
    /// Path of the route file, with rules for single services and methods; followed as it changes.
    pub routes: Option<PathBuf>,
    /// Fixes the random choices of the balancers, for tests.
    pub seed: Option<u64>,
}

/// A gRPC service that is not Shoal's own.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Addresses: `["127.0.0.1:9001"]`, each with an optional ` weight=N`.
    pub endpoints: Vec<String>,
    /// `host:port`; every address of the name is an endpoint.
    pub dns: Option<String>,
    /// The name of SRV records; each is an endpoint, with its own port and weight.
    pub srv: Option<String>,
    /// A file with one address per line, followed as it changes.
    pub file: Option<PathBuf>,
    /// The gRPC services to route here; empty: those that its reflection lists.
    pub services: Vec<String>,
    /// Makes this the default: calls of services that no other upstream has go here.
    pub default: bool,
    /// Makes this a canary: only calls that the route file sends here come here.
    pub by_route: bool,
    /// The way its clones are asked for their health.
    pub health: Health,
    /// Allows services of Shoal's own in `services`, which then come here instead of to the clones of their role.
    pub replaces: bool,
}

/// The way the clones of an upstream are asked whether they serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Watches by `grpc.health.v1.Health/Watch`: a change is known at once. A watch of each core stays open at each clone; on a
    /// server with a thread for each stream it occupies one permanently.
    Watch,
    /// Asks by `Check` every five seconds.
    #[default]
    Check,
    /// Asks nothing: a clone serves while it is connected.
    None,
}

/// The lifetime of client connections.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connection {
    /// Age, ±10 %, at which a connection is sent GOAWAY, so that its client connects anew: to a gateway that was added since, or
    /// by a name that has changed. Zero: never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_age: Duration,
    /// The time that the calls of such a connection may still take. It is long, for the sake of endless streams.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_age_grace: Duration,
    /// Time without a call after which a connection is sent GOAWAY, or up to twice as long. Zero: never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_idle: Duration,
    /// The time within which a new connection must make a call; one that has not is sent GOAWAY too, and closed within five
    /// seconds of that. Zero: never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub first_call: Duration,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(30 * 60),
            max_age_grace: Duration::from_secs(10 * 60),
            max_idle: Duration::from_secs(5 * 60),
            first_call: Duration::from_secs(15),
        }
    }
}

/// Deadlines of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Deadline {
    /// Deadline of calls that bring none; if unset, they have `max`, and without that no deadline.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub default: Option<Duration>,
    /// The longest deadline that a call may have.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub max: Option<Duration>,
}

/// Retries of calls: of those that the upstream's descriptors mark as safe (`idempotency_level`), and of calls that no endpoint
/// has seen.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts of one call, the first included. 1: never repeat.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one, ±20 %.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub backoff: Duration,
    /// The share of an upstream's calls that may be repeated.
    pub budget: f64,
    /// Retries per second beyond that share.
    pub budget_per_second: f64,
    /// The longest request that is kept to be sent again.
    pub body_bytes: usize,
    /// The bytes that the calls of one connection together may keep for that. Calls beyond it are not repeated.
    pub connection_bytes: usize,
    /// The same for all connections together. One connection has at most a quarter of what is left free.
    pub total_bytes: usize,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Duration::from_millis(25),
            budget: 0.2,
            budget_per_second: 10.0,
            body_bytes: 64 << 10,
            connection_bytes: 8 << 20,
            total_bytes: 64 << 20,
        }
    }
}

/// Limits how many calls are sent to a second endpoint because the first is slow. A route says which calls may be.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hedging {
    /// Share of the calls that may be hedged which are hedged.
    pub budget: f64,
}

/// Protection of overloaded upstreams: a limit on unanswered calls that follows their latency. It is off unless upstreams are
/// named, because growing latency may be overload, or a long poll that waits.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Overload {
    /// Names of the upstreams that are protected; `["*"]`: all.
    pub upstreams: Vec<String>,
    /// Unanswered calls that are always admitted, of all cores together.
    pub min: usize,
    /// The most unanswered calls, however fast the upstream answers.
    pub max: usize,
    /// Latency may rise to this multiple of the long-term average.
    pub tolerance: f64,
    /// Calls that wait for a moment instead of being refused at once.
    pub queue: usize,
    /// The longest time that a call waits.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub queue_wait: Duration,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            min: 100,
            max: 10_000,
            tolerance: 2.0,
            queue: 100,
            queue_wait: Duration::from_millis(50),
        }
    }
}

impl Overload {
    /// Returns whether an upstream is protected.
    pub(crate) fn protects(&self, upstream: &str) -> bool {
        self.upstreams.iter().any(|name| name == upstream || name == "*")
    }
}

impl Default for Hedging {
    fn default() -> Self {
        Self { budget: 0.05 }
    }
}

impl Config {
    /// Keys that had other names in earlier versions, with the names they have now.
    pub const RENAMED: [(&str, &str); 6] = [
        ("connection.age", "max_age"),
        ("connection.age_grace", "max_age_grace"),
        ("connection.idle", "max_idle"),
        ("ejection.first", "base_ejection_time"),
        ("ejection.share", "failure_ratio"),
        ("ejection.panic_below", "panic_threshold"),
    ];
    /// Most threads that carry calls.
    const CORES_MAX: usize = 256;
    /// The least that calls of every client need.
    const HEADER_BYTES_MIN: u32 = 1 << 10;
    const HEADER_FIELDS_MIN: usize = 16;
    /// Longest time that makes sense here.
    const TIME_MAX: Duration = Duration::from_secs(366 * 86_400);
    /// Most attempts of one call.
    pub(crate) const ATTEMPTS_MAX: u32 = 10;

    /// Checks what serde cannot.
    ///
    /// # Errors
    /// With the key and what is wrong with it.
    pub fn validate(&self) -> anyhow::Result<()> {
        if let Some(cores) = self.cores {
            ensure!(
                (1..=Self::CORES_MAX).contains(&cores),
                "gateway.cores = {cores} must be between 1 and 256"
            );
        }
        ensure!(
            (1..=Self::ATTEMPTS_MAX).contains(&self.retry.attempts),
            "gateway.retry.attempts = {} must be between 1 and 10",
            self.retry.attempts
        );
        ensure!(
            (0.0..=1.0).contains(&self.retry.budget),
            "gateway.retry.budget = {} must be between 0 and 1",
            self.retry.budget
        );
        ensure!(
            (0.0..=1.0).contains(&self.hedge.budget),
            "gateway.hedge.budget = {} must be between 0 and 1",
            self.hedge.budget
        );
        self.callers.validate()?;
        self.ejection.validate()?;
        self.overload(&self.overload)?;
        let connection = &self.connection;
        ensure!(
            [connection.max_age, connection.max_age_grace, connection.max_idle, connection.first_call]
                .iter()
                .all(|time| *time <= Self::TIME_MAX),
            "gateway.connection: times must be at most a year"
        );
        let limits = &self.limits;
        for (key, time) in [
            ("header_time", limits.header_time),
            ("frame_time", limits.frame_time),
            ("request_time", limits.request_time),
            ("unread_time", limits.unread_time),
        ] {
            let allowed = Duration::from_millis(1)..=Self::TIME_MAX;
            ensure!(
                allowed.contains(&time),
                "gateway.limits.{key} = {time:?} must be between 1ms and a year"
            );
        }
        ensure!(
            limits.calls > 0 && limits.connections > 0,
            "gateway.limits: calls and connections must be at least 1"
        );
        let windows = [limits.stream_window, limits.connection_window, limits.answer_window];
        ensure!(
            windows.iter().all(|window| (65_535..1 << 31).contains(window)),
            "gateway.limits: windows must be between 65535 and 2147483647 bytes"
        );
        ensure!(
            limits.header_bytes.min(limits.answer_header_bytes) >= Self::HEADER_BYTES_MIN
                && limits.header_fields >= Self::HEADER_FIELDS_MIN,
            "gateway.limits: headers must be allowed at least {} bytes and {} fields",
            Self::HEADER_BYTES_MIN,
            Self::HEADER_FIELDS_MIN
        );
        let mut default = None;
        let mut owners = BTreeMap::new();
        for (name, upstream) in &self.upstream {
            let key = format!("gateway.upstream.{name}");
            ensure!(
                Role::parse(name).is_none(),
                "{key}: this is the name of a Shoal role, whose clones are given with peer.{name}"
            );
            upstream.source().with_context(|| key.clone())?;
            ensure!(
                !upstream.by_route || (upstream.services.is_empty() && !upstream.default),
                "{key}: by_route excludes `services` and `default`: only the calls a route sends it come here"
            );
            ensure!(
                !upstream.replaces || upstream.services.iter().any(|service| role_of(service).is_some()),
                "{key}: `replaces` needs `services` with a service of Shoal's own"
            );
            if upstream.default
                && let Some(other) = default.replace(name)
            {
                bail!("{key}: upstream `{other}` is the default already");
            }
            for service in &upstream.services {
                ensure!(
                    !service.is_empty() && !service.contains('/'),
                    "{key}: service `{service}` must be written package.Service"
                );
                if let Some(other) = owners.insert(service, name) {
                    bail!("{key}: service {service} is routed to `{other}` already");
                }
                ensure!(
                    !LOCAL.contains(&service.as_str()),
                    "{key}: {service} is answered by the gateway itself"
                );
                if let Some(role) = role_of(service)
                    && !upstream.replaces
                {
                    bail!(
                        "{key}: {service} belongs to the Shoal role {role}; set `replaces = true` to route it to this \
                         upstream instead of the clones of that role"
                    );
                }
            }
        }
        Ok(())
    }
}

impl Config {
    fn overload(&self, overload: &Overload) -> anyhow::Result<()> {
        for name in &overload.upstreams {
            let known = name == "*" || Role::parse(name).is_some() || self.upstream.contains_key(name);
            ensure!(known, "gateway.overload.upstreams: there is no upstream `{name}`");
        }
        ensure!(
            (1..=overload.max).contains(&overload.min),
            "gateway.overload: min must be between 1 and max"
        );
        ensure!(overload.tolerance >= 1.0, "gateway.overload.tolerance must be at least 1");
        Ok(())
    }
}

impl UpstreamConfig {
    /// Where its endpoints come from.
    ///
    /// # Errors
    /// When none or more than one source is named, or it cannot be read.
    pub fn source(&self) -> anyhow::Result<Source> {
        let text = match (self.endpoints.as_slice(), &self.dns, &self.srv, &self.file) {
            ([], Some(name), None, None) => format!("dns:{name}"),
            ([], None, Some(name), None) => format!("srv:{name}"),
            ([], None, None, Some(path)) => format!("file:{}", path.display()),
            ([_, ..], None, None, None) => self.endpoints.join(","),
            ([], None, None, None) => bail!("needs exactly one of endpoints, dns, srv and file"),
            (endpoints, dns, srv, file) => {
                let given = [
                    (!endpoints.is_empty(), "endpoints"),
                    (dns.is_some(), "dns"),
                    (srv.is_some(), "srv"),
                    (file.is_some(), "file"),
                ];
                let given = given.iter().filter(|(given, _)| *given).map(|(_, name)| *name);
                bail!(
                    "has {}; it needs exactly one of endpoints, dns, srv and file",
                    given.collect::<Vec<_>>().join(" and ")
                )
            }
        };
        Ok(Source::from_str(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str) -> anyhow::Result<Config> {
        use figment::providers::Format as _;
        let config: Config = figment::Figment::from(figment::providers::Toml::string(toml)).extract()?;
        config.validate()?;
        Ok(config)
    }

    #[test]
    fn foreign_service_names_its_endpoints() {
        let config =
            check("[upstream.a]\nendpoints = ['127.0.0.1:1', '127.0.0.1:2 weight=3']").expect("valid");
        let source = config.upstream["a"].source().expect("valid");
        assert_eq!(source.to_string(), "127.0.0.1:1,127.0.0.1:2 weight=3");
    }

    #[test]
    fn own_service_is_replaced_only_explicitly() {
        let config = check(
            "[upstream.a]\nendpoints = ['127.0.0.1:1']\nservices = ['shoal.session.v1.SessionService']\nreplaces = true\n\
             [upstream.b]\nendpoints = ['127.0.0.1:2']\nservices = ['shoal.cache.v1.ObjectLoaderService']",
        );
        assert!(config.expect("valid").upstream["a"].replaces);
    }

    #[test]
    fn foreign_service_is_found_by_srv() {
        let config = check("[upstream.a]\nsrv = '_grpc._tcp.fish.internal'").expect("valid");
        let source = config.upstream["a"].source().expect("valid");
        assert_eq!(source, Source::Srv("_grpc._tcp.fish.internal".to_owned()));
    }

    #[test]
    fn bad_sections_name_their_key() {
        for (toml, part) in [
            ("cors = 2", "cors"),
            ("cores = 0", "gateway.cores"),
            ("[upstream.a]\nservices = ['x.Y']", "gateway.upstream.a"),
            ("[upstream.a]\nendpoints = ['here']", "gateway.upstream.a"),
            ("[upstream.a]\nendpoints = ['127.0.0.1:1']\ndns = 'a:1'", "needs exactly one of"),
            ("[upstream.a]\nsrv = 'a'\ndns = 'a:1'", "needs exactly one of"),
            ("[upstream.a]\nsrv = 'a:1'", "its port is in its records"),
            ("[upstream.session]\nendpoints = ['127.0.0.1:1']", "peer.session"),
            ("[upstream.a]\nendpoints = ['127.0.0.1:1']\nservices = ['/x.Y']", "`/x.Y`"),
            (
                "[upstream.a]\nendpoints = ['127.0.0.1:1']\nservices = ['x.Y']\n\
                 [upstream.b]\nendpoints = ['127.0.0.1:2']\nservices = ['x.Y']",
                "x.Y is routed to `a`",
            ),
            (
                "[upstream.a]\nendpoints = ['127.0.0.1:1']\ndefault = true\n\
                 [upstream.b]\nendpoints = ['127.0.0.1:2']\ndefault = true",
                "`a` is the default",
            ),
            (
                "[upstream.a]\nendpoints = ['127.0.0.1:1']\nby_route = true\ndefault = true",
                "only the calls a route sends it",
            ),
            (
                "[upstream.a]\nendpoints = ['127.0.0.1:1']\nservices = ['shoal.session.v1.SessionService']",
                "`replaces = true`",
            ),
            (
                "[upstream.a]\nendpoints = ['127.0.0.1:1']\nservices = ['x.Y']\nreplaces = true",
                "`replaces` needs",
            ),
            (
                "[upstream.a]\nendpoints = ['127.0.0.1:1']\nservices = ['grpc.health.v1.Health']",
                "answered by the gateway itself",
            ),
            ("[upstream.a]\nendpoints = ['127.0.0.1:1']\nhealth = 'often'", "often"),
            ("[retry]\nattempts = 0", "gateway.retry.attempts"),
            ("[retry]\nbudget = 2.0", "gateway.retry.budget"),
            ("[callers.named.a]\nper_second = 1", "gateway.callers.named.a"),
            ("[callers]\nper_second = -1", "gateway.callers.per_second"),
            ("[ejection]\nfailure_ratio = 1.5", "gateway.ejection.failure_ratio"),
            ("[ejection]\nbase_ejection_time = '2m'", "gateway.ejection.base_ejection_time"),
            ("[overload]\nupstreams = ['nobody']", "`nobody`"),
            ("[overload]\nmin = 0", "gateway.overload"),
            ("[overload]\ntolerance = 0.5", "gateway.overload.tolerance"),
            ("[connection]\nmax_age = '500y'", "gateway.connection"),
            ("[hedge]\nbudget = 1.5", "gateway.hedge.budget"),
            ("[limits]\nstream_window = 10", "windows"),
            ("[limits]\nheader_fields = 3", "gateway.limits: headers"),
            ("[limits]\nanswer_header_bytes = 100", "gateway.limits: headers"),
        ] {
            let error = check(toml).expect_err(toml);
            assert!(format!("{error:#}").contains(part), "{toml}: {error:#}");
        }
    }
}
