//! docs/benchmarks.md and docs/scale.md are what `shoal bench page` and `shoal bench plan` make of the results in
//! docs/benchmarks.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::harness::process::shoal_binary;

/// Returns what `shoal bench ARGUMENTS` prints, in the root of the repository.
async fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(shoal_binary());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    command.arg("bench").args(arguments).current_dir(root).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Compares a page of the docs with what a command prints, or writes it.
async fn check(page: &str, arguments: &[&str]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let made = printed(arguments).await;
    if std::env::var_os("SHOAL_WRITE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    for (line, (wanted, found)) in made.lines().zip(written.lines()).enumerate() {
        assert_eq!(wanted, found, "docs/{page}:{}: SHOAL_WRITE_DOCS=1 writes it", line + 1);
    }
    assert_eq!(made, written, "SHOAL_WRITE_DOCS=1 writes docs/{page}");
}

#[tokio::test]
async fn results_page_follows_its_files() {
    check("benchmarks.md", &["page"]).await;
}

#[tokio::test]
async fn paper_plan_follows_the_figures() {
    check("scale.md", &["plan"]).await;
}

#[tokio::test]
async fn bench_alone_lists_all_benchmarks() {
    let list = printed(&[]).await;
    for name in ["mesh", "session", "engine", "gateway"] {
        assert!(list.contains(&format!("\n  {name} ")), "{name}:\n{list}");
    }
}
