//! The handle of one upstream: keeps an endpoint for each target and picks among those that are ready.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::call::pick::Pick;
use crate::discovery::source::Source;
use crate::discovery::target::Target;
use crate::discovery::{ReResolution, discover_with_re_resolution};
use crate::endpoint::stream_limit;
use crate::fairness::fair_queue::Waiter;
use crate::fairness::share::Share;
use crate::options::Options;
use crate::selection::{Choice, Member};
use crate::snapshot::EndpointSnapshot;
use crate::supervisor::supervise;
use crate::unavailable::{Crowded, Unavailable};
use crate::upstream_state::UpstreamState;

/// Picks connected, serving endpoints of one upstream. A cheap handle: clone it, share it between threads.
#[derive(Clone, Debug)]
pub struct Balancer {
    shared: Arc<UpstreamState>,
}

impl Balancer {
    /// Starts tasks on the current runtime that keep connections to `targets`, until `cancel`.
    ///
    /// A target that disappears takes no new calls and finishes its calls (for at most [`Options::drain`]). `cancel` cuts every
    /// connection at once: drain the callers first.
    pub fn start(
        options: Options,
        targets: watch::Receiver<Arc<[Target]>>,
        cancel: CancellationToken,
    ) -> Balancer {
        Balancer::start_with_re_resolution(options, targets, ReResolution::default(), cancel)
    }

    /// Discovers the targets of `source` and keeps connections to them; a connection that fails triggers a new look-up at once.
    pub fn resolve(options: Options, source: Source, cancel: CancellationToken) -> Balancer {
        let re_resolution = ReResolution::default();
        let targets = discover_with_re_resolution(source, re_resolution.clone(), cancel.clone());
        Balancer::start_with_re_resolution(options, targets, re_resolution, cancel)
    }

    /// Does what [`Balancer::start`] does, and requests a new resolution from `re_resolution` whenever a connection fails or
    /// ends.
    pub fn start_with_re_resolution(
        options: Options,
        targets: watch::Receiver<Arc<[Target]>>,
        re_resolution: ReResolution,
        cancel: CancellationToken,
    ) -> Balancer {
        let shared = Arc::new(UpstreamState::new(options, re_resolution));
        tokio::spawn(supervise(shared.clone(), targets, cancel));
        Balancer { shared }
    }

    /// Picks an endpoint that takes calls and is not in `exclude`: the cheaper of two drawn at random by weight.
    ///
    /// Never waits and never connects. Fails when no endpoint is ready, when all streams of all endpoints are in use, or when
    /// `share` already holds its fair part of them. The call counts as in flight from here until the pick is dropped.
    pub fn pick(&self, share: Option<&Arc<Share>>, exclude: &[SocketAddr]) -> Result<Pick, Unavailable> {
        self.choose(share, exclude, false).map_err(|none| self.unavailable(exclude, none, share))
    }

    /// Picks like [`Balancer::pick`], without the cost of finding out why there is no endpoint.
    pub fn try_pick(&self, share: Option<&Arc<Share>>, exclude: &[SocketAddr]) -> Option<Pick> {
        self.choose(share, exclude, false).ok()
    }

    /// Chooses an endpoint. `in_turn`: the call has waited in the queue, so that the waiting calls of its share do not come
    /// before it.
    fn choose(
        &self,
        share: Option<&Arc<Share>>,
        exclude: &[SocketAddr],
        in_turn: bool,
    ) -> Result<Pick, Missing> {
        let now = Instant::now();
        let selection = self.shared.selection();
        let is_crowded =
            !self.shared.may_have(share, &selection) || (!in_turn && self.shared.fair_queue.has_queue(share));
        if is_crowded && !selection.members().is_empty() {
            return Err(Missing::Stream { too_many_wait: false });
        }
        let has_room =
            |member: &Member| member.connections.iter().any(|connection| connection.streams.has_room());
        let mut rng = self.shared.rng();
        let avoided = share.and_then(|share| share.avoids(self.shared.fair_queue.index, now));
        let elsewhere = avoided.and_then(|avoided| {
            let exclude: Vec<SocketAddr> = exclude.iter().copied().chain([avoided]).collect();
            selection.choose(&exclude, now, &mut rng, has_room).filter(|choice| choice.room)
        });
        let choice = elsewhere.or_else(|| selection.choose(exclude, now, &mut rng, has_room));
        let Choice { member, probe, room } = choice.ok_or(Missing::Endpoint)?;
        if !room {
            let demand = &member.load.connection_demand;
            if demand.can_grow() {
                demand.want();
            }
            return Err(Missing::Stream { too_many_wait: false });
        }
        // Every member has at least one connection.
        let connection = stream_limit::next(&member.connections, |connection| &connection.streams)
            .ok_or(Missing::Endpoint)?;
        Ok(Pick::new(connection.clone(), share.cloned(), probe, now))
    }

