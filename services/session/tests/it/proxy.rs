//! A network that can swallow everything: a TCP proxy whose connections go silent, without an end or a reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// The number of times the network was cut; a connection lives in the generation in which it was made.
    holed: watch::Sender<Hole>,
    accepted: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Hole {
    open: bool,
    generation: usize,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let holed = watch::channel(Hole { open: false, generation: 0 }).0;
        let accepted = Arc::new(AtomicUsize::new(0));
        let (hole, count) = (holed.subscribe(), Arc::clone(&accepted));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let hole = hole.clone();
                tokio::spawn(async move {
                    let born = *hole.borrow();
                    let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let ((client_in, client_out), (server_in, server_out)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(
                        forward(client_in, server_out, born, hole.clone()),
                        forward(server_in, client_out, born, hole)
                    );
                });
            }
        });
        Proxy { port, holed, accepted }
    }

    /// Lets nothing pass from now on; connections are still accepted.
    pub(crate) fn cut(&self) {
        self.holed.send_modify(|hole| hole.open = true);
    }

    /// New connections pass again; those from before stay silent for ever.
    pub(crate) fn heal(&self) {
        self.holed.send_modify(|hole| *hole = Hole { open: false, generation: hole.generation + 1 });
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    born: Hole,
    mut hole: watch::Receiver<Hole>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // Silence has no end: what was read is kept and nobody is told.
        if hole.wait_for(|now| !born.open && !now.open && now.generation == born.generation).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
