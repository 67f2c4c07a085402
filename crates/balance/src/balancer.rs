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
    /// Keeps connections to `targets` in tasks on the current runtime, until `cancel`.
    ///
    /// A target that disappears takes no more calls and finishes those it has (at most [`Options::drain`]). `cancel`
    /// cuts everything at once: drain the callers first.
    pub fn start(
        options: Options,
        targets: watch::Receiver<Arc<[Target]>>,
        cancel: CancellationToken,
    ) -> Balancer {
        Balancer::start_with_re_resolution(options, targets, ReResolution::default(), cancel)
    }

    /// Discovers the targets of `source` itself, looking again as soon as a connection fails.
    pub fn resolve(options: Options, source: Source, cancel: CancellationToken) -> Balancer {
        let re_resolution = ReResolution::default();
        let targets = discover_with_re_resolution(source, re_resolution.clone(), cancel.clone());
        Balancer::start_with_re_resolution(options, targets, re_resolution, cancel)
    }

    /// [`Balancer::start`], poking `re_resolution` whenever a connection fails or ends.
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

    /// Picks an endpoint that takes calls and is not in `exclude`: the cheaper of two drawn at random by weight. Never waits
    /// and never connects; with all streams of all endpoints in use it fails. The call counts as in flight from here until the
    /// pick is dropped. With a `share`, streams are missing also when it has too many of them already.
    pub fn pick(&self, share: Option<&Arc<Share>>, exclude: &[SocketAddr]) -> Result<Pick, Unavailable> {
        self.choose(share, exclude, false).map_err(|none| self.unavailable(exclude, none, share))
    }

    /// [`Balancer::pick`] for those who have another way when it fails, and do not ask why.
    pub fn try_pick(&self, share: Option<&Arc<Share>>, exclude: &[SocketAddr]) -> Option<Pick> {
        self.choose(share, exclude, false).ok()
    }

    /// `in_turn`: it has waited, and others of its share that wait do not come before it.
    fn choose(
        &self,
        share: Option<&Arc<Share>>,
        exclude: &[SocketAddr],
        in_turn: bool,
    ) -> Result<Pick, Missing> {
        let now = Instant::now();
        let selection = self.shared.selection();
        let is_crowded =
            !self.shared.may_have(share, &selection) || (!in_turn && self.shared.fair_queue.has_line(share));
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
        // A member has a connection.
        let connection = stream_limit::next(&member.connections, |connection| &connection.streams)
            .ok_or(Missing::Endpoint)?;
        Ok(Pick::new(connection.clone(), share.cloned(), probe, now))
    }

    /// [`Balancer::pick`], waiting until an endpoint is ready and has a stream, at most until `deadline`. Those who wait for a
    /// stream have turns by share; when too many do, a further one is told at once.
    pub async fn pick_wait(
        &self,
        share: Option<&Arc<Share>>,
        exclude: &[SocketAddr],
        deadline: Instant,
    ) -> Result<Pick, Unavailable> {
        let mut changed = self.changed();
        // Of the place in line that it had, once it has waited.
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
                    // One may have ended between the look and the line.
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

    /// Every endpoint as it is now, by address.
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        let now = Instant::now();
        self.shared.endpoints().values().map(|endpoint| endpoint.snapshot(now)).collect()
    }

    /// How many endpoints are picked from: those that are READY, and in a panic the ejected too.
    pub fn pickable(&self) -> usize {
        self.shared.selection().members().len()
    }

    /// A number that grows whenever an endpoint comes, goes, or changes its state.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.version()
    }

    /// The upstream's name.
    pub fn name(&self) -> &str {
        &self.shared.options.name
    }

    /// The options it was started with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Resolves when every task has ended, after the cancellation.
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

/// What a pick has failed for.
#[derive(Clone, Copy, Debug)]
enum Missing {
    /// None is ready.
    Endpoint,
    /// Some are, and all streams are in use, or those that this share may have.
    Stream { too_many_wait: bool },
}

/// A place in line. Dropped, what it was woken for is another's.
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
