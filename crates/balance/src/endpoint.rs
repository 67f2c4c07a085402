//! One target: its state, and the task that keeps it connected and knows whether it serves.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::balancer::Shared;
use crate::connection::{self, Connected, Driver, Link};
use crate::health::{self, Health};
use crate::keepalive::Keepalive;
use crate::load::Load;
use crate::options::Options;

/// A connection that lived shorter than this counts as a failure to connect: a server that accepts and hangs up must not
/// be asked in a tight loop.
const LIVED_MIN: Duration = Duration::from_secs(1);

/// How many old connections of one endpoint may still be finishing calls. One more, and the oldest is cut.
const DRAINING_MAX: usize = 8;

/// Whether an endpoint takes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// No connection, or not yet known whether it serves.
    Connecting,
    /// Connected, but it says of itself that it does not serve.
    NotServing,
    /// Connected and serving by its own word, but its calls fail: it is left alone for a while, unless too few others
    /// are left.
    Ejected,
    /// Connected and serving.
    Ready,
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointState::Connecting => "connecting",
            EndpointState::NotServing => "not serving",
            EndpointState::Ejected => "ejected",
            EndpointState::Ready => "ready",
        })
    }
}

/// An endpoint as it is in one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSnapshot {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share beside its peers.
    pub weight: u32,
    /// Whether it takes calls.
    pub state: EndpointState,
    /// Why it is in that state: the last error, or what health said. Empty when there is nothing to say.
    pub reason: String,
    /// Its peak-EWMA latency.
    pub ewma: Duration,
    /// What is left of the penalty for a failed call.
    pub penalty: Duration,
    /// Calls picked for it and not finished, without its long streams.
    pub in_flight: u32,
    /// Long streams open at it.
    pub streams: u32,
    /// Calls picked for it since it was discovered.
    pub calls: u64,
    /// Calls it did its work for, whatever the answer.
    pub successes: u64,
    /// Calls it failed.
    pub failures: u64,
    /// Its share as a newcomer, from 0.1 to 1 (see [`Options::slow_start`](crate::Options::slow_start)).
    pub ramp: f64,
    /// Set while it is ejected.
    pub ejection: Option<EjectionSnapshot>,
}

/// Why an endpoint is left alone, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSnapshot {
    /// What it did.
    pub reason: String,
    /// How long ago it was ejected.
    pub since: Duration,
    /// In what time one call is tried again; zero while that call is awaited or under way.
    pub next_probe: Duration,
    /// How often in a row it was ejected, this time included.
    pub times: u32,
}

/// The state of one target. Changed by its task and by the driver of its connection, read by everyone.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) load: Arc<Load>,
    status: Mutex<Status>,
}

