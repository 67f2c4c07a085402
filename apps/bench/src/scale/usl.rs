//! The analysis of one axis by the Universal Scalability Law: the fit, bootstrap intervals, which term holds throughput back, and
//! how far the law may be believed. Measures nothing.

pub(crate) mod fit;
pub(crate) mod model;
pub(crate) mod saturation;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::scale::statistics::{Interval, mean, percentile_interval, variance};
use fit::{Fit, FitError, Point, fit, least_squares};
use model::Usl;
use saturation::Saturation;

/// Values of N without which nothing is fitted.
pub(crate) const LEVELS_MIN: usize = 6;
/// Repetitions of each of them.
pub(crate) const REPETITIONS_MIN: usize = 3;
/// Multiple of the largest measured N beyond which nothing is predicted.
pub(crate) const EXTRAPOLATION_MAX: f64 = 4.0;
/// Resamples of the bootstrap: enough for two digits of a 95 % interval.
pub(crate) const RESAMPLES: usize = 1000;
/// Terms below it count as 0: the rounding of the fit at its bound.
const ZERO: f64 = 1e-7;
/// Difference in AICc from which the rival explains the points better (Burnham and Anderson, 2002).
pub(crate) const RIVAL_BETTER: f64 = 2.0;
/// Difference in AICc from which the law does, as coherence needs: a bend alone is no fall.
pub(crate) const LAW_BETTER: f64 = 4.0;
/// Efficiency from which a level is a measuring fault, if its interval lies above 1 as well. Less is warm caches and timers.
const EFFICIENCY_MAX: f64 = 1.02;

/// Measured throughput of one value of N.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Observations {
    pub(crate) n: u32,
    /// Throughput of each repetition, in calls a second.
    pub(crate) throughput: Vec<f64>,
}

/// A value with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) interval: Interval,
}

/// Terms that hold throughput back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Term {
    /// Terms whose intervals all include 0.
    None,
    /// Work waits for a resource that one has at a time.
    Contention,
    /// Everybody has to agree with everybody: throughput falls beyond a peak.
    Coherence,
    Both,
    /// Throughput is lost, and the points do not tell to which term.
    Undecided,
}

/// Measured efficiency of one value of N: its throughput for each, divided by that of the smallest N.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Efficiency {
    pub(crate) n: u32,
    pub(crate) value: f64,
    pub(crate) interval: Interval,
    /// Efficiency above 1, which is a fault of the measurement.
    pub(crate) fault: bool,
}

/// Result of the analysis of an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Analysis {
    pub(crate) fit: Fit,
    pub(crate) gamma: Estimate,
    pub(crate) alpha: Estimate,
    pub(crate) beta: Estimate,
    /// Efficiency by the fitted law at the largest measured N.
    pub(crate) efficiency: Estimate,
    pub(crate) efficiencies: Vec<Efficiency>,
    pub(crate) saturation: Saturation,
    /// The share of time at one serialized resource, by the rival model.
    pub(crate) serial_share: Estimate,
    /// AICc of the rival less that of the law: negative where one saturated resource explains the points better.
    pub(crate) aicc_difference: f64,
    pub(crate) term: Term,
    /// N of the highest throughput, where the law has one that is not too far from what was measured.
    pub(crate) peak: Option<f64>,
    pub(crate) n_max: u32,
    pub(crate) seed: u64,
}

/// Reasons why an axis cannot be analysed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum AnalysisError {
    #[error(
        "{levels} values of N with at least {REPETITIONS_MIN} repetitions: a fit that names a term needs {LEVELS_MIN}; \
         measure more levels or repetitions"
    )]
    TooFewLevels { levels: usize },
    #[error(transparent)]
    Fit(#[from] FitError),
}

impl Analysis {
    /// Returns the throughput of the fitted law at `n`: none beyond four times the largest N that was measured.
    pub(crate) fn predicted(&self, n: f64) -> Option<f64> {
        (n <= self.horizon()).then(|| self.fit.usl.throughput(n))
    }

    /// Returns the largest N that something is predicted for.
    pub(crate) fn horizon(&self) -> f64 {
        EXTRAPOLATION_MAX * f64::from(self.n_max)
    }

    /// Returns whether one saturated resource explains the points better than the law.
    pub(crate) fn saturates(&self) -> bool {
        self.aicc_difference <= -RIVAL_BETTER
    }

    /// Returns the contention: the share of the saturated resource where there is one, and α otherwise.
    pub(crate) fn contention(&self) -> Estimate {
        if self.saturates() { self.serial_share } else { self.alpha }
    }
}

