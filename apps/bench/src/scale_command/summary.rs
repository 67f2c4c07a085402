//! The report on the terminal: the verdict with its evidence, the capacity, and the figures in short.

use crate::report;
use crate::scale::capacity::{Capacity, Limit, Overload};
use crate::scale::report::Report;
use crate::scale::verdict::{Confidence, Finding};

/// Returns the report in short, as Markdown.
pub(super) fn text(report: &Report) -> String {
    let experiment = &report.experiment;
    let verdict = &report.verdict;
    let mut text = format!(
        "# shoal bench scale: {}\n\n**{}** Confidence: {}.\n",
        experiment.subject,
        verdict.sentence,
        confidence(verdict.confidence)
    );
    if experiment.ended_early {
        text.push_str("\nEnded early: this is what was measured until then.\n");
    }
    let doubts = experiment.machine.doubts();
    if !doubts.is_empty() {
        text.push_str(&format!("\nDo not trust the figures too much: {}.\n", doubts.join("; ")));
    }
    let objective = &experiment.objective;
    text.push_str("\n## A single user\n");
    finding(&mut text, &verdict.single);
    for (axis, found) in experiment.axes.iter().zip(&verdict.axes) {
        text.push_str(&format!("\n## More {}\n", axis.kind.counts()));
        finding(&mut text, &found.finding);
        let header = [axis.kind.counts(), "OK/s", "p50 ms", "p99 ms", "failed"].map(str::to_owned);
        let rows = axis.levels.iter().filter_map(|level| {
            let run = level.merged()?;
            let at = |q| run.response_time.quantile_us(q).map_or("–".to_owned(), |us| number(us / 1e3));
            Some(vec![
                level.n.to_string(),
                number(run.achieved()),
                at(0.5),
                at(0.99),
                run.failed().to_string(),
            ])
        });
        text.push_str(&format!("\n{}\n", report::markdown(&header, &rows.collect::<Vec<_>>())));
    }
    text.push_str(&format!("\n## The highest load that meets {objective}\n\n"));
    match &experiment.capacity {
        Some(found) => text.push_str(&capacity(found, experiment.ended_early)),
        None => text.push_str("Not searched.\n"),
    }
    for note in &experiment.notes {
        text.push_str(&format!("\n{note}\n"));
    }
    text.trim_end().to_owned()
}

fn finding(text: &mut String, finding: &Finding) {
    text.push_str(&format!("\n{} Confidence: {}.\n", finding.sentence, confidence(finding.confidence)));
    if !finding.evidence.is_empty() {
        text.push('\n');
    }
    for evidence in &finding.evidence {
        text.push_str(&format!("- {evidence}\n"));
    }
}

fn capacity(capacity: &Capacity, ended_early: bool) -> String {
    let Some(per_second) = capacity.per_second else {
        return none(capacity);
    };
    let mut text = match (ended_early, capacity.limit) {
        (true, _) => format!("At least {} calls a second: the search was ended there.", number(per_second)),
        (false, Limit::Target) => format!("{} calls a second, three times in a row.", number(per_second)),
        (false, Limit::Generator) => format!(
            "At least {} calls a second. The generator could not offer more: the target may do more.",
            number(per_second)
        ),
        (false, Limit::SearchBound) => format!(
            "At least {} calls a second: the search was not allowed more (--rate-max).",
            number(per_second)
        ),
    };
    if let Some(run) = &capacity.sustained {
        let at = |q| milliseconds(run.response_time.quantile_us(q));
        text.push_str(&format!(" There p50 was {} and p99 {}.", at(0.5), at(0.99)));
    }
    text.push('\n');
    for beyond in &capacity.beyond {
        text.push_str(&format!(
            "\n- At {} × that, {} calls a second: {} OK/s, {} of them in time{}",
            beyond.factor,
            number(beyond.offered_per_second),
            number(beyond.answered_per_second),
            number(beyond.goodput_per_second),
            if beyond.generator_limited {
                ". The generator could not offer so much: this says nothing."
            } else {
                "."
            }
        ));
    }
    if let Some(overload) = capacity.overload {
        text.push_str(match overload {
            Overload::Sheds => "\n\nBeyond it the goodput stays: what is too much does no harm.",
            Overload::Degrades => "\n\nBeyond it part of the goodput is lost.",
            Overload::Collapses => "\n\nBeyond it the goodput collapses: the target should refuse calls that it cannot serve in time.",
        });
    }
    text.push('\n');
    text
}

/// Says why there is no capacity.
fn none(capacity: &Capacity) -> String {
    let once = capacity.tried.iter().filter(|tried| tried.judgement.sustainable);
    let once = once.map(|tried| tried.per_second).max_by(f64::total_cmp);
    let lowest = capacity.tried.iter().map(|tried| tried.per_second).min_by(f64::total_cmp);
    let last = capacity.tried.last().map(|tried| tried.judgement.misses().join("; ")).unwrap_or_default();
    match (once, lowest) {
        (Some(once), _) => format!(
            "None was met three times in a row, although {} calls a second were met once: the target, or this machine, is \
             unsteady. The last try failed because: {last}.\n",
            number(once)
        ),
        (None, Some(lowest)) => format!(
            "None: not even {} calls a second, the lowest that was tried. The last try failed because: {last}.\n",
            number(lowest)
        ),
        (None, None) => "The search was ended before its first result.\n".to_owned(),
    }
}

fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

/// Returns a time in milliseconds, given in microseconds.
pub(super) fn milliseconds(micros: Option<f64>) -> String {
    micros.map_or("–".to_owned(), |micros| format!("{} ms", number(micros / 1e3)))
}

/// Returns a number with about three digits.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}
