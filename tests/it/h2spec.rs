//! HTTP/2 itself, judged by a tool we did not write: every case of h2spec, the strict ones too. There are no exceptions.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::engines::need;
use crate::harness::process::Process;

/// Cases of h2spec 2.2.1 with `--strict`: RFC 7540, RFC 7541 and its own.
const CASES: usize = 146;

/// What one case may wait for an answer: a failed one waits this long, a passed one does not.
const CASE_SECONDS: &str = "10";

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_h2spec_passes() {
    let h2spec = need!("SHOAL_TEST_H2SPEC");
    // It asks with GET / only, which the gateway answers itself.
    let gateway = Clone::start("gateway", &[]).await;
    let (host, port) = gateway.address.split_once(':').expect("HOST:PORT");
    let mut command = Command::new(h2spec);
    command.args(["--strict", "--host", host, "--port", port, "--timeout", CASE_SECONDS]);
    let mut run = Process::spawn(command);
    let status = run.ended(Duration::from_secs(300)).await;
    let output = run.output();
    let failures = output.split("Failures:").nth(1).unwrap_or_default();
    assert!(status.success(), "{failures}");
    let summary = format!("{CASES} tests, {CASES} passed, 0 skipped, 0 failed");
    assert!(output.contains(&summary), "not `{summary}`: {failures}");
}
