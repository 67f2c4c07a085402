//! The public contract: protos may grow, and break only when `scripts/contract` is told.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::harness::engines::need;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

async fn check(folder: &Path) -> (bool, String) {
    let mut command = Command::new(format!("{ROOT}/scripts/contract"));
    let run = command.arg("check").arg(folder).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = run.await.expect("it runs");
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (status.success(), said)
}

/// Copies the protos, with a change to those of the session service.
fn changed(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    let mut folders = vec![Path::new(ROOT).join("proto/shoal")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            let of_session = path.ends_with("session/v1/session.proto");
            let text = if of_session { change(text) } else { text };
            let to = copy.path().join(path.strip_prefix(Path::new(ROOT).join("proto")).expect("inside"));
            std::fs::create_dir_all(to.parent().expect("a parent")).expect("made");
            std::fs::write(to, text).expect("written");
        }
    }
    copy
}

#[tokio::test]
async fn the_protos_keep_the_contract() {
    need!("SHOAL_TEST_BUF");
    let (kept, said) = check(Path::new("proto")).await;
    assert!(kept, "{said}");
}

#[tokio::test]
async fn a_field_that_goes_breaks_it() {
    need!("SHOAL_TEST_BUF");
    let copy = changed(|text| {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("int64 version = "));
        lines.collect::<Vec<_>>().join("\n")
    });
    let (kept, said) = check(copy.path()).await;
    assert!(!kept && said.contains("\"version\"") && said.contains("scripts/contract break"), "{said}");
}

#[tokio::test]
async fn a_new_message_must_be_recorded() {
    need!("SHOAL_TEST_BUF");
    let copy = changed(|text| text + "\n// A message.\nmessage Added {}\n");
    let (kept, said) = check(copy.path()).await;
    assert!(!kept && said.contains("scripts/contract record"), "{said}");
    let unchanged = changed(|text| text + "\n// A comment is no change.\n");
    let (kept, said) = check(unchanged.path()).await;
    assert!(kept, "{said}");
}
