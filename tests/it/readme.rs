//! Runs every `console` block of the README against `shoal up` and compares the output.
//!
//! `…` stands for any text in a line; a line of only `…` for any lines. A command continues in lines that begin with `> `.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use shoal_proto::jobs::v1 as jobs;
use tokio::process::Command;

use crate::harness::engines::need;
use crate::harness::process::shoal_binary;
use crate::harness::up::Up;

/// A command and its expected output.
struct Step {
    command: String,
    expected: Vec<String>,
}

impl Step {
    /// Adds the next line, of the command or of its output.
    fn go_on(&mut self, line: &str) {
        match line.strip_prefix("> ") {
            Some(more) if self.expected.is_empty() => self.command.push_str(&format!("\n{more}")),
            _ => self.expected.push(line.to_owned()),
        }
    }
}

fn steps() -> Vec<Step> {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("README");
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
                None => steps.last_mut().expect("a command first").go_on(line),
            },
        }
    }
    steps
}

/// Returns whether a line fits a pattern with `…` for any text.
fn line_fits(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    let mut parts = pattern.split('…').peekable();
    let first = parts.next().expect("split gives one");
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

fn fits(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..]))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, others)| line_fits(first, line) && fits(rest, others))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn console_blocks_print_what_they_show() {
    const MARK: &str = "=== step";
    const WITHIN: Duration = Duration::from_secs(120);
    let grpcurl = need!("SHOAL_TEST_GRPCURL");
    let python = need!("SHOAL_TEST_PYTHON");
    let up = Up::start(&["--ephemeral"]).await;
    // Somebody else was here before: the reader's own job is not first in line.
    let older = jobs::EnqueueRequest { queue: "mail".into(), kind: "welcome".into(), ..Default::default() };
    shoal_client::jobs(up.channel()).enqueue(older).await.expect("a job");
    let steps = steps();
    assert!(steps.len() > 10, "the README has only {} commands", steps.len());
    let mut script = String::new();
    for step in &steps {
        script.push_str(
            &step.command.replace("127.0.0.1:7000", &up.gateway).replace("127.0.0.1:7001", &up.admin),
        );
        script.push_str(&format!("\necho '{MARK}'\n"));
    }
    let dir = |binary: &Path| binary.parent().expect("a folder").display().to_string();
    let path = format!(
        "{}:{}:{}:{}",
        dir(Path::new(&grpcurl)),
        dir(Path::new(&python)),
        dir(&shoal_binary()),
        std::env::var("PATH").expect("PATH")
    );
    // As in a clone of the repository, without writing into it.
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto"),
        folder.path().join("proto"),
    )
    .expect("a link");
    let printed = tempfile::NamedTempFile::new().expect("a file");
    let mut bash = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .env("PATH", path)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(printed.reopen().expect("the file"))
        .kill_on_drop(true)
        .spawn()
        .expect("bash");
    let ended = tokio::time::timeout(WITHIN, bash.wait()).await;
    let text = std::fs::read_to_string(&printed).expect("what was printed");
    ended.unwrap_or_else(|_| panic!("not at the end within {WITHIN:?}:\n{text}")).expect("bash");
    let printed: Vec<&str> = text.split(&format!("{MARK}\n")).collect();
    for (step, printed) in steps.iter().zip(printed) {
        let lines: Vec<&str> = printed.lines().collect();
        assert!(
            fits(&step.expected, &lines),
            "$ {}\nprinted:\n{printed}\nthe README says:\n{}",
            step.command,
            step.expected.join("\n")
        );
    }
}

#[test]
fn wildcard_does_not_match_everything() {
    assert!(line_fits("a…c", "abc") && line_fits("a…", "a") && line_fits("abc", "abc"));
    assert!(!line_fits("a…c", "abd") && !line_fits("abc", "abcd") && !line_fits("b…", "abc"));
}
