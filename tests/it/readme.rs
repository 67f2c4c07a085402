//! Runs every `console` block of the READMEs, of the repository and of its examples, against `shoal up` and compares the output.
//!
//! `…` stands for any text in a line; a line of only `…` for any lines. A command continues in lines that begin with `> `.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use shoal_proto::jobs::v1 as jobs;
use tokio::process::Command;

use crate::harness::engines::need;
use crate::harness::process::{Process, free_port, shoal_binary};
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

/// Returns the path of a part of the repository.
fn repository(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part)
}

/// Returns the commands of a README and what they print.
fn steps(readme: &str) -> Vec<Step> {
    let readme = std::fs::read_to_string(repository(readme)).expect("README");
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

/// Runs the commands of a README in `folder`, with its addresses replaced, and compares what they print.
async fn runs_as_shown(readme: &str, folder: &Path, addresses: &[(&str, &str)]) {
    const MARK: &str = "=== step";
    const WITHIN: Duration = Duration::from_secs(120);
    let grpcurl = std::env::var("SHOAL_TEST_GRPCURL").expect("needed before");
    let python = std::env::var("SHOAL_TEST_PYTHON").expect("needed before");
    let replaced = |text: &str| {
        let replace = |text: String, (shown, real): &(&str, &str)| text.replace(shown, real);
        addresses.iter().fold(text.to_owned(), replace)
    };
    let steps = steps(readme);
    assert!(steps.len() > 5, "{readme} has only {} commands", steps.len());
    let mut script = String::new();
    for step in &steps {
        script.push_str(&format!("{}\necho '{MARK}'\n", replaced(&step.command)));
    }
    let dir = |binary: &Path| binary.parent().expect("a folder").display().to_string();
    let path = format!(
        "{}:{}:{}:{}",
        dir(Path::new(&grpcurl)),
        dir(Path::new(&python)),
        dir(&shoal_binary()),
        std::env::var("PATH").expect("PATH")
    );
    let printed = tempfile::NamedTempFile::new().expect("a file");
    let mut bash = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .env("PATH", path)
        .current_dir(folder)
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
        let expected: Vec<String> = step.expected.iter().map(|line| replaced(line)).collect();
        assert!(
            fits(&expected, &lines),
            "$ {}\nprinted:\n{printed}\n{readme} says:\n{}",
            step.command,
            expected.join("\n")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn console_blocks_print_what_they_show() {
    let _tools = (need!("SHOAL_TEST_GRPCURL"), need!("SHOAL_TEST_PYTHON"));
    let up = Up::start(&["--ephemeral"]).await;
    // Somebody else was here before: the reader's own job is not first in line.
    let older = jobs::EnqueueRequest { queue: "mail".into(), kind: "welcome".into(), ..Default::default() };
    shoal_client::jobs(up.channel()).enqueue(older).await.expect("a job");
    // As in a clone of the repository, without writing into it.
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(repository("proto"), folder.path().join("proto")).expect("a link");
    let addresses = [("127.0.0.1:7000", up.gateway.as_str()), ("127.0.0.1:7001", up.admin.as_str())];
    runs_as_shown("README.md", folder.path(), &addresses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn example_objects_load_as_shown() {
    const PROTOS: [&str; 4] = [
        "shoal/cache/v1/cache.proto",
        "shoal/data/v1/data.proto",
        "shoal/session/v1/session.proto",
        "shoal/type/v1/value.proto",
    ];
    let (_grpcurl, python) = (need!("SHOAL_TEST_GRPCURL"), need!("SHOAL_TEST_PYTHON"));
    let example = repository("examples/objects");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let compiled = Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "-I", &repository("proto").display().to_string()])
        .args([format!("--python_out={path}"), format!("--grpc_python_out={path}")])
        .args(PROTOS)
        .status()
        .await
        .expect("protoc of grpcio-tools");
    assert!(compiled.success());
    // The loader needs the gateway's address and the mesh the loader's: the one that comes later is told a port.
    let loader_address = format!("127.0.0.1:{}", free_port());
    let toml = std::fs::read_to_string(example.join("shoal.toml")).expect("shoal.toml");
    let config = folder.path().join("shoal.toml");
    std::fs::write(&config, toml.replace("127.0.0.1:9100", &loader_address)).expect("written");
    let up = Up::start(&["--ephemeral", "--config", config.to_str().expect("utf-8")]).await;
    let program = |name: &str, port: Option<&str>| {
        let mut command = Command::new(&python);
        command.arg(example.join(name)).arg(&up.gateway).args(port);
        command.env("PYTHONPATH", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        Process::spawn(command)
    };
    let mut loader = program("loader.py", loader_address.split(':').next_back());
    loader.printed("listening", Duration::from_secs(20)).await;
    let mut fill = program("fill.py", None);
    let filled = fill.ended(Duration::from_secs(60)).await;
    assert!(filled.success(), "{}\n{}", fill.output(), up.process.output());

    let addresses = [("127.0.0.1:7000", up.gateway.as_str()), ("127.0.0.1:9100", loader_address.as_str())];
    runs_as_shown("examples/objects/README.md", folder.path(), &addresses).await;
    let loads = loader.output();
    let of = |load: &str| loads.lines().filter(|line| *line == load).count();
    assert_eq!(of("load article compiler nothing"), 1, "the misses of a batch are one call:\n{loads}");
    assert_eq!(of("load article engine"), 2, "at first, and after the write:\n{loads}");
    assert_eq!((of("load session_view ada"), of("load friendship ada~grace")), (1, 1), "{loads}");
}

#[test]
fn wildcard_does_not_match_everything() {
    assert!(line_fits("a…c", "abc") && line_fits("a…", "a") && line_fits("abc", "abc"));
    assert!(!line_fits("a…c", "abd") && !line_fits("abc", "abcd") && !line_fits("b…", "abc"));
}