/// Analyses the throughput of an axis. Levels with fewer than three repetitions are left out.
///
/// # Errors
/// With fewer than six levels of three repetitions, or with throughput that is not positive.
pub(crate) fn analyse(observations: &[Observations], seed: u64) -> Result<Analysis, AnalysisError> {
    analyse_by(observations, seed, RESAMPLES)
}

fn analyse_by(observations: &[Observations], seed: u64, resamples: usize) -> Result<Analysis, AnalysisError> {
    let mut levels: Vec<&Observations> =
        observations.iter().filter(|level| level.throughput.len() >= REPETITIONS_MIN).collect();
    levels.sort_by_key(|level| level.n);
    levels.dedup_by_key(|level| level.n);
    if levels.len() < LEVELS_MIN {
        return Err(AnalysisError::TooFewLevels { levels: levels.len() });
    }
    let points = points(levels.iter().map(|level| (level.n, level.throughput.as_slice())));
    let fit = fit(&points)?;
    let (saturation, _) = saturation::fit(&points);
    let n_max = levels.last().map_or(1, |level| level.n);
    let bootstrap = Bootstrap::run(&levels, &fit.usl, seed, resamples);

    let estimate =
        |value: f64, of: &dyn Fn(&Resample) -> f64| Estimate { value, interval: bootstrap.interval(of) };
    let gamma = estimate(fit.usl.gamma, &|resample| resample.usl.gamma);
    let alpha = estimate(fit.usl.alpha, &|resample| resample.usl.alpha);
    let beta = estimate(fit.usl.beta, &|resample| resample.usl.beta);
    let serial_share = estimate(saturation.share, &|resample| resample.share);
    let at_max = f64::from(n_max);
    let efficiency = estimate(fit.usl.efficiency(at_max), &|resample| resample.usl.efficiency(at_max));
    let efficiencies = efficiencies(&levels, &bootstrap);
    let aicc_difference = aicc_difference(&points, &fit.usl, &saturation);
    let peak = fit.usl.peak().filter(|peak| *peak <= EXTRAPOLATION_MAX * at_max);
    let term = term([alpha, beta, serial_share, efficiency], aicc_difference);
    Ok(Analysis {
        fit,
        gamma,
        alpha,
        beta,
        efficiency,
        efficiencies,
        saturation,
        serial_share,
        aicc_difference,
        term,
        peak,
        n_max,
        seed,
    })
}

/// Names the term, by the rules that the report prints.
fn term([alpha, beta, share, efficiency]: [Estimate; 4], aicc_difference: f64) -> Term {
    let named = |estimate: Estimate| estimate.interval.low > ZERO;
    if aicc_difference <= -RIVAL_BETTER {
        return if named(share) { Term::Contention } else { Term::None };
    }
    // Where both models explain the points alike, β may be the bend of a saturated resource.
    let beta_is_sure = aicc_difference >= LAW_BETTER;
    match (named(alpha), named(beta)) {
        (true, true) if beta_is_sure => Term::Both,
        (false, true) if beta_is_sure => Term::Coherence,
        (_, true) => Term::Undecided,
        (true, false) => Term::Contention,
        (false, false) if efficiency.interval.high < 1.0 - ZERO => Term::Undecided,
        (false, false) => Term::None,
    }
}

fn points<'a>(levels: impl Iterator<Item = (u32, &'a [f64])>) -> Vec<Point> {
    levels
        .flat_map(|(n, repetitions)| {
            repetitions.iter().map(move |&x| Point { n: f64::from(n), throughput: x, weight: 1.0 })
        })
        .collect()
}

/// Returns the AICc of the rival less that of the law, both with normal errors.
fn aicc_difference(points: &[Point], usl: &Usl, saturation: &Saturation) -> f64 {
    let count = points.len() as f64;
    let scale: f64 = points.iter().map(|point| point.throughput.powi(2)).sum();
    let aicc = |terms: f64, predicted: &dyn Fn(f64) -> f64| {
        let squares: f64 = points.iter().map(|point| (point.throughput - predicted(point.n)).powi(2)).sum();
        // Exact points, which only tests have, leave rounding: it must not decide.
        let squares = squares.max(scale * 1e-12);
        // The variance of the errors is a parameter as well.
        let parameters = terms + 1.0;
        count * (squares / count).ln()
            + 2.0 * parameters
            + 2.0 * parameters * (parameters + 1.0) / (count - parameters - 1.0)
    };
    // A term at 0 is no parameter.
    let terms = 1.0 + [usl.alpha, usl.beta].into_iter().filter(|term| *term > ZERO).count() as f64;
    let share = if saturation.share > ZERO { 1.0 } else { 0.0 };
    aicc(1.0 + share, &|n| saturation.throughput(n)) - aicc(terms, &|n| usl.throughput(n))
}

