//! Rules by which a result says more about the load generator than about its target. What breaks one of them is a finding
//! about this machine, and no figure of the target may be drawn from it.

use std::fmt;
use std::time::Duration;

use crate::load::measured::{Measured, NotIssued, micros};

/// Lateness in 99 of 100 calls that is always allowed: what a timer and a thread's turn cost.
pub(crate) const LATENESS_MAX: Duration = Duration::from_millis(1);
/// Share of the response time's 99th percentile that the lateness' may be, if that is more.
pub(crate) const LATENESS_SHARE_MAX: f64 = 0.1;
/// Share of the run for which the generator's busiest thread may have a CPU.
pub(crate) const CPU_SHARE_MAX: f64 = 0.9;
/// Share of the calls due that the generator may be too late for.
pub(crate) const BEHIND_SHARE_MAX: f64 = 0.001;

/// A rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum GeneratorLimit {
    /// Calls were made late.
    Lateness { p99: Duration, max: Duration },
    /// A thread of the generator had hardly any time left.
    Cpu { share: f64 },
    /// Calls were not made because the generator turned to them too late.
    Behind { calls: u64, due: u64 },
}

impl Measured {
    /// Returns the rules that this result breaks. If there is one, the result is limited by the generator.
    pub(crate) fn generator_limits(&self) -> Vec<GeneratorLimit> {
        let mut limits = Vec::new();
        let share = self.response_time.value_at_quantile(0.99) as f64 * LATENESS_SHARE_MAX;
        let max_us = (micros(LATENESS_MAX)).max(share as u64);
        let p99_us = self.lateness.value_at_quantile(0.99);
        if p99_us > max_us {
            limits.push(GeneratorLimit::Lateness {
                p99: Duration::from_micros(p99_us),
                max: Duration::from_micros(max_us),
            });
        }
        if self.generator.busiest > CPU_SHARE_MAX {
            limits.push(GeneratorLimit::Cpu { share: self.generator.busiest });
        }
        let behind = self.not_issued.get(&NotIssued::GeneratorBehind).copied().unwrap_or(0);
        if behind as f64 > BEHIND_SHARE_MAX * self.due as f64 {
            limits.push(GeneratorLimit::Behind { calls: behind, due: self.due });
        }
        limits
    }
}

impl fmt::Display for GeneratorLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        match self {
            GeneratorLimit::Lateness { p99, max } => write!(
                f,
                "1 in 100 calls was made {:.1} ms or more after it was due; at most {:.1} ms is allowed",
                ms(p99),
                ms(max)
            ),
            GeneratorLimit::Cpu { share } => write!(
                f,
                "a thread of the generator was busy for {:.0} % of the time; at most {:.0} % is allowed",
                share * 100.0,
                CPU_SHARE_MAX * 100.0
            ),
            GeneratorLimit::Behind { calls, due } => {
                write!(f, "the generator was too late to make {calls} of {due} calls")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A result of a thousand calls that took `response_us` and were `late_us` late.
    fn measured(response_us: u64, late_us: u64) -> Measured {
        let mut measured = Measured::empty().expect("histograms");
        measured.due = 1_000;
        measured.response_time.record_n(response_us, 1_000).expect("recorded");
        measured.lateness.record_n(late_us, 1_000).expect("recorded");
        measured
    }

    #[test]
    fn quiet_generator_limits_nothing() {
        assert_eq!(measured(2_000, 900).generator_limits(), []);
        // Late in itself, but not beside so slow an answer.
        assert_eq!(measured(100_000, 5_000).generator_limits(), []);
    }

    #[test]
    fn each_broken_rule_is_found() {
        let late = measured(2_000, 3_000).generator_limits();
        assert!(matches!(late[..], [GeneratorLimit::Lateness { .. }]), "{late:?}");
        let mut busy = measured(2_000, 0);
        busy.generator.busiest = 0.95;
        assert_eq!(busy.generator_limits(), [GeneratorLimit::Cpu { share: 0.95 }]);
        let mut behind = measured(2_000, 0);
        behind.not_issued.insert(NotIssued::OutstandingMax, 500);
        behind.not_issued.insert(NotIssued::GeneratorBehind, 1);
        assert_eq!(behind.generator_limits(), []);
        behind.not_issued.insert(NotIssued::GeneratorBehind, 2);
        assert_eq!(behind.generator_limits(), [GeneratorLimit::Behind { calls: 2, due: 1_000 }]);
    }
}
