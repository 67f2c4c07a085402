//! A private Redis server for fault tests.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;

use super::eventually;
use super::process::{Process, free_port};

/// A Redis server that ends with its test.
pub(crate) struct RedisServer {
    _process: Process,
    pub(crate) url: String,
    _dir: tempfile::TempDir,
}

impl RedisServer {
    /// Starts `binary` on a free port, without persistence.
    pub(crate) async fn start(binary: &str) -> Self {
        Self::start_at(binary, free_port()).await
    }

    /// Starts `binary` on a given port, for a server that comes later.
    pub(crate) async fn start_at(binary: &str, port: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(binary);
        command
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(dir.path());
        let process = Process::spawn(command);
        eventually("Redis listens", Duration::from_secs(10), async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { _process: process, url: format!("redis://127.0.0.1:{port}"), _dir: dir }
    }
}
