//! The rules of the verdict in words, with their thresholds, as the report prints them.

use crate::scale::capacity::{BEYOND, COLLAPSES_BELOW, CONFIRMATIONS, PRECISION, SHEDS_MIN};
use crate::scale::judgement::{ACHIEVED_MIN, BEHIND_MAX, GENERATOR_BUSY_MAX, LATENESS_MAX, LITTLE_MAX};
use crate::scale::objective::BEYOND_MIN;
use crate::scale::usl::{
    EXTRAPOLATION_MAX, LAW_BETTER, LEVELS_MIN, REPETITIONS_MIN, RESAMPLES, RIVAL_BETTER,
};
use crate::scale::verdict::{EFFICIENCY_MIN, MACHINE_FULL};

/// Returns the rules in the order in which they are applied, each with its name.
pub(crate) fn rules() -> Vec<(&'static str, String)> {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    vec![
        (
            "Objective",
            "It is met by a run if the objective's share of all calls that were due was answered OK within its time, counted \
             from the moment at which the call was due (response time). Calls that failed or were not made count as too late."
                .to_owned(),
        ),
        (
            "Performance problem",
            "The runs of a single user, merged, miss the objective. Confidence is high if all of them do, and the percentile has \
             enough samples or even the median is too late; medium otherwise."
                .to_owned(),
        ),
        (
            "Generator-limited",
            format!(
                "In most repetitions of a level a thread of the generator had a CPU for {} of the time or more, or an open loop was \
                 late by more than {} of the objective at its percentile, or more than {} of the calls could not be made. What \
                 was measured is then a lower bound.",
                percent(GENERATOR_BUSY_MAX),
                percent(LATENESS_MAX),
                percent(BEHIND_MAX)
            ),
        ),
        (
            "Cannot tell",
            format!(
                "An axis has fewer than {LEVELS_MIN} levels of {REPETITIONS_MIN} repetitions; or a level is more efficient than the \
                 smallest one beyond chance; or calls in flight and throughput × response time differ by more than {} (Little's law); or \
                 throughput is below {} of linear and no term is named; or throughput is lost while {} of this machine's CPUs are in \
                 use.",
                percent(LITTLE_MAX),
                percent(EFFICIENCY_MIN),
                percent(MACHINE_FULL)
            ),
        ),
        (
            "Scalability problem",
            format!(
                "A single user meets the objective, and measured throughput at the largest N is below {0} of linear: with its whole \
                 interval, or with a term named. Confidence is high if both hold. Or throughput grows, and most repetitions of a \
                 level miss the objective (medium).",
                percent(EFFICIENCY_MIN)
            ),
        ),
        (
            "None",
            format!(
                "Measured throughput at the largest N is {0} of linear or more. Confidence is high if its whole interval is.",
                percent(EFFICIENCY_MIN)
            ),
        ),
        (
            "The law",
            format!(
                "X(N) = γN / (1 + α(N−1) + βN(N−1)), by least squares with α and β in [0, 1]. Intervals are of {RESAMPLES} resamples of the \
                 repetitions within each level, with the law's distance from the levels as a further error. A term is named only if \
                 its 95 % interval excludes 0. Resamples that fit a term at its bound 0 count as 0: a term is named if fewer than one \
                 in forty do. Nothing is predicted beyond {EXTRAPOLATION_MAX} × the largest measured N."
            ),
        ),
        (
            "Contention or coherence",
            format!(
                "A lock or a shared engine that is full bends throughput late, and a fit of the law takes that for coherence. The points \
                 are therefore also fitted by one saturated resource. If that explains them better (AICc lower by {RIVAL_BETTER}), it is \
                 contention. Coherence is named only if the law is better by {LAW_BETTER}. In between it stays undecided."
            ),
        ),
        (
            "Two axes",
            "Callers at one clone find what calls wait for within it; clones, with a load that grows alike, find what the clones share. \
             Each is judged alone."
                .to_owned(),
        ),
        (
            "Capacity",
            format!(
                "The highest load that met the objective, was answered by {} or more, and kept its calls in flight stationary, in \
                 {CONFIRMATIONS} runs in a row; found by doubling and bisection to {}. Calls in flight grow if ten batch means rise \
                 (Mann–Kendall, p < 0.025) and the last three are above the first three by half and by two calls.",
                percent(ACHIEVED_MIN),
                percent(PRECISION - 1.0)
            ),
        ),
        (
            "Beyond capacity",
            format!(
                "Goodput, the OK answers within the objective's time, at {} × and {} × the capacity: the service sheds if it keeps {} of \
                 it, and collapses below {}.",
                BEYOND[0],
                BEYOND[1],
                percent(SHEDS_MIN),
                percent(COLLAPSES_BELOW)
            ),
        ),
        (
            "Percentiles",
            format!(
                "Percentiles are of merged histograms, never averages of percentiles. Those with fewer than {BEYOND_MIN} samples beyond \
                 them are grey."
            ),
        ),
        (
            "Confidence",
            "Where the machine gives reasons not to trust it (its section lists them), no verdict is more than medium.".to_owned(),
        ),
    ]
}
