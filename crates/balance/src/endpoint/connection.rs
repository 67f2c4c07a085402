//! An HTTP/2 connection: how it is made, the handle that calls are sent on, and the driver that detects its end.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Authority;
use shoal_http2::{ClientConnection, Config, Error, Pings, Reason, SendRequest};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::endpoint::feedback::Feedback;
use crate::endpoint::stream_limit::Streams;
use crate::fairness::fair_queue::FairQueue;
use crate::load::Load;
use crate::options::Options;

/// The number of reset streams that are remembered, so that frames under way on them are no error. More than a disconnect storm
/// of a thousand callers; a few dozen bytes each.
const RESET_STREAMS_MAX: usize = 4_096;

/// The shortest time between a request and its cancellation. A server that finds both in one read counts the stream as reset
/// before it was handled, and ends the connection after twenty of those (the default of h2, tonic and hyper). One caller that
/// cancels early, or has a deadline of a nanosecond, would break the calls of all others.
pub(crate) const RESET_AFTER: Duration = Duration::from_millis(5);

/// The time calls may wait for the peer's window before another connection is wanted. A large upload fills the window for
/// moments; a body that the peer does not read fills it for good.
const SHORT_AFTER: Duration = Duration::from_millis(100);

/// The kernel's keepalive below the pings: it detects a lost host even when pings are spared.
const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(5));

/// The time sent bytes may stay unacknowledged before the kernel gives up the connection.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason given for a connection that its peer ended without one.
pub(crate) const CLOSED: &str = "closed by the peer";

/// A new connection before its parts are put to work.
pub(crate) struct Connected {
    pub(crate) http2: ClientConnection<TcpStream>,
    pub(crate) sender: SendRequest,
    pub(crate) pings: Pings,
}

/// The reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Tcp(std::io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

/// Connects by TCP without Nagle's delay and HTTP/2 with fixed windows, within `connect_timeout`.
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

    let config = Config {
        stream_window: options.stream_window,
        connection_window: options.connection_window,
        header_list_max: options.header_list_max,
        header_fields_max: options.header_fields_max,
        send_buffer: options.send_buffer,
        // The streams belong to different callers.
        leaves_window: true,
        locally_reset_max: RESET_STREAMS_MAX,
        late_resets: true,
        secrets: options.secrets.clone(),
        ..Config::default()
    };
    let (sender, pings, http2) = shoal_http2::connect(stream, config);
    Ok(Connected { http2, sender, pings })
}

/// The handle that calls are sent on. The selection and the picks of running calls keep it.
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    /// The address as `:authority`, for requests without one.
    pub(crate) authority: Option<Authority>,
    /// The load of the endpoint over all its connections.
    pub(crate) load: Arc<Load>,
    /// The streams of this connection.
    pub(crate) streams: Streams,
    /// The number of calls that were answered on it: a sign of life.
    answers: AtomicU64,
    options: Arc<Options>,
    feedback: Weak<dyn Feedback>,
    pub(crate) fair_queue: Arc<FairQueue>,
    sender: SendRequest,
    gone: CancellationToken,
    down: OnceLock<Down>,
}

#[derive(Debug)]
struct Down {
    reason: String,
    close_reason: CloseReason,
}

/// The way a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The connection broke, or this side gave it up.
    Other,
    /// The peer sent a GOAWAY with NO_ERROR: the server limits the age of its connections, or is shutting down.
    Graceful,
    /// The peer sent a GOAWAY with ENHANCE_YOUR_CALM.
    EnhanceYourCalm,
}

impl Connection {
    pub(crate) fn new(
        address: SocketAddr,
        sender: SendRequest,
        load: Arc<Load>,
        options: Arc<Options>,
        fair_queue: Arc<FairQueue>,
        feedback: &Arc<dyn Feedback>,
    ) -> Connection {
        Connection {
            address,
            authority: Authority::try_from(address.to_string()).ok(),
            load,
            streams: Streams::default(),
            answers: AtomicU64::new(0),
            options,
            feedback: Arc::downgrade(feedback),
            fair_queue,
            sender,
            gone: CancellationToken::new(),
            down: OnceLock::new(),
        }
    }

    /// Returns the HTTP/2 handle that requests are sent on.
    pub(crate) fn sender(&self) -> &SendRequest {
        &self.sender
    }

    /// Returns whether it takes no more calls. Set in the very poll of the connection that learns of it.
    pub(crate) fn is_down(&self) -> bool {
        self.down.get().is_some()
    }

    /// Returns the reason why it takes no more calls.
    pub(crate) fn down_reason(&self) -> String {
        self.down.get().map_or_else(String::new, |down| down.reason.clone())
    }

    /// Returns the way it ended, if it did.
    pub(crate) fn close_reason(&self) -> CloseReason {
        self.down.get().map_or(CloseReason::Other, |down| down.close_reason)
    }

    pub(crate) fn set_down(&self, reason: String, close_reason: CloseReason) {
        let _ = self.down.set(Down { reason, close_reason });
        self.gone.cancel();
    }

    /// Returns the name of the upstream.
    pub(crate) fn upstream(&self) -> &str {
        &self.options.name
    }

    /// Returns the receiver of events that concern other endpoints, unless the upstream is gone.
    pub(crate) fn feedback(&self) -> Option<Arc<dyn Feedback>> {
        self.feedback.upgrade()
    }

