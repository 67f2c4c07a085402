//! A Redis of a test's own, to be stopped, frozen and asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::mesh::PATIENCE;

/// Keeps its data over restarts: every write is on the disk before its answer.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    binary: String,
    dir: tempfile::TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts a server. Returns `None`, loudly, on a machine without Redis, unless engines are required.
    pub(crate) fn start() -> Option<RedisServer> {
        let binary = shoal_testing::engine_of("SHOAL_TEST_REDIS_SERVER")?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let child = run(&binary, port, &dir);
        let server = RedisServer { port, binary, dir, child };
        server.wait();
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its port with its data, and returns when it answers.
    pub(crate) fn restart(&mut self) {
        self.child = run(&self.binary, self.port, &self.dir);
        self.wait();
    }

    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    fn wait(&self) {
        let started = Instant::now();
        while self.try_ask("PING").as_deref() != Some("+PONG") {
            assert!(started.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::yield_now();
        }
    }

    /// The answer to one command: a bulk string's text, or the first line of anything else.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).expect("redis answers")
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some(length) = line.strip_prefix('$') else { return Some(line.trim_end().to_owned()) };
        let mut text = vec![0; length.trim_end().parse().ok()?];
        reader.read_exact(&mut text).ok()?;
        String::from_utf8(text).ok()
    }

    /// A number of `INFO`.
    pub(crate) fn info(&self, section: &str, name: &str) -> u64 {
        let info = self.ask(&format!("INFO {section}"));
        let prefix = format!("{name}:");
        let value = info.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        value.expect("a line of INFO").parse().unwrap()
    }

    /// Returns how often each command ran.
    pub(crate) fn command_counts(&self) -> std::collections::BTreeMap<String, u64> {
        let info = self.ask("INFO commandstats");
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        info.lines().filter_map(count).collect()
    }
}

fn run(binary: &str, port: u16, dir: &tempfile::TempDir) -> Child {
    let mut command = Command::new(binary);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
