//! A proxy before Cassandra that fails as networks and hosts do: it stops passing bytes, drops answers, or closes connections.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Treatment that a [`Proxy`] gives its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
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

/// A proxy before Cassandra, on a port of its own.
pub(super) struct Proxy {
    pub(super) address: String,
    network: watch::Sender<Network>,
    pub(super) connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub(super) async fn start(upstream: &str, network: Network) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let network = watch::Sender::new(network);
        let connections = Arc::new(AtomicUsize::new(0));
        let (state, count, upstream) = (network.subscribe(), connections.clone(), upstream.to_owned());
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Self::carry(client, upstream.clone(), state.clone()));
            }
        });
        Self { address, network, connections }
    }

    async fn carry(client: TcpStream, upstream: String, mut network: watch::Receiver<Network>) {
        if *network.borrow() == Network::Dead {
            return;
        }
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        let (requests, answers) = (network.clone(), network.clone());
        tokio::select! {
            _ = network.wait_for(|network| *network == Network::Dead) => {}
            () = Self::pass(client_in, server_out, requests, &[Network::Fine, Network::NoAnswers]) => {}
            () = Self::pass(server_in, client_out, answers, &[Network::Fine]) => {}
        }
    }

    async fn pass(
        from: tokio::net::tcp::OwnedReadHalf,
        to: tokio::net::tcp::OwnedWriteHalf,
        mut network: watch::Receiver<Network>,
        when: &[Network],
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

    pub(super) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}
