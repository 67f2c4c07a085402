//! Child processes that never outlive their test, and whose output can be waited for and searched.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::eventually;

/// Returns the path of the `shoal` binary under test.
pub(crate) fn shoal_binary() -> PathBuf {
    if let Ok(path) = std::env::var("SHOAL_TEST_BIN") {
        return path.into();
    }
    // target/debug/deps/it-HASH → target/debug/shoal
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.pop();
    path.push("shoal");
    assert!(path.exists(), "{} is missing: cargo build -p shoal", path.display());
    path
}

/// A running child.
pub(crate) struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), output.clone());
        collect(child.stderr.take().expect("piped"), output.clone());
        Self { child, output }
    }

    /// Returns everything it has printed so far to both streams.
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("not poisoned").clone()
    }

    /// Waits until it has printed `text`.
    pub(crate) async fn printed(&mut self, text: &str, within: Duration) {
        eventually(&format!("`{text}` printed"), within, async || {
            let output = self.output();
            if output.contains(text) {
                return Some(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the process ended ({status}) before printing `{text}`:\n{output}");
            }
            None
        })
        .await;
    }

    /// Waits until it has printed `prefix`. Returns the text that follows, up to a semicolon.
    pub(crate) async fn announced(&mut self, prefix: &str, within: Duration) -> String {
        self.printed(prefix, within).await;
        let output = self.output();
        let (_, rest) = output.split_once(prefix).expect("printed");
        rest.split(';').next().expect("a first part").to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    /// Sends a signal by `kill -SIGNAL`.
    pub(crate) fn signal(&self, signal: &str) {
        let status = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &self.pid().to_string()])
            .status()
            .expect("kill");
        assert!(status.success());
    }

    /// Kills it by SIGKILL and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Waits until it has exited.
    pub(crate) async fn ended(&mut self, within: Duration) -> std::process::ExitStatus {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => status.expect("waited"),
            Err(_) => panic!("the process did not end within {within:?}:\n{}", self.output()),
        }
    }
}

/// Searches the output when the test ends: a session token in it fails any test.
impl Drop for Process {
    fn drop(&mut self) {
        if let Some(token) = token_in(&self.output())
            && !std::thread::panicking()
        {
            panic!("a session token was printed: {}…", &token[..12]);
        }
    }
}

/// Finds the first session token in a text.
pub(crate) fn token_in(text: &str) -> Option<&str> {
    const PREFIX: &str = "shoal_";
    /// The fewest characters after the prefix: a token has 76; names like `shoal_gateway` have few.
    const LENGTH_MIN: usize = 60;
    text.match_indices(PREFIX).find_map(|(at, _)| {
        let rest = &text[at + PREFIX.len()..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(rest.len());
        (end >= LENGTH_MIN).then(|| &text[at..at + PREFIX.len() + end])
    })
}

#[test]
fn finds_token_but_not_crate_name() {
    let token = format!("shoal_{}", "A-_9".repeat(19));
    assert_eq!(token_in(&format!("INFO shoal_session: token={token} end")), Some(token.as_str()));
    assert_eq!(token_in("INFO shoal_session::service: shoal_gateway"), None);
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static, output: Arc<Mutex<String>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut output = output.lock().expect("not poisoned");
            output.push_str(&line);
            output.push('\n');
        }
    });
}

/// Returns a port on which nothing listens now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
