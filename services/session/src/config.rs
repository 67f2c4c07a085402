//! The `[session]` section: engine, keys, limits and policy.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use schemars::JsonSchema;
use serde::Deserialize;
use shoal_kit::settings::DurationText;

use crate::keys::keyring::KeysText;
use crate::session::attribute::{Limits, NAME_BYTES_MAX, REMOVE_MAX};
use crate::session::{AtLimit, Policy};

/// A shorter idle time than this would end sessions between two calls of one page.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Revoking or listing all of a user's sessions is one script: this bounds it.
const SESSIONS_PER_USER_CEILING: usize = 1000;
/// An attribute change is one script: this bounds its arguments.
const ATTRIBUTES_CEILING: usize = 256;
/// Sessions are read whole, many of them in one answer of ListSessions.
const BYTES_CEILING: usize = 64 << 10;

/// A request may have as much as this whatever the limits are.
const MESSAGE_BYTES_MIN: usize = 64 << 10;
/// Tags and lengths of an attribute, and a time's.
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// The user, the token and whatever else a request has once.
const REQUEST_OVERHEAD_BYTES: usize = 12 << 10;

/// Settings of the session service.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Redis of the sessions: `redis://HOST:PORT`, several comma-separated for a Cluster. None: embedded.
    pub redis: Option<String>,
    /// Prefix of every key in Redis; no braces.
    pub key_prefix: String,
    /// Connections to each Redis node.
    pub redis_connections: usize,
    /// Longest time of a call to Redis.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub redis_deadline: Duration,
    /// Carries the keys of a half-moved slot of a Cluster to its new node when calls wait for it. Turn it off to move slots slowly,
    /// or to give a move up.
    pub redis_finish_moves: bool,
    /// TOML file with the keys `bucket`, `check`, `derive` and, optionally, `pepper`.
    pub keys_file: Option<PathBuf>,
    /// Keys given inline, for the environment (`SHOAL_SESSION__KEYS__CHECK`). They beat the file.
    pub keys: KeysText,
    /// Idle time of a session whose creator asks for none.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub idle_ttl: Duration,
    /// Longest idle time a creator may ask for.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub idle_ttl_max: Duration,
    /// Absolute time of a session whose creator asks for none.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub absolute_ttl: Duration,
    /// Longest absolute time a creator may ask for.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub absolute_ttl_max: Duration,
    /// Time for which the old token is good after the new one was first used.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub rotation_grace: Duration,
    /// Time for which a repeat of CreateSession with the same `request_id` finds what the first one made.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub request_kept: Duration,
    /// Sessions a user may have at once.
    pub sessions_per_user_max: usize,
    /// Treatment of a CreateSession for a user who has that many: `reject` or `revoke_oldest`.
    pub at_limit: AtLimit,
    /// Attributes of a session.
    pub attributes_max: usize,
    /// Names and values of a session's attributes together.
    pub attributes_bytes_max: usize,
    /// Metadata entries of a session.
    pub metadata_max: usize,
    /// Names and values of a session's metadata together.
    pub metadata_bytes_max: usize,
    /// Interval between two looks for ended sessions; they are gone from every index at most 5 s after their end when
    /// this is at most 1 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub sweep_interval: Duration,
    /// Events kept for watchers in each of the 256 buckets.
    pub events_kept: usize,
    /// Streams of WatchSessions that one clone serves at once: of one user at most a tenth of them, of everybody half.
    pub watchers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        Self {
            redis: None,
            key_prefix: "session:".to_owned(),
            redis_connections: 2,
            redis_deadline: Duration::from_millis(200),
            redis_finish_moves: true,
            keys_file: None,
            keys: KeysText::default(),
            idle_ttl: Duration::from_secs(30 * MINUTE),
            idle_ttl_max: Duration::from_secs(90 * DAY),
            absolute_ttl: Duration::from_secs(12 * HOUR),
            absolute_ttl_max: Duration::from_secs(366 * DAY),
            rotation_grace: Duration::from_secs(10),
            request_kept: Duration::from_secs(10 * MINUTE),
            sessions_per_user_max: 100,
            at_limit: AtLimit::Reject,
            attributes_max: 64,
            attributes_bytes_max: 16 << 10,
            metadata_max: 16,
            metadata_bytes_max: 4 << 10,
            sweep_interval: Duration::from_secs(1),
            events_kept: 4096,
            watchers_max: 10_000,
        }
    }
}

