//! `shoal top` as a script uses it.

use std::time::Duration;

use shoal_proto::session::v1 as session;
use tokio::process::Command;

use crate::harness::clone::Clone;
use crate::harness::process::{Process, shoal_binary};
use crate::harness::up::Up;

/// Returns what `shoal top` printed with these arguments, and whether it succeeded. Its output is no terminal.
async fn top(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(shoal_binary());
    command.arg("top").args(arguments);
    let mut process = Process::spawn(command);
    let ended = process.ended(Duration::from_secs(20)).await.success();
    let said = crate::harness::eventually("its output", Duration::from_secs(5), async || {
        let output = process.output();
        (!output.is_empty()).then_some(output)
    });
    (ended, said.await)
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_every_clone_and_its_calls() {
    let up = Up::start(&["--ephemeral", "--clones", "session=3,cache=1,data=1,jobs=1"]).await;
    let mut sessions = shoal_client::session(up.channel());
    for _ in 0..30 {
        let create = session::CreateSessionRequest { user_id: "ada".into(), ..Default::default() };
        sessions.create_session(create).await.expect("a session");
    }
    let (ended, text) = top(&["--once", "--addr", &up.gateway, "--interval", "0.2"]).await;
    assert!(ended && text.starts_with("SERVICE"), "{text}");
    for role in ["session", "cache", "data", "jobs"] {
        for clone in up.clones(role) {
            let line =
                text.lines().find(|line| line.contains(&clone)).unwrap_or_else(|| panic!("{clone}: {text}"));
            assert!(line.starts_with(role) && line.contains(" ready  memory"), "{line}");
        }
    }
    assert!(text.contains("session: OK 30;"), "{text}");
    // Percentiles of calls that were just made; an interval without calls has no success to tell.
    let busiest =
        text.lines().find(|line| line.starts_with("session ") && line.contains("ms")).expect("latencies");
    assert!(busiest.split_whitespace().nth(3) == Some("-"), "{busiest}");

    let (_, filtered) = top(&["--addr", &up.gateway, "--filter", "session", "--interval", "0.2"]).await;
    let lines = filtered.lines().filter(|line| line.contains("127.0.0.1:")).count();
    assert_eq!(lines, 3, "without a terminal it prints once too:\n{filtered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_gateway_is_named() {
    let (ended, text) = top(&["--once", "--addr", "127.0.0.1:1"]).await;
    assert!(!ended && text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
    let clone = Clone::start("session", &["--ephemeral"]).await;
    let (ended, text) = top(&["--once", "--addr", &clone.address]).await;
    assert!(!ended && text.contains("which only a gateway has"), "{text}");
}
