//! The verdict: which problem the service has, how sure that is, and by which evidence. Its rules are data, which the report
//! prints; a threshold has one constant, here or where it is measured.

pub(crate) mod rules;

use serde::{Deserialize, Serialize};

use crate::scale::axis::{Axis, AxisKind, AxisLevel};
use crate::scale::judgement::{Judgement, generator_limits, little};
use crate::scale::objective::{Objective, is_grey};
use crate::scale::run::Run;
use crate::scale::usl::{Analysis, Term};

/// Efficiency at the largest N below which throughput is lost.
pub(crate) const EFFICIENCY_MIN: f64 = 0.95;
/// Share of the machine's CPUs from which a loss may be the machine's.
pub(crate) const MACHINE_FULL: f64 = 0.9;

/// Kinds of problem a service may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Problem {
    /// A single user misses the objective.
    Performance,
    /// A single user is served fast, and many are not.
    Scalability,
    None,
    /// The load generator was the limit.
    GeneratorLimited,
    CannotTell,
}

/// Confidence in a finding; the rules say when it is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Confidence {
    Low,
    Medium,
    High,
}

/// Finding about one axis, or about a single user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) problem: Problem,
    pub(crate) confidence: Confidence,
    /// Sentence that says it in plain words.
    pub(crate) sentence: String,
    pub(crate) evidence: Vec<String>,
}

/// Finding about an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AxisFinding {
    pub(crate) kind: AxisKind,
    /// Term that holds throughput back, if it is a scalability problem.
    pub(crate) term: Term,
    pub(crate) finding: Finding,
}

/// Verdict of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) problem: Problem,
    pub(crate) confidence: Confidence,
    pub(crate) sentence: String,
    pub(crate) single: Finding,
    pub(crate) axes: Vec<AxisFinding>,
}

/// Measurements that are judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measurements<'a> {
    pub(crate) objective: Objective,
    /// Runs of a single user.
    pub(crate) single: &'a [Run],
    pub(crate) axes: &'a [Axis],
    /// CPUs that the experiment had.
    pub(crate) cores: usize,
    /// Reasons not to trust the machine, which cap the confidence.
    pub(crate) doubts: &'a [String],
}

/// Judges the measurements by the [`rules`](rules::rules).
pub(crate) fn judge(measured: &Measurements<'_>) -> Verdict {
    let single = judge_single(measured);
    let axes: Vec<AxisFinding> =
        measured.axes.iter().map(|axis| judge_axis(axis, measured, single.problem)).collect();
    let (problem, confidence, sentence) = overall(&single, &axes);
    let confidence = if measured.doubts.is_empty() { confidence } else { confidence.min(Confidence::Medium) };
    Verdict { problem, confidence, sentence, single, axes }
}

fn overall(single: &Finding, axes: &[AxisFinding]) -> (Problem, Confidence, String) {
    let said = |finding: &Finding| (finding.problem, finding.confidence, finding.sentence.clone());
    if single.problem != Problem::None {
        return said(single);
    }
    let worst = |problem: Problem| {
        let found = axes.iter().filter(|axis| axis.finding.problem == problem);
        // Clones before callers where both are as sure: what clones share limits all of them.
        found.max_by_key(|axis| (axis.finding.confidence, axis.kind == AxisKind::Clones))
    };
    for problem in [Problem::Scalability, Problem::GeneratorLimited, Problem::CannotTell] {
        if let Some(axis) = worst(problem) {
            return said(&axis.finding);
        }
    }
    let Some(least) = axes.iter().map(|axis| axis.finding.confidence).min() else {
        let sentence = "Only a single user was measured, who is served within the objective: it takes more callers or \
                        clones to tell whether it scales.";
        return (Problem::CannotTell, Confidence::High, sentence.to_owned());
    };
    let counted: Vec<&str> = axes.iter().map(|axis| axis.kind.counts()).collect();
    let sentence = format!(
        "No problem within what was measured: a single user is served within the objective, and throughput grows with {}.",
        counted.join(" and with ")
    );
    (Problem::None, least.min(single.confidence), sentence)
}

