//! Small statistics that the analyses share: means, variances and percentile intervals.

use serde::{Deserialize, Serialize};

/// Share of the resamples within an interval.
const COVERAGE: f64 = 0.95;

/// An interval of confidence, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    /// Returns whether `value` lies within.
    pub(crate) fn spans(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// Returns the mean: not a number without values.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the variance of a sample: 0 with fewer than two values.
pub(crate) fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// Returns the 95 % percentile interval of the estimates of a bootstrap.
pub(crate) fn percentile_interval(mut estimates: Vec<f64>) -> Interval {
    estimates.sort_by(f64::total_cmp);
    let tail = (1.0 - COVERAGE) / 2.0;
    Interval { low: quantile(&estimates, tail), high: quantile(&estimates, 1.0 - tail) }
}

/// Returns a quantile of sorted values, between the two nearest.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_leaves_out_both_tails() {
        let estimates = (0..=1000).rev().map(f64::from).collect();
        let interval = percentile_interval(estimates);
        assert!((interval.low - 25.0).abs() < 1e-9 && (interval.high - 975.0).abs() < 1e-9, "{interval:?}");
    }
}
