//! Serves one client connection: tells it apart from what is not HTTP/2, then starts a task for each call, until it ends or is
//! drained.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use shoal_http2::{Config, Reason, ServerConnection, Unfinished};
use shoal_kit::{Preface, Rewound, read_preface, refuse};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::admission::connection_slots::ConnectionSlot;
use crate::admission::connection_state::{ConnectionState, Cut};
use crate::forwarding::context::CallContext;
use crate::forwarding::dispatch;
use crate::server::lifetime::{LeaveReason, Lifetime, LifetimeVerdict};
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

/// The time that sent bytes may stay unacknowledged, and a client's TCP window closed.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// The time in which callers are told that their calls end because their connection ends.
pub(crate) const END_NOTICE: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(crate) async fn serve(
    context: Arc<CallContext>,
    mut stream: TcpStream,
    peer: SocketAddr,
    slot: &Arc<ConnectionSlot>,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "socket options");
    }
    let mut stop = pin!(context.stop.cancelled());
    let cut = pin!(context.cut.cancelled());
    let (preface, first) = tokio::select! {
        read = read_preface(&mut stream) => read,
        // Nothing was asked yet, so nothing is owed.
        () = &mut stop => return,
        () = asked_to_leave(slot) => return count_closed("room"),
    };
    if preface != Preface::Http2 {
        return refuse(stream, preface).await;
    }
    let limits = &context.config.limits;
    let config = Config {
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        streams_max: limits.streams,
        header_list_max: limits.header_bytes,
        header_fields_max: limits.header_fields,
        send_buffer: limits.send_buffer,
        pending_accept_resets_max: PENDING_ACCEPT_RESETS_MAX,
        locally_reset_max: RESET_STREAMS_MAX,
        secrets: context.config.callers.secrets(),
        ..Config::default()
    };
    let stream = Rewound::new(first, stream);
    let handshake = timeout(HANDSHAKE_WITHIN, shoal_http2::handshake(stream, config));
    let settled = tokio::select! {
        settled = handshake => settled,
        () = asked_to_leave(slot) => return count_closed("room"),
    };
    let connection = match settled {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "HTTP/2 handshake"),
        Err(_) => return tracing::debug!("no HTTP/2 handshake in time"),
    };
    let lifetime = Lifetime::new(&context.config.connection, Instant::now(), &mut Rng::new());
    let timer = lifetime.next().map(|at| Box::pin(sleep_until(at)));
    let (upstreams, unread, kept) =
        (upstream::count(&context.config), context.unread.clone(), context.kept.clone());
    let client = Arc::new(ConnectionState::new(peer, upstreams, slot.clone(), unread, kept, &context.config));
    let (begun, patience) = (None, None);
    Driver {
        context: &context,
        connection,
        client,
        lifetime,
        timer,
        begun,
        patience,
        stop,
        cut,
        waiting: false,
        draining: false,
    }
    .await;
}

/// Resolves when the connection is to give way.
async fn asked_to_leave(slot: &ConnectionSlot) {
    std::future::poll_fn(|cx| slot.poll_told(cx)).await;
}

/// Counts a connection that was ended although nothing was wrong with it.
fn count_closed(why: &'static str) {
    metrics::counter!("shoal_gateway_connections_closed_total", "reason" => why).increment(1);
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
struct Driver<'c, S, C> {
    context: &'c Arc<CallContext>,
    connection: ServerConnection<Rewound<TcpStream>>,
    client: Arc<ConnectionState>,
    lifetime: Lifetime,
    /// Wakes this task when the connection is to be looked at.
    timer: Option<Pin<Box<Sleep>>>,
    /// The frame or header block that the client has begun and not ended, and since when.
    begun: Option<(Unfinished, Instant)>,
    /// Wakes this task when that is to be looked at. Left alone as long as the client ends what it says.
    patience: Option<Pin<Box<Sleep>>>,
    stop: Pin<&'c mut S>,
    /// Asked once the connection drains.
    cut: Pin<&'c mut C>,
    /// Set once this task is woken by `stop` and by its slot: they are asked once, and then only whether they have fired. They
    /// are polled with every frame otherwise.
    waiting: bool,
    draining: bool,
}

