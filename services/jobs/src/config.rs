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
    /// Redis of this role. Unset: the Redis that all roles share.
    pub redis: Option<String>,
    /// Beginning of every key, so that several meshes can share one Redis.
    pub key_prefix: String,
    /// Number of connections to each Redis node.
    pub redis_connections: usize,
    /// Longest time of one call to Redis. Past it the caller gets UNAVAILABLE.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub redis_deadline: Duration,
    /// Carries the keys of a half-moved slot of a Cluster to its new node when calls wait for it. Turn it off to move slots slowly,
    /// or to give a move up.
    pub redis_finish_moves: bool,
    /// Interval at which the clones together ask which queues have something due. Leases that ran out are noticed within it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub tend_interval: Duration,
    /// Most queues that may exist. At the limit an empty, unused queue gives way to a new one.
    pub queues_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: None,
            key_prefix: "jobs:".to_owned(),
            redis_connections: 2,
            redis_deadline: Duration::from_millis(200),
            redis_finish_moves: true,
            tend_interval: Duration::from_secs(1),
            queues_max: 10_000,
        }
    }
}

const QUEUES_CEILING: usize = 100_000;

/// Longest key prefix. It is part of every key, so it is short.
const KEY_PREFIX_BYTES_MAX: usize = 64;

impl Config {
    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// When a value is out of range. The error names the key and the range.
    pub fn validate(&self) -> anyhow::Result<()> {
        let prefix = &self.key_prefix;
        ensure!(
            prefix.len() <= KEY_PREFIX_BYTES_MAX && !prefix.contains(['{', '}']),
            "[jobs] key_prefix must have at most {KEY_PREFIX_BYTES_MAX} bytes and no braces, which mark the hash tag"
        );
        ensure!((1..=64).contains(&self.redis_connections), "[jobs] redis_connections must be 1 to 64");
        ensure!(
            (Duration::from_millis(10)..=Duration::from_secs(5)).contains(&self.redis_deadline),
            "[jobs] redis_deadline must be 10 ms to 5 s"
        );
        ensure!(
            (Duration::from_millis(50)..=LOOK_INTERVAL_MAX).contains(&self.tend_interval),
            "[jobs] tend_interval must be 50 ms to 1 s: leases that ran out are noticed within it"
        );
        ensure!(
            (1..=QUEUES_CEILING).contains(&self.queues_max),
            "[jobs] queues_max must be 1 to {QUEUES_CEILING}: ListQueues reads the names of all queues"
        );
        Ok(())
    }
}
