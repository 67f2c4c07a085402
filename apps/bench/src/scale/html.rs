//! The report as one HTML file: it loads nothing, needs no script, prints, and follows the reader's choice of light or dark.

pub(crate) mod chart;
mod charts;
pub(crate) mod scale;
pub(crate) mod text;

use std::fmt::Write as _;

use crate::scale::axis::AxisKind;
use crate::scale::capacity::{Capacity, Limit, Overload, Purpose};
use crate::scale::html::chart::Table;
use crate::scale::html::text::{escape, number, percent, time};
use crate::scale::objective::is_grey;
use crate::scale::report::Report;
use crate::scale::run::Run;
use crate::scale::usl::Term;
use crate::scale::verdict::rules::rules;
use crate::scale::verdict::{Confidence, Finding, Problem, Verdict};

const STYLE: &str = include_str!("html/style.css");

/// Returns the report as HTML.
pub(crate) fn render(report: &Report) -> String {
    let experiment = &report.experiment;
    let subject = escape(&experiment.subject);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Scale report: {subject}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>Scale report: {subject}</h1>\n\
         <p class=\"sub\">{methods} · objective <strong>{objective}</strong> of response time · {begun}</p>\n</header>\n<main>\n",
        methods = experiment
            .methods
            .iter()
            .map(|method| format!("<code>{}</code>", escape(method)))
            .collect::<Vec<_>>()
            .join(", "),
        objective = escape(&experiment.objective.to_string()),
        begun = escape(&minute(&experiment.begun)),
    );
    verdict(&mut page, report);
    facts(&mut page, report);
    section(&mut page, "Latency and capacity");
    page.push_str(
        &charts::latency(report)
            .unwrap_or_else(|| missing("No load was offered by which latency could be drawn.")),
    );
    if let Some(capacity) = &experiment.capacity {
        beyond(&mut page, capacity);
    }
    section(&mut page, "How throughput grows");
    if experiment.axes.is_empty() {
        page.push_str(&missing(
            "Only a single user was measured, or single loads: no number of callers or clones was varied.",
        ));
    }
    for axis in &experiment.axes {
        page.push_str(&charts::growth(axis).unwrap_or_else(|| missing("An axis has no runs.")));
        for sentence in &axis.simulates {
            let _ = writeln!(page, "<p class=\"muted\">{}</p>", escape(sentence));
        }
    }
    section(&mut page, "Percentiles");
    page.push_str(&charts::percentiles(report).unwrap_or_else(|| missing("No call was answered.")));
    section(&mut page, "Errors");
    page.push_str(&charts::errors(report));
    section(&mut page, "CPU time");
    page.push_str(&charts::cpu(report));
    findings(&mut page, &report.verdict);
    notes(&mut page, report);
    how(&mut page, report);
    let _ = writeln!(
        page,
        "</main>\n<footer>Made by shoal {} in the format {}. All data, with whole histograms, is in the JSON file beside this one.</footer>\n\
         </body>\n</html>",
        escape(&report.version),
        escape(&report.format)
    );
    page
}

/// Returns an RFC 3339 time to the minute, as people read it.
fn minute(time: &str) -> String {
    match (time.get(..16), time.ends_with('Z')) {
        (Some(minute), true) => format!("{} UTC", minute.replace('T', " ")),
        _ => time.to_owned(),
    }
}

fn section(page: &mut String, title: &str) {
    let _ = writeln!(page, "<h2>{title}</h2>");
}

fn missing(sentence: &str) -> String {
    format!("<p>{sentence}</p>\n")
}

fn problem_name(problem: Problem) -> &'static str {
    match problem {
        Problem::Performance => "Performance problem",
        Problem::Scalability => "Scalability problem",
        Problem::None => "No problem found",
        Problem::GeneratorLimited => "Generator-limited",
        Problem::CannotTell => "Cannot tell",
    }
}