    /// Records that one of its calls was answered.
    pub(crate) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many of its calls were answered.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Reads how many streams the peer allows.
    pub(crate) fn look_at_limit(&self) {
        self.streams.set_limit(u32::try_from(self.sender.streams_max()).unwrap_or(u32::MAX));
    }

    /// Resolves when it takes no more calls.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .field("down", &self.down)
            .finish_non_exhaustive()
    }
}

/// Drives one connection until it ends or, once it takes no new calls, until its last call ends.
pub(crate) struct Driver<F: FnOnce(String)> {
    http2: ClientConnection<TcpStream>,
    /// Set while it takes new calls.
    connection: Option<Arc<Connection>>,
    retired: oneshot::Receiver<()>,
    on_down: Option<F>,
    drain: Duration,
    drain_timer: Option<Pin<Box<Sleep>>>,
    /// Set while resets wait for [`RESET_AFTER`].
    reset_timer: Option<Pin<Box<Sleep>>>,
    /// Set while calls wait for the peer's window or for a stream, and [`SHORT_AFTER`] has not passed.
    short_timer: Option<Pin<Box<Sleep>>>,
}

impl<F: FnOnce(String)> Driver<F> {
    /// Creates a driver. `on_down` is called once, in the poll that learns that no more calls are taken. `retired` resolves
    /// when no more calls shall be sent. After that, and after a GOAWAY, calls have `drain` to finish.
    pub(crate) fn new(
        http2: ClientConnection<TcpStream>,
        connection: Arc<Connection>,
        retired: oneshot::Receiver<()>,
        drain: Duration,
        on_down: F,
    ) -> Driver<F> {
        Driver {
            http2,
            connection: Some(connection),
            retired,
            on_down: Some(on_down),
            drain,
            drain_timer: None,
            reset_timer: None,
            short_timer: None,
        }
    }

    fn down(&mut self, reason: String, close_reason: CloseReason) {
        if let Some(connection) = self.connection.take() {
            connection.set_down(reason.clone(), close_reason);
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
        let polled = Pin::new(&mut this.http2).poll(cx);
        let standing = this.http2.standing();
        if polled.is_pending() && standing.has_late_resets {
            this.poll_resets(cx);
        }
        this.poll_window(standing.is_short_of_window || standing.has_queued, cx);
        let Some(connection) = &this.connection else {
            return if polled.is_ready() { Poll::Ready(()) } else { this.poll_drained(cx) };
        };
        // A GOAWAY says more than what follows it. The connection goes on for the running calls.
        if let Some(error) = standing.left {
            this.down(error.to_string(), close_reason_of(&error));
        } else {
            match &polled {
                Poll::Ready(Ok(())) => this.down(CLOSED.into(), CloseReason::Other),
                Poll::Ready(Err(error)) => this.down(error.to_string(), CloseReason::Other),
                // SETTINGS may come at any time, and only the connection reports them.
                Poll::Pending => {
                    if connection.streams.set_limit(standing.streams_max)
                        && let Some(feedback) = connection.feedback()
                    {
                        feedback.changed();
                    }
                }
            }
        }
        if polled.is_ready() {
            return Poll::Ready(());
        }
        if this.connection.is_some() && Pin::new(&mut this.retired).poll(cx).is_ready() {
            this.down("no longer used".into(), CloseReason::Other);
            this.http2.retire();
            // No call may be left to wait for.
            cx.waker().wake_by_ref();
        }
        if this.connection.is_some() { Poll::Pending } else { this.poll_drained(cx) }
    }
}

impl<F: FnOnce(String)> Driver<F> {
    /// Sends the resets whose delay has passed.
    fn poll_resets(&mut self, cx: &mut Context<'_>) {
        while self.http2.has_late_resets() {
            let timer = self.reset_timer.get_or_insert_with(|| Box::pin(sleep(RESET_AFTER)));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.reset_timer = None;
            self.http2.send_late_resets();
            // Polls the connection again, to write them.
            cx.waker().wake_by_ref();
        }
    }

    /// Requests another connection when calls have waited for the peer's window, or for a stream of this one.
    fn poll_window(&mut self, is_short: bool, cx: &mut Context<'_>) {
        let Some(connection) = &self.connection else { return };
        if !is_short {
            connection.streams.set_short(false);
            self.short_timer = None;
            return;
        }
        if connection.streams.is_short() {
            return;
        }
        let timer = self.short_timer.get_or_insert_with(|| Box::pin(sleep(SHORT_AFTER)));
        if timer.as_mut().poll(cx).is_ready() {
            self.short_timer = None;
            connection.streams.set_short(true);
            connection.load.connection_demand.want();
        }
    }

    /// Resolves when the calls have had their time to finish.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let drain = self.drain;
        self.drain_timer.get_or_insert_with(|| Box::pin(sleep(drain))).as_mut().poll(cx)
    }
}

impl<F: FnOnce(String)> Drop for Driver<F> {
    fn drop(&mut self) {
        // The task was aborted, or its runtime is shutting down.
        self.down("cut".into(), CloseReason::Other);
    }
}

fn close_reason_of(error: &Error) -> CloseReason {
    match error.reason() {
        Some(Reason::NO_ERROR) => CloseReason::Graceful,
        Some(Reason::ENHANCE_YOUR_CALM) => CloseReason::EnhanceYourCalm,
        _ => CloseReason::Other,
    }
}
