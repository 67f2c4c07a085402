//! The benchmarks, each run for a moment: it starts everything, checks that calls are answered, measures, reports, and ends by itself.
//! The figures of so short a run say nothing; the tests only check that they are there, in print and in the file.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::engines::need;
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

/// Runs `shoal bench data` for a moment, and returns its output with the rows of each of its tables.
async fn data_bench(arguments: &[&str]) -> (String, Vec<(String, Vec<serde_json::Value>)>) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new(shoal_binary());
    command.args(["bench", "data", "--rounds", "1", "--seconds", "0.5", "--in-flight", "2"]).args(arguments);
    command.arg("--json").arg(file.path());
    let mut bench = Process::spawn(command);
    let status = bench.ended(PATIENCE).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(file.path()).expect("written")).expect("JSON");
    let tables = results["tables"].as_array().expect("tables").iter().map(|table| {
        let rows = table["rows"].as_array().expect("rows").clone();
        (table["title"].as_str().expect("a title").to_owned(), rows)
    });
    (output, tables.collect())
}

#[tokio::test]
async fn data_bench_stands_beside_the_driver() {
    let cassandra = need!("SHOAL_TEST_CASSANDRA");
    let (output, tables) = data_bench(&["--cassandra", &cassandra]).await;
    assert_eq!(tables.len(), 6, "{output}");
    for (title, rows) in &tables {
        let names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        let expected = [
            "scylla driver, 2 in flight",
            "data service, 2 in flight",
            "data service, through the gateway, 2 in flight",
            "data service, embedded engine, 2 in flight",
        ];
        assert_eq!(names, expected, "{title}: {output}");
        for row in rows {
            assert!(row["cells"][0]["median"].as_f64() > Some(0.0), "{title}: {row}");
            // The driver's program or the clone, and Cassandra beside all but the embedded engine.
            assert!(row["cells"][3]["median"].as_f64() > Some(0.0), "{title}: {row}");
            let embedded = row["name"].as_str().is_some_and(|name| name.contains("embedded"));
            assert_eq!(row["cells"][4].is_null(), embedded, "{title}: {row}");
        }
        assert!(rows[1]["cells"][0]["ratio"].is_f64(), "{title}: {}", rows[1]);
    }
    assert!(output.contains("Mutate with 2 in flight has"), "{output}");
}

#[tokio::test]
async fn data_bench_runs_without_engines() {
    let (output, tables) = data_bench(&["--operations", "get,check-and-mutate"]).await;
    let rows: Vec<usize> = tables.iter().map(|(_, rows)| rows.len()).collect();
    assert_eq!(rows, [1, 1], "{output}");
}

/// Starts an echo, and returns it with its address.
async fn echo() -> (Process, String) {
    let address = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let mut command = Command::new(shoal_binary());
    command.args(["bench", "echo", "--listen", &address.to_string()]);
    let echo = Process::spawn(command);
    let begun = std::time::Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the echo does not listen: {}", echo.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (echo, address.to_string())
}

/// Returns a command that calls the echo.
fn of_echo(bench: &str, address: &str) -> Command {
    let mut command = Command::new(shoal_binary());
    command.args(["bench", bench, "--target", address, "--method", "shoal.bench.Echo/Echo"]);
    command
}

#[tokio::test]
async fn scale_bench_writes_the_report() {
    let (_echo, address) = echo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (html, json) = (folder.path().join("scale.html"), folder.path().join("scale.json"));
    let mut command = of_echo("scale", &address);
    command.args(["--data", r#"{"text": "{{seq}} {{uuid}}"}"#, "--seconds", "0.05", "--seconds-max", "0.1"]);
    command.args(["--warm-up", "0", "--rate-max", "200"]).arg("--html").arg(&html).arg("--json").arg(&json);
    let mut bench = Process::spawn(command);
    let status = bench.ended(PATIENCE).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    for part in ["## A single user", "## More callers", "| 32 ", "## The highest load that meets p99=50ms"] {
        assert!(output.contains(part), "`{part}` is missing:\n{output}");
    }
    let page = std::fs::read_to_string(html).expect("the page");
    assert!(page.contains("shoal.bench.Echo/Echo"), "{page}");
    let data: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).expect("the data")).expect("JSON");
    assert_eq!(data["experiment"]["axes"][0]["levels"].as_array().map(Vec::len), Some(6), "{output}");
}

