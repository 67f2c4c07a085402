//! Due times of the calls of an open loop: offsets from the start, which do not depend on any answer.

use std::time::Duration;

use fastrand::Rng;

/// Distribution of the gaps between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// Evenly spaced.
    Constant,
    /// Exponentially distributed gaps, as many independent callers make them: some calls come close together.
    Poisson,
}

/// The moments at which calls are due, in order, up to an end.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    mean_gap_s: f64,
    /// Generator of the gaps; `None` for evenly spaced calls.
    rng: Option<Rng>,
    next_s: f64,
    end_s: f64,
}

impl Schedule {
    /// `rate` calls a second during `time`. The same seed gives the same schedule.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, time: Duration, seed: u64) -> Schedule {
        let rng = (arrivals == Arrivals::Poisson).then(|| Rng::with_seed(seed));
        Schedule { mean_gap_s: 1.0 / rate, rng, next_s: 0.0, end_s: time.as_secs_f64() }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = self.next_s;
        if due >= self.end_s {
            return None;
        }
        self.next_s += match &mut self.rng {
            None => self.mean_gap_s,
            // The inverse of the exponential distribution's function; 1 - u is never 0.
            Some(rng) => -(1.0 - rng.f64()).ln() * self.mean_gap_s,
        };
        Some(Duration::from_secs_f64(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 42;

    fn schedule(arrivals: Arrivals, rate: f64, seconds: u64) -> Vec<f64> {
        let schedule = Schedule::new(arrivals, rate, Duration::from_secs(seconds), SEED);
        schedule.map(|due| due.as_secs_f64()).collect()
    }

    /// Mean and standard deviation of the gaps.
    fn gaps(due: &[f64]) -> (f64, f64) {
        let gaps: Vec<f64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        let due = schedule(Arrivals::Constant, 8.0, 2);
        assert_eq!(due.len(), 16);
        assert_eq!(due[..3], [0.0, 0.125, 0.25]);
        assert_eq!(due[15], 1.875);
    }

    #[test]
    fn poisson_gaps_deviate_by_their_mean() {
        let due = schedule(Arrivals::Poisson, 1_000.0, 20);
        // 20 000 expected, with a standard deviation of 141.
        assert!((19_400..20_600).contains(&due.len()), "seed {SEED}: {}", due.len());
        let (mean, deviation) = gaps(&due);
        assert!((deviation / mean - 1.0).abs() < 0.05, "seed {SEED}: mean {mean} deviation {deviation}");
        assert!(due.is_sorted() && due.last().is_some_and(|last| *last < 20.0));
    }

    #[test]
    fn a_seed_gives_one_schedule() {
        let with =
            |seed| Schedule::new(Arrivals::Poisson, 100.0, Duration::from_secs(1), seed).collect::<Vec<_>>();
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
    }
}
