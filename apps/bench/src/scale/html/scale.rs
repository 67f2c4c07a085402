//! Scales of charts: from values to places, and the ticks between.

/// Largest number of ticks: more of them would touch each other on a telephone.
const TICKS_MAX: usize = 6;

/// Mapping of values to places in a chart.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    logarithmic: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Returns a linear scale from 0 to a round value that is not below any of `values`.
    pub(crate) fn linear(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Scale {
        let most = values.into_iter().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let step = nice_step(most);
        Scale { logarithmic: false, low: 0.0, high: (most / step - 1e-9).ceil() * step, from, to }
    }

    /// Returns a logarithmic scale over the positive `values`, widened to 1, 2 or 5 times a power of ten.
    pub(crate) fn logarithmic(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Scale {
        let positive: Vec<f64> =
            values.into_iter().filter(|value| value.is_finite() && *value > 0.0).collect();
        let least = positive.iter().copied().fold(f64::INFINITY, f64::min);
        let most = positive.iter().copied().fold(0.0, f64::max);
        if positive.is_empty() {
            return Scale { logarithmic: true, low: 1.0, high: 10.0, from, to };
        }
        let below = round_values(least / 10.0, least).last().copied().unwrap_or(least);
        let above = round_values(most, most * 10.0).first().copied().unwrap_or(most);
        let above = if above > below { above } else { below * 2.0 };
        Scale { logarithmic: true, low: below, high: above, from, to }
    }

    /// Returns the place of a value; values outside are at the edge.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    pub(crate) fn high(&self) -> f64 {
        self.high
    }

    /// Returns round values from end to end.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let all = round_values(self.low, self.high);
            if all.len() <= TICKS_MAX {
                return all;
            }
            let is_power = |value: &f64| (value.log10() - value.log10().round()).abs() < 1e-9;
            let powers: Vec<f64> = all.into_iter().filter(is_power).collect();
            let skip = powers.len().div_ceil(TICKS_MAX).max(1);
            return powers.into_iter().step_by(skip).collect();
        }
        let step = nice_step(self.high);
        let count = (self.high / step).round() as usize;
        (0..=count).map(|n| n as f64 * step).collect()
    }
}

/// Returns a step of 1, 2 or 5 times a power of ten, of which at most five make `most`.
fn nice_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 5.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| most / step <= 5.0 + 1e-9)
        .unwrap_or(10.0 * power)
}

/// Returns the values 1, 2 and 5 times a power of ten between two others, both included.
fn round_values(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    powers
        .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(power)))
        .filter(|value| *value >= low * (1.0 - 1e-9) && *value <= high * (1.0 + 1e-9))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round() {
        let scale = Scale::linear([3.0, 8.0], 0.0, 100.0);
        assert_eq!(scale.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!((scale.at(0.0), scale.at(8.0), scale.at(9.0)), (0.0, 100.0, 100.0));
        assert_eq!(Scale::linear([1234.0], 0.0, 1.0).ticks(), [0.0, 500.0, 1000.0, 1500.0]);
        assert_eq!(Scale::linear([], 0.0, 1.0).high(), 1.0);
    }

    #[test]
    fn logarithmic_ticks_are_round() {
        let scale = Scale::logarithmic([1_300.0, 48_000.0], 100.0, 0.0);
        assert_eq!((scale.low, scale.high), (1_000.0, 50_000.0));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * b;
        assert!(scale.ticks().iter().zip([1e3, 2e3, 5e3, 1e4, 2e4, 5e4]).all(|(a, b)| near(*a, b)));
        assert!(Scale::logarithmic([1.0, 1e9], 0.0, 1.0).ticks().len() <= TICKS_MAX);
        assert!(Scale::logarithmic([], 0.0, 1.0).at(5.0).is_finite());
        assert!(Scale::logarithmic([7.0], 0.0, 1.0).at(7.0).is_finite());
    }
}
