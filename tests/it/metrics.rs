//! `/metrics` of a running mesh, against the registry of families and Prometheus' own linter.

use std::collections::BTreeMap;
use std::process::Stdio;

use shoal_kit::families::{self, Family};
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use shoal_testing::RedisServer;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::engines::need;
use crate::harness::http::http_get;
use crate::harness::up::Up;

/// Protects an upstream from overload, so that the gauge of its limit exists.
const PROTECTED: &str = "[gateway.overload]\nupstreams = ['*']\n";

/// Starts a mesh with these flags, calls it once, and returns what it shows.
async fn scrape(flags: &[&str]) -> String {
    let config = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(config.path(), PROTECTED).expect("written");
    let config = config.path().to_str().expect("utf-8");
    let up = Up::start(&[&["--config", config], flags].concat()).await;
    let request = session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() };
    shoal_client::session(up.channel()).create_session(request).await.expect("a session");
    let request = jobs::EnqueueRequest { queue: "mail".into(), kind: "welcome".into(), ..Default::default() };
    shoal_client::jobs(up.channel()).enqueue(request).await.expect("a job");
    let answer = http_get(&up.admin, "/metrics").await;
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// Returns the types of the families of a scrape, by name.
fn types(scrape: &str) -> BTreeMap<&str, &str> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// Checks that each family is in the registry as it is shown, and each label of each series.
fn check(scrape: &str) {
    for (name, kind) in types(scrape) {
        let family = families::ALL.iter().find(|family| family.name == name);
        let Family { kind: registered, labels, help, .. } =
            family.unwrap_or_else(|| panic!("{name} is not in the registry of families"));
        assert_eq!(kind, registered.name(), "{name}");
        assert!(scrape.contains(&format!("# HELP {name} {help}\n")), "{name} has no HELP");
        let mut wanted: Vec<_> = labels.iter().map(|(label, _)| *label).collect();
        wanted.sort_unstable();
        for line in scrape.lines().filter(|line| !line.starts_with('#')) {
            let (series, labels) = line.split_once('{').unwrap_or((line, ""));
            let series = series.split(' ').next().expect("a name");
            let of_histogram = ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}"));
            if series != name && !(kind == "histogram" && of_histogram.iter().any(|own| own == series)) {
                continue;
            }
            let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
            let mut found: Vec<_> = labels.split("\",").filter_map(|label| label.split_once('=')).collect();
            found.retain(|(label, _)| *label != "le");
            let mut found: Vec<_> = found.into_iter().map(|(label, _)| label).collect();
            found.sort_unstable();
            assert_eq!(found, wanted, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_is_shown_and_registered() {
    let Some(redis) = RedisServer::start().await else { return };
    let scrapes = [scrape(&["--ephemeral"]).await, scrape(&["--ephemeral", "--redis", &redis.url()]).await];
    scrapes.iter().for_each(|scrape| check(scrape));
    for series in [
        r#"shoal_jobs_queue_jobs{queue="mail",state="ready"} 1"#,
        "shoal_session_created_total 1",
        "shoal_session_revoked_total 0",
        r#"shoal_engine_up{role="session",engine="embedded"} 1"#,
    ] {
        assert!(scrapes[0].lines().any(|line| line == series), "{series}: {}", scrapes[0]);
    }
    let shown: BTreeMap<_, _> = scrapes.iter().flat_map(|scrape| types(scrape)).collect();
    let hidden: Vec<_> =
        families::ALL.iter().map(|family| family.name).filter(|name| !shown.contains_key(name)).collect();
    assert!(hidden.is_empty(), "no series from the start: {hidden:?}");
}

#[test]
fn every_name_in_the_code_is_registered() {
    let mut search = std::process::Command::new("git");
    search.args([
        "grep",
        "-hoE",
        r#"(counter|gauge|histogram)!\("[a-z0-9_]+""#,
        "--",
        "crates/*/src/*",
        "services/*/src/*",
    ]);
    let found = search.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).output().expect("git");
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let names: Vec<_> = found.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(names.len() > 20, "{names:?}");
    let registered = |name: &&str| families::ALL.iter().any(|family| family.name == *name);
    let unknown: Vec<_> = names.into_iter().filter(|name| !registered(name)).collect();
    assert!(unknown.is_empty(), "not in the registry of families: {unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_lint_finds_nothing() {
    let promtool = need!("SHOAL_TEST_PROMTOOL");
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut lint = command.kill_on_drop(true).spawn().expect("promtool");
    let scrape = scrape(&["--ephemeral"]).await;
    let mut input = lint.stdin.take().expect("piped");
    input.write_all(scrape.as_bytes()).await.expect("read");
    drop(input);
    let output = lint.wait_with_output().await.expect("an end");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && said.iter().all(String::is_empty), "{said:?}");
}
