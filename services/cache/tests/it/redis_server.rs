//! A Redis of a test's own: on a free port, in a folder of its own, killed when dropped.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// The longest time of anything that is not itself measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running Redis.
pub(crate) struct RedisServer {
    binary: PathBuf,
    port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts a server. Returns `None`, loudly, if there is no redis-server; fails if `SHOAL_TEST_REQUIRE` asks for one.
    pub(crate) async fn start() -> Option<Self> {
        let binary = PathBuf::from(shoal_testing::engine_of("SHOAL_TEST_REDIS_SERVER")?);
        loop {
            let port = TcpListener::bind("127.0.0.1:0")
                .expect("a free port")
                .local_addr()
                .expect("an address")
                .port();
            let folder = tempfile::tempdir().expect("a folder");
            let child = spawn(&binary, port, &folder);
            let mut server = Self { binary: binary.clone(), port, folder, child };
            // Another program may have taken the port meanwhile.
            if server.answers().await {
                return Some(server);
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Starts it again, with what its last snapshot has.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(&self.binary, self.port, &self.folder);
        assert!(self.answers().await, "redis did not come back on port {}", self.port);
    }

    /// Freezes it: it is there and does not answer.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Thaws it: it answers again.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Sends a command in the inline form and waits for its reply.
    pub(crate) async fn command(&self, line: &str) -> String {
        self.try_command(line).await.expect("redis answers")
    }

    async fn try_command(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        let mut reply = vec![0; 4096];
        let length = stream.read(&mut reply).await?;
        Ok(String::from_utf8_lossy(&reply[..length]).into_owned())
    }

    fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().expect("kill");
        assert!(status.success());
    }

    /// Waits until it is in service; returns false if it ended.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            if self.try_command("PING").await.is_ok_and(|reply| reply.starts_with("+PONG")) {
                return true;
            }
            assert!(Instant::now() < deadline, "redis does not answer on port {}", self.port);
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &PathBuf, port: u16, folder: &tempfile::TempDir) -> Child {
    Command::new(binary)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server")
}