#[derive(Debug)]
struct Status {
    state: EndpointState,
    reason: String,
    link: Option<Arc<Link>>,
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, weight: u32, options: &Options) -> Endpoint {
        Endpoint {
            address,
            load: Arc::new(Load::new(weight, options, Instant::now())),
            status: Mutex::new(Status {
                state: EndpointState::Connecting,
                reason: "not tried yet".into(),
                link: None,
            }),
        }
    }

    /// The connection to send on, while it is ready.
    pub(crate) fn ready_link(&self) -> Option<Arc<Link>> {
        let status = self.status();
        if status.state == EndpointState::Ready { status.link.clone() } else { None }
    }

    pub(crate) fn snapshot(&self, now: Instant) -> EndpointSnapshot {
        let status = self.status();
        EndpointSnapshot {
            address: self.address,
            weight: self.load.weight(),
            state: status.state,
            reason: status.reason.clone(),
            ewma: Duration::from_secs_f64(self.load.ewma_s(now).max(0.0)),
            penalty: self.load.penalty(now),
            in_flight: self.load.in_flight(),
            calls: self.load.calls(),
            streams: self.load.streams(),
            successes: self.load.successes(),
            failures: self.load.failures(),
            ramp: self.load.ramp(now),
            ejection: None,
        }
    }

    fn attach(&self, link: Arc<Link>) {
        let mut status = self.status();
        *status = Status {
            state: EndpointState::Connecting,
            reason: "waiting for the first health answer".into(),
            link: Some(link),
        };
    }

    /// Says what is known of `link`, unless another connection has taken its place. Returns the state before, if it
    /// changed.
    fn report(&self, link: &Arc<Link>, state: EndpointState, reason: String) -> Option<EndpointState> {
        let mut status = self.status();
        if !status.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return None;
        }
        if status.state == state && status.reason == reason {
            return None;
        }
        status.reason = reason;
        Some(std::mem::replace(&mut status.state, state))
    }

    /// Takes `link` out. Returns false if it was out already.
    fn detach(&self, link: &Arc<Link>, reason: String) -> bool {
        let mut status = self.status();
        if !status.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return false;
        }
        *status = Status { state: EndpointState::Connecting, reason, link: None };
        true
    }

    fn failed_to_connect(&self, reason: String) -> bool {
        let mut status = self.status();
        let news = status.reason != reason;
        *status = Status { state: EndpointState::Connecting, reason, link: None };
        news
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps `endpoint` connected until `removed`; then lets its calls finish. Dropping the future cuts its connections.
pub(crate) async fn run(endpoint: Arc<Endpoint>, shared: Arc<Shared>, removed: CancellationToken) {
    let mut keeper = Keeper {
        backoff: Backoff::new(shared.options.backoff_first, shared.options.backoff_max),
        rng: shared.rng(),
        keepalive: Keepalive::default(),
        drivers: JoinSet::new(),
        handles: VecDeque::new(),
        endpoint,
        shared,
    };
    tokio::select! {
        () = keeper.keep_connected() => {}
        () = removed.cancelled() => {}
    }
    // Dropping `keep_connected` told the last connection to take no more calls.
    keeper.finish().await;
}

/// What the task of one endpoint owns.
struct Keeper {
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    backoff: Backoff,
    rng: Rng,
    keepalive: Keepalive,
    /// The current connection and those that still finish calls; dropped, they are cut.
    drivers: JoinSet<()>,
    handles: VecDeque<AbortHandle>,
}

impl Keeper {
    async fn keep_connected(&mut self) {
        loop {
            let lived = match connection::connect(self.endpoint.address, &self.shared.options).await {
                Ok(connected) => {
                    let since = Instant::now();
                    self.serve(connected).await;
                    since.elapsed()
                }
                Err(error) => {
                    let reason = error.to_string();
                    if self.endpoint.failed_to_connect(reason.clone()) {
                        self.log_down(&reason);
                        self.shared.publish();
                    }
                    Duration::ZERO
                }
            };
            self.shared.poke();
            if lived >= LIVED_MIN {
                self.backoff.reset();
            } else {
                sleep(self.backoff.next(&mut self.rng)).await;
            }
        }
    }

    /// One connection, from its first ping to its end.
    async fn serve(&mut self, connected: Connected) {
        let Connected { connection, sender, mut pings } = connected;
        let link = Arc::new(Link::new(self.endpoint.address, sender, self.endpoint.load.clone()));
        self.endpoint.attach(link.clone());
        // Dropped when this future ends, or is dropped because the target is gone: the driver then takes no more calls
        // and ends with its last one.
        let (_retire_on_drop, retired) = oneshot::channel();
        let down = {
            let (endpoint, shared, link) = (self.endpoint.clone(), self.shared.clone(), link.clone());
            move |reason: String| {
                if endpoint.detach(&link, reason) {
                    shared.publish();
                }
            }
        };
        let driver = Driver::new(connection, link.clone(), retired, self.shared.options.drain, down);
        let handle = self.spawn(driver);
        self.keepalive.connected();
        let options = &self.shared.options;
        // A kernel accepts for a process that is stuck: only an answer to a ping shows that somebody is there. It also
        // follows the peer's SETTINGS, so that its stream limit is known before the first call.
        let first = timeout(options.connect_timeout, pings.ping(h2::Ping::opaque())).await;
        let lost = match first {
            Ok(Ok(_)) => {
                let health = follow_health(&self.endpoint, &self.shared, &link);
                let quiet = keep_alive(&mut self.keepalive, &mut pings, &link, &self.shared);
                tokio::select! {
                    () = link.gone() => None,
                    reason = quiet => Some(reason),
                    () = health => None,
                }
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer to a ping within {:?} of connecting", options.connect_timeout)),
        };
        if let Some(reason) = lost {
            // Nobody answers on it: the calls in flight fail now instead of at their deadlines.
            link.set_down(reason.clone(), false);
            if self.endpoint.detach(&link, reason) {
                self.shared.publish();
            }
            handle.abort();
        }
        if link.asked_for_calm() {
            self.keepalive.complained();
        }
        self.log_down(&link.down_reason());
    }

    fn spawn<F: FnOnce(String) + Send + Unpin + 'static>(&mut self, driver: Driver<F>) -> AbortHandle {
        while self.drivers.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() > DRAINING_MAX
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        let handle = self.drivers.spawn(driver);
        self.handles.push_back(handle.clone());
        handle
    }

    /// Waits until no call is left. Each driver bounds itself.
    async fn finish(&mut self) {
        while self.drivers.join_next().await.is_some() {}
    }

    fn log_down(&self, reason: &str) {
        let upstream = self.shared.options.name.as_str();
        tracing::info!(upstream, endpoint = %self.endpoint.address, reason, "endpoint down");
    }
}

/// Reports what the endpoint says of itself. Never returns.
async fn follow_health(endpoint: &Arc<Endpoint>, shared: &Arc<Shared>, link: &Arc<Link>) {
    let mut joined = false;
    let report = |health: Health| {
        let (state, reason) = match health {
            Health::Serving => (EndpointState::Ready, String::new()),
            Health::NotServing(reason) => (EndpointState::NotServing, reason),
        };
        if state == EndpointState::Ready && !std::mem::replace(&mut joined, true) {
            let now = Instant::now();
            endpoint.load.joined(shared.mean_ewma_s(now), now);
        }
        if let Some(before) = endpoint.report(link, state, reason.clone()) {
            shared.publish();
            if before != state {
                let upstream = shared.options.name.as_str();
                tracing::info!(upstream, endpoint = %endpoint.address, %state, reason, "endpoint changed");
            }
        }
    };
    health::follow(link.clone(), &shared.options, report).await;
}

/// Pings when the connection is quiet. Returns when a ping was not answered, with the reason.
async fn keep_alive(
    keepalive: &mut Keepalive,
    pings: &mut h2::PingPong,
    link: &Arc<Link>,
    shared: &Shared,
) -> String {
    let options = &shared.options;
    let mut answers = link.load.answers();
    loop {
        sleep(options.keepalive_interval).await;
        let answers_now = link.load.answers();
        if answers_now != answers {
            answers = answers_now;
            keepalive.answered();
            continue;
        }
        if !keepalive.due(link.load.in_flight() + link.load.streams() > 0) {
            continue;
        }
        match timeout(options.keepalive_timeout, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over; its driver knows why.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return format!("no answer to a ping within {:?}", options.keepalive_timeout),
        }
    }
}
