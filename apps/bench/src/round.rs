//! Interleaved rounds: every scenario once, then every scenario again, so that a noisy minute hits all alike.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::load::call::Call;
use crate::load::level::{Demand, Level};
use crate::load::live::Live;
use crate::load::measure;
use crate::load::measured::{Measured, code_name};
use crate::load::target::Target;
use crate::report;
use crate::results::{Column, Table};

/// Calls in flight that share a connection of a closed loop.
const CALLS_PER_CONNECTION: usize = 64;

/// Closed loop that is a row of a table.
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Name of the scenario that it is compared with, which stands before it.
    pub(crate) peer: Option<String>,
    pub(crate) address: SocketAddr,
    pub(crate) call: Call,
    /// Callers of a closed loop.
    pub(crate) in_flight: usize,
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

/// Share of a scenario's time for which it is run once, before the first round.
const WARM_UP: u32 = 4;

/// Returns the words about the warm-up of rounds with scenarios of so much time.
pub(crate) fn warm_up(time: Duration) -> String {
    format!("{:.2} s of each row", (time / WARM_UP).as_secs_f64())
}

/// Runs all scenarios `rounds` times, interleaved, after one short round that warms everything up. `run` has the scenario, its
/// time, and the number of the round, from 1.
///
/// # Errors
/// When a scenario fails; the error names it.
pub(crate) async fn interleaved<S>(
    scenarios: &[S],
    name: impl Fn(&S) -> String,
    (rounds, time): (u32, Duration),
    mut run: impl AsyncFnMut(&S, Duration, u32) -> anyhow::Result<Sample>,
) -> anyhow::Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::new(); scenarios.len()];
    report::progress(&format!("warm-up: {}", warm_up(time)));
    for scenario in scenarios {
        run(scenario, time / WARM_UP, 0).await.with_context(|| name(scenario))?;
    }
    let begun = Instant::now();
    for round in 1..=rounds {
        let left = match round - 1 {
            0 => time * u32::try_from(scenarios.len()).unwrap_or(u32::MAX) * rounds,
            done => begun.elapsed() / done * (rounds - done),
        };
        report::progress(&format!(
            "round {round} of {rounds}: {} scenarios of {time:?}, about {:.0} s left",
            scenarios.len(),
            left.as_secs_f64()
        ));
        for (scenario, samples) in scenarios.iter().zip(&mut samples) {
            samples.push(run(scenario, time, round).await.with_context(|| name(scenario))?);
        }
    }
    Ok(samples)
}

/// Runs closed loops in rounds, and returns their table.
///
/// # Errors
/// When a call fails.
pub(crate) async fn closed_loops(
    title: &str,
    scenarios: &[Scenario],
    rounds: (u32, Duration),
) -> anyhow::Result<Table> {
    let samples = interleaved(
        scenarios,
        |scenario| scenario.name.clone(),
        rounds,
        async |scenario, time, _| {
            let connections = scenario.in_flight.div_ceil(CALLS_PER_CONNECTION);
            let mut target = Target::single(scenario.address, connections, &scenario.call);
            target.pids = scenario.processes.iter().map(|(_, pid)| *pid).collect();
            sample(&target, &Level::closed(scenario.in_flight, time)).await
        },
    )
    .await?;
    Ok(table(title, scenarios, &samples))
}

fn table(title: &str, scenarios: &[Scenario], samples: &[Vec<Sample>]) -> Table {
    let mut processes: Vec<&'static str> = Vec::new();
    for (name, _) in scenarios.iter().flat_map(|scenario| &scenario.processes) {
        if !processes.contains(name) {
            processes.push(name);
        }
    }
    let mut columns = load_columns();
    columns.extend(
        processes
            .iter()
            .map(|name| Column::new(&format!("{name}_cpu_us"), &format!("{name} CPU µs"), 1).with_ratio()),
    );
    let mut table = Table::new(title, columns);
    for (scenario, samples) in scenarios.iter().zip(samples) {
        let mut figures = load_figures(samples);
        figures.extend(processes.iter().map(|process| {
            match scenario.processes.iter().position(|(name, _)| name == process) {
                Some(n) => samples.iter().map(|sample| sample.cpu_us[n]).collect(),
                None => Vec::new(),
            }
        }));
        table.row(&scenario.name, scenario.peer.as_deref(), figures);
    }
    table
}

