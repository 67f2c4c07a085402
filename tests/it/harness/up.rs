//! `shoal up` as a user starts it.

use std::time::Duration;

use shoal_client::Channel;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::process::{Process, shoal_binary};

/// A whole mesh in its own process.
pub(crate) struct Up {
    pub(crate) process: Process,
    pub(crate) gateway: String,
    pub(crate) admin: String,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

impl Up {
    /// Starts `shoal up` with these flags on free ports and waits until it reports ready.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(shoal_binary());
        command.args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(flags);
        let mut process = Process::spawn(command);
        process.printed("Ctrl-C drains", Duration::from_secs(40)).await;
        let output = process.output();
        let after = |prefix: &str| {
            let start =
                output.find(prefix).unwrap_or_else(|| panic!("no `{prefix}` in:\n{output}")) + prefix.len();
            output[start..].split(['/', ' ', '\n']).next().expect("a first part").to_owned()
        };
        let gateway = after("grpcurl -plaintext ");
        let admin = after("http://");
        let cancel = CancellationToken::new();
        Self { process, gateway, admin, _cancel_on_drop: cancel.clone().drop_guard(), cancel }
    }

    /// Returns a channel to the gateway.
    pub(crate) fn channel(&self) -> Channel {
        shoal_client::connect(&self.gateway, "gateway", "test", &self.cancel).expect("an address")
    }

    /// Returns the addresses of a role's clones, as printed in the table.
    pub(crate) fn clones(&self, role: &str) -> Vec<String> {
        let output = self.process.output();
        let line = output
            .lines()
            .find(|line| line.trim_start().starts_with(role))
            .unwrap_or_else(|| panic!("no `{role}` in:\n{output}"));
        line.split_whitespace()
            .skip(2)
            .take_while(|word| word.starts_with("127.0.0.1:"))
            .map(str::to_owned)
            .collect()
    }
}
