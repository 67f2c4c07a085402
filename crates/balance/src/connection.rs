//! One HTTP/2 connection: how it is made, the handle calls are sent on, and the driver that notices its end.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::uri::Authority;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::balancer::Shared;
use crate::load::Load;
use crate::options::Options;
use crate::streams::Streams;

/// Streams we reset and remember for a second, so that frames still under way on them are no error. More than a
/// disconnect storm of a thousand callers; about 300 bytes each.
const RESET_STREAMS_MAX: usize = 4_096;

/// What unread small DATA frames may cost beside their payload before h2 takes the peer for hostile. Its default, half
/// the connection window, is used up by three slow readers of 100-byte messages; this lets such messages fill the whole
/// window.
const DATA_FRAME_BUDGET: usize = 32 * 1024 * 1024;

/// The kernel's own keepalive, under the pings: finds a host that is gone even when pings are spared.
const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(5));

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection just made, its parts not yet put to work.
pub(crate) struct Connected {
    pub(crate) connection: client::Connection<TcpStream, Bytes>,
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) pings: h2::PingPong,
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Tcp(std::io::Error),
    #[error("HTTP/2: {0}")]
    Http2(h2::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("its pings are taken")]
    Pings,
}

/// Connects: TCP without Nagle's delay, HTTP/2 with fixed windows. Bounded by `connect_timeout`.
pub(crate) async fn connect(address: SocketAddr, options: &Options) -> Result<Connected, ConnectError> {
    timeout(options.connect_timeout, handshake(address, options))
        .await
        .unwrap_or(Err(ConnectError::Timeout(options.connect_timeout)))
}

async fn handshake(address: SocketAddr, options: &Options) -> Result<Connected, ConnectError> {
    let stream = TcpStream::connect(address).await.map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    let socket = SockRef::from(&stream);
    socket
        .set_tcp_keepalive(&TCP_KEEPALIVE.with_interval(Duration::from_secs(1)).with_retries(3))
        .map_err(ConnectError::Tcp)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT)).map_err(ConnectError::Tcp)?;

    let (sender, mut connection) = client::Builder::new()
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_send_buffer_size(options.send_buffer)
        .max_header_list_size(options.header_list_max)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(ConnectError::Http2)?;
    // `None` only the second time it is asked.
    let pings = connection.ping_pong().ok_or(ConnectError::Pings)?;
    Ok(Connected { connection, sender, pings })
}

/// The handle calls are sent on. Kept by the ready list and by the picks of calls under way.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    /// The address as `:authority`, for requests that bring none.
    pub(crate) authority: Option<Authority>,
    /// The load of the endpoint, over all its connections.
    pub(crate) load: Arc<Load>,
    /// The streams of this connection.
    pub(crate) streams: Streams,
    /// Its calls that were answered: a sign of life.
    answers: AtomicU64,
    shared: Weak<Shared>,
    sender: SendRequest<Bytes>,
    gone: CancellationToken,
    down: OnceLock<Down>,
}

#[derive(Debug)]
struct Down {
    reason: String,
    farewell: Farewell,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It broke, or we gave it up.
    None,
    /// With a GOAWAY that blames nobody: the server ages its connections, or is going away.
    Polite,
    /// The peer found us too busy.
    Calm,
}

impl Link {
    pub(crate) fn new(
        address: SocketAddr,
        sender: SendRequest<Bytes>,
        load: Arc<Load>,
        shared: &Arc<Shared>,
    ) -> Link {
        Link {
            address,
            authority: Authority::try_from(address.to_string()).ok(),
            load,
            streams: Streams::default(),
            answers: AtomicU64::new(0),
            shared: Arc::downgrade(shared),
            sender,
            gone: CancellationToken::new(),
            down: OnceLock::new(),
        }
    }

    /// A sender of its own: clones do not wait for each other's streams to be opened.
    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Whether it takes no more calls. Set in the very poll of the connection that learnt of it.
    pub(crate) fn is_down(&self) -> bool {
        self.down.get().is_some()
    }

    /// Why it takes no more calls.
    pub(crate) fn down_reason(&self) -> String {
        self.down.get().map_or_else(String::new, |down| down.reason.clone())
    }