fn efficiencies(levels: &[&Observations], bootstrap: &Bootstrap) -> Vec<Efficiency> {
    let Some(first) = levels.first() else { return Vec::new() };
    let each = |throughput: f64, n: u32| throughput / f64::from(n);
    let base = each(mean(&first.throughput), first.n);
    levels
        .iter()
        .enumerate()
        .map(|(k, level)| {
            let value = each(mean(&level.throughput), level.n) / base;
            let interval = bootstrap
                .interval(&|resample| each(resample.means[k], level.n) / each(resample.means[0], first.n));
            let fault = value > EFFICIENCY_MAX && interval.low > 1.0;
            Efficiency { n: level.n, value, interval, fault }
        })
        .collect()
}

/// Fits of one resample, and its levels.
struct Resample {
    usl: Usl,
    share: f64,
    /// Mean throughput of each level, without the error of the law.
    means: Vec<f64>,
}

struct Bootstrap {
    resamples: Vec<Resample>,
}

impl Bootstrap {
    /// Resamples the repetitions within each level.
    ///
    /// Three repetitions resampled spread less than they should, by (r − 1)/r in variance: their deviations are widened by the
    /// square root of the inverse. Where the law misses the levels by more than repetitions spread, that distance is an error
    /// too, with a random sign for each level (a wild bootstrap; Wu, 1986).
    fn run(levels: &[&Observations], fitted: &Usl, seed: u64, resamples: usize) -> Bootstrap {
        let mut random = Rng::with_seed(seed);
        let means: Vec<f64> = levels.iter().map(|level| mean(&level.throughput)).collect();
        let misses: Vec<f64> = levels
            .iter()
            .zip(&means)
            .map(|(level, mean)| mean - fitted.throughput(f64::from(level.n)))
            .collect();
        let widening = lack_of_fit(levels, &misses);
        let starts = [(fitted.alpha, fitted.beta), (0.05, 0.0), (0.02, 1e-2)];
        let resamples = (0..resamples)
            .map(|_| {
                let drawn: Vec<f64> = levels
                    .iter()
                    .zip(&means)
                    .map(|(level, mean)| mean_of_draw(level, *mean, &mut random))
                    .collect();
                let point = |((level, drawn), miss): ((&&Observations, &f64), &f64)| {
                    let sign = if random.bool() { widening } else { -widening };
                    Point {
                        n: f64::from(level.n),
                        throughput: (drawn + sign * miss).max(f64::MIN_POSITIVE),
                        weight: level.throughput.len() as f64,
                    }
                };
                let points: Vec<Point> = levels.iter().zip(&drawn).zip(&misses).map(point).collect();
                Resample {
                    usl: least_squares(&points, &starts),
                    share: saturation::fit(&points).0.share,
                    means: drawn,
                }
            })
            .collect();
        Bootstrap { resamples }
    }

    fn interval(&self, of: &dyn Fn(&Resample) -> f64) -> Interval {
        percentile_interval(self.resamples.iter().map(of).collect())
    }
}

/// Returns the mean of as many repetitions as the level has, drawn from them with their deviations widened.
fn mean_of_draw(level: &Observations, mean: f64, random: &mut Rng) -> f64 {
    let count = level.throughput.len();
    let widen = (count as f64 / (count as f64 - 1.0)).sqrt();
    let deviations: f64 = (0..count).map(|_| level.throughput[random.usize(..count)] - mean).sum();
    mean + widen * deviations / count as f64
}

