//! A TCP proxy that can turn into a black hole: connections stay open and nothing passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Between two reads of a slow proxy.
const SLOW: std::time::Duration = std::time::Duration::from_millis(5);

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Connections up to this number are cut off; all of them with `usize::MAX`.
    cut: watch::Sender<usize>,
    /// Set while bytes pass slowly.
    slow: watch::Sender<bool>,
    /// The port that connections lead to.
    target: watch::Sender<u16>,
    accepted: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Proxy {
    /// Passes everything to `target` on this machine.
    pub(crate) async fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, gate) = watch::channel(0);
        let (target, leads_to) = watch::channel(target);
        let (slow, pace) = watch::channel(false);
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            // Dropping the set ends the connections with the proxy.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (inbound, _) = listener.accept().await.unwrap();
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let (gate, mut leads_to) = (gate.clone(), leads_to.clone());
                let target = *leads_to.borrow_and_update();
                let pace = pace.clone();
                connections.spawn(async move {
                    let Ok(outbound) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    let (from_client, to_client) = inbound.into_split();
                    let (from_server, to_server) = outbound.into_split();
                    let both = async {
                        tokio::join!(
                            pump(number, from_client, to_server, gate.clone(), pace.clone()),
                            pump(number, from_server, to_client, gate, pace)
                        )
                    };
                    tokio::select! {
                        _ = both => {}
                        _ = leads_to.changed() => {}
                    }
                });
            }
        });
        Proxy { port, cut, slow, target, accepted, task: task.abort_handle() }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Lets nothing pass from now on; new connections are accepted and get no answer.
    pub(crate) fn swallow(&self) {
        self.cut.send_replace(usize::MAX);
    }

    /// Lets nothing more pass on the present connections; new ones work.
    pub(crate) fn swallow_established(&self) {
        self.cut.send_replace(self.accepted());
    }

    /// Ends the connections that there are; new ones lead to `target`.
    pub(crate) fn lead_to(&self, target: u16) {
        self.target.send_replace(target);
    }

    /// Takes new connections to `target`; those that there are stay where they lead.
    pub(crate) fn lead_new_to(&self, target: u16) {
        self.target.send_if_modified(|leads_to| {
            *leads_to = target;
            false
        });
    }

    /// Slows down: from now on 16 KiB pass each 5 ms.
    pub(crate) fn slow_down(&self) {
        self.slow.send_replace(true);
    }

    pub(crate) fn pass(&self) {
        self.cut.send_replace(0);
    }

    /// Connections made to it since it was started.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes that were swallowed are lost, as in a network that drops packets for good.
async fn pump(
    number: usize,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    cut: watch::Receiver<usize>,
    slow: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // A connection that lost bytes never passes any again.
    let mut broken = false;
    while let Ok(read) = from.read(&mut buffer).await {
        broken |= number <= *cut.borrow();
        if *slow.borrow() {
            tokio::time::sleep(SLOW).await;
        }
        if read == 0 && broken {
            return std::future::pending().await;
        }
        if read == 0 || (!broken && to.write_all(&buffer[..read]).await.is_err()) {
            return;
        }
    }
}