fn term_name(term: Term) -> Option<&'static str> {
    match term {
        Term::None => None,
        Term::Contention => Some("contention"),
        Term::Coherence => Some("coherence"),
        Term::Both => Some("contention and coherence"),
        Term::Undecided => Some("cause undecided"),
    }
}

fn confidence_name(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

fn verdict(page: &mut String, report: &Report) {
    let verdict = &report.verdict;
    let class = match verdict.problem {
        Problem::Performance | Problem::Scalability => "bad",
        Problem::None => "good",
        Problem::GeneratorLimited | Problem::CannotTell => "open",
    };
    let term = verdict
        .axes
        .iter()
        .find(|axis| axis.finding.sentence == verdict.sentence)
        .and_then(|axis| term_name(axis.term));
    let term = term.map(|term| format!(": {term}")).unwrap_or_default();
    let _ = writeln!(
        page,
        "<section class=\"verdict {class}\" aria-labelledby=\"verdict\">\n<h2 id=\"verdict\">{}{term}</h2>\n<p>{}</p>\n\
         <p class=\"muted\">Confidence: {}. Evidence and rules are at the end.</p>\n</section>",
        problem_name(verdict.problem),
        escape(&verdict.sentence),
        confidence_name(verdict.confidence),
    );
    let mut warnings = report.experiment.machine.doubts();
    if report.experiment.ended_early {
        warnings.push("it was ended before its time: this is what was measured until then".to_owned());
    }
    if !warnings.is_empty() {
        let _ = writeln!(
            page,
            "<p class=\"warn\"><strong>Read the figures with care:</strong> {}.</p>",
            escape(&warnings.join("; "))
        );
    }
}

/// Writes the few figures that a reader looks for first.
fn facts(page: &mut String, report: &Report) {
    let experiment = &report.experiment;
    let objective = experiment.objective;
    let mut facts: Vec<(String, String, String)> = Vec::new();
    if let Some(single) = Run::merged(&experiment.single) {
        let value = single.response_time.quantile_us(objective.quantile).map_or_else(|| "–".to_owned(), time);
        let grey = is_grey(single.response_time.count(), objective.quantile);
        let note =
            if grey { "few samples".to_owned() } else { format!("{} calls", number(single.due as f64)) };
        facts.push((format!("A single user, {}", objective.percentile()), value, note));
    }
    if let Some(capacity) = &experiment.capacity {
        let value =
            capacity.per_second.map_or_else(|| "none".to_owned(), |rate| format!("{}/s", number(rate)));
        let note = match (capacity.per_second, capacity.limit) {
            (None, Limit::Generator) => "the generator was the limit",
            (None, _) if capacity.tried.iter().any(|tried| tried.judgement.sustainable) => {
                "no load was sustained three times"
            }
            (None, _) => "no load met the objective",
            (_, Limit::Target) => "highest load within the objective",
            (_, Limit::Generator) => "at least: the generator was the limit",
            (_, Limit::SearchBound) => "at least: no more was tried",
        };
        facts.push(("Capacity".to_owned(), value, note.to_owned()));
        if let Some(overload) = capacity.overload {
            facts.push(("Beyond capacity".to_owned(), overload_name(overload).to_owned(), kept(capacity)));
        }
    }
    for axis in &experiment.axes {
        if let Some(last) = axis.analysis.as_ref().and_then(|analysis| analysis.efficiencies.last()) {
            let label = format!("At {} {}", last.n, axis.kind.counts());
            facts.push((label, percent(last.value), "of linear throughput".to_owned()));
        }
    }
    if facts.is_empty() {
        return;
    }
    page.push_str("<dl class=\"facts\">");
    for (label, value, note) in facts {
        let _ = write!(
            page,
            "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
            escape(&label),
            escape(&value),
            escape(&note)
        );
    }
    page.push_str("</dl>\n");
}

fn overload_name(overload: Overload) -> &'static str {
    match overload {
        Overload::Sheds => "sheds",
        Overload::Degrades => "degrades",
        Overload::Collapses => "collapses",
    }
}

