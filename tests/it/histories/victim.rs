//! A process that is killed by SIGKILL again and again, and each time comes back at the same address.

use std::time::Duration;

use fastrand::Rng;
use shoal_client::Channel;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::harness::process::{Process, free_port, shoal_binary};

/// The time within which a process serves.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

pub(super) struct Victim {
    arguments: Vec<String>,
    pub(super) address: String,
    process: Process,
}

impl Victim {
    /// Starts `shoal` with these arguments, listening on a port that stays its own.
    pub(super) async fn start(arguments: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let listening = ["--listen", &address, "--admin", "127.0.0.1:0"];
        let arguments: Vec<String> = arguments.iter().chain(&listening).map(ToString::to_string).collect();
        let process = Self::spawn(&arguments).await;
        Self { arguments, address, process }
    }

    async fn spawn(arguments: &[String]) -> Process {
        let mut command = Command::new(shoal_binary());
        command.args(arguments);
        let mut process = Process::spawn(command);
        let ready = if arguments[0] == "up" { "Ctrl-C drains" } else { "address" };
        process.printed(ready, STARTS_WITHIN).await;
        process
    }

    /// Returns a channel to this process alone.
    pub(super) fn channel(&self, cancel: &CancellationToken) -> Channel {
        shoal_client::connect(&self.address, "clone", "test", cancel).expect("an address")
    }

    /// Kills the process and starts it again, at random moments until `calm`. Returns it, alive, and the number of kills.
    pub(super) async fn killed_until(mut self, calm: CancellationToken, mut rng: Rng) -> (Self, usize) {
        for kills in 0.. {
            let lives = Duration::from_millis(rng.u64(200..2_000));
            if calm.run_until_cancelled(tokio::time::sleep(lives)).await.is_none() {
                return (self, kills);
            }
            self.process.kill().await;
            tokio::time::sleep(Duration::from_millis(rng.u64(0..300))).await;
            self.process = Self::spawn(&self.arguments).await;
        }
        unreachable!("it ends with the calm")
    }
}