/// Returns the factor by which the misses of the levels are errors of the law, rather than of the repetitions.
fn lack_of_fit(levels: &[&Observations], misses: &[f64]) -> f64 {
    let count = levels.len() as f64;
    let of_repetitions: f64 =
        levels.iter().map(|level| variance(&level.throughput) / level.throughput.len() as f64).sum::<f64>()
            / count;
    // Three terms were fitted to the levels.
    let squares: f64 = misses.iter().map(|miss| miss * miss).sum();
    if squares == 0.0 {
        return 0.0;
    }
    let of_levels = squares / (count - 3.0);
    (count / (count - 3.0) * (of_levels - of_repetitions).max(0.0) / of_levels).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [u32; 6] = [1, 2, 3, 4, 6, 8];

    /// Throughput of three repetitions with relative noise of one part in a hundred.
    fn noisy(seed: u64, levels: &[u32], truth: impl Fn(f64) -> f64) -> Vec<Observations> {
        let mut random = Rng::with_seed(seed);
        let mut noise = || 1.0 + 0.01 * ((0..12).map(|_| random.f64()).sum::<f64>() - 6.0);
        levels
            .iter()
            .map(|&n| Observations { n, throughput: (0..3).map(|_| truth(f64::from(n)) * noise()).collect() })
            .collect()
    }

    /// Analyses twenty noisy series and returns how many are given each of the terms.
    fn named(truth: impl Fn(f64) -> f64, terms: &[Term]) -> usize {
        (0..20)
            .filter(|&seed| {
                let analysis = analyse_by(&noisy(seed, &LEVELS, &truth), 7, 200).expect("analysed");
                terms.contains(&analysis.term)
            })
            .count()
    }

    #[test]
    fn linear_points_name_no_term() {
        let law = Usl { gamma: 100.0, alpha: 0.0, beta: 0.0 };
        // Each of the two terms is named by chance once in forty.
        assert!(named(|n| law.throughput(n), &[Term::None]) >= 17);
    }

    #[test]
    fn lockstep_contention_is_named() {
        let law = Usl { gamma: 100.0, alpha: 0.2, beta: 0.0 };
        assert!(named(|n| law.throughput(n), &[Term::Contention]) >= 18);
    }

    #[test]
    fn falling_throughput_names_coherence() {
        let law = Usl { gamma: 100.0, alpha: 0.0, beta: 0.04 };
        assert!(named(|n| law.throughput(n), &[Term::Coherence]) >= 18);
        let law = Usl { gamma: 100.0, alpha: 0.15, beta: 0.03 };
        assert!(named(|n| law.throughput(n), &[Term::Both]) >= 17);
    }

    #[test]
    fn saturated_resource_is_not_coherence() {
        use saturation::Meeting::{Random, WhenFull};
        let lock = |meeting| Saturation { meeting, gamma: 100.0, share: 0.25 };
        assert!(named(|n| lock(WhenFull).throughput(n), &[Term::Contention]) >= 19);
        // At eight callers, and with this noise, some series are explained by both models alike.
        assert!(named(|n| lock(Random).throughput(n), &[Term::Contention, Term::Undecided]) >= 19);
        let analysis = analyse(&noisy(1, &LEVELS, |n| lock(WhenFull).throughput(n)), 7).expect("analysed");
        assert!(analysis.saturates());
        assert!((analysis.contention().value / 0.25 - 1.0).abs() < 0.1, "{:?}", analysis.contention());
        // The law alone would name coherence.
        assert!(analysis.beta.interval.low > ZERO, "{:?}", analysis.beta);
    }

    #[test]
    fn intervals_cover_the_true_terms() {
        let law = Usl { gamma: 100.0, alpha: 0.1, beta: 0.005 };
        let covered = |interval: Interval, truth: f64| interval.low <= truth && truth <= interval.high;
        let mut hits = [0, 0, 0];
        for seed in 0..40 {
            let analysis =
                analyse_by(&noisy(seed, &LEVELS, |n| law.throughput(n)), 7, 200).expect("analysed");
            hits[0] += usize::from(covered(analysis.gamma.interval, law.gamma));
            hits[1] += usize::from(covered(analysis.alpha.interval, law.alpha));
            hits[2] += usize::from(covered(analysis.beta.interval, law.beta));
        }
        assert!(hits.iter().all(|hits| *hits >= 34), "{hits:?} of 40");
    }

    #[test]
    fn same_seed_returns_same_intervals() {
        let points = noisy(3, &LEVELS, |n| 90.0 * n / (1.0 + 0.1 * (n - 1.0)));
        assert_eq!(analyse(&points, 5), analyse(&points, 5));
    }

    #[test]
    fn too_few_levels_are_refused() {
        let mut points = noisy(3, &LEVELS, |n| 90.0 * n);
        points[2].throughput.pop();
        assert_eq!(analyse(&points, 5), Err(AnalysisError::TooFewLevels { levels: 5 }));
    }

    #[test]
    fn nothing_is_predicted_too_far_out() {
        let analysis = analyse(&noisy(3, &LEVELS, |n| 90.0 * n), 5).expect("analysed");
        assert!(analysis.predicted(32.0).is_some());
        assert_eq!(analysis.predicted(33.0), None);
        assert_eq!(analysis.peak, None);
    }

    #[test]
    fn efficiency_above_one_is_a_fault() {
        let analysis = analyse(&noisy(3, &LEVELS, |n| if n > 3.0 { 110.0 * n } else { 90.0 * n }), 5);
        let faults: Vec<u32> = analysis
            .expect("analysed")
            .efficiencies
            .iter()
            .filter(|level| level.fault)
            .map(|level| level.n)
            .collect();
        assert_eq!(faults, [4, 6, 8]);
    }
}