fn judge_single(measured: &Measurements<'_>) -> Finding {
    let objective = measured.objective;
    let Some(merged) = Run::merged(measured.single) else {
        return Finding {
            problem: Problem::CannotTell,
            confidence: Confidence::High,
            sentence: "No run of a single user was made, without which nothing can be told.".to_owned(),
            evidence: Vec::new(),
        };
    };
    let judgement = Judgement::of(&merged, &objective);
    let percentile = objective.percentile();
    let mut evidence = vec![format!(
        "A single user: {percentile} {} of response time over {} calls in {} runs; {:.1} % of the calls within {}.",
        milliseconds(judgement.percentile_us),
        merged.due,
        measured.single.len(),
        100.0 * judgement.within,
        milliseconds(Some(objective.limit_us() as f64)),
    )];
    if judgement.grey {
        evidence.push(format!(
            "That is fewer than the {} calls that {percentile} needs.",
            objective.samples_min()
        ));
    }
    let limited = generator_limits(&merged, &objective);
    if !limited.is_empty() {
        evidence.extend(limited);
        return Finding {
            problem: Problem::GeneratorLimited,
            confidence: Confidence::High,
            sentence: "The load generator was the limit, even for a single user: nothing can be said about the service."
                .to_owned(),
            evidence,
        };
    }
    let missed = measured.single.iter().filter(|run| !Judgement::of(run, &objective).objective_met).count();
    let agreed = missed == 0 || missed == measured.single.len();
    if !judgement.objective_met {
        // If even half of the calls are too late, few of them are enough.
        let sure = agreed && (!is_grey(merged.due, objective.quantile) || judgement.within < 0.5);
        return Finding {
            problem: Problem::Performance,
            confidence: if sure { Confidence::High } else { Confidence::Medium },
            sentence: format!(
                "A single user already misses the objective {objective}. More clones do not help: \
                 the call itself has to become faster."
            ),
            evidence,
        };
    }
    Finding {
        problem: Problem::None,
        confidence: if agreed && !judgement.grey { Confidence::High } else { Confidence::Medium },
        sentence: format!("A single user is served within the objective {objective}."),
        evidence,
    }
}

fn judge_axis(axis: &Axis, measured: &Measurements<'_>, single: Problem) -> AxisFinding {
    let counts = axis.kind.counts();
    let done = |term, problem, confidence, sentence: String, evidence| AxisFinding {
        kind: axis.kind,
        term,
        finding: Finding { problem, confidence, sentence, evidence },
    };
    let limited = axis
        .levels
        .iter()
        .find(|level| level.mostly(|run| !generator_limits(run, &measured.objective).is_empty()));
    if let Some(level) = limited {
        let signs = level.merged().map(|run| generator_limits(&run, &measured.objective)).unwrap_or_default();
        let sentence = format!(
            "The load generator was the limit from {} {counts} on: the service may do more.",
            level.n
        );
        return done(Term::None, Problem::GeneratorLimited, Confidence::High, sentence, signs);
    }
    let Some(analysis) = &axis.analysis else {
        let why = axis.not_analysed.clone().unwrap_or_default();
        let sentence = format!("Cannot tell how throughput grows with {counts}: too little was measured.");
        return done(Term::None, Problem::CannotTell, Confidence::High, sentence, vec![why]);
    };
    let faults = faults(axis, analysis);
    if !faults.is_empty() {
        let sentence =
            format!("Cannot tell how throughput grows with {counts}: the measurement contradicts itself.");
        return done(Term::None, Problem::CannotTell, Confidence::High, sentence, faults);
    }
    let mut evidence = evidence(axis, analysis);
    let Some(last) = analysis.efficiencies.last() else {
        return done(Term::None, Problem::CannotTell, Confidence::High, String::new(), evidence);
    };
    let lost =
        last.interval.high < EFFICIENCY_MIN || (last.value < EFFICIENCY_MIN && analysis.term != Term::None);
    if lost {
        if machine_is_full(axis.levels.last(), measured.cores) {
            evidence.push(format!(
                "At {} {counts} the CPUs of this machine were used up: the loss may be the machine's.",
                analysis.n_max
            ));
            let sentence = format!(
                "Cannot tell how throughput grows with {counts}: this machine was full before {}.",
                match axis.kind {
                    AxisKind::Clones => "they were",
                    AxisKind::Concurrency =>
                        "anything of the target was seen to be; run the target elsewhere",
                }
            );
            return done(Term::None, Problem::CannotTell, Confidence::High, sentence, evidence);
        }
        let sure = last.interval.high < EFFICIENCY_MIN
            && analysis.term != Term::Undecided
            && analysis.term != Term::None;
        let confidence = if sure { Confidence::High } else { Confidence::Medium };
        return done(analysis.term, Problem::Scalability, confidence, cause(axis.kind, analysis), evidence);
    }
    let missed = axis
        .levels
        .iter()
        .find(|level| level.mostly(|run| !Judgement::of(run, &measured.objective).objective_met));
    if let (Some(level), Problem::None) = (missed, single) {
        let sentence = format!(
            "A single user is served fast, and the objective {} is missed from {} {counts} on, although \
             throughput grows. What holds it back is not named.",
            measured.objective, level.n
        );
        return done(Term::None, Problem::Scalability, Confidence::Medium, sentence, evidence);
    }
    let kept = format!("{:.0} %", 100.0 * last.value);
    let (problem, confidence, sentence) = if last.value >= EFFICIENCY_MIN {
        let sure = last.interval.low >= EFFICIENCY_MIN;
        let confidence = if sure { Confidence::High } else { Confidence::Medium };
        let sentence = format!("Throughput grows with {counts}: {kept} of linear at {}.", analysis.n_max);
        (Problem::None, confidence, sentence)
    } else {
        let sentence = format!(
            "Cannot tell how throughput grows with {counts}: {kept} of linear at {}, with an interval too wide to say whether \
             something is lost.",
            analysis.n_max
        );
        (Problem::CannotTell, Confidence::High, sentence)
    };
    done(Term::None, problem, confidence, sentence, evidence)
}

