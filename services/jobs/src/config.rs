//! Section `[jobs]` of the configuration.

use std::time::Duration;

use anyhow::ensure;
use schemars::JsonSchema;
use serde::Deserialize;
use shoal_kit::settings::DurationText;

use crate::hub::LOOK_INTERVAL_MAX;

/// Settings of the jobs role.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Redis of this role; none: the common one.
    pub redis: Option<String>,
    /// What the keys begin with, so that several meshes can share one Redis.
    pub key_prefix: String,
    /// Connections to each Redis node.
    pub redis_connections: usize,
    /// How long one call to Redis may take: past it callers get UNAVAILABLE.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub redis_deadline: Duration,
    /// How often it is asked of which queues something is due: leases that ran out are noticed within it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub tend_interval: Duration,
    /// Queues that there may be. When a new one would be one too many, one that is empty and unused gives way.
    pub queues_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: None,
            key_prefix: "jobs:".to_owned(),
            redis_connections: 2,
            redis_deadline: Duration::from_millis(200),
            tend_interval: Duration::from_secs(1),
            queues_max: 10_000,
        }
    }
}

const QUEUES_CEILING: usize = 100_000;

/// Part of every key, so it is short.
const KEY_PREFIX_BYTES_MAX: usize = 64;

impl Config {
    /// Refuses what cannot work, naming the key.
    ///
    /// # Errors
    /// With the key and what would be right.
    pub fn validate(&self) -> anyhow::Result<()> {
        let prefix = &self.key_prefix;
        ensure!(
            prefix.len() <= KEY_PREFIX_BYTES_MAX && !prefix.contains(['{', '}']),
            "[jobs] key_prefix has at most {KEY_PREFIX_BYTES_MAX} bytes and no braces, which are the hash tag's"
        );
        ensure!((1..=64).contains(&self.redis_connections), "[jobs] redis_connections is 1 to 64");
        ensure!(
            (Duration::from_millis(10)..=Duration::from_secs(5)).contains(&self.redis_deadline),
            "[jobs] redis_deadline is 10 ms to 5 s"
        );
        ensure!(
            (Duration::from_millis(50)..=LOOK_INTERVAL_MAX).contains(&self.tend_interval),
            "[jobs] tend_interval is 50 ms to 1 s: leases that ran out are noticed within it"
        );
        ensure!(
            (1..=QUEUES_CEILING).contains(&self.queues_max),
            "[jobs] queues_max is 1 to {QUEUES_CEILING}: ListQueues reads the names of all"
        );
        Ok(())
    }
}
