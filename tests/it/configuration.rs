//! `shoal config` and `shoal completions`: the reference of all settings, those that hold, and the scripts of the shells.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use crate::harness::process::shoal_binary;

/// Returns what `shoal` prints for arguments and variables that it must accept.
async fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(shoal_binary());
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().prefix("shoal-").suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

/// Returns the settings without the comments that say where each was given.
fn values(printed: &str) -> toml::Table {
    printed.parse().unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[tokio::test]
async fn the_reference_is_in_the_docs() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"));
    let reference = printed(&["config", "reference"], &[]).await;
    if std::env::var_os("SHOAL_WRITE_DOCS").is_some() {
        std::fs::write(&path, &reference).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    for (line, (wanted, found)) in reference.lines().zip(written.lines()).enumerate() {
        assert_eq!(wanted, found, "docs/configuration.md:{}: SHOAL_WRITE_DOCS=1 writes it", line + 1);
    }
    assert_eq!(reference, written, "SHOAL_WRITE_DOCS=1 writes docs/configuration.md");
}

#[tokio::test]
async fn printed_settings_are_read_back() {
    let tables = "[gateway.upstream.billing]\nendpoints = ['127.0.0.1:9001']\n[cache.object.\"data.users\"]\nttl = '5m'\n\
                  [gateway.callers]\nheader = 'x-key'\n[gateway.callers.named.ada]\naddress = '::1'\n";
    let first =
        printed(&["config", "print", "--config", file(tables).path().to_str().expect("text")], &[]).await;
    let copy = file(&first);
    let copied = copy.path().to_str().expect("text");
    let second = printed(&["config", "print", "--config", copied], &[]).await;
    assert_eq!(values(&first), values(&second));
    let defaults = second.lines().filter(|line| line.ends_with("# default")).collect::<Vec<_>>();
    assert!(defaults.is_empty(), "not read from the file: {defaults:#?}");
    assert_eq!(values(&first)["cache"]["object"]["data.users"]["ttl"].as_str(), Some("5m"), "{first}");
}

#[tokio::test]
async fn settings_say_where_they_were_given() {
    let toml =
        file("drain = '7s'\n[session]\nidle_ttl = '5m'\n[data]\nusername = 'ada'\npassword = 'SECRET'");
    let path = toml.path().to_str().expect("text");
    let variables = [
        ("SHOAL_REDIS", "redis://:SECRET@127.0.0.1:6379"),
        ("SHOAL_SESSION__KEYS__CHECK", "1:SECRET"),
        ("SHOAL_LOG_FORMAT", "json"),
    ];
    let said = printed(&["config", "print", "--given", "--config", path, "--clones", "3"], &variables).await;
    for (value, source) in [
        ("clones = \"3\"", "--clones"),
        ("drain = \"7s\"", path),
        ("idle_ttl = \"5m\"", path),
        ("log_format = \"json\"", "SHOAL_LOG_FORMAT"),
        ("redis = \"redis://…@127.0.0.1:6379\"", "SHOAL_REDIS"),
        ("check = \"…\"", "SHOAL_SESSION__KEYS__CHECK"),
        ("password = \"…\"", path),
    ] {
        let line = said.lines().find(|line| line.starts_with(value));
        let line = line.unwrap_or_else(|| panic!("{value} is not in {said}"));
        assert_eq!(line.split_once(" # ").expect("a source").1, source, "{line}");
    }
    assert!(!said.contains("SECRET") && !said.contains("default"), "{said}");
}

#[tokio::test]
async fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell], &[]).await;
        for word in ["config", "completions", "log-format", "gateway"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