fn kept(capacity: &Capacity) -> String {
    let kept: Vec<String> = capacity
        .beyond
        .iter()
        .map(|beyond| format!("{} at {} ×", percent(beyond.kept), number(beyond.factor)))
        .collect();
    format!("keeps {} of its goodput", kept.join(", "))
}

fn findings(page: &mut String, verdict: &Verdict) {
    section(page, "Findings and evidence");
    let mut write = |title: &str, finding: &Finding, term: Option<&str>| {
        let term = term.map(|term| format!(", {term}")).unwrap_or_default();
        let _ = writeln!(
            page,
            "<div class=\"finding\"><h3>{title}: {}{term}</h3><p>{} <span class=\"muted\">(confidence {})</span></p><ul>{}</ul></div>",
            problem_name(finding.problem).to_lowercase(),
            escape(&finding.sentence),
            confidence_name(finding.confidence),
            finding.evidence.iter().map(|line| format!("<li>{}</li>", escape(line))).collect::<String>()
        );
    };
    write("A single user", &verdict.single, None);
    for axis in &verdict.axes {
        let title = match axis.kind {
            AxisKind::Concurrency => "Callers of one clone",
            AxisKind::Clones => "Clones",
        };
        write(title, &axis.finding, term_name(axis.term));
    }
}

