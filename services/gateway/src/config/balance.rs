//! `[gateway.balance]` and `[gateway.ejection]`: how endpoints are chosen, and when one is left alone. What each means is
//! said in `shoal_balance::Options`, whose defaults these are.

use std::time::Duration;

use anyhow::ensure;
use schemars::JsonSchema;
use serde::Deserialize;
use shoal_balance::{self as balance, Options};
use shoal_kit::settings::DurationText;

/// Load balancing over the endpoints of an upstream.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// The time that an endpoint is avoided after it failed a call, unless it said itself how long. Zero: not at all.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub penalty: Duration,
    /// The time in which a newcomer's share of the calls grows from a tenth to the whole. Zero: it has the whole at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub slow_start: Duration,
    /// The most endpoints of one upstream that one core connects to, drawn at random. 0: all.
    pub subset: usize,
    /// The most connections of one core to one endpoint. A further one is made only when the endpoint allows too few streams.
    pub connections: usize,
    /// The time after which a further connection without calls is closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connection_idle: Duration,
}

impl Default for Balance {
    fn default() -> Self {
        let options = Options::new("", "");
        Self {
            penalty: options.penalty,
            slow_start: options.slow_start,
            subset: options.subset.map_or(0, |subset| subset.size),
            connections: options.connections_max,
            connection_idle: options.connection_idle,
        }
    }
}

/// Ejection of endpoints that fail.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// Enables ejection.
    pub enabled: bool,
    /// Ejects an endpoint after this number of failures in a row.
    pub consecutive: u32,
    /// Ejects an endpoint when this share of its calls failed within `window`, if there were at least `calls_min`.
    pub failure_ratio: f64,
    /// The fewest calls within `window` for which `failure_ratio` ejects.
    pub calls_min: u32,
    /// The window of `failure_ratio`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub window: Duration,
    /// The time of a first ejection; doubled each further time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub base_ejection_time: Duration,
    /// The longest time of an ejection.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max: Duration,
    /// The most endpoints that are ejected at once, as a share of those that serve.
    pub ejected_max: f64,
    /// Uses ejected endpoints too when less than this share of all endpoints is left.
    pub panic_threshold: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        let options = balance::Ejection::default();
        Self {
            enabled: true,
            consecutive: options.consecutive,
            failure_ratio: options.failure_ratio,
            calls_min: options.calls_min,
            window: options.window,
            base_ejection_time: options.base_ejection_time,
            max: options.max,
            ejected_max: options.ejected_max,
            panic_threshold: options.panic_threshold,
        }
    }
}

impl Ejection {
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        for (key, share) in [
            ("failure_ratio", self.failure_ratio),
            ("ejected_max", self.ejected_max),
            ("panic_threshold", self.panic_threshold),
        ] {
            ensure!((0.0..=1.0).contains(&share), "gateway.ejection.{key} = {share} must be between 0 and 1");
        }
        ensure!(self.consecutive > 0, "gateway.ejection.consecutive must be at least 1");
        ensure!(self.window >= Duration::from_secs(1), "gateway.ejection.window must be at least 1s");
        ensure!(
            self.base_ejection_time <= self.max,
            "gateway.ejection.base_ejection_time must not be longer than max"
        );
        Ok(())
    }

    pub(crate) fn options(&self) -> Option<balance::Ejection> {
        self.enabled.then_some(balance::Ejection {
            consecutive: self.consecutive,
            failure_ratio: self.failure_ratio,
            calls_min: self.calls_min,
            window: self.window,
            base_ejection_time: self.base_ejection_time,
            max: self.max,
            ejected_max: self.ejected_max,
            panic_threshold: self.panic_threshold,
        })
    }
}
