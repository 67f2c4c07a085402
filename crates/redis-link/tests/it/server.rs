//! Redis servers of the tests' own: each on a free port, in a directory of its own, killed on drop.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shoal_redis_link::{Link, LinkConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// The time limit for each step of a test that is not itself measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running Redis.
pub(crate) struct Server {
    binary: PathBuf,
    host: &'static str,
    pub(crate) port: u16,
    directory: tempfile::TempDir,
    options: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts a server. Without a redis-server it says so and returns `None`, or fails if `SHOAL_TEST_REQUIRE=1` asks for one.
    pub(crate) async fn start() -> Option<Server> {
        Server::start_with(&[]).await
    }

    pub(crate) async fn start_with(options: &[&str]) -> Option<Server> {
        Server::start_at("127.0.0.1", None, options).await
    }

    /// Starts at an address of this machine, and on this port or a free one.
    pub(crate) async fn start_at(host: &'static str, port: Option<u16>, options: &[&str]) -> Option<Server> {
        let binary = binary()?;
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        loop {
            let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let port = port.unwrap_or_else(free);
            let directory = tempfile::tempdir().unwrap();
            let child = spawn(&binary, host, port, &directory, &options);
            let mut server =
                Server { binary: binary.clone(), host, port, directory, options: options.clone(), child };
            // Another program may have taken the port meanwhile.
            if server.answers().await {
                return Some(server);
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A link that is more patient than this machine is slow: for tests that measure no time.
    pub(crate) async fn link(&self) -> Link {
        open(patient(LinkConfig::new(self.url(), "test"))).await
    }

    /// Kills it; its memory is lost.
    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port, empty.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.binary, self.host, self.port, &self.directory, &self.options);
        assert!(self.answers().await, "redis did not come back on port {}", self.port);
    }

    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Waits until the links to it have left their first PINGs behind and wait for a second between two.
    pub(crate) async fn settled(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut last = (String::new(), Instant::now());
        eventually("no PING for a while", async || {
            let stats: String =
                redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
            let pings = stats.lines().find(|line| line.starts_with("cmdstat_ping:")).unwrap_or_default();
            if last.0 != pings {
                last = (pings.to_owned(), Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(400)
        })
        .await;
    }

    /// A command to it, past every link.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let address = redis::ConnectionAddr::Tcp(self.host.to_owned(), self.port);
        let client = redis::Client::open(redis::IntoConnectionInfo::into_connection_info(address).unwrap());
        let client = client.unwrap();
        let mut attempts = 3;
        loop {
            let answer = match client.get_multiplexed_async_connection().await {
                Ok(mut connection) => {
                    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
                }
                Err(error) => Err(error),
            };
            match answer {
                // A Sentinel closes the clients of a server whose role it changes.
                Err(error) if error.is_connection_dropped() && attempts > 1 => attempts -= 1,
                answer => return answer.unwrap(),
            }
        }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it answers; false if it ended.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.says_something().await.is_ok() {
                return true;
            }
            assert!(Instant::now() < deadline, "redis does not answer on port {}", self.port);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// PONG, or that it wants a password.
    async fn says_something(&self) -> std::io::Result<u8> {
        let mut stream = TcpStream::connect((self.host, self.port)).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives calls more time, for tests that measure none.
pub(crate) fn patient(config: LinkConfig) -> LinkConfig {
    LinkConfig { call_deadline: PATIENCE / 4, connect_deadline: PATIENCE / 4, ..config }
}

/// A link that is connected.
pub(crate) async fn open(config: LinkConfig) -> Link {
    let link = Link::open(config).unwrap();
    link.ready(PATIENCE).await.unwrap();
    link
}

/// Waits until `probe` holds.
pub(crate) async fn eventually(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn spawn(
    binary: &PathBuf,
    host: &str,
    port: u16,
    directory: &tempfile::TempDir,
    options: &[String],
) -> Child {
    Command::new(binary)
        .args(["--port", &port.to_string(), "--bind", host, "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("SHOAL_TEST_REDIS_SERVER").map(PathBuf::from);
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("redis-server")).find(|file| file.is_file())
    });
    if found.is_none() {
        let text = "SKIPPED: no redis-server; install it or name it in SHOAL_TEST_REDIS_SERVER";
        assert!(!shoal_testing::engines_are_required(), "{text}");
        eprintln!("\n*** {text} ***\n");
    }
    found
}