/// Says what holds throughput back, and where to look.
fn cause(kind: AxisKind, analysis: &Analysis) -> String {
    let what = match (kind, analysis.term) {
        (AxisKind::Concurrency, Term::Contention) => {
            "contention: callers of one clone wait for something that serves one at a time, such as a lock, a single thread or a \
             CPU that is full"
        }
        (AxisKind::Concurrency, Term::Coherence) => {
            "coherence: callers of one clone get into each other's way, each with each, so that more of them make it slower"
        }
        (AxisKind::Clones, Term::Contention) => {
            "contention: the clones wait for something that all of them share, such as an engine, a hot key or a connection"
        }
        (AxisKind::Clones, Term::Coherence) => {
            "coherence: the clones have to agree with each other, each with each, so that more of them make it slower"
        }
        (_, Term::Both) => "contention and coherence: one waits for another, and all have to agree",
        (_, Term::Undecided | Term::None) => "contention or coherence: the points do not tell which",
    };
    let counts = kind.counts();
    let kept = analysis.efficiencies.last().map_or(0.0, |last| 100.0 * last.value);
    format!(
        "A single user is served fast, but at {} {counts} throughput is {kept:.0} % of linear. It is held back by {what}.",
        analysis.n_max
    )
}

/// Returns the evidence of an axis that was analysed.
fn evidence(axis: &Axis, analysis: &Analysis) -> Vec<String> {
    let counts = axis.kind.counts();
    let mut evidence = Vec::new();
    if let Some(last) = analysis.efficiencies.last() {
        evidence.push(format!(
            "Measured throughput at {} {counts} is {:.1} % of linear (95 % interval {:.1} to {:.1} %).",
            last.n,
            100.0 * last.value,
            100.0 * last.interval.low,
            100.0 * last.interval.high
        ));
    }
    evidence.push(format!(
        "The law fits contention α = {:.4} ({:.4} to {:.4}) and coherence β = {:.5} ({:.5} to {:.5}); it explains {:.1} % of the \
         variance.",
        analysis.alpha.value,
        analysis.alpha.interval.low,
        analysis.alpha.interval.high,
        analysis.beta.value,
        analysis.beta.interval.low,
        analysis.beta.interval.high,
        100.0 * analysis.fit.r_squared
    ));
    if analysis.saturates() {
        let share = analysis.contention();
        evidence.push(format!(
            "One shared resource that is full explains the points better than the law (AICc {:.0} lower): it is held for {:.1} % of \
             a call ({:.1} to {:.1} %), so that throughput stays below {:.0} a second.",
            -analysis.aicc_difference,
            100.0 * share.value,
            100.0 * share.interval.low,
            100.0 * share.interval.high,
            analysis.saturation.gamma / analysis.saturation.share
        ));
    }
    if let Some(peak) = analysis.peak.filter(|_| matches!(analysis.term, Term::Coherence | Term::Both)) {
        evidence.push(format!("Throughput is highest at about {peak:.0} {counts}."));
    }
    if let Some(used) = axis.levels.last().and_then(cpus_used) {
        evidence
            .push(format!("At {} {counts} the processes under load used {used:.2} CPUs.", analysis.n_max));
    }
    evidence
}

/// Returns where the measurements of an axis contradict themselves.
fn faults(axis: &Axis, analysis: &Analysis) -> Vec<String> {
    let counts = axis.kind.counts();
    let mut faults = Vec::new();
    for level in analysis.efficiencies.iter().filter(|level| level.fault) {
        faults.push(format!(
            "At {} {counts} each does {:.0} % of what one does alone, which is a fault of the measurement (of the smallest level, \
             or of a cache that warmed up).",
            level.n,
            100.0 * level.value
        ));
    }
    for level in axis
        .levels
        .iter()
        .filter(|level| level.mostly(|run| little(run).is_some_and(|little| !little.agrees)))
    {
        let first = level.repetitions.iter().filter_map(little).find(|little| !little.agrees);
        let Some(little) = first else { continue };
        faults.push(format!(
            "At {} {counts} {:.1} calls were in flight, and throughput × response time says {:.1} (Little's law).",
            level.n, little.counted, little.computed
        ));
    }
    faults
}

/// Returns the CPUs that the processes under load used at a level.
fn cpus_used(level: &AxisLevel) -> Option<f64> {
    let run = level.merged()?;
    (!run.cpu_seconds.is_empty()).then(|| run.cpu_seconds.iter().sum::<f64>() / run.seconds)
}

fn machine_is_full(level: Option<&AxisLevel>, cores: usize) -> bool {
    let busy =
        |level: &AxisLevel| level.mostly(|run| run.machine_busy.is_some_and(|busy| busy >= MACHINE_FULL));
    if level.is_some_and(busy) {
        return true;
    }
    let used = level.and_then(|level| {
        let run = level.merged()?;
        Some(cpus_used(level)? + run.generator_cpu_seconds / run.seconds)
    });
    used.is_some_and(|used| used >= MACHINE_FULL * cores as f64)
}

fn milliseconds(micros: Option<f64>) -> String {
    micros.map_or_else(|| "–".to_owned(), |micros| format!("{} ms", (micros / 10.0).round() / 100.0))
}

#[cfg(test)]
mod tests;
