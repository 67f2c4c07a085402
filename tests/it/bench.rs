//! `shoal bench gateway` without its peers: it starts everything, checks that calls are forwarded, measures, reports, and ends
//! by itself. The figures of so short a run say nothing; the test only checks that they are there, in print and in the file.

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
    let file = tempfile::NamedTempFile::new().expect("a file");
    command.arg("--json").arg(file.path());
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
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(file.path()).expect("written")).expect("JSON");
    assert_eq!(results["format"], "shoal-bench/1", "{results}");
    assert!(results["machine"]["calibration_after_ms"].as_f64() > Some(0.0), "{results}");
    let tables = results["tables"].as_array().expect("tables");
    let open =
        tables.iter().find(|table| table["title"].as_str().is_some_and(|title| title.contains("open loop")));
    let open = open.expect("an open loop");
    let lost = open["columns"].as_array().expect("columns").iter().position(|column| column["key"] == "lost");
    for row in open["rows"].as_array().expect("rows") {
        assert_eq!(row["cells"][lost.expect("a column")]["max"], 0.0, "{row}");
    }
}
