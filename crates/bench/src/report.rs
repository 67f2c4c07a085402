//! What a benchmark prints.

use std::io::Write as _;

use crate::round::{Sample, Scenario, median};

pub(crate) fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A table of medians; CPU in microseconds per call, and its ratio to the first scenario's last process.
pub(crate) fn table(title: &str, scenarios: &[Scenario], samples: &[Vec<Sample>]) {
    let rounds = samples.first().map_or(0, Vec::len);
    line(&format!("\n{title}  (medians of {rounds} interleaved rounds)\n"));
    line(&format!(
        "{:<34} {:>9} {:>9} {:>9} {:>9}  CPU µs per call",
        "scenario", "in flight", "calls/s", "p50 µs", "p99 µs"
    ));
    for (scenario, samples) in scenarios.iter().zip(samples) {
        let cpu: Vec<String> = scenario
            .processes
            .iter()
            .enumerate()
            .map(|(i, (name, _))| format!("{name} {:.1}", median(samples, |s| s.cpu_us[i])))
            .collect();
        line(&format!(
            "{:<34} {:>9} {:>9.0} {:>9.0} {:>9.0}  {}",
            scenario.name,
            scenario.in_flight,
            median(samples, |s| s.per_second),
            median(samples, |s| s.p50_us),
            median(samples, |s| s.p99_us),
            cpu.join(", ")
        ));
    }
}
