//! The service's own binary, `shoal-session`.

use std::process::Command;

#[test]
fn an_error_at_start_is_one_line() {
    let binary = env!("CARGO_BIN_EXE_shoal-session");
    let output = Command::new(binary).args(["--listen", "nowhere", "--ephemeral"]).output().expect("started");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success());
    assert!(text.starts_with("shoal-session: ") && text.contains("nowhere"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
