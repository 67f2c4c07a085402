//! The golden file of the report's data, and files that are refused.

use serde_json::Value;

use super::*;
use crate::machine::tests::quiet;
use crate::scale::axis::AxisLevel;
use crate::scale::capacity::{Search, search};
use crate::scale::run::tests::{run, times};
use crate::scale::run::{CodeCount, InFlightSample, Load};
use crate::scale::usl::saturation::{Meeting, Saturation};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/scale/report/golden.json");

/// Returns a run whose response times spread about `micros`, by the same shape always.
fn spread(load: Load, seconds: f64, throughput: f64, micros: f64) -> Run {
    let calls = (throughput * seconds).round() as u64;
    // Quantiles of an exponential distribution with an offset: half of each call's time is fixed.
    let of = |k: u64| micros / 2.0 * (1.0 - (1.0 - (k as f64 + 0.5) / calls as f64).ln());
    let mut run = run(load, seconds, (0..calls).map(|k| of(k) as u64));
    run.cpu_seconds = vec![calls as f64 * 150e-6];
    run
}

/// Returns a report of a service that is fast alone, and whose clones share an engine that four of them fill.
pub(crate) async fn example() -> Report {
    let noise = [0.996, 1.004, 1.0];
    let axis = |kind, throughput: &dyn Fn(f64) -> f64| {
        let levels = [1, 2, 3, 4, 6, 8].map(|n: u32| AxisLevel {
            n,
            repetitions: noise
                .map(|noise| {
                    let throughput = noise * throughput(f64::from(n));
                    spread(Load::Closed { callers: n }, 8.0, throughput, f64::from(n) / throughput * 1e6)
                })
                .to_vec(),
        });
        Axis::new(kind, vec!["Each clone is a process whose CPU is bounded.".to_owned()], levels.to_vec(), 1)
    };
    let engine = Saturation { meeting: Meeting::WhenFull, gamma: 200.0, share: 0.25 };
    let bounds = Search {
        objective: "p99=50ms".parse().expect("an objective"),
        per_second_first: 50.0,
        per_second_max: 10_000.0,
        seconds_min: 5.0,
        seconds_max: 20.0,
    };
    let capacity = search(bounds, |trial| {
        let load = Load::Open { per_second: trial.per_second };
        let seconds = trial.duration.as_secs_f64();
        let served = trial.per_second.min(600.0);
        let micros = 5_000.0 + 3_000_000.0 / (700.0 - served);
        let mut run = spread(load, seconds, served, micros);
        run.in_flight = (0..20)
            .map(|k| InFlightSample { at_ms: 250 * k, calls: (served * micros / 1e6) as u64 + k % 2 })
            .collect();
        run.due = (trial.per_second * seconds).round() as u64;
        let refused = run.due - run.ok.min(run.due);
        if refused > 0 {
            run.errors = vec![CodeCount {
                code: "RESOURCE_EXHAUSTED".to_owned(),
                calls: refused,
                first: "too many calls <in flight> & more".to_owned(),
            }];
        }
        run.lateness = times([40; 1000]);
        std::future::ready(Ok(run))
    })
    .await
    .expect("no run fails");
    Report::new(Experiment {
        subject: "example <service>".to_owned(),
        methods: vec!["shoal.example.v1.Example/Get".to_owned()],
        command: "shoal bench scale --service example --objective p99=50ms".to_owned(),
        begun: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 612.0,
        machine: quiet(),
        objective: bounds.objective,
        single: noise
            .map(|noise| spread(Load::Closed { callers: 1 }, 8.0, 200.0 * noise, 5_000.0 / noise))
            .to_vec(),
        capacity: Some(capacity),
        axes: vec![
            axis(AxisKind::Concurrency, &|n| 200.0 * n),
            axis(AxisKind::Clones, &|n| engine.throughput(n)),
        ],
        notes: vec!["Nothing of this was measured: it is an example.".to_owned()],
        ended_early: false,
    })
}

/// Asserts that two values are equal, but for the last digits of numbers.
fn assert_alike(here: &Value, golden: &Value, path: &str) {
    match (here, golden) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            assert!((a - b).abs() <= 1e-6 * a.abs().max(b.abs()) + 1e-9, "{path}: {a}, golden {b}");
        }
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{path}");
            a.iter().for_each(|(key, value)| assert_alike(value, &b[key], &format!("{path}.{key}")));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            a.iter().zip(b).enumerate().for_each(|(n, (a, b))| assert_alike(a, b, &format!("{path}[{n}]")));
        }
        _ => assert_eq!(here, golden, "{path}"),
    }
}

#[tokio::test]
async fn report_data_is_golden() {
    let report = example().await;
    let text = report.json().expect("written");
    if std::env::var_os("SHOAL_WRITE_DOCS").is_some() {
        std::fs::write(GOLDEN, &text).expect("written");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("the golden file; SHOAL_WRITE_DOCS=1 writes it");
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_alike(&parsed(&text), &parsed(&golden), "report");
    // Read and written again it is the same, but for the last digits.
    let again = Report::parse(&text).and_then(|report| report.json()).expect("read and written");
    assert_alike(&parsed(&again), &parsed(&text), "read again");
}

#[tokio::test]
async fn other_files_are_refused_clearly() {
    let text = example().await.json().expect("written");
    let check = |text: &str, expected: &str| {
        let error = format!("{:#}", Report::parse(text).expect_err(expected));
        assert!(error.contains(expected), "{error}");
    };
    check("", "no JSON object");
    check("[1]", "no JSON object");
    check("{}", "has no `format`");
    check(&text.replacen("shoal-scale/1", "shoal-scale/2", 1), "its format is `shoal-scale/2`");
    check("{\"format\": \"shoal-bench/1\"}", "its format is `shoal-bench/1`");
    check("{\"format\": \"shoal-scale/1\"}", "a field is wrong");
    check(&text.replacen("HISTF", "HISTX", 1), "a field is wrong");
}
