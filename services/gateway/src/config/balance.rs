//! `[gateway.balance]` and `[gateway.ejection]`: how endpoints are chosen, and when one is left alone. What each means is
//! said in `shoal_balance::Options`, whose defaults these are.

use std::time::Duration;

use anyhow::ensure;
use schemars::JsonSchema;
use serde::Deserialize;
use shoal_balance::{self as balance, Options};
use shoal_kit::settings::DurationText;

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// How long an endpoint is shunned that failed a call, unless it said itself how long. Zero: not at all.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub penalty: Duration,
    /// How long a newcomer's share grows, from a tenth to the whole. Zero: it has the whole at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub slow_start: Duration,
    /// The most endpoints of one upstream that one core connects to: which, is drawn. 0: all.
    pub subset: usize,
    /// The most connections of one core to one endpoint; more than one only when the endpoint allows too few streams.
    pub connections: usize,
    /// How long a further connection may be without calls.
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

/// When an endpoint that fails is left alone.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// Whether any is.
    pub enabled: bool,
    /// After as many failures in a row.
    pub consecutive: u32,
    /// Or when this share of its calls failed within `window`,
    pub failure_ratio: f64,
    /// provided there were as many calls.
    pub calls_min: u32,
    /// The time that the share is of.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub window: Duration,
    /// How long an endpoint is ejected the first time; doubled each time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub base_ejection_time: Duration,
    /// How long at most.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max: Duration,
    /// The most that are left alone at once, as a share of those that serve.
    pub ejected_max: f64,
    /// When less than this share of all endpoints is left, the ejected are used too.
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
