//! One client connection: told apart from what is not HTTP/2, then a task for each call, until it ends or is drained.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use shoal_http2::{Config, Reason, ServerConnection};
use shoal_kit::{Preface, read_preface, refuse_http1};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::call;
use crate::client::Client;
use crate::core::Core;
use crate::lifetime::{Lifetime, Verdict, Why};
use crate::upstream;

/// Between the preface and the first frame.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Streams reset by a client before they were looked at; more at once, and the connection is ended. A caller that drops
/// a thousand calls is no attack.
const PENDING_ACCEPT_RESETS_MAX: usize = 4096;

/// Streams we have reset and remember, so that frames still under way on them are no error. A few dozen bytes each.
const RESET_STREAMS_MAX: usize = 1024;

/// Calls taken off a connection before they, and other connections, have their turn.
const TURN_CALLS: u32 = 64;

/// Finds a client whose host is gone.
const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// How long sent bytes may stay unacknowledged, and a client's TCP window closed.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves one connection to its end.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "socket options");
    }
    let mut stop = pin!(core.stop.cancelled());
    let preface = tokio::select! {
        preface = read_preface(&stream) => preface,
        // Nothing was asked yet, so nothing is owed.
        () = &mut stop => return,
    };
    match preface {
        Preface::Http2 => {}
        Preface::Http1 => return refuse_http1(stream).await,
        Preface::Other => return leave(&stream),
    }
    let limits = &core.config.limits;
    let config = Config {
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        streams_max: limits.streams,
        header_list_max: limits.header_bytes,
        header_fields_max: limits.header_fields,
        send_buffer: limits.send_buffer,
        unseen_resets_max: PENDING_ACCEPT_RESETS_MAX,
        resets_remembered: RESET_STREAMS_MAX,
        secrets: core.config.callers.secrets(),
        ..Config::default()
    };
    let connection = match timeout(HANDSHAKE_WITHIN, shoal_http2::handshake(stream, config)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "HTTP/2 handshake"),
        Err(_) => return tracing::debug!("no HTTP/2 handshake in time"),
    };
    let lifetime = Lifetime::new(&core.config.connection, Instant::now(), &mut Rng::new());
    let timer = lifetime.next().map(|at| Box::pin(sleep_until(at)));
    let client = Arc::new(Client::new(peer.ip(), upstream::count(&core.config)));
    Driver { core: &core, connection, client, lifetime, timer, stop, waiting: false, draining: false }.await;
}

/// Takes what came off the socket, so that closing it is a FIN: with bytes unread it is a reset, which says "crashed".
fn leave(stream: &TcpStream) {
    let _ = stream.try_read(&mut [0; 4096]);
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TCP_KEEPALIVE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(())
}

/// Moves the bytes of a connection and starts its calls.
struct Driver<'c, S> {
    core: &'c Arc<Core>,
    connection: ServerConnection<TcpStream>,
    client: Arc<Client>,
    lifetime: Lifetime,
    /// Wakes this task when the connection is to be looked at.
    timer: Option<Pin<Box<Sleep>>>,
    stop: Pin<&'c mut S>,
    /// This task is to be woken by `stop`: it is asked once, and then only whether it has fired. It is polled with every
    /// frame otherwise.
    waiting: bool,
    draining: bool,
}

impl<S: Future<Output = ()>> Future for Driver<'_, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut accepted = 0;
        loop {
            if accepted == TURN_CALLS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match this.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    accepted += 1;
                    if !this.client.resets.opened() {
                        tracing::info!("connection ended: most of its calls were reset at once");
                        this.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                        continue;
                    }
                    call::serve(this.core, &this.client, request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "connection ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    let stopped = !this.draining && this.stopped(cx);
                    let leaves = match this.look(cx) {
                        Verdict::GoesOn => false,
                        Verdict::Leaves(why) => {
                            let why = match why {
                                Why::Old => "age",
                                Why::Idle => "idle",
                            };
                            metrics::counter!("gateway_connections_left_total", "why" => why).increment(1);
                            !this.draining
                        }
                        Verdict::Over => return Poll::Ready(()),
                    };
                    if !stopped && !leaves {
                        return Poll::Pending;
                    }
                    this.draining = true;
                    // GOAWAY now, and the last stream's number once the client has seen it.
                    this.connection.graceful_shutdown();
                }
            }
        }
    }
}

impl<S: Future<Output = ()>> Driver<'_, S> {
    fn stopped(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waiting {
            return self.core.stopping.load(Ordering::Relaxed);
        }
        self.waiting = true;
        self.stop.as_mut().poll(cx).is_ready()
    }

    /// Whether it has lived long enough.
    fn look(&mut self, cx: &mut Context<'_>) -> Verdict {
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            let (busy, calls) = (self.connection.has_streams(), self.client.resets.calls());
            let verdict = self.lifetime.look(Instant::now(), busy, calls);
            match self.lifetime.next() {
                Some(at) => timer.as_mut().reset(at),
                None => self.timer = None,
            }
            if verdict != Verdict::GoesOn {
                return verdict;
            }
        }
        Verdict::GoesOn
    }
}
