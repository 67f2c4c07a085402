//! The task of one target: keeps it connected, follows its health, and makes more connections when the peer's limit of streams
//! is nearly used up.

use std::sync::{Arc, Weak};
use std::time::Duration;

use fastrand::Rng;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::health::{self, Health};
use crate::endpoint::Endpoint;
use crate::endpoint::backoff::Backoff;
use crate::endpoint::connection::{CloseReason, Connection};
use crate::endpoint::dial::{ActiveConnection, Dialer, End, Ended, Fresh};
use crate::endpoint::keepalive::Keepalive;
use crate::log_dedup;
use crate::snapshot::EndpointState;
use crate::upstream_state::UpstreamState;

/// The lifetime below which a connection counts as a failed attempt: a server that accepts and hangs up must not be dialled in
/// a tight loop.
const LIVED_MIN: Duration = Duration::from_secs(1);

/// The most old connections of one endpoint that may still be finishing calls. With one more, the oldest is cut.
const DRAINING_MAX: usize = 8;

/// Keeps `endpoint` connected until `removed`, then lets its calls finish. Dropping the future cuts its connections.
pub(crate) async fn run(endpoint: Arc<Endpoint>, shared: Arc<UpstreamState>, removed: CancellationToken) {
    let dialer = Dialer {
        endpoint: endpoint.clone(),
        options: shared.options.clone(),
        fair_queue: shared.fair_queue.clone(),
        feedback: shared.clone(),
    };
    let mut supervisor = EndpointSupervisor {
        dialer,
        backoff: Backoff::new(shared.options.backoff_first, shared.options.backoff_max),
        rng: shared.rng(),
        keepalive: Keepalive::default(),
        drivers: Vec::new(),
        endpoint,
        shared,
    };
    tokio::select! {
        () = supervisor.keep_connected() => {}
        () = removed.cancelled() => {}
    }
    // Dropping `keep_connected` has retired the connections. Each driver bounds itself.
    for (_, driver) in supervisor.drivers {
        // The driver was cut, or ended by itself.
        let _ = driver.await;
    }
}

/// The state of the task of one endpoint.
struct EndpointSupervisor {
    dialer: Dialer,
    endpoint: Arc<Endpoint>,
    shared: Arc<UpstreamState>,
    backoff: Backoff,
    rng: Rng,
    /// The knowledge of its tolerance for pings, gained by its connections.
    keepalive: Keepalive,
    /// The drivers of the connections in use and of those that still finish calls, the oldest first; dropped drivers are cut. A
    /// strong handle would keep its connection open, so only a weak one is held here.
    drivers: Vec<(Weak<Connection>, AbortOnDropHandle<()>)>,
}

impl EndpointSupervisor {
    async fn keep_connected(&mut self) {
        loop {
            let lived = match self.dialer.clone().dial().await {
                Ok(first) => {
                    let since = Instant::now();
                    self.serve(first).await;
                    since.elapsed()
                }
                Err(reason) => {
                    if self.endpoint.failed_to_connect(reason.clone()) {
                        self.log_down(&reason);
                        self.shared.publish();
                    }
                    Duration::ZERO
                }
            };
            self.shared.request_re_resolution();
            if lived >= LIVED_MIN {
                self.backoff.reset();
            } else {
                sleep(self.backoff.next(&mut self.rng)).await;
            }
        }
    }

    /// Runs from the first connection to the end of the last one.
    async fn serve(&mut self, first: Fresh) {
        let mut active = FuturesUnordered::new();
        active.push(self.enlist(first).run());
        let mut growth = Growth::new(&self.shared);
        let mut asked = self.endpoint.first_connection();
        let mut health = self.follow_health(asked.clone(), false);
        loop {
            self.settle(&growth, active.len());
            tokio::select! {
                Some(Ended { connection, end, keepalive }) = active.next() => {
                    self.ended(&connection, end);
                    self.keepalive.learn(&keepalive);
                    if active.is_empty() {
                        return;
                    }
                    let first = self.endpoint.first_connection();
                    if first.as_ref().map(Arc::as_ptr) != asked.as_ref().map(Arc::as_ptr) {
                        // The last report stays valid until health is asked on the other connection.
                        health = self.follow_health(first.clone(), true);
                        asked = first;
                    }
                }
                () = self.endpoint.load.connection_demand.wanted(), if growth.is_idle() => {
                    if self.may_grow(active.len()) {
                        growth.step = Step::Dialling(self.dialer.clone().dial().boxed());
                    }
                }
                grown = growth.next() => match grown {
                    Some(Ok(fresh)) => {
                        growth.backoff.reset();
                        active.push(self.enlist(fresh).run());
                        self.shared.publish();
                    }
                    Some(Err(reason)) => {
                        let (upstream, endpoint) = (self.shared.options.name.as_str(), self.endpoint.address);
                        if log_dedup::is_new(upstream, endpoint, "another connection could not be made") {
                            tracing::info!(upstream, %endpoint, reason, "another connection could not be made");
                        }
                        growth.pause(&mut self.rng);
                    }
                    None => {}
                },
                () = &mut health => {}
            }
        }
    }

