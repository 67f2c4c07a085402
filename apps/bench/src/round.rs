//! Interleaved rounds: every scenario once, then every scenario again, so that a noisy minute hits all alike.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use crate::load::Done;
use crate::load::call::Call;
use crate::load::closed::{Closed, closed_loop};
use crate::process::cpu;
use crate::report;

/// Scenario of a report, which has a line for each.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) call: Call,
    pub(crate) shape: Closed,
    /// Processes whose CPU is said per call, with the name of their column.
    pub(crate) processes: Vec<(&'static str, u32)>,
}

/// Result of a round of a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Calls of an open loop that failed, or that were due and not made.
    pub(crate) lost: u64,
    /// CPU microseconds per call of each process.
    pub(crate) cpu_us: Vec<f64>,
}

/// Runs all scenarios `rounds` times, interleaved, after one short round that warms everything up.
///
/// # Errors
/// When a call fails.
pub(crate) async fn interleaved(
    scenarios: &[Scenario],
    rounds: usize,
    time: Duration,
) -> anyhow::Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::new(); scenarios.len()];
    for scenario in scenarios {
        one(scenario, time / 4).await?;
    }
    for round in 1..=rounds {
        report::progress(&format!("round {round} of {rounds}, {} scenarios of {time:?}", scenarios.len()));
        for (scenario, samples) in scenarios.iter().zip(&mut samples) {
            samples.push(one(scenario, time).await?);
        }
    }
    Ok(samples)
}

async fn one(scenario: &Scenario, time: Duration) -> anyhow::Result<Sample> {
    let pids: Vec<u32> = scenario.processes.iter().map(|(_, pid)| *pid).collect();
    measured(&pids, closed_loop(scenario.address, &scenario.call, scenario.shape, time)).await
}

/// Runs a load and says what it showed, with the CPU of the processes `pids` meanwhile.
///
/// # Errors
/// When the load fails, or a process is gone.
pub(crate) async fn measured(
    pids: &[u32],
    load: impl Future<Output = anyhow::Result<Done>>,
) -> anyhow::Result<Sample> {
    let used = || -> anyhow::Result<Vec<Duration>> { pids.iter().map(|pid| cpu::used(*pid)).collect() };
    let before = used()?;
    let done = load.await?;
    let after = used()?;
    let calls = done.calls.max(1) as f64;
    Ok(Sample {
        per_second: calls / done.elapsed.as_secs_f64(),
        p50_us: done.latency.value_at_quantile(0.5) as f64,
        p99_us: done.latency.value_at_quantile(0.99) as f64,
        lost: done.failed + done.missed,
        cpu_us: before
            .iter()
            .zip(&after)
            .map(|(before, after)| after.saturating_sub(*before).as_secs_f64() * 1e6 / calls)
            .collect(),
    })
}

/// The median of a figure over the rounds.
pub(crate) fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Prints a table of medians; CPU time is in microseconds per call of each process.
pub(crate) fn table(title: &str, scenarios: &[Scenario], samples: &[Vec<Sample>]) {
    let rounds = samples.first().map_or(0, Vec::len);
    report::line(&format!("\n{title}  (medians of {rounds} interleaved rounds)\n"));
    report::line(&format!(
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
        report::line(&format!(
            "{:<34} {:>9} {:>9.0} {:>9.0} {:>9.0}  {}",
            scenario.name,
            scenario.shape.in_flight,
            median(samples, |s| s.per_second),
            median(samples, |s| s.p50_us),
            median(samples, |s| s.p99_us),
            cpu.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_lies_between_middle_values() {
        let sample = |n: f64| Sample { per_second: n, p50_us: 0.0, p99_us: 0.0, lost: 0, cpu_us: vec![] };
        let samples: Vec<_> = [3.0, 1.0, 2.0].map(sample).into();
        assert_eq!(median(&samples, |s| s.per_second), 2.0);
        let samples: Vec<_> = [4.0, 1.0, 2.0, 3.0].map(sample).into();
        assert_eq!(median(&samples, |s| s.per_second), 2.5);
    }
}
