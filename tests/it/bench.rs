//! `shoal bench gateway` without its peers: it starts everything, checks that calls are forwarded, measures, reports, and ends
//! by itself. The figures of so short a run say nothing; the test only checks that they are there.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::process::{Process, shoal_binary};

/// The time-out, for a busy machine and a debug build; the benchmark bounds itself too.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn gateway_bench_reports_all_figures() {
    let mut command = Command::new(shoal_binary());
    command.args(["bench", "gateway", "--alone", "--cores", "1", "--rounds", "1", "--seconds", "0.05"]);
    command.args(["--in-flight", "4", "--connections", "2", "--rate", "100"]);
    let mut bench = Process::spawn(command);
    // The last lines.
    bench.printed("services = ['shoal.bench.Echo']", PATIENCE).await;
    let status = bench.ended(PATIENCE).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    for part in [
        "## 100 B unary, closed loop: 4 in flight on 2 connections",
        "## 16 KiB unary, closed loop",
        "## stream of 100 × 1 KiB, closed loop",
        "## 100 B unary, open loop: 100 calls a second, Poisson arrivals",
        "| no gateway ",
        "| shoal ",
        "| shoal without ejection ",
        "| shoal without overload limit ",
    ] {
        assert!(output.contains(part), "`{part}` is missing:\n{output}");
    }
    assert!(!output.contains("calls lost"), "{output}");
}