#[tokio::test]
async fn scale_bench_counts_clones() {
    let figures = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new(shoal_binary());
    command.args(["bench", "scale", "--service", "session", "--clones", "1,2", "--rounds", "1"]);
    command.args([
        "--workers",
        "2",
        "--service-ms",
        "20",
        "--seconds",
        "0.4",
        "--seconds-max",
        "0.4",
        "--warm-up",
        "0",
    ]);
    command.arg("--figures").arg(figures.path());
    let mut bench = Process::spawn(command);
    let status = bench.ended(PATIENCE).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    for part in ["session on embedded", "## More clones", "needs 6"] {
        assert!(output.contains(part), "`{part}` is missing:\n{output}");
    }
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(figures.path()).expect("written")).expect("JSON");
    let rows = results["tables"][0]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 2, "{results}");
    for (row, clones) in rows.iter().zip([1.0, 2.0]) {
        let per_second = row["cells"][0]["median"].as_f64().expect("a figure");
        // Two workers of 20 ms: no clone can do more, and a busy machine does less.
        assert!(per_second > 0.0 && per_second <= 100.0 * clones * 1.1, "{row}");
    }
    assert!(results["notes"].to_string().contains("one `shoal up` process"), "{results}");
}

#[tokio::test]
async fn interrupted_load_reports_what_was_measured() {
    let (_echo, address) = echo().await;
    let mut command = of_echo("load", &address);
    command.args(["--rate", "100", "--seconds", "600", "--warm-up", "0"]);
    let mut bench = Process::spawn(command);
    bench.printed("round 1 of 5", PATIENCE).await;
    bench.signal("INT");
    let status = bench.ended(PATIENCE).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    assert!(output.contains("Ended early") && output.contains("| 100 calls a second |"), "{output}");
}

#[tokio::test]
async fn wrong_calls_are_refused_before_any_load() {
    let (_echo, address) = echo().await;
    let mut command = of_echo("load", &address);
    command.args(["--data", r#"{"texts": "a"}"#, "--rate", "1"]);
    let mut bench = Process::spawn(command);
    let status = bench.ended(PATIENCE).await;
    let output = bench.output();
    assert!(!status.success(), "{output}");
    assert!(output.contains("no field `texts` (at `texts`): did you mean `text`?"), "{output}");
}

#[tokio::test]
async fn diff_fails_by_its_exit_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../apps/bench/src/scale/report/golden.json"
    ))
    .expect("the golden report");
    let (before, after) = (folder.path().join("before.json"), folder.path().join("after.json"));
    std::fs::write(&before, &golden).expect("written");
    // The search found a tenth less.
    let mut report: serde_json::Value = serde_json::from_str(&golden).expect("JSON");
    let capacity = &mut report["experiment"]["capacity"]["per_second"];
    *capacity = (0.9 * capacity.as_f64().expect("a number")).into();
    std::fs::write(&after, report.to_string()).expect("written");
    let diff = |more: &'static [&'static str]| {
        let mut command = Command::new(shoal_binary());
        command.args(["bench", "diff"]).arg(&before).arg(&after).args(more);
        async move { command.output().await.expect("it runs") }
    };

    let output = diff(&[]).await;
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("no difference") && table.contains("-10 %") | table.contains("−10 %"), "{table}");

    assert!(diff(&["--fail-if", "capacity<-20%"]).await.status.success());
    let output = diff(&["--fail-if", "capacity<-5%"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("capacity<-5%"), "{output:?}");
    // What cannot fail must not pass.
    assert_eq!(diff(&["--fail-if", "p99.99>+1%"]).await.status.code(), Some(1));
}
