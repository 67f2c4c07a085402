//! Comparison of two reports: ratios of B to A with bootstrap intervals, place by place, and thresholds on them.

pub(crate) mod threshold;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use fastrand::Rng;

use crate::scale::axis::AxisKind;
use crate::scale::capacity::PRECISION;
use crate::scale::objective::is_grey;
use crate::scale::report::Report;
use crate::scale::run::Run;
use crate::scale::statistics::{Interval, percentile_interval};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;
/// Seed of the bootstrap: the same files give the same intervals.
const SEED: u64 = 1;

/// Figure that is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Metric {
    /// Percentile of the response time, as a share.
    Percentile(f64),
    /// OK answers a second.
    Throughput,
    /// CPU time of the service for each OK answer.
    Cpu,
    /// Highest sustainable load.
    Capacity,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Percentile(quantile) => write!(f, "p{}", (quantile * 1e8).round() / 1e6),
            Metric::Throughput => f.write_str("throughput"),
            Metric::Cpu => f.write_str("cpu"),
            Metric::Capacity => f.write_str("capacity"),
        }
    }
}

impl FromStr for Metric {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Metric> {
        match text {
            "throughput" => Ok(Metric::Throughput),
            "cpu" => Ok(Metric::Cpu),
            "capacity" => Ok(Metric::Capacity),
            text => {
                let percent = text.strip_prefix('p').and_then(|percent| percent.parse::<f64>().ok());
                let percent = percent.filter(|percent| (1.0..=99.999).contains(percent));
                let percent = percent.with_context(|| {
                    format!(
                        "`{text}` is no figure: use a percentile such as p99, or throughput, cpu or capacity"
                    )
                })?;
                Ok(Metric::Percentile(percent / 100.0))
            }
        }
    }
}

/// Judgement of a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The interval spans 1.
    None,
    Lower,
    Higher,
    /// Too few samples or repetitions to tell.
    CannotTell,
}

/// A figure of both reports.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compared {
    /// Load at which it was measured, such as `4 clones`.
    pub(crate) place: String,
    pub(crate) metric: Metric,
    pub(crate) a: f64,
    pub(crate) b: f64,
    /// B divided by A.
    pub(crate) ratio: f64,
    /// Its 95 % interval: none with fewer than two repetitions in either.
    pub(crate) interval: Option<Interval>,
    pub(crate) difference: Difference,
}

/// Returns what differs in how two reports were made, so that their figures may not be comparable.
pub(crate) fn doubts(a: &Report, b: &Report) -> Vec<String> {
    let mut doubts = Vec::new();
    let (a, b) = (&a.experiment, &b.experiment);
    let mut check = |what: &str, a: String, b: String| {
        if a != b {
            doubts.push(format!("{what}: A has {a}, B has {b}"));
        }
    };
    check("subject", a.subject.clone(), b.subject.clone());
    check("methods", a.methods.join(", "), b.methods.join(", "));
    check("objective", a.objective.to_string(), b.objective.to_string());
    check("CPU", a.machine.cpu.clone(), b.machine.cpu.clone());
    check("CPUs used", a.machine.allowed_cpus.clone(), b.machine.allowed_cpus.clone());
    check("build", a.machine.build.clone(), b.machine.build.clone());
    for (name, experiment) in [("A", a), ("B", b)] {
        doubts.extend(experiment.machine.doubts().into_iter().map(|doubt| format!("{name}: {doubt}")));
    }
    doubts
}

/// Compares the figures that both reports have. Percentiles are those of merged histograms.
///
/// # Errors
/// When the reports have no load in common.
pub(crate) fn compare(a: &Report, b: &Report, metrics: &[Metric]) -> anyhow::Result<Vec<Compared>> {
    let (places_a, places_b) = (places(a), places(b));
    let mut random = Rng::with_seed(SEED);
    let mut all = Vec::new();
    let mut common = 0;
    for (place, runs_a) in &places_a {
        let Some((_, runs_b)) = places_b.iter().find(|(other, _)| other == place) else { continue };
        common += 1;
        all.extend(compare_place(place, runs_a, runs_b, metrics, &mut random));
    }
    if metrics.contains(&Metric::Capacity) {
        let capacity = |report: &Report| report.experiment.capacity.as_ref()?.per_second;
        if let (Some(a), Some(b)) = (capacity(a), capacity(b)) {
            common += 1;
            // The search stops at this precision, in either.
            let interval = Interval { low: b / a / PRECISION, high: b / a * PRECISION };
            all.push(compared("the search", Metric::Capacity, (a, b), Some(interval), false));
        }
    }
    ensure!(common > 0, "the reports have no load in common: measure both with the same flags");
    Ok(all)
}