    /// How it ended, if it did.
    pub(crate) fn farewell(&self) -> Farewell {
        self.down.get().map_or(Farewell::None, |down| down.farewell)
    }

    pub(crate) fn set_down(&self, reason: String, farewell: Farewell) {
        let _ = self.down.set(Down { reason, farewell });
        self.gone.cancel();
    }

    /// The balancer it is a connection of, unless that is gone: for the rare call whose end concerns the others.
    pub(crate) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }

    /// One of its calls was answered.
    pub(crate) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// How many of its calls were answered.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Learns how many streams the peer allows.
    pub(crate) fn look_at_limit(&self) {
        self.streams.set_limit(self.sender.current_max_send_streams());
    }

    /// Resolves when it takes no more calls.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

/// Moves the bytes of one connection until it ends, or until its last call does once it takes no new ones.
pub(crate) struct Driver<F: FnOnce(String)> {
    connection: client::Connection<TcpStream, Bytes>,
    link: Option<Arc<Link>>,
    /// Its `poll_ready` is where h2 shows a GOAWAY: the connection itself goes on for the calls under way.
    probe: Option<SendRequest<Bytes>>,
    retired: oneshot::Receiver<()>,
    on_down: Option<F>,
    drain: Duration,
    drain_timer: Option<Pin<Box<Sleep>>>,
}

impl<F: FnOnce(String)> Driver<F> {
    /// `on_down` is called once, in the poll that learns that no more calls are taken. `retired` resolves when none
    /// shall be sent any more; after that, and after a GOAWAY, calls have `drain` to finish.
    pub(crate) fn new(
        connection: client::Connection<TcpStream, Bytes>,
        link: Arc<Link>,
        retired: oneshot::Receiver<()>,
        drain: Duration,
        on_down: F,
    ) -> Driver<F> {
        Driver {
            connection,
            probe: Some(link.sender()),
            link: Some(link),
            retired,
            on_down: Some(on_down),
            drain,
            drain_timer: None,
        }
    }

    fn down(&mut self, reason: String, farewell: Farewell) {
        self.probe = None;
        if let Some(link) = self.link.take() {
            link.set_down(reason.clone(), farewell);
        }
        if let Some(on_down) = self.on_down.take() {
            on_down(reason);
        }
    }
}

impl<F: FnOnce(String) + Unpin> Future for Driver<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.connection).poll(cx);
        match &polled {
            Poll::Ready(Ok(())) => {
                // Whether with a GOAWAY or without is not said by the connection but by what it left for its senders.
                let left = this.probe.as_mut().map(|probe| probe.poll_ready(cx));
                let farewell = match left {
                    Some(Poll::Ready(Err(error))) => farewell_of(&error),
                    _ => Farewell::None,
                };
                this.down("closed by the peer".into(), farewell);
            }
            Poll::Ready(Err(error)) => this.down(error.to_string(), farewell_of(error)),
            Poll::Pending => {
                if let Some(probe) = &mut this.probe
                    && let Poll::Ready(Err(error)) = probe.poll_ready(cx)
                {
                    this.down(error.to_string(), farewell_of(&error));
                } else if let Some(link) = &this.link {
                    // SETTINGS may come at any time, and nothing but the connection tells of them.
                    link.look_at_limit();
                }
            }
        }
        if polled.is_ready() {
            return Poll::Ready(());
        }
        if this.probe.is_some() && Pin::new(&mut this.retired).poll(cx).is_ready() {
            this.down("no longer used".into(), Farewell::None);
            // Our sender may have been the last thing that kept the connection open.
            cx.waker().wake_by_ref();
        }
        if this.probe.is_some() {
            return Poll::Pending;
        }
        let drain = this.drain;
        this.drain_timer.get_or_insert_with(|| Box::pin(sleep(drain))).as_mut().poll(cx)
    }
}

impl<F: FnOnce(String)> Drop for Driver<F> {
    fn drop(&mut self) {
        // Cut from outside, or its runtime is going away.
        if self.probe.is_some() {
            self.down("cut".into(), Farewell::None);
        }
    }
}

fn farewell_of(error: &h2::Error) -> Farewell {
    match error.reason() {
        Some(h2::Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Farewell::Polite,
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_go_away() && error.is_remote() => Farewell::Calm,
        _ => Farewell::None,
    }
}
