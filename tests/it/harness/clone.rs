//! `shoal serve ROLE` as an operator runs it: one clone, one process.

use std::time::Duration;

use shoal_client::Channel;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::process::{Process, free_port, shoal_binary};

/// A clone in its own process.
pub(crate) struct Clone {
    pub(crate) process: Process,
    pub(crate) address: String,
    /// The address of the admin port.
    pub(crate) admin: String,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

impl Clone {
    /// Starts a clone on a free port and waits until it serves.
    pub(crate) async fn start(role: &str, flags: &[&str]) -> Self {
        Self::start_at(role, &format!("127.0.0.1:{}", free_port()), flags).await
    }

    /// Starts a clone on a given address, for a clone that comes back.
    pub(crate) async fn start_at(role: &str, address: &str, flags: &[&str]) -> Self {
        // A signal that whoever runs the tests ignores (`nohup`) is not ignored here.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(shoal_binary());
        command.args(["serve", role, "--listen", address, "--admin", "127.0.0.1:0"]).args(flags);
        let mut process = Process::spawn(command);
        process.printed("address", Duration::from_secs(20)).await;
        let output = process.output();
        // The gateway's line does not say it.
        let admin = output.split_once("admin=").and_then(|(_, rest)| rest.split_whitespace().next());
        let admin = admin.unwrap_or_default().to_owned();
        let cancel = CancellationToken::new();
        Self {
            process,
            address: address.to_owned(),
            admin,
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// Returns a channel to this clone alone.
    pub(crate) fn channel(&self) -> Channel {
        shoal_client::connect(&self.address, "clone", "test", &self.cancel).expect("an address")
    }
}