/// Returns the columns of [`load_figures`].
pub(crate) fn load_columns() -> Vec<Column> {
    vec![
        Column::new("calls_per_second", "calls/s", 0).with_ratio(),
        Column::new("p50_us", "p50 µs", 0),
        Column::new("p99_us", "p99 µs", 0),
    ]
}

/// Returns what every load shows, for the columns of [`load_columns`].
pub(crate) fn load_figures(samples: &[Sample]) -> Vec<Vec<f64>> {
    let figure = |of: fn(&Sample) -> f64| samples.iter().map(of).collect();
    vec![figure(|s| s.per_second), figure(|s| s.p50_us), figure(|s| s.p99_us)]
}

/// Runs a load and returns its figures. In a closed loop every call must be OK.
///
/// # Errors
/// When the load fails, or a process is gone.
pub(crate) async fn sample(target: &Target, level: &Level) -> anyhow::Result<Sample> {
    let measured = measure(target, level, &Live::default()).await?;
    if let (Demand::Closed { .. }, Some((code, errors))) = (level.demand, measured.errors.first_key_value()) {
        bail!("{} calls failed with {}: {}", errors.calls, code_name(*code), errors.first);
    }
    Ok(Sample::of(&measured))
}

impl Sample {
    fn of(measured: &Measured) -> Sample {
        let calls = measured.ok_within.max(1) as f64;
        Sample {
            per_second: measured.achieved_per_second(),
            p50_us: measured.response_time.value_at_quantile(0.5) as f64,
            p99_us: measured.response_time.value_at_quantile(0.99) as f64,
            lost: measured.failed() + measured.not_made(),
            cpu_us: measured.cpu.iter().map(|used| used.as_secs_f64() * 1e6 / calls).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample { per_second: 0.0, p50_us: 0.0, p99_us: 0.0, lost: 0, cpu_us: vec![] };

    #[tokio::test]
    async fn rounds_interleave_after_a_warm_up() {
        let mut ran = Vec::new();
        let time = Duration::from_millis(8);
        let run = async |scenario: &&str, time: Duration, round: u32| {
            ran.push(format!("{scenario}{round}/{}", time.as_millis()));
            Ok(Sample { per_second: f64::from(round), ..SAMPLE })
        };
        let samples = interleaved(&["a", "b"], |s| (*s).to_owned(), (2, time), run).await.expect("ran");
        assert_eq!(ran, ["a0/2", "b0/2", "a1/8", "b1/8", "a2/8", "b2/8"]);
        let of = |n: usize| samples[n].iter().map(|s| s.per_second).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![1.0, 2.0], vec![1.0, 2.0]));
    }

    #[test]
    fn processes_have_columns_of_their_own() {
        let call = Call { path: "/a.B/C", framed: bytes::Bytes::new() };
        let scenario = |name: &str, peer: Option<&str>, processes: &[(&'static str, u32)]| Scenario {
            name: name.to_owned(),
            peer: peer.map(str::to_owned),
            address: ([127, 0, 0, 1], 1).into(),
            call: call.clone(),
            in_flight: 1,
            processes: processes.to_vec(),
        };
        let scenarios = [
            scenario("echo", None, &[("service", 1)]),
            scenario("ours", Some("echo"), &[("gateway", 2), ("service", 3)]),
        ];
        let sample = |cpu_us: &[f64]| vec![Sample { cpu_us: cpu_us.to_vec(), ..SAMPLE }];
        let table = table("t", &scenarios, &[sample(&[10.0]), sample(&[5.0, 20.0])]);
        let keys: Vec<&str> = table.columns.iter().map(|column| column.key.as_str()).collect();
        assert_eq!(keys[3..], ["service_cpu_us", "gateway_cpu_us"]);
        assert_eq!(table.cell("ours", "service_cpu_us").and_then(|cell| cell.ratio), Some(2.0));
        assert_eq!(table.cell("echo", "gateway_cpu_us"), None);
    }
}