/// Writes what becomes of calls beyond the capacity, and how the capacity was found.
fn beyond(page: &mut String, capacity: &Capacity) {
    if !capacity.beyond.is_empty() {
        let rows = capacity.beyond.iter().map(|beyond| {
            let limited = if beyond.generator_limited { "generator-limited" } else { "" };
            vec![
                format!("{} ×", number(beyond.factor)).into(),
                number(beyond.offered_per_second).into(),
                number(beyond.answered_per_second).into(),
                number(beyond.goodput_per_second).into(),
                percent(beyond.kept).into(),
                limited.to_owned().into(),
            ]
        });
        let header = [
            "load",
            "offered/s",
            "answered/s",
            "within the objective/s",
            "of the goodput at capacity",
            "remark",
        ];
        let table = Table {
            caption: "Beyond capacity".to_owned(),
            header: header.map(str::to_owned).to_vec(),
            rows: rows.collect(),
            prose: true,
        };
        let verb = match capacity.overload {
            Some(Overload::Sheds) => "It sheds what is too much: its goodput stays.",
            Some(Overload::Degrades) => "It degrades: part of its goodput is lost.",
            Some(Overload::Collapses) => "It collapses: most of its goodput is lost.",
            None => "The generator could not offer enough to tell.",
        };
        let _ = writeln!(page, "<h3>Beyond capacity</h3>\n<p>{verb}</p>\n{}", table.html());
    }
    let rows = capacity.tried.iter().enumerate().map(|(n, tried)| {
        let purpose = match tried.purpose {
            Purpose::Ramp => "ramp",
            Purpose::Bisection => "bisection",
            Purpose::Confirmation => "confirmation",
            Purpose::Beyond => "beyond",
        };
        let judged = if tried.judgement.sustainable {
            "sustained".to_owned()
        } else {
            tried.judgement.misses().join("; ")
        };
        vec![
            format!("{}. {purpose}", n + 1).into(),
            number(tried.per_second).into(),
            format!("{} s", number(tried.run.seconds)).into(),
            chart::Cell {
                text: tried.judgement.percentile_us.map_or_else(|| "–".to_owned(), time),
                grey: tried.judgement.grey,
            },
            judged.into(),
        ]
    });
    let table = Table {
        caption: "Runs of the search for the capacity".to_owned(),
        header: ["run", "offered/s", "length", "response at the percentile", "judgement"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
        prose: true,
    };
    let _ =
        writeln!(page, "<details><summary>How the capacity was found</summary>{}</details>", table.html());
}

fn notes(page: &mut String, report: &Report) {
    if report.experiment.notes.is_empty() {
        return;
    }
    section(page, "Notes");
    for note in &report.experiment.notes {
        let _ = writeln!(page, "<p>{}</p>", escape(note));
    }
}

/// Writes the rules, the machine and the command.
fn how(page: &mut String, report: &Report) {
    let experiment = &report.experiment;
    let machine = &experiment.machine;
    section(page, "Rules of the verdict");
    page.push_str("<dl class=\"rules\">\n");
    for (name, rule) in rules() {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&rule));
    }
    page.push_str("</dl>\n");
    section(page, "Machine and command");
    let line = |name: &str, value: String| vec![chart::Cell::from(name.to_owned()), value.into()];
    let table = Table {
        caption: "The machine during the measurement".to_owned(),
        header: vec!["fact".to_owned(), "value".to_owned()],
        prose: true,
        rows: vec![
            line("CPU", machine.cpu.clone()),
            line("CPUs (used)", format!("{} ({})", machine.cores, machine.allowed_cpus)),
            line("kernel", machine.kernel.clone()),
            line("memory", format!("{:.0} GiB", machine.memory_bytes as f64 / f64::from(1 << 30))),
            line("build", machine.build.clone()),
            line(
                "load average before, after",
                format!("{:.2}, {:.2}", machine.load_before, machine.load_after),
            ),
            line("busy before it began", percent(machine.busy_before)),
            line("taken by the host", percent(machine.steal)),
            line(
                "calibration loop before, after",
                format!("{:.1} ms, {:.1} ms", machine.calibration_before_ms, machine.calibration_after_ms),
            ),
            line("length", format!("{} s", number(experiment.seconds))),
        ],
    };
    let _ = writeln!(page, "{}\n<p>Command: <code>{}</code></p>", table.html(), escape(&experiment.command));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::report::tests::example;

    /// Bytes that the file may have, as people send it by mail.
    const BYTES_MAX: usize = 200_000;

    /// Returns the text between `open` and `close`, at each place.
    fn between<'a>(page: &'a str, open: &str, close: &str) -> Vec<&'a str> {
        page.split(open).skip(1).filter_map(|rest| rest.split(close).next()).collect()
    }

    #[tokio::test]
    async fn page_loads_nothing() {
        let page = render(&example().await);
        for load in
            ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "<iframe", "<img"]
        {
            assert!(!page.contains(load), "{load}");
        }
        assert!(page.len() <= BYTES_MAX, "{} bytes", page.len());
    }

    #[tokio::test]
    async fn each_chart_is_described_and_tabled() {
        let page = render(&example().await);
        let figures = between(&page, "<figure", "</figure>");
        assert_eq!(figures.len(), 6);
        for figure in figures {
            for (open, close) in
                [("<title", "</title>"), ("<desc", "</desc>"), ("<table", "</table>"), ("<tbody", "</tbody>")]
            {
                let found = between(figure, open, close);
                assert_eq!(found.len(), 1, "{open} in {figure}");
                assert!(found[0].len() > 30, "{open} is empty in {figure}");
            }
            assert!(figure.contains("role=\"img\" aria-labelledby="), "{figure}");
        }
    }

    #[tokio::test]
    async fn verdict_comes_first() {
        let page = render(&example().await);
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("`{text}` is missing"));
        assert!(place("Scalability problem: contention") < place("<figure"));
        assert!(place("<figure") < place("Rules of the verdict"));
        assert!(place("Rules of the verdict") < place("Machine and command"));
        assert!(page.contains("example &lt;service&gt;") && !page.contains("<service>"));
        assert!(page.contains("too many calls &lt;in flight&gt; &amp; more"));
    }

    #[tokio::test]
    async fn empty_experiment_has_a_page() {
        let mut report = example().await;
        report.experiment.single.clear();
        report.experiment.capacity = None;
        report.experiment.axes.clear();
        let report = Report::new(report.experiment);
        let page = render(&report);
        assert!(page.contains("Cannot tell") && !page.contains("<figure"), "{page}");
    }
}
