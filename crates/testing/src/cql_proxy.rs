//! A proxy before Cassandra that fails as networks and hosts do: it stops passing bytes, drops answers, or closes connections.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Treatment that a [`CqlProxy`] gives its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Bytes pass.
    Fine,
    /// Connections stay and no byte passes: a host that is gone, or a process that is stopped.
    Silent,
    /// Requests pass, answers do not.
    NoAnswers,
    /// Connections are closed, new ones too: a process that died.
    Dead,
}

/// Delay that a proxy adds to each way, so that no test rests on a peer that answers at once.
const LATENCY: Duration = Duration::from_millis(5);

/// Traffic that has passed a proxy.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    /// Executed statements, batches apart.
    pub executed: Arc<AtomicUsize>,
    /// The requests that executed them: what they bind stands in them as it is.
    statements: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Bytes of answers.
    pub answered: Arc<AtomicUsize>,
}

impl Passed {
    /// Returns how many statements were executed that bind this text.
    ///
    /// # Panics
    /// When a connection of the proxy panicked.
    pub fn executed_with(&self, text: &str) -> usize {
        let statements = self.statements.lock().expect("no connection panicked");
        let binds = |body: &&Vec<u8>| body.windows(text.len()).any(|part| part == text.as_bytes());
        statements.iter().filter(binds).count()
    }
}

/// Gathers the frames of a connection's requests that execute a prepared statement.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    body: Vec<u8>,
    body_left: usize,
    is_execute: bool,
}

impl Frames {
    const HEADER_BYTES: usize = 9;
    const EXECUTE: u8 = 0x0a;

    /// Takes bytes of a connection. Returns the bodies of the frames that end in them.
    fn executed(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut executed = Vec::new();
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let (part, rest) = bytes.split_at(self.body_left.min(bytes.len()));
                self.body_left -= part.len();
                bytes = rest;
                if self.is_execute {
                    self.body.extend_from_slice(part);
                    if self.body_left == 0 {
                        executed.push(std::mem::take(&mut self.body));
                    }
                }
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if self.header.len() == Self::HEADER_BYTES {
                self.is_execute = self.header[4] == Self::EXECUTE;
                self.body_left =
                    self.header[5..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                self.header.clear();
            }
        }
        executed
    }
}

/// A proxy before Cassandra, on a port of its own.
#[derive(Debug)]
pub struct CqlProxy {
    /// The address of the proxy.
    pub address: String,
    network: watch::Sender<Network>,
    /// Connections that it has taken.
    pub connections: Arc<AtomicUsize>,
    /// Counts of what has passed.
    pub passed: Passed,
}

impl CqlProxy {
    /// Starts a proxy before this Cassandra.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(upstream: &str, network: Network) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let network = watch::Sender::new(network);
        let connections = Arc::new(AtomicUsize::new(0));
        let passed = Passed::default();
        let counts = passed.clone();
        let (state, count, upstream) = (network.subscribe(), connections.clone(), upstream.to_owned());
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Self::carry(client, upstream.clone(), state.clone(), counts.clone()));
            }
        });
        Self { address, network, connections, passed }
    }

    async fn carry(
        client: TcpStream,
        upstream: String,
        mut network: watch::Receiver<Network>,
        passed: Passed,
    ) {
        if *network.borrow() == Network::Dead {
            return;
        }
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        let (requests, answers) = (network.clone(), network.clone());
        let mut frames = Frames::default();
        let request = |bytes: &[u8]| {
            let executed = frames.executed(bytes);
            passed.executed.fetch_add(executed.len(), Ordering::SeqCst);
            passed.statements.lock().expect("no connection panicked").extend(executed);
        };
        let answer = |bytes: &[u8]| {
            passed.answered.fetch_add(bytes.len(), Ordering::SeqCst);
        };
        tokio::select! {
            _ = network.wait_for(|network| *network == Network::Dead) => {}
            () = Self::pass(client_in, server_out, requests, &[Network::Fine, Network::NoAnswers], request) => {}
            () = Self::pass(server_in, client_out, answers, &[Network::Fine], answer) => {}
        }
    }

    async fn pass(
        from: tokio::net::tcp::OwnedReadHalf,
        to: tokio::net::tcp::OwnedWriteHalf,
        mut network: watch::Receiver<Network>,
        when: &[Network],
        mut count: impl FnMut(&[u8]),
    ) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if from.readable().await.is_err() {
                return;
            }
            tokio::time::sleep(LATENCY).await;
            if network.wait_for(|network| when.contains(network)).await.is_err() {
                pending::<()>().await;
            }
            let read = match from.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            count(&buffer[..read]);
            let mut sent = 0;
            while sent < read {
                if to.writable().await.is_err() {
                    return;
                }
                match to.try_write(&buffer[sent..read]) {
                    Ok(more) => sent += more,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Treats the connections so from now on.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}