    /// Picks like [`Balancer::pick`], but waits for a ready endpoint with a free stream, at most until `deadline`. Calls that
    /// wait for a stream take turns by share. When too many wait already, the call fails at once.
    pub async fn pick_wait(
        &self,
        share: Option<&Arc<Share>>,
        exclude: &[SocketAddr],
        deadline: Instant,
    ) -> Result<Pick, Unavailable> {
        let mut changed = self.changed();
        // The position in the queue that the call has once it has waited.
        let mut ticket = None;
        loop {
            changed.mark_unchanged();
            let missing = match self.choose(share, exclude, ticket.is_some()) {
                Ok(pick) => return Ok(pick),
                Err(missing) => missing,
            };
            if self.shared.is_stopping() {
                return Err(self.unavailable(exclude, missing, share));
            }
            let woken = match missing {
                Missing::Endpoint => matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))),
                Missing::Stream { .. } => {
                    let Some(waiter) = self.shared.fair_queue.wait(share, ticket) else {
                        return Err(self.unavailable(
                            exclude,
                            Missing::Stream { too_many_wait: true },
                            share,
                        ));
                    };
                    let is_first = waiter.is_first;
                    ticket = Some(waiter.ticket);
                    let mut waiter = Waiting { shared: &self.shared, waiter: Some(waiter) };
                    // A stream may have become free between the choice and the queueing.
                    if is_first && let Ok(pick) = self.choose(share, exclude, true) {
                        return Ok(pick);
                    }
                    timeout_at(deadline, waiter.woken()).await.is_ok()
                }
            };
            if !woken {
                return Err(self.unavailable(exclude, missing, share));
            }
        }
    }

    /// Returns the current state of every endpoint, ordered by address.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        let now = Instant::now();
        self.shared.endpoints().values().map(|endpoint| endpoint.snapshot(now)).collect()
    }

    /// Returns how many endpoints calls can be sent to: those that are READY and, below the panic threshold, the ejected ones.
    pub fn pickable(&self) -> usize {
        self.shared.selection().members().len()
    }

    /// Returns a receiver of a version number that grows whenever an endpoint comes, goes, or changes its state.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.version()
    }

    /// Returns the upstream's name.
    pub fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// Returns the options that the balancer was started with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Resolves once every task has ended after the cancellation.
    pub async fn stopped(&self) {
        self.shared.stopped().await;
    }

    fn unavailable(
        &self,
        exclude: &[SocketAddr],
        missing: Missing,
        share: Option<&Arc<Share>>,
    ) -> Unavailable {
        let name = self.name();
        if self.shared.is_stopping() {
            return Unavailable::stopped(name);
        }
        let crowded = match missing {
            Missing::Endpoint => None,
            Missing::Stream { too_many_wait } => Some(Crowded {
                allowed: self.shared.selection().allowed(),
                held: self.shared.fair_queue.held(share),
                too_many_wait,
            }),
        };
        Unavailable::of(name, &self.snapshot(), exclude.len(), crowded)
    }
}

/// The thing that is missing when a pick fails.
#[derive(Clone, Copy, Debug)]
enum Missing {
    /// A ready endpoint.
    Endpoint,
    /// A free stream: endpoints are ready, but all their streams, or all streams of this share, are in use.
    Stream { too_many_wait: bool },
}

/// A waiting call's position in the queue. On drop, a stream that it was woken for is offered to the next one.
struct Waiting<'a> {
    shared: &'a UpstreamState,
    waiter: Option<Waiter>,
}

impl Waiting<'_> {
    async fn woken(&mut self) {
        if let Some(waiter) = &mut self.waiter {
            waiter.await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.waiter.take().is_some_and(Waiter::leave) {
            self.shared.has_room(1);
        }
    }
}
