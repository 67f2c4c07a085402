//! `grpcurl`, a foreign client.

use tokio::process::Command;

/// The output of a run.
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// Parses the output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert!(self.ok, "grpcurl failed: {}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Runs `binary` with these arguments.
pub(crate) async fn grpcurl(binary: &str, arguments: &[&str]) -> Answer {
    let output = Command::new(binary).args(arguments).output().await.expect("grpcurl runs");
    Answer {
        ok: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
