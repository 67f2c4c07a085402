//! The `[data]` section of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use shoal_kit::settings::DurationText;

/// Most bytes of a blob when the configuration names none.
pub(crate) const BLOB_BYTES_MAX_DEFAULT: u64 = 1 << 30;
/// Longest wait of a stream for its caller when the configuration names none.
pub(crate) const STREAM_IDLE_MAX_DEFAULT: Duration = Duration::from_secs(30);
/// Highest limit of a blob's bytes.
const BLOB_BYTES_MAX_LIMIT: u64 = 64 << 30;

/// Settings of the data role.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Cassandra keyspace. One that is there is used as it is; what is wrong with its replication is said at the start.
    pub keyspace: String,
    /// Makes a keyspace that is not there. When false, a clone is not ready until somebody makes it.
    pub create_keyspace: bool,
    /// Number of replicas in each data centre of a keyspace that is made here (NetworkTopologyStrategy): `{dc1 = 3, dc2 = 3}`.
    /// Empty: `replication_factor` in each data centre that is known.
    pub replication: BTreeMap<String, u8>,
    /// Number of replicas in each data centre, where `replication` names none. Unset: one for each node that is known, at most
    /// three.
    pub replication_factor: Option<u8>,
    /// Data centre whose nodes coordinate this clone's statements. Unset: the one of the first contact point.
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
    /// Time after which a statement that may be repeated and has no answer is sent to another node as well. Zero: never.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub speculative_delay: Duration,
    /// Cassandra's `speculative_retry` of tables that are made here: when a coordinator asks another replica.
    pub speculative_retry: String,
    /// Most statements in flight from one clone. Calls past it are answered RESOURCE_EXHAUSTED.
    pub statements_max: usize,
    /// Largest difference of this host's clock to Cassandra's. Past it writes and watches are refused: UNAVAILABLE (CLOCK_DRIFT).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub clock_drift_max: Duration,
    /// Most bytes of a blob. PutBlob refuses a larger one: INVALID_ARGUMENT (BLOB_TOO_LARGE).
    pub blob_bytes_max: u64,
    /// Longest time for which GetBlob, Scan and WatchTable wait for their caller to take a message, and PutBlob for one to send it.
    /// Past it the call ends and its place is free: RESOURCE_EXHAUSTED (ANSWER_NOT_READ), of PutBlob DEADLINE_EXCEEDED (BLOB_TOO_SLOW).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub stream_idle_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keyspace: "shoal".to_owned(),
            create_keyspace: true,
            replication: BTreeMap::new(),
            replication_factor: None,
            datacenter: None,
            username: None,
            password: None,
            statement_timeout: Duration::from_secs(2),
            silence_max: Duration::from_millis(900),
            speculative_delay: Duration::from_millis(100),
            speculative_retry: "50ms".to_owned(),
            statements_max: 4096,
            clock_drift_max: Duration::from_secs(5),
            blob_bytes_max: BLOB_BYTES_MAX_DEFAULT,
            stream_idle_max: STREAM_IDLE_MAX_DEFAULT,
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
        for (datacenter, factor) in &self.replication {
            let plain = !datacenter.is_empty() && !datacenter.contains(['\'', '\\']) && datacenter != "class";
            anyhow::ensure!(
                plain && *factor > 0,
                "data.replication must be names of data centres with at least 1 replica each, not `{datacenter} = {factor}`"
            );
        }
        let retry = &self.speculative_retry;
        anyhow::ensure!(
            !retry.is_empty() && retry.bytes().all(|b| b.is_ascii_alphanumeric() || b"(),. ".contains(&b)),
            "data.speculative_retry must be what Cassandra takes, like `50ms`, `99p` or `NEVER`, not `{retry}`"
        );
        anyhow::ensure!(
            self.speculative_delay <= Duration::from_secs(20),
            "data.speculative_delay must be up to 20s"
        );
        anyhow::ensure!(self.statements_max > 0, "data.statements_max must be at least 1");
        anyhow::ensure!(
            (1..=BLOB_BYTES_MAX_LIMIT).contains(&self.blob_bytes_max),
            "data.blob_bytes_max must be 1 to {BLOB_BYTES_MAX_LIMIT}"
        );
        anyhow::ensure!(
            (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.stream_idle_max),
            "data.stream_idle_max must be 100ms to 1h"
        );
        let bounded = |duration: Duration| !duration.is_zero() && duration <= Duration::from_secs(20);
        anyhow::ensure!(bounded(self.statement_timeout), "data.statement_timeout must be up to 20s");
        anyhow::ensure!(bounded(self.silence_max), "data.silence_max must be up to 20s");
        anyhow::ensure!(
            (Duration::from_millis(200)..=Duration::from_secs(300)).contains(&self.clock_drift_max),
            "data.clock_drift_max must be 200ms to 5m"
        );
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
            .field("create_keyspace", &self.create_keyspace)
            .field("replication", &self.replication)
            .field("replication_factor", &self.replication_factor)
            .field("datacenter", &self.datacenter)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("statement_timeout", &self.statement_timeout)
            .field("silence_max", &self.silence_max)
            .field("speculative_delay", &self.speculative_delay)
            .field("speculative_retry", &self.speculative_retry)
            .field("statements_max", &self.statements_max)
            .field("clock_drift_max", &self.clock_drift_max)
            .field("blob_bytes_max", &self.blob_bytes_max)
            .field("stream_idle_max", &self.stream_idle_max)
            .finish()
    }
}
