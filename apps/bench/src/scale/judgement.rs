//! Judgement of one run: whether its load is sustainable, and whether the generator or the target was what limited it.

use serde::{Deserialize, Serialize};

use crate::scale::objective::{Objective, is_grey};
use crate::scale::run::{Load, Run};
use crate::scale::stationarity::{Course, course};

/// Share of the offered calls that a sustainable load is answered.
pub(crate) const ACHIEVED_MIN: f64 = 0.99;
/// Share of the time from which a thread of the generator that has a CPU for so long limits the load.
pub(crate) const GENERATOR_BUSY_MAX: f64 = 0.9;
/// Share of the objective by which the generator may be late, at the objective's percentile.
pub(crate) const LATENESS_MAX: f64 = 0.1;
/// Share of the due calls that the generator may fail to make.
pub(crate) const BEHIND_MAX: f64 = 0.01;
/// Difference between calls in flight and throughput × response time beyond which the measurement is wrong.
pub(crate) const LITTLE_MAX: f64 = 0.1;

/// Judgement of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Judgement {
    /// Response time at the objective's percentile, of the calls answered OK.
    pub(crate) percentile_us: Option<f64>,
    /// True if the percentile has too few samples to be believed.
    pub(crate) grey: bool,
    /// Share of all due calls that were answered OK within the objective's time.
    pub(crate) within: f64,
    pub(crate) objective_met: bool,
    /// Share of the due calls that was answered OK.
    pub(crate) achieved: f64,
    /// Course of the calls in flight: none where they were not sampled.
    pub(crate) course: Option<Course>,
    /// Signs that the generator was the limit, each a sentence.
    pub(crate) generator: Vec<String>,
    pub(crate) sustainable: bool,
}

impl Judgement {
    /// Judges a run. Calls that failed or were not made count as too late.
    pub(crate) fn of(run: &Run, objective: &Objective) -> Judgement {
        let due = run.due.max(1) as f64;
        let within = run.response_time.within(objective.limit_us()) as f64 / due;
        let objective_met = run.due > 0 && within >= objective.quantile;
        let achieved = run.ok_within as f64 / due;
        let samples: Vec<f64> = run.in_flight.iter().map(|sample| sample.calls as f64).collect();
        let course = course(&samples);
        let stationary = course.is_none_or(|course| course.stationary);
        let generator = generator_limits(run, objective);
        Judgement {
            percentile_us: run.response_time.quantile_us(objective.quantile),
            grey: is_grey(run.response_time.count(), objective.quantile),
            within,
            objective_met,
            achieved,
            course,
            sustainable: objective_met && achieved >= ACHIEVED_MIN && stationary && generator.is_empty(),
            generator,
        }
    }

    /// Returns why the load is not sustainable, in words.
    pub(crate) fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        if !self.objective_met {
            misses.push(format!("{:.1} % of the calls within the objective's time", 100.0 * self.within));
        }
        if self.achieved < ACHIEVED_MIN {
            misses.push(format!("{:.1} % of the offered calls answered", 100.0 * self.achieved));
        }
        if let Some(course) = self.course.filter(|course| !course.stationary) {
            misses.push(format!("calls in flight grew from {:.0} to {:.0}", course.begin, course.end));
        }
        misses.extend(self.generator.iter().cloned());
        misses
    }
}

/// Returns the signs that the generator, rather than the target, limited a run.
pub(crate) fn generator_limits(run: &Run, objective: &Objective) -> Vec<String> {
    let mut signs = Vec::new();
    if run.generator_busiest >= GENERATOR_BUSY_MAX {
        signs.push(format!(
            "a thread of the generator had a CPU for {:.0} % of the time",
            100.0 * run.generator_busiest
        ));
    }
    let lateness = run.lateness.quantile_us(objective.quantile).unwrap_or(0.0);
    let open = matches!(run.load, Load::Open { .. });
    if open && lateness > LATENESS_MAX * objective.limit_us() as f64 {
        let percentile = objective.percentile();
        signs.push(format!("the generator was {:.1} ms late at {percentile}", lateness / 1e3));
    }
    let behind = run.not_issued_generator as f64 / run.due.max(1) as f64;
    if behind > BEHIND_MAX {
        signs.push(format!("the generator could not make {:.1} % of the calls", 100.0 * behind));
    }
    signs
}

