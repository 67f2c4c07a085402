//! A Redis server of a test's own: on a free port, in a directory of its own, killed on drop.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::store::conformance::{eventually, variable_or_skip};

pub(super) struct Server {
    binary: PathBuf,
    port: u16,
    directory: tempfile::TempDir,
    options: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts a server. Returns `None`, and says so, if there is no redis-server.
    pub(super) async fn start(options: &[&str]) -> Option<Self> {
        let binary = PathBuf::from(variable_or_skip("SHOAL_TEST_REDIS_SERVER")?);
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = tempfile::tempdir().unwrap();
            let child = spawn(&binary, port, &directory, &options);
            let mut server =
                Self { binary: binary.clone(), port, directory, options: options.clone(), child };
            // Another program may have taken the port meanwhile.
            if server.answers().await {
                return Some(server);
            }
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server; what it had not written is lost.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again on the same port and directory.
    pub(super) async fn restart(&mut self) {
        self.child = spawn(&self.binary, self.port, &self.directory, &self.options);
        assert!(self.answers().await, "redis did not come back on port {}", self.port);
    }

    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Returns the output of redis-cli.
    pub(super) fn cli(&self, words: &[&str]) -> String {
        let cli = std::env::var("SHOAL_TEST_REDIS_CLI").unwrap_or_else(|_| "redis-cli".to_owned());
        let output = Command::new(cli).arg("-p").arg(self.port.to_string()).args(words).output().unwrap();
        assert!(output.status.success(), "redis-cli {words:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until the server answers. Returns false if it ended.
    async fn answers(&mut self) -> bool {
        let port = self.port;
        let child = std::sync::Mutex::new(&mut self.child);
        eventually("redis answers", || async {
            if child.lock().unwrap().try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            stream.write_all(b"PING\r\n").await.ok()?;
            let mut reply = [0; 5];
            stream.read_exact(&mut reply).await.ok()?;
            (&reply == b"+PONG").then_some(true)
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &PathBuf, port: u16, directory: &tempfile::TempDir, options: &[String]) -> Child {
    Command::new(binary)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(directory.path())
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
