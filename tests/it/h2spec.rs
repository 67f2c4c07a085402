//! HTTP/2 conformance, checked by a foreign tool: every case of h2spec, including the strict ones, without exceptions.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::engines::need;

/// The number of cases of h2spec 2.2.1 with `--strict`: RFC 7540, RFC 7541 and its own.
const CASES: usize = 146;

/// The seconds a case may wait for an answer: a failed one waits this long, a passed one does not.
const CASE_SECONDS: &str = "10";

#[tokio::test(flavor = "multi_thread")]
async fn every_h2spec_case_passes() {
    let h2spec = need!("SHOAL_TEST_H2SPEC");
    // It asks with GET / only, which the gateway answers itself.
    let gateway = Clone::start("gateway", &[]).await;
    let (host, port) = gateway.address.split_once(':').expect("HOST:PORT");
    let run = Command::new(h2spec)
        .args(["--strict", "--host", host, "--port", port, "--timeout", CASE_SECONDS])
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(Duration::from_secs(300), run).await.expect("an end").expect("it runs");
    let output = String::from_utf8_lossy(&run.stdout);
    let failures = output.split("Failures:").nth(1).unwrap_or_default();
    assert!(run.status.success(), "{failures}");
    let summary = output.lines().last().unwrap_or_default();
    assert_eq!(summary, format!("{CASES} tests, {CASES} passed, 0 skipped, 0 failed"));
}
