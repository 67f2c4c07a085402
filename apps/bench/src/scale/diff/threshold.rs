//! Thresholds on a comparison, such as `p99>+10%`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, ensure};

use crate::scale::diff::{Compared, Difference, Metric};

/// A change of a figure that fails the comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    metric: Metric,
    /// True if it fails above the change, false if below.
    above: bool,
    /// Change of B from A, as a share of A.
    change: f64,
}

impl Threshold {
    /// Returns the figure that it is about.
    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// Returns the figures that fail: beyond the change, with an interval that does not span 1.
    ///
    /// # Errors
    /// When there is no figure that could have failed: a threshold that cannot fail must not pass.
    pub(crate) fn failing<'a>(&self, all: &'a [Compared]) -> anyhow::Result<Vec<&'a Compared>> {
        let mut judged = all
            .iter()
            .filter(|one| one.metric == self.metric && one.difference != Difference::CannotTell)
            .peekable();
        ensure!(
            judged.peek().is_some(),
            "`{self}` cannot be judged: the reports have no {} in common with samples and repetitions enough",
            self.metric
        );
        let beyond = |one: &&Compared| {
            let wanted = if self.above { Difference::Higher } else { Difference::Lower };
            let change = one.ratio - 1.0;
            one.difference == wanted && if self.above { change > self.change } else { change < self.change }
        };
        Ok(judged.filter(beyond).collect())
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.above { '>' } else { '<' };
        write!(f, "{}{sign}{:+}%", self.metric, (self.change * 1e6).round() / 1e4)
    }
}

impl FromStr for Threshold {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Threshold> {
        parse(text).with_context(|| {
            format!("`{text}` is no threshold: write a figure and a change, such as 'p99>+10%' or 'throughput<-5%'")
        })
    }
}

fn parse(text: &str) -> anyhow::Result<Threshold> {
    let (at, sign) = text
        .char_indices()
        .find(|(_, letter)| matches!(letter, '<' | '>'))
        .context("it has neither `>` nor `<`")?;
    let metric: Metric = text[..at].trim().parse()?;
    let percent = text[at + 1..].trim().strip_suffix('%').context("the change ends with `%`")?;
    let percent: f64 = percent.trim().parse().context("the change is no number")?;
    let above = sign == '>';
    // `p99<+10%` would fail on what is well.
    ensure!(
        if above { (0.0..=10_000.0).contains(&percent) } else { (-100.0..=0.0).contains(&percent) },
        "a change with `>` is from +0% to +10000%, and one with `<` from -100% to -0%"
    );
    Ok(Threshold { metric, above, change: percent / 100.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(ratio: f64, difference: Difference) -> Compared {
        let metric = Metric::Percentile(0.99);
        Compared { place: "4 clones".to_owned(), metric, a: 1.0, b: ratio, ratio, interval: None, difference }
    }

    fn fails(threshold: &str, ratio: f64, difference: Difference) -> bool {
        let threshold: Threshold = threshold.parse().expect("a threshold");
        !threshold.failing(&[compared(ratio, difference)]).expect("judged").is_empty()
    }

    #[test]
    fn sure_changes_beyond_it_fail() {
        assert!(fails("p99>+10%", 1.11, Difference::Higher));
        assert!(!fails("p99>+10%", 1.09, Difference::Higher));
        assert!(!fails("p99>+10%", 1.5, Difference::None));
        assert!(!fails("p99>+10%", 0.5, Difference::Lower));
        assert!(fails("p99<-10%", 0.85, Difference::Lower));
        assert!(fails("p99>0%", 1.01, Difference::Higher));
    }

    #[test]
    fn threshold_without_figures_is_an_error() {
        let error = |text: &str, difference| {
            let threshold: Threshold = text.parse().expect("a threshold");
            threshold.failing(&[compared(2.0, difference)]).expect_err("nothing to judge").to_string()
        };
        assert!(error("p99>+10%", Difference::CannotTell).contains("`p99>+10%` cannot be judged"));
        assert!(error("cpu>+10%", Difference::Higher).contains("no cpu in common"));
    }

    #[test]
    fn bad_thresholds_are_refused() {
        for text in [
            "", "p99", "p99>", "p99>10", ">+10%", "p99=+10%", "p99<+10%", "p99>-10%", "q99>+1%", "p99>NaN%",
            "p100>+1%",
        ] {
            let error = text.parse::<Threshold>().expect_err(text).to_string();
            assert!(error.contains("such as 'p99>+10%'"), "{error}");
        }
        assert_eq!("p99.9 > +2.5 %".parse::<Threshold>().expect("one").to_string(), "p99.9>+2.5%");
    }
}