impl<S: Future<Output = ()>, C: Future<Output = ()>> Future for Driver<'_, S, C> {
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
                Poll::Ready(Some(Ok((request, mut respond)))) => {
                    accepted += 1;
                    if !this.client.resets.opened() {
                        tracing::info!("connection ended: most of its calls were reset at once");
                        this.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                        continue;
                    }
                    if this.client.slot.has_to_leave() {
                        // It was idle when it was told, and the client had begun this: it asks again on another connection.
                        respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    dispatch::serve(this.context, &this.client, request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "connection ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    let stopped = !this.draining && this.stopped(cx);
                    let told = this.client.slot.has_to_leave();
                    if told && !this.draining {
                        count_closed("room");
                    }
                    if told && !this.connection.has_streams() {
                        return this.cut(cx, Reason::NO_ERROR);
                    }
                    if this.trickles(cx) {
                        tracing::debug!("connection ended: what the client had begun to say did not end");
                        count_closed("slow");
                        return this.cut(cx, Reason::ENHANCE_YOUR_CALM);
                    }
                    let leaves = match this.check_age(cx) {
                        LifetimeVerdict::GoesOn => false,
                        LifetimeVerdict::Leaves(why) => {
                            count_closed(match why {
                                LeaveReason::Old => "age",
                                LeaveReason::Idle => "idle",
                                LeaveReason::Unused => "unused",
                            });
                            !this.draining
                        }
                        LifetimeVerdict::Over if this.connection.has_streams() && !this.client.is_cut() => {
                            this.end_calls(Cut::Aged { grace: this.context.config.connection.max_age_grace });
                            this.timer = Some(Box::pin(sleep(END_NOTICE)));
                            continue;
                        }
                        LifetimeVerdict::Over => return Poll::Ready(()),
                    };
                    if !stopped && !leaves && (!told || this.draining) {
                        if this.draining && !this.client.is_cut() && this.cut.as_mut().poll(cx).is_ready() {
                            this.end_calls(Cut::Drained);
                        }
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

impl<S: Future<Output = ()>, C: Future<Output = ()>> Driver<'_, S, C> {
    fn stopped(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waiting {
            return self.context.stopping.load(Ordering::Relaxed);
        }
        self.waiting = true;
        // Whether it has to leave is asked next.
        let _ = self.client.slot.poll_told(cx);
        self.stop.as_mut().poll(cx).is_ready()
    }

    /// Has its calls end with an error of ours. When they have, it ends.
    fn end_calls(&mut self, why: Cut) {
        self.client.cut(why);
        self.connection.wake_streams();
    }

    /// Ends it now. What of the GOAWAY the socket takes at once is sent.
    fn cut(&mut self, cx: &mut Context<'_>, reason: Reason) -> Poll<()> {
        self.connection.abrupt_shutdown(reason);
        while let Poll::Ready(Some(Ok(_))) = self.connection.poll_accept(cx) {}
        Poll::Ready(())
    }

    /// Returns whether the client has begun to say something and does not come to its end.
    fn trickles(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(unfinished) = self.connection.unfinished() else {
            self.begun = None;
            return false;
        };
        let since = match self.begun {
            Some((begun, since)) if begun == unfinished => since,
            _ => {
                let now = Instant::now();
                self.begun = Some((unfinished, now));
                now
            }
        };
        let limits = &self.context.config.limits;
        let until = since + if unfinished.data { limits.frame_time } else { limits.header_time };
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if patience.deadline() > until {
            patience.as_mut().reset(until);
        }
        while patience.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return true;
            }
            patience.as_mut().reset(until);
        }
        false
    }

    /// Returns whether the connection goes on, leaves or ends, by its age and its idle time.
    fn check_age(&mut self, cx: &mut Context<'_>) -> LifetimeVerdict {
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            let (busy, calls) = (self.connection.has_streams(), self.client.resets.calls());
            let verdict = self.lifetime.check(Instant::now(), busy, calls);
            match self.lifetime.next() {
                Some(at) => timer.as_mut().reset(at),
                None => self.timer = None,
            }
            if verdict != LifetimeVerdict::GoesOn {
                return verdict;
            }
        }
        LifetimeVerdict::GoesOn
    }
}
