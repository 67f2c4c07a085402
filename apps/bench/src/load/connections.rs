//! Connections of a thread of the generator. Each carries as many calls at once as its server allows, and is made anew when
//! it breaks or its server closes it: a server that restarts costs the calls that were on it, not the rest of the run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Uri;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::load::call::connect;
use crate::load::target::Target;

/// Streams that are counted on at most: servers that set no limit say more than a semaphore holds.
const STREAMS_MAX: usize = 1 << 20;

/// Pause between attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of a thread.
#[derive(Debug)]
pub(super) struct Connections {
    all: Vec<Arc<Connection>>,
    /// Streams that the servers allow on all of them.
    streams: Semaphore,
}

#[derive(Debug)]
struct Connection {
    address: SocketAddr,
    /// URI of each method of the workload.
    uris: Vec<Uri>,
    streams_max: usize,
    streams: AtomicUsize,
    sender: Mutex<SendRequest<Bytes>>,
    /// Held while it is made anew; the time of the last attempt that failed.
    renewal: tokio::sync::Mutex<Option<Instant>>,
}

/// Place for one call on a connection.
#[derive(Debug)]
pub(super) struct Stream<'c> {
    connection: &'c Arc<Connection>,
    _permit: SemaphorePermit<'c>,
}

impl Connections {
    /// Connects to each of the addresses.
    ///
    /// # Errors
    /// When a connection cannot be made.
    pub(super) async fn to(addresses: &[SocketAddr], target: &Target) -> anyhow::Result<Connections> {
        let mut all = Vec::new();
        for address in addresses.iter().copied() {
            let sender = connect(address).await?;
            all.push(Arc::new(Connection {
                address,
                uris: target.workload.uris(address)?,
                streams_max: sender.current_max_send_streams().min(STREAMS_MAX),
                streams: AtomicUsize::new(0),
                sender: Mutex::new(sender),
                renewal: tokio::sync::Mutex::new(None),
            }));
        }
        let streams = all.iter().map(|connection| connection.streams_max).sum::<usize>();
        Ok(Connections { all, streams: Semaphore::new(streams.min(Semaphore::MAX_PERMITS)) })
    }

    /// Returns a place on the connection with the fewest calls; waits while all have as many as their servers allow.
    /// `None`: the run is over.
    pub(super) async fn stream(&self) -> Option<Stream<'_>> {
        let permit = self.streams.acquire().await.ok()?;
        let room = |connection: &&Arc<Connection>| {
            connection.streams.load(Ordering::Relaxed) < connection.streams_max
        };
        let fewest = |connection: &&Arc<Connection>| connection.streams.load(Ordering::Relaxed);
        let connection = self.all.iter().filter(room).min_by_key(fewest)?;
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Some(Stream { connection, _permit: permit })
    }

    /// Returns true if a call would have to wait for a place.
    pub(super) fn full(&self) -> bool {
        self.streams.available_permits() == 0
    }
}

impl Stream<'_> {
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn uri(&self, method: usize) -> &Uri {
        &self.connection.uris[method]
    }

    /// Makes the connection anew if it takes no more calls. Returns false if that failed, now or a moment ago.
    pub(super) async fn renew(&self) -> bool {
        let mut failed = self.connection.renewal.lock().await;
        let mut sender = self.sender();
        if std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            return true;
        }
        if failed.is_some_and(|at| at.elapsed() < RECONNECT_PAUSE) {
            return false;
        }
        match connect(self.connection.address).await {
            Ok(sender) => {
                *self.connection.sender.lock().unwrap_or_else(PoisonError::into_inner) = sender;
                *failed = None;
                true
            }
            Err(_) => {
                *failed = Some(Instant::now());
                false
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