/// Returns the repetitions of each load that a report of the same command has as well.
fn places(report: &Report) -> Vec<(String, &[Run])> {
    let experiment = &report.experiment;
    let mut places = vec![("a single user".to_owned(), experiment.single.as_slice())];
    for axis in &experiment.axes {
        let counts = match axis.kind {
            AxisKind::Concurrency => "callers at a clone",
            AxisKind::Clones => "clones",
        };
        for level in &axis.levels {
            places.push((format!("{} {counts}", level.n), level.repetitions.as_slice()));
        }
    }
    places.retain(|(_, runs)| !runs.is_empty());
    places
}

fn compare_place(place: &str, a: &[Run], b: &[Run], metrics: &[Metric], random: &mut Rng) -> Vec<Compared> {
    let metrics: Vec<Metric> = metrics.iter().copied().filter(|metric| *metric != Metric::Capacity).collect();
    let mut side_a = Side::new(a, &metrics);
    let mut side_b = Side::new(b, &metrics);
    // Logarithms of the ratios of the resamples, for each metric.
    let mut ratios = vec![Vec::new(); metrics.len()];
    if a.len() > 1 && b.len() > 1 {
        for _ in 0..RESAMPLES {
            let (of_a, of_b) = (side_a.resample(random), side_b.resample(random));
            for (ratios, (of_a, of_b)) in ratios.iter_mut().zip(of_a.iter().zip(&of_b)) {
                ratios.extend(of_a.zip(*of_b).map(|(a, b)| b - a));
            }
        }
    }
    let mut all = Vec::new();
    for (n, (metric, ratios)) in metrics.iter().zip(ratios).enumerate() {
        let (Some(a), Some(b)) = (side_a.whole[n], side_b.whole[n]) else { continue };
        let interval = (!ratios.is_empty()).then(|| {
            let logarithms = percentile_interval(ratios);
            Interval { low: logarithms.low.exp(), high: logarithms.high.exp() }
        });
        let grey = side_a.grey[n] || side_b.grey[n];
        all.push(compared(place, *metric, (a.exp(), b.exp()), interval, grey));
    }
    all
}

fn compared(
    place: &str,
    metric: Metric,
    (a, b): (f64, f64),
    interval: Option<Interval>,
    grey: bool,
) -> Compared {
    let difference = match interval {
        None => Difference::CannotTell,
        Some(_) if grey => Difference::CannotTell,
        Some(interval) if interval.spans(1.0) => Difference::None,
        Some(interval) if interval.low > 1.0 => Difference::Higher,
        Some(_) => Difference::Lower,
    };
    Compared { place: place.to_owned(), metric, a, b, ratio: b / a, interval, difference }
}

/// Repetitions of a load in one report, and the logarithms of their figures.
struct Side<'a> {
    runs: &'a [Run],
    metrics: Vec<Metric>,
    /// Figures of all repetitions: none where there are no samples.
    whole: Vec<Option<f64>>,
    /// True where a percentile has too few samples.
    grey: Vec<bool>,
    /// Figures of the resamples that were drawn before, by the repetitions in them: of a few there are few.
    known: HashMap<Vec<usize>, Vec<Option<f64>>>,
}

