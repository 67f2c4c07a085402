//! The processes under measurement: this very binary, one clone each, or a peer; ended with the benchmark.

pub(crate) mod affinity;
pub(crate) mod cpu;
pub(crate) mod listener;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A process that does not listen by then is broken.
const LISTENS_WITHIN: Duration = Duration::from_secs(15);

/// The end of its output that is shown when it does not start.
const SHOWN_BYTES: usize = 2_000;

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// True if the process has children that would survive it.
    parent: bool,
}

impl Server {
    /// Starts this binary with `arguments` and `--listen ADDRESS`, and waits until it accepts connections.
    pub(crate) async fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).args(["--listen", &address.to_string()]);
        Self::spawn(command, address).await
    }

    /// Starts a program that will listen on `address`.
    pub(crate) async fn spawn(mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output.reopen()?);
        let mut child = command.spawn().with_context(|| format!("{:?}", command.as_std()))?;
        let said = || {
            let text = std::fs::read(output.path()).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(SHOWN_BYTES)..];
            String::from_utf8_lossy(tail).into_owned()
        };
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{:?} ended ({status}) before it listened: {}", command.as_std(), said());
            }
            if begun.elapsed() > LISTENS_WITHIN {
                bail!(
                    "{:?} did not listen on {address} within {LISTENS_WITHIN:?}: {}",
                    command.as_std(),
                    said()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { child, address, parent: false })
    }

    /// Says that it has children, which are to be ended with it.
    pub(crate) fn with_children(mut self) -> Self {
        self.parent = true;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.parent {
            let pids = cpu::tree(self.pid()).into_iter().map(|pid| pid.to_string());
            let _ = std::process::Command::new("kill").arg("-TERM").args(pids).status();
        }
    }
}

/// A loopback address nothing listens on now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn early_exit_is_reported_with_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such flag >&2; exit 3"]);
        let error = Server::spawn(command, free_address().expect("free")).await.err().expect("ended");
        let text = format!("{error:#}");
        assert!(text.contains("no such flag") && text.contains("before it listened"), "{text}");
    }
}