impl Config {
    /// Refuses values that cannot work, with the key's name.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            !self.key_prefix.contains(['{', '}']),
            "[session] key_prefix must have no braces: they would take the place of the buckets' hash tags"
        );
        for (name, max_name, ttl, max) in [
            ("idle_ttl", "idle_ttl_max", self.idle_ttl, self.idle_ttl_max),
            ("absolute_ttl", "absolute_ttl_max", self.absolute_ttl, self.absolute_ttl_max),
        ] {
            ensure!(
                TTL_MIN <= ttl && ttl <= max,
                "[session] {name} must be between {TTL_MIN:?} and {max_name} ({max:?})"
            );
        }
        let in_range = |name: &str, value: usize, max: usize| {
            ensure!((1..=max).contains(&value), "[session] {name} must be between 1 and {max}, not {value}");
            Ok(())
        };
        in_range("sessions_per_user_max", self.sessions_per_user_max, SESSIONS_PER_USER_CEILING)?;
        in_range("attributes_max", self.attributes_max, ATTRIBUTES_CEILING)?;
        in_range("attributes_bytes_max", self.attributes_bytes_max, BYTES_CEILING)?;
        in_range("metadata_max", self.metadata_max, ATTRIBUTES_CEILING)?;
        in_range("metadata_bytes_max", self.metadata_bytes_max, BYTES_CEILING)?;
        in_range("events_kept", self.events_kept, 1 << 20)?;
        for (name, value, min, max) in [
            ("sweep_interval", self.sweep_interval, Duration::from_millis(10), Duration::from_secs(3600)),
            ("rotation_grace", self.rotation_grace, Duration::ZERO, Duration::from_secs(3600)),
            ("request_kept", self.request_kept, Duration::from_secs(1), Duration::from_secs(86_400)),
        ] {
            ensure!((min..=max).contains(&value), "[session] {name} must be between {min:?} and {max:?}");
        }
        Ok(())
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy {
            attributes: Limits { count_max: self.attributes_max, bytes_max: self.attributes_bytes_max },
            sessions_per_user_max: self.sessions_per_user_max,
            at_limit: self.at_limit,
            rotation_grace: self.rotation_grace,
            request_kept: self.request_kept,
            events_kept: self.events_kept,
        }
    }

    /// The largest request: attributes and metadata at their limits, as many names to remove as there may be, and what is
    /// written around them.
    pub(crate) fn message_bytes_max(&self) -> usize {
        let content = self.attributes_bytes_max + self.metadata_bytes_max + REMOVE_MAX * NAME_BYTES_MAX;
        let entries = self.attributes_max + self.metadata_max + REMOVE_MAX;
        MESSAGE_BYTES_MIN.max(content + entries * ENTRY_OVERHEAD_BYTES + REQUEST_OVERHEAD_BYTES)
    }

    /// The shortest idle or absolute time a creator may ask for.
    pub(crate) const fn ttl_min(&self) -> Duration {
        TTL_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_named() {
        Config::default().validate().expect("the defaults work");
        let default = Config::default;
        for (config, name) in [
            (Config { key_prefix: "{x}".into(), ..default() }, "key_prefix"),
            (Config { idle_ttl: Duration::ZERO, ..default() }, "idle_ttl"),
            (Config { absolute_ttl: Duration::from_secs(u64::MAX / 2), ..default() }, "absolute_ttl_max"),
            (Config { sessions_per_user_max: 0, ..default() }, "sessions_per_user_max"),
            (Config { attributes_max: 1000, ..default() }, "attributes_max"),
            (Config { sweep_interval: Duration::ZERO, ..default() }, "sweep_interval"),
        ] {
            let error = config.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