impl<'a> Side<'a> {
    fn new(runs: &'a [Run], metrics: &[Metric]) -> Side<'a> {
        let merged = Run::merged(runs);
        let whole = merged.as_ref().map_or_else(Vec::new, |run| logarithms(run, metrics));
        let grey = |metric: &Metric| match (metric, &merged) {
            (Metric::Percentile(quantile), Some(run)) => is_grey(run.response_time.count(), *quantile),
            _ => false,
        };
        let grey = metrics.iter().map(grey).collect();
        Side { runs, metrics: metrics.to_vec(), whole, grey, known: HashMap::new() }
    }

    /// Draws as many repetitions as there are. Their deviation is widened, as few repetitions resampled spread too little.
    fn resample(&mut self, random: &mut Rng) -> Vec<Option<f64>> {
        let count = self.runs.len();
        let mut drawn: Vec<usize> = (0..count).map(|_| random.usize(..count)).collect();
        drawn.sort_unstable();
        let figures = self.known.entry(drawn).or_insert_with_key(|drawn| {
            let merged = Run::merged(drawn.iter().map(|n| &self.runs[*n]));
            merged.map_or_else(Vec::new, |run| logarithms(&run, &self.metrics))
        });
        let widen = (count as f64 / (count as f64 - 1.0)).sqrt();
        let wide = |(figure, whole): (&Option<f64>, &Option<f64>)| {
            figure.zip(*whole).map(|(figure, whole)| whole + widen * (figure - whole))
        };
        figures.iter().zip(&self.whole).map(wide).collect()
    }
}

fn logarithms(run: &Run, metrics: &[Metric]) -> Vec<Option<f64>> {
    let figure = |metric: &Metric| {
        let figure = match metric {
            Metric::Percentile(quantile) => run.response_time.quantile_us(*quantile),
            Metric::Throughput => Some(run.achieved()),
            Metric::Cpu => run.cpu_us_per_call(),
            Metric::Capacity => None,
        };
        figure.filter(|figure| *figure > 0.0 && figure.is_finite()).map(f64::ln)
    };
    metrics.iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::report::tests::example;
    use crate::scale::run::tests::times;

    const METRICS: [Metric; 4] =
        [Metric::Percentile(0.99), Metric::Throughput, Metric::Cpu, Metric::Capacity];

    /// Returns the example with all response times of the clones' level 4 multiplied.
    async fn slower(factor: f64) -> Report {
        let mut report = example().await;
        let level = &mut report.experiment.axes[1].levels[3];
        for run in &mut level.repetitions {
            let slow: Vec<u64> = run
                .response_time
                .0
                .iter_recorded()
                .flat_map(|value| {
                    let micros = (value.value_iterated_to() as f64 * factor) as u64;
                    std::iter::repeat_n(micros, usize::try_from(value.count_at_value()).expect("few"))
                })
                .collect();
            run.response_time = times(slow);
        }
        report
    }

    #[tokio::test]
    async fn equal_reports_do_not_differ() {
        let report = example().await;
        let all = compare(&report, &report, &METRICS).expect("comparable");
        // A single user, two axes of six levels, by three figures, and the capacity.
        assert_eq!(all.len(), 13 * 3 + 1);
        assert!(all.iter().all(|compared| compared.difference == Difference::None), "{all:?}");
        assert!(all.iter().all(|compared| compared.interval.expect("one").spans(1.0)));
    }

    #[tokio::test]
    async fn slower_level_is_found_alone() {
        let (a, b) = (example().await, slower(1.2).await);
        let all = compare(&a, &b, &METRICS).expect("comparable");
        let differing: Vec<_> =
            all.iter().filter(|compared| compared.difference != Difference::None).collect();
        assert_eq!(differing.len(), 1, "{differing:?}");
        assert_eq!((differing[0].place.as_str(), differing[0].difference), ("4 clones", Difference::Higher));
        assert!((differing[0].ratio - 1.2).abs() < 0.01, "{differing:?}");
    }

    #[tokio::test]
    async fn few_samples_cannot_tell() {
        let (a, b) = (example().await, slower(1.2).await);
        let all = compare(&a, &b, &[Metric::Percentile(0.9999)]).expect("comparable");
        assert!(all.iter().all(|compared| compared.difference == Difference::CannotTell));
        let single = |report: Report| {
            let mut report = report;
            report.experiment.axes[1].levels[3].repetitions.truncate(1);
            report
        };
        let all = compare(&single(a), &single(b), &METRICS).expect("comparable");
        let place = all.iter().find(|compared| compared.place == "4 clones").expect("there");
        assert_eq!((place.difference, place.interval), (Difference::CannotTell, None));
    }

    #[tokio::test]
    async fn nothing_in_common_is_an_error() {
        let a = example().await;
        let mut b = a.clone();
        (b.experiment.axes, b.experiment.single, b.experiment.capacity) = (Vec::new(), Vec::new(), None);
        let error = compare(&a, &b, &METRICS).expect_err("nothing").to_string();
        assert!(error.contains("no load in common"), "{error}");
        b.experiment.subject = "another".to_owned();
        assert!(doubts(&a, &b)[0].contains("A has example <service>, B has another"));
    }
}
