//! The processes under measurement: this very binary, one clone each, ended with the benchmark.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A process that does not listen by then is broken.
const LISTENS_WITHIN: Duration = Duration::from_secs(15);

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
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
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{command:?} ended ({status}) before it listened");
            }
            if begun.elapsed() > LISTENS_WITHIN {
                bail!("{command:?} did not listen on {address} within {LISTENS_WITHIN:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { child, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}

/// A loopback address nothing listens on now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
