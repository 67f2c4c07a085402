//! ghz: how it is run, and what its JSON says.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::{CONNECTIONS, Figures, TEXT};
use crate::process::cpu;

/// Time that it may take beyond the load's.
const SLACK: Duration = Duration::from_secs(30);

/// The part of its report that is read. Times are nanoseconds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    count: u64,
    rps: f64,
    #[serde(default)]
    latency_distribution: Option<Vec<Latency>>,
    #[serde(default)]
    status_code_distribution: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    percentage: u32,
    latency: f64,
}

/// Runs ghz against an echo at a rate, with even arrivals.
///
/// # Errors
/// When it fails, or a call does.
pub(super) async fn measured(
    ghz: &Path,
    protoset: &Path,
    address: SocketAddr,
    rate: u32,
    time: Duration,
) -> anyhow::Result<Figures> {
    let warm_up = time / 4;
    let calls = f64::from(rate) * (time + warm_up).as_secs_f64();
    let skipped = (f64::from(rate) * warm_up.as_secs_f64()).round() as u64;
    let before = cpu::of_ended_children()?;
    let mut command = Command::new(ghz);
    command
        .args(["--insecure", "--async", "-O", "json", "--call", "shoal.bench.Echo.Echo"])
        .arg("--protoset")
        .arg(protoset)
        .args(["-d", &format!("{{\"text\":\"{TEXT}\"}}")])
        .args(["--rps", &rate.to_string(), "--total", &(calls as u64).to_string()])
        .args(["--skipFirst", &skipped.to_string()])
        .args(["--connections", &CONNECTIONS.to_string(), "--concurrency", &CONNECTIONS.to_string()])
        .arg(address.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output =
        timeout(time + warm_up + SLACK, command.output()).await.context("ghz did not end in time")??;
    let used = cpu::of_ended_children()?.saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ghz: {}: {said}", output.status);
    let report: Output = serde_json::from_slice(&output.stdout).context("the JSON of ghz")?;
    figures(&report, used, calls)
}

fn figures(report: &Output, used: Duration, calls: f64) -> anyhow::Result<Figures> {
    let failed: u64 = report
        .status_code_distribution
        .iter()
        .filter(|(code, _)| *code != "OK")
        .map(|(_, calls)| calls)
        .sum();
    ensure!(
        failed == 0 && report.count > 0,
        "ghz: {failed} calls failed: {:?}",
        report.status_code_distribution
    );
    let at = |percentage| {
        let latencies = report.latency_distribution.iter().flatten();
        let found = latencies.into_iter().find(|latency| latency.percentage == percentage);
        found.map(|found| found.latency / 1e3).context("ghz gives no percentiles")
    };
    Ok(Figures {
        // Those skipped are not in its count, but their time is in its rate.
        per_second: report.rps * calls / report.count as f64,
        p50_us: at(50)?,
        p99_us: at(99)?,
        cpu_us: used.as_secs_f64() * 1e6 / calls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_json() {
        let json = r#"{"count":300,"rps":99.5,"average":1,"latencyDistribution":[{"percentage":50,"latency":1500000},
            {"percentage":99,"latency":2500000}],"statusCodeDistribution":{"OK":300}}"#;
        let report: Output = serde_json::from_str(json).expect("JSON");
        let figures = figures(&report, Duration::from_millis(40), 400.0).expect("figures");
        assert_eq!((figures.p50_us, figures.p99_us), (1_500.0, 2_500.0));
        assert_eq!((figures.per_second, figures.cpu_us), (99.5 * 400.0 / 300.0, 100.0));
    }

    #[test]
    fn failed_calls_are_no_figures() {
        let json = r#"{"count":2,"rps":1,"statusCodeDistribution":{"OK":1,"Unavailable":1}}"#;
        let report: Output = serde_json::from_str(json).expect("JSON");
        let error = figures(&report, Duration::ZERO, 2.0).err().expect("an error");
        assert!(error.to_string().contains("1 calls failed"), "{error}");
    }
}