/// Calls in flight by count and by Little's law.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Little {
    /// Calls in flight: the callers of a closed loop, the mean of the samples of an open one.
    pub(crate) counted: f64,
    /// Throughput × mean response time.
    pub(crate) computed: f64,
    pub(crate) agrees: bool,
}

/// Checks Little's law, N = X × R (Little, 1961). Returns none where it says nothing: with failed calls, whose time is not
/// known, with calls in flight not counted, or if the run was shorter than ten response times.
pub(crate) fn little(run: &Run) -> Option<Little> {
    let response = run.response_time.mean_us()? / 1e6;
    let lost = run.failed() + run.not_issued();
    if lost as f64 > 0.01 * run.due as f64 || run.seconds < 10.0 * response {
        return None;
    }
    let counted = match run.load {
        Load::Closed { callers } => f64::from(callers),
        Load::Open { .. } if run.in_flight.len() < 10 => return None,
        Load::Open { .. } => {
            run.in_flight.iter().map(|sample| sample.calls as f64).sum::<f64>() / run.in_flight.len() as f64
        }
    };
    let computed = run.achieved() * response;
    // Less than a call of difference is no fault: a sample is a whole number of calls.
    let agrees = (counted - computed).abs() <= (LITTLE_MAX * counted.max(computed)).max(1.0);
    Some(Little { counted, computed, agrees })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::run::tests::{run, times};
    use crate::scale::run::{CodeCount, InFlightSample};

    fn objective() -> Objective {
        "p99=50ms".parse().expect("an objective")
    }

    fn good() -> Run {
        run(Load::Open { per_second: 1000.0 }, 2.0, vec![5_000; 2000])
    }

    fn check(change: impl Fn(&mut Run), expected: Option<&str>) {
        let mut run = good();
        change(&mut run);
        let judgement = Judgement::of(&run, &objective());
        let misses = judgement.misses().join("; ");
        assert_eq!(judgement.sustainable, expected.is_none(), "{misses}");
        assert!(misses.contains(expected.unwrap_or_default()), "{misses}");
    }

    #[test]
    fn each_criterion_alone_is_enough() {
        check(|_| (), None);
        check(
            |run| run.response_time = times([vec![5_000; 1970], vec![60_000; 30]].concat()),
            Some("98.5 % of the calls within"),
        );
        check(|run| run.ok_within = 1970, Some("98.5 % of the offered"));
        check(
            |run| {
                let sample = |k: u64| InFlightSample { at_ms: 20 * k, calls: 5 + k };
                run.in_flight = (0..100).map(sample).collect();
            },
            Some("calls in flight grew from 20 to 90"),
        );
        check(|run| run.generator_busiest = 0.95, Some("had a CPU for 95 %"));
        check(|run| run.lateness = times([6_000; 100]), Some("6.0 ms late at p99"));
        check(|run| run.not_issued_generator = 30, Some("could not make 1.5 %"));
    }

    #[test]
    fn failed_calls_count_as_late() {
        let failed = |run: &mut Run| {
            run.response_time = times(vec![5_000; 1970]);
            run.errors = vec![CodeCount { code: "UNAVAILABLE".to_owned(), calls: 30, first: String::new() }];
        };
        check(failed, Some("98.5 % of the calls within"));
    }

    #[test]
    fn few_samples_make_a_grey_percentile() {
        let few = run(Load::Open { per_second: 100.0 }, 2.0, vec![5_000; 200]);
        assert!(Judgement::of(&few, &objective()).grey);
        assert!(!Judgement::of(&good(), &objective()).grey);
    }

    #[test]
    fn calls_in_flight_obey_little() {
        // Four callers of 20 ms make 200 calls a second.
        let closed = |callers| run(Load::Closed { callers }, 2.0, vec![20_000; 400]);
        assert!(little(&closed(4)).expect("checked").agrees);
        let eight = little(&closed(8)).expect("checked");
        assert!(!eight.agrees && (eight.computed - 4.0).abs() < 0.01, "{eight:?}");
        let mut failing = closed(8);
        failing.errors.push(CodeCount { code: "INTERNAL".to_owned(), calls: 9, first: String::new() });
        assert_eq!(little(&failing), None);
    }
}
