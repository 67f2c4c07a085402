//! A Redis server of a test's own: on a free port, in a directory of its own, killed when dropped.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::engine::engine_of;
use crate::port::free_port;

/// The longest time that a start may take.
const START_MAX: Duration = Duration::from_secs(20);
/// The longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The options of a server that keeps every answered write over a kill.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A running Redis server.
#[derive(Debug)]
pub struct RedisServer {
    binary: String,
    port: u16,
    directory: tempfile::TempDir,
    options: Vec<String>,
    child: Child,
}

impl RedisServer {
    /// Starts a server that writes nothing to the disk by itself. Returns `None`, and says so, where no redis-server is named;
    /// panics if engines are required.
    pub async fn start() -> Option<RedisServer> {
        RedisServer::start_with(&[]).await
    }

    /// Starts a server whose every write is on the disk before its answer, so that a kill loses none.
    pub async fn start_durable() -> Option<RedisServer> {
        RedisServer::start_with(&DURABLE).await
    }

    /// Starts a server with more options, which win over those of [`RedisServer::start`].
    pub async fn start_with(options: &[&str]) -> Option<RedisServer> {
        let binary = engine_of("SHOAL_TEST_REDIS_SERVER")?;
        loop {
            // A server ends at once if another program has taken its port meanwhile.
            if let Some(server) = RedisServer::launch(&binary, free_port(), options).await {
                return Some(server);
            }
        }
    }

    /// Starts a server on this port, for a test that named the port before.
    pub async fn start_at(port: u16) -> Option<RedisServer> {
        let binary = engine_of("SHOAL_TEST_REDIS_SERVER")?;
        let server = RedisServer::launch(&binary, port, &[]).await;
        Some(server.unwrap_or_else(|| panic!("redis-server ended; is port {port} in use?")))
    }

    /// Starts a server and waits until it serves. Returns `None` if it ended, as it does without its ports.
    pub(crate) async fn launch(binary: &str, port: u16, options: &[&str]) -> Option<RedisServer> {
        let directory = tempfile::tempdir().expect("a directory");
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(binary, port, &directory, &options);
        let mut server = RedisServer { binary: binary.to_owned(), port, directory, options, child };
        server.serves().await.then_some(server)
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server, as a crash would. Writes that are not on the disk are lost.
    pub fn kill(&mut self) {
        self.child.kill().expect("redis-server is killed");
        self.child.wait().expect("redis-server ends");
    }

    /// Starts a killed server again with the same port, directory and options.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.binary, self.port, &self.directory, &self.options);
        assert!(self.serves().await, "redis did not come back on port {}", self.port);
    }

    /// Stops the process: connections stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Sends a command on a connection of its own and returns the reply as redis-cli prints it to a file: a nil is empty, the
    /// elements of a list are lines. Blocks the thread, for at most five seconds.
    ///
    /// # Panics
    ///
    /// Panics if the reply is an error.
    pub fn ask(&self, command: &str) -> String {
        match self.try_ask(command) {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("redis refuses `{command}`: {error}"),
            Err(error) => panic!("redis does not answer `{command}`: {error}"),
        }
    }

    /// Returns a number of a section of `INFO`.
    #[must_use]
    pub fn info(&self, section: &str, name: &str) -> u64 {
        let info = self.ask(&format!("INFO {section}"));
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.expect("a line of INFO").parse().expect("a number")
    }

    /// Returns how often each command ran.
    #[must_use]
    pub fn command_counts(&self) -> BTreeMap<String, u64> {
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        self.ask("INFO commandstats").lines().filter_map(count).collect()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Waits until the server serves. Returns false if it ended.
    async fn serves(&mut self) -> bool {
        let deadline = Instant::now() + START_MAX;
        loop {
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            match self.try_ask("PING") {
                Ok(Ok(reply)) if reply == "PONG" => return true,
                // A server with a password is up as well.
                Ok(Err(error)) if error.starts_with("NOAUTH") => return true,
                _ => {}
            }
            assert!(Instant::now() < deadline, "redis does not answer on port {}", self.port);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the reply, or an error reply as the inner error.
    fn try_ask(&self, command: &str) -> io::Result<Result<String, String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        read_reply(&mut BufReader::new(stream))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The test may have killed it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &str, port: u16, directory: &tempfile::TempDir, options: &[String]) -> Child {
    Command::new(binary)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server starts")
}

/// Reads one reply of the Redis protocol as text.
fn read_reply(from: &mut impl BufRead) -> io::Result<Result<String, String>> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(ErrorKind::UnexpectedEof)?;
    match kind {
        "+" | ":" => Ok(Ok(rest.to_owned())),
        "-" => Ok(Err(rest.to_owned())),
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Ok(Ok(String::new())) };
            let mut bytes = vec![0; length + 2];
            from.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(Ok(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => {
            let replies: io::Result<Result<Vec<_>, _>> =
                (0..rest.parse().unwrap_or(0)).map(|_| read_reply(from)).collect();
            Ok(replies?.map(|replies| replies.join("\n")))
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::read_reply;

    #[test]
    fn replies_are_read_as_text() {
        let read = |mut bytes: &[u8]| read_reply(&mut bytes).unwrap();
        assert_eq!(read(b"+OK\r\n"), Ok("OK".to_owned()));
        assert_eq!(read(b":12\r\n"), Ok("12".to_owned()));
        assert_eq!(read(b"$4\r\na\r\nb\r\n"), Ok("a\r\nb".to_owned()));
        assert_eq!(read(b"$-1\r\n"), Ok(String::new()));
        assert_eq!(read(b"*2\r\n$1\r\na\r\n:3\r\n"), Ok("a\n3".to_owned()));
        assert_eq!(read(b"-ERR no\r\n"), Err("ERR no".to_owned()));
        assert!(read_reply(&mut b"$9\r\nshort".as_slice()).is_err());
    }
}
