//! The `[data]` section of the configuration.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use shoal_kit::settings::DurationText;

/// Settings of the data role.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Cassandra keyspace. It is made if it is not there.
    pub keyspace: String,
    /// Number of replicas of a keyspace that is made here (SimpleStrategy). Unset: one for each contact point, at most three.
    /// For replication by data centre, make the keyspace beforehand.
    pub replication_factor: Option<u8>,
    /// Data centre whose nodes coordinate this clone's statements. Unset: any.
    pub datacenter: Option<String>,
    /// Cassandra user.
    pub username: Option<String>,
    /// Password of the Cassandra user: by file or environment (`SHOAL_DATA__PASSWORD`), never by flag.
    pub password: Option<String>,
    /// Longest time of a statement. Past it the call is answered UNAVAILABLE.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub statement_timeout: Duration,
    /// Longest time without any answer while statements are sent. Past it Cassandra counts as unreachable, and calls are refused
    /// at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub silence_max: Duration,
    /// Most statements in flight from one clone. Calls past it are answered RESOURCE_EXHAUSTED.
    pub statements_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keyspace: "shoal".to_owned(),
            replication_factor: None,
            datacenter: None,
            username: None,
            password: None,
            statement_timeout: Duration::from_secs(2),
            silence_max: Duration::from_millis(900),
            statements_max: 4096,
        }
    }
}

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// When a value is out of range. The error names the key and the range.
    pub fn check(&self) -> anyhow::Result<()> {
        let name = &self.keyspace;
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        anyhow::ensure!(
            letters && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 48,
            "data.keyspace must be 1 to 48 characters of [a-z][a-z0-9_]*, not `{name}`"
        );
        anyhow::ensure!(self.replication_factor != Some(0), "data.replication_factor must be at least 1");
        anyhow::ensure!(self.statements_max > 0, "data.statements_max must be at least 1");
        let bounded = |duration: Duration| !duration.is_zero() && duration <= Duration::from_secs(20);
        anyhow::ensure!(bounded(self.statement_timeout), "data.statement_timeout must be up to 20s");
        anyhow::ensure!(bounded(self.silence_max), "data.silence_max must be up to 20s");
        anyhow::ensure!(
            self.username.is_some() == self.password.is_some(),
            "data.username and data.password belong together"
        );
        Ok(())
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("keyspace", &self.keyspace)
            .field("replication_factor", &self.replication_factor)
            .field("datacenter", &self.datacenter)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("statement_timeout", &self.statement_timeout)
            .field("silence_max", &self.silence_max)
            .field("statements_max", &self.statements_max)
            .finish()
    }
}