    /// Puts a connection to use.
    fn enlist(&mut self, fresh: Fresh) -> ActiveConnection {
        let connection = Arc::downgrade(&fresh.connection);
        let (active, driver) = fresh.enlist(self.keepalive);
        self.drivers.retain(|(_, driver)| !driver.is_finished());
        let drains = |(connection, _): &(Weak<Connection>, _)| {
            connection.upgrade().is_none_or(|connection| connection.is_down())
        };
        let draining = self.drivers.iter().filter(|driver| drains(driver)).count();
        if draining > DRAINING_MAX
            && let Some(oldest) = self.drivers.iter().position(drains)
        {
            drop(self.drivers.remove(oldest));
        }
        self.drivers.push((connection, driver));
        active
    }

    /// Handles the end of a connection.
    fn ended(&mut self, connection: &Arc<Connection>, end: End) {
        match end {
            // The driver lets the last call finish, though there is none.
            End::Idle => return,
            End::Gone => {}
            End::Silent(reason) => {
                // The peer does not answer: the calls in flight fail now instead of at their deadlines.
                connection.set_down(reason.clone(), CloseReason::Other);
                if self.endpoint.detach(connection, reason) {
                    self.shared.publish();
                }
                self.drivers.retain(|(known, _)| known.as_ptr() != Arc::as_ptr(connection));
            }
        }
        if connection.close_reason() == CloseReason::EnhanceYourCalm {
            self.keepalive.complained();
        }
        self.log_down(&connection.down_reason());
    }

    /// Sets whether calls that find no room may wait for another connection.
    fn settle(&self, growth: &Growth, connections: usize) {
        let demand = &self.endpoint.load.connection_demand;
        let could = demand.can_grow();
        let can = self.may_grow(connections) && !growth.is_paused();
        demand.set_can_grow(can);
        if can && growth.is_idle() {
            // Otherwise the demand stays, and no call has to repeat it.
            demand.settle();
        }
        if could != can {
            // The number of calls allowed at once depends on it.
            self.shared.publish();
        }
    }

    fn may_grow(&self, connections: usize) -> bool {
        // A peer that allows no streams allows none on another connection either.
        let allows =
            self.endpoint.first_connection().is_some_and(|connection| connection.streams.limit() > 0);
        allows && connections < self.shared.options.connections_max
    }

    /// Follows the health that the endpoint reports on `connection`. Never resolves.
    fn follow_health(&self, connection: Option<Arc<Connection>>, joined: bool) -> BoxFuture<'static, ()> {
        match connection {
            Some(connection) => {
                follow_health(self.endpoint.clone(), self.shared.clone(), connection, joined).boxed()
            }
            // The connection is gone; its end is reported in a moment.
            None => std::future::pending().boxed(),
        }
    }

    fn log_down(&self, reason: &str) {
        let upstream = self.shared.options.name.as_str();
        let endpoint = self.endpoint.address;
        if log_dedup::is_new(upstream, endpoint, "down") {
            tracing::info!(upstream, %endpoint, reason, "connection down");
        }
    }
}

/// The attempts to make more connections, one at a time.
struct Growth {
    backoff: Backoff,
    step: Step,
}

enum Step {
    Idle,
    Dialling(BoxFuture<'static, Result<Fresh, String>>),
    /// The last attempt failed. Until the pause ends, calls wait on the existing connections.
    Pausing(BoxFuture<'static, ()>),
}

impl Growth {
    fn new(shared: &UpstreamState) -> Growth {
        let options = &shared.options;
        Growth { backoff: Backoff::new(options.backoff_first, options.backoff_max), step: Step::Idle }
    }

    fn is_idle(&self) -> bool {
        matches!(self.step, Step::Idle)
    }

    fn is_paused(&self) -> bool {
        matches!(self.step, Step::Pausing(_))
    }

    fn pause(&mut self, rng: &mut Rng) {
        self.step = Step::Pausing(sleep(self.backoff.next(rng)).boxed());
    }

    /// Returns a connection, or the reason why there is none, or `None` at the end of a pause. Pending while idle. Cancel safe.
    async fn next(&mut self) -> Option<Result<Fresh, String>> {
        let next = match &mut self.step {
            Step::Idle => std::future::pending().await,
            Step::Dialling(dialling) => Some(dialling.await),
            Step::Pausing(pause) => {
                pause.await;
                None
            }
        };
        self.step = Step::Idle;
        next
    }
}

async fn follow_health(
    endpoint: Arc<Endpoint>,
    shared: Arc<UpstreamState>,
    connection: Arc<Connection>,
    mut joined: bool,
) {
    let report = |health: Health| {
        let (state, reason, backing) = match health {
            Health::Serving(backing) => (EndpointState::Ready, String::new(), backing),
            Health::NotServing(reason, backing) => (EndpointState::NotServing, reason, backing),
        };
        let Some(before) = endpoint.report(state, reason.clone(), backing) else { return };
        if state == EndpointState::Ready && before != state {
            let now = Instant::now();
            let first = !std::mem::replace(&mut joined, true);
            if first && endpoint.is_same_process(now) {
                endpoint.load.rejoined(now);
            } else if first {
                endpoint.load.joined(shared.mean_ewma_s(now), now);
            } else {
                endpoint.load.recovered(now);
            }
        }
        shared.publish();
        if before != state {
            let (upstream, endpoint) = (shared.options.name.as_str(), endpoint.address);
            if log_dedup::is_new(upstream, endpoint, &state.to_string()) {
                tracing::info!(upstream, %endpoint, %state, reason, "endpoint changed");
            }
        }
    };
    health::follow(connection, &shared.options, report).await;
}
