//! The latency objective, such as `p99=50ms`: its text, and how many samples a percentile needs before it is believed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Samples beyond a percentile without which it is grey: fewer, and one call more or less moves it.
pub(crate) const BEYOND_MIN: f64 = 10.0;

/// Response time that a share of all calls must not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Objective {
    /// Share of the calls, between 0 and 1.
    pub(crate) quantile: f64,
    pub(crate) limit: Duration,
}

impl Objective {
    /// Returns the name of its percentile, such as `p99.9`.
    pub(crate) fn percentile(&self) -> String {
        // Rounded: 0.999 × 100 is not 99.9.
        format!("p{}", (self.quantile * 1e8).round() / 1e6)
    }

    /// Returns the limit in microseconds, the unit of the histograms.
    pub(crate) fn limit_us(&self) -> u64 {
        u64::try_from(self.limit.as_micros()).unwrap_or(u64::MAX)
    }

    /// Returns how many calls make its percentile more than grey.
    pub(crate) fn samples_min(&self) -> u64 {
        (BEYOND_MIN / (1.0 - self.quantile)).round() as u64
    }
}

/// Returns whether so many samples are too few for a percentile, which a report then shows in grey.
pub(crate) fn is_grey(samples: u64, quantile: f64) -> bool {
    // 1 − 0.99 is a little more than 0.01.
    (samples as f64 * (1.0 - quantile)) < BEYOND_MIN - 1e-6
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.as_secs_f64();
        let (value, unit) = match limit {
            limit if limit >= 1.0 => (limit, "s"),
            limit if limit >= 1e-3 => (limit * 1e3, "ms"),
            limit => (limit * 1e6, "us"),
        };
        write!(f, "{}={}{unit}", self.percentile(), (value * 1e6).round() / 1e6)
    }
}

impl FromStr for Objective {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Objective> {
        parse(text).with_context(|| {
            format!("`{text}` is no objective: write a percentile and a time, such as p99=50ms")
        })
    }
}

impl TryFrom<String> for Objective {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Objective> {
        text.parse()
    }
}

impl From<Objective> for String {
    fn from(objective: Objective) -> String {
        objective.to_string()
    }
}

fn parse(text: &str) -> anyhow::Result<Objective> {
    let (percentile, limit) = text.split_once('=').context("it has no `=`")?;
    let percent = percentile.trim().strip_prefix('p').context("the percentile begins with `p`")?;
    let percent: f64 = percent.parse().context("the percentile is no number")?;
    ensure!((1.0..=99.999).contains(&percent), "the percentile must be between p1 and p99.999");
    let limit = limit.trim();
    let number = limit.trim_end_matches(|letter: char| letter.is_alphabetic());
    let seconds = match &limit[number.len()..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        unit => anyhow::bail!("`{unit}` is no unit of time: use s, ms or us"),
    };
    let limit: f64 = number.trim().parse().context("the time is no number")?;
    let seconds = limit * seconds;
    ensure!((1e-6..=3600.0).contains(&seconds), "the time must be between 1us and 3600s");
    Ok(Objective { quantile: percent / 100.0, limit: Duration::from_secs_f64(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_survive_their_text() {
        for text in ["p99=50ms", "p99.9=1.5s", "p50=250us", "p95=1s"] {
            assert_eq!(text.parse::<Objective>().expect("parsed").to_string(), text);
        }
        let objective: Objective = "p99=50ms".parse().expect("parsed");
        assert_eq!((objective.quantile, objective.limit_us(), objective.samples_min()), (0.99, 50_000, 1000));
    }

    #[test]
    fn bad_objectives_are_refused() {
        for text in [
            "",
            "p99",
            "99=50ms",
            "p100=50ms",
            "p0=1s",
            "pNaN=1s",
            "p99=50",
            "p99=-1ms",
            "p99=50m",
            "p99=0s",
            "p99=NaNs",
        ] {
            let error = text.parse::<Objective>().expect_err(text);
            assert!(error.to_string().contains("such as p99=50ms"), "{error}");
        }
    }

    #[test]
    fn ten_samples_beyond_are_enough() {
        assert!(!is_grey(1000, 0.99) && is_grey(999, 0.99));
        assert!(!is_grey(10_000, 0.999) && is_grey(9_999, 0.999));
    }
}
