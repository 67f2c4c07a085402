//! The handle of one upstream: keeps an endpoint for each target and picks among those that are ready.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::discover::{Poke, discover_poked};
use crate::endpoint::{Endpoint, EndpointSnapshot};
use crate::keeper;
use crate::load::Load;
use crate::options::Options;
use crate::pick::Pick;
use crate::pool::{Choice, Member, Pool};
use crate::room::{Room, Waiter};
use crate::share::Share;
use crate::source::{Source, TARGETS_MAX};
use crate::streams;
use crate::subset;
use crate::target::Target;
use crate::told;
use crate::unavailable::{Crowded, Unavailable};

/// Picks connected, serving endpoints of one upstream. A cheap handle: clone it, share it between threads.
#[derive(Clone, Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
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
        Balancer::start_poking(options, targets, Poke::default(), cancel)
    }

    /// Discovers the targets of `source` itself, looking again as soon as a connection fails.
    pub fn resolve(options: Options, source: Source, cancel: CancellationToken) -> Balancer {
        let poke = Poke::default();
        let targets = discover_poked(source, poke.clone(), cancel.clone());
        Balancer::start_poking(options, targets, poke, cancel)
    }

    /// [`Balancer::start`], poking `poke` whenever a connection fails or ends.
    pub fn start_poking(
        options: Options,
        targets: watch::Receiver<Arc<[Target]>>,
        poke: Poke,
        cancel: CancellationToken,
    ) -> Balancer {
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        let room = Arc::new(Room::new(options.share_index));
        let options_stores = options.stores.clone();
        let shared = Arc::new(Shared {
            options,
            poke,
            seed: AtomicU64::new(seed),
            endpoints: Mutex::new(BTreeMap::new()),
            pool: ArcSwap::from_pointee(Pool::new(Vec::new(), Vec::new(), 0)),
            version: watch::Sender::new(0),
            room,
            store_view: options_stores.join(),
            stopping: AtomicBool::new(false),
            stopped: CancellationToken::new(),
        });
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
        let pool = self.shared.pool.load();
        let is_crowded =
            !self.shared.may_have(share, &pool) || (!in_turn && self.shared.room.has_line(share));
        if is_crowded && !pool.members().is_empty() {
            return Err(Missing::Stream { too_many_wait: false });
        }
        let has_room = |member: &Member| member.links.iter().any(|link| link.streams.has_room());
        let mut rng = self.shared.rng();
        let avoided = share.and_then(|share| share.avoids(self.shared.room.index, now));
        let elsewhere = avoided.and_then(|avoided| {
            let exclude: Vec<SocketAddr> = exclude.iter().copied().chain([avoided]).collect();
            pool.choose(&exclude, now, &mut rng, has_room).filter(|choice| choice.room)
        });
        let choice = elsewhere.or_else(|| pool.choose(exclude, now, &mut rng, has_room));
        let Choice { member, probe, room } = choice.ok_or(Missing::Endpoint)?;
        if !room {
            let crowd = &member.load.crowd;
            if crowd.can_grow() {
                crowd.want();
            }
            return Err(Missing::Stream { too_many_wait: false });
        }
        // A member has a connection.
        let link = streams::next(&member.links, |link| &link.streams).ok_or(Missing::Endpoint)?;
        Ok(Pick::new(link.clone(), share.cloned(), probe, now))
    }

    /// [`Balancer::pick`], waiting until an endpoint is ready and has a stream, at most until `deadline`. Those who wait for a
    /// stream have turns by share; when too many do, a further one is told at once.
    pub async fn picked(
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
            if self.shared.stopping.load(Ordering::Relaxed) {
                return Err(self.unavailable(exclude, missing, share));
            }
            let woken = match missing {
                Missing::Endpoint => matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))),
                Missing::Stream { .. } => {
                    let Some(waiter) = self.shared.room.wait(share, ticket) else {
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
        self.shared.pool.load().members().len()
    }

    /// A number that grows whenever an endpoint comes, goes, or changes its state.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
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
        self.shared.stopped.cancelled().await;
    }

    fn unavailable(
        &self,
        exclude: &[SocketAddr],
        missing: Missing,
        share: Option<&Arc<Share>>,
    ) -> Unavailable {
        let name = self.name();
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Unavailable::stopped(name);
        }
        let crowded = match missing {
            Missing::Endpoint => None,
            Missing::Stream { too_many_wait } => Some(Crowded {
                allowed: self.shared.pool.load().allowed(),
                held: self.shared.room.held(share),
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
    shared: &'a Shared,
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

/// What the handles, the endpoints and their connections have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    poke: Poke,
    seed: AtomicU64,
    endpoints: Mutex<BTreeMap<SocketAddr, Arc<Endpoint>>>,
    pool: ArcSwap<Pool>,
    version: watch::Sender<u64>,
    /// Who has streams, and who waits for one.
    pub(crate) room: Arc<Room>,
    /// Which of the balancers it is that share [`Options::stores`].
    store_view: u64,
    stopping: AtomicBool,
    stopped: CancellationToken,
}

impl Shared {
    /// Makes what the endpoints say of themselves what is picked from. Called on every change, by whoever learns of it.
    pub(crate) fn publish(&self) {
        let endpoints = self.endpoints();
        let refused = self.refuse_other_stores(&endpoints);
        let serving: Vec<Member> = endpoints.values().filter_map(|endpoint| endpoint.member()).collect();
        let panic_below = self.options.ejection.map_or(0.0, |ejection| ejection.panic_below);
        let usable = endpoints.len() - refused;
        let pool = Pool::of_serving(serving, usable, panic_below, self.options.connections_max);
        // Under the lock: of two changes at once, the later list must be the one that stays.
        self.pool.store(Arc::new(pool));
        drop(endpoints);
        self.version.send_modify(|version| *version += 1);
        if self.room.has_waiters() {
            // Those for whom there is room now; with nobody left, all, to wait for an endpoint instead.
            let pool = self.pool.load();
            let free = pool.allowed().saturating_sub(pool.in_use());
            let most = if pool.members().is_empty() { u64::MAX } else { free };
            self.has_room(usize::try_from(most).unwrap_or(usize::MAX));
        }
    }

    /// Takes those out that stand on another store than the one that is kept. Returns how many.
    fn refuse_other_stores(&self, endpoints: &BTreeMap<SocketAddr, Arc<Endpoint>>) -> usize {
        let sights = endpoints.iter().map(|(address, endpoint)| (*address, endpoint.sight())).collect();
        let stores = &self.options.stores;
        let refused = stores.update(&self.options.name, self.store_view, &sights, Instant::now());
        for (address, endpoint) in endpoints {
            endpoint.set_refused(refused.get(address));
        }
        refused.len()
    }

    /// Publishes anew whenever another balancer, or time, has changed which store is kept. Never returns.
    async fn follow_stores(&self) {
        let mut changed = self.options.stores.changed();
        loop {
            tokio::select! {
                _ = changed.changed() => {}
                () = self.options.stores.due() => {}
            }
            changed.mark_unchanged();
            self.publish();
        }
    }

    /// Ejects the endpoint at `address`, whose load is `load`, unless too many are out already.
    pub(crate) fn eject(&self, address: SocketAddr, load: &Arc<Load>, reason: &str, now: Instant) {
        let Some(rules) = &self.options.ejection else { return };
        {
            let endpoints = self.endpoints();
            let is_known = endpoints.get(&address).is_some_and(|known| Arc::ptr_eq(&known.load, load));
            let serving = || endpoints.values().filter(|endpoint| endpoint.is_ready());
            let ejected = serving().filter(|endpoint| endpoint.load.outlier.is_ejected()).count();
            if !is_known || !rules.allows(ejected, serving().count()) {
                return;
            }
            // Under the lock: two at once must not both be the last one allowed.
            load.outlier.eject(reason, now);
        }
        self.publish();
        if told::is_new(&self.options.name, address, "ejected") {
            tracing::warn!(upstream = self.options.name, endpoint = %address, reason, "endpoint ejected");
        }
    }

    /// The endpoint at `address` takes calls again: its probe went well.
    pub(crate) fn readmitted(&self, address: SocketAddr) {
        self.publish();
        if told::is_new(&self.options.name, address, "readmitted") {
            tracing::info!(upstream = self.options.name, endpoint = %address, "endpoint readmitted");
        }
    }

    /// So many streams may be had by those who wait.
    pub(crate) fn has_room(&self, streams: usize) {
        let pool = self.pool.load();
        let may_have = |share: Option<&Arc<Share>>| pool.members().is_empty() || self.may_have(share, &pool);
        self.room.wake(streams, may_have);
    }

    /// Whether this share may have one more stream of those in `pool`.
    fn may_have(&self, share: Option<&Arc<Share>>, pool: &Pool) -> bool {
        self.room.may_have(share, pool.allowed(), || pool.in_use())
    }

    /// Asks discovery to look again.
    pub(crate) fn poke(&self) {
        self.poke.poke();
    }

    /// What the ready endpoints cost on average, in seconds.
    pub(crate) fn mean_ewma_s(&self, now: Instant) -> Option<f64> {
        let pool = self.pool.load();
        let members = pool.members();
        let sum: f64 = members.iter().map(|member| member.load.ewma_s(now)).sum();
        (!members.is_empty()).then(|| sum / members.len() as f64)
    }

    /// A generator of its own for each draw: no lock, no thread-local, and repeatable from one seed.
    pub(crate) fn rng(&self) -> Rng {
        // The odd constant of SplitMix64; `Rng` hashes what it is given.
        Rng::with_seed(self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed))
    }

    fn endpoints(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the task of every endpoint.
async fn supervise(shared: Arc<Shared>, targets: watch::Receiver<Arc<[Target]>>, cancel: CancellationToken) {
    // Marks the end even if the runtime drops this task.
    let _stop = Stop(shared.clone());
    let mut tasks = JoinSet::new();
    tokio::select! {
        () = cancel.cancelled() => {}
        () = follow(&shared, targets, &mut tasks) => {}
        () = shared.follow_stores() => {}
    }
    shared.stopping.store(true, Ordering::Relaxed);
    tasks.shutdown().await;
}

/// Starts and ends endpoints as targets come and go. Never returns.
async fn follow(shared: &Arc<Shared>, mut targets: watch::Receiver<Arc<[Target]>>, tasks: &mut JoinSet<()>) {
    let mut running = HashMap::new();
    loop {
        let list = targets.borrow_and_update().clone();
        reconcile(shared, &list, &mut running, tasks);
        loop {
            tokio::select! {
                changed = targets.changed() => match changed {
                    Ok(()) => break,
                    // Discovery is over: what it said last stays true.
                    Err(_) => std::future::pending().await,
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }
}

fn reconcile(
    shared: &Arc<Shared>,
    list: &[Target],
    running: &mut HashMap<SocketAddr, CancellationToken>,
    tasks: &mut JoinSet<()>,
) {
    if list.len() > TARGETS_MAX {
        tracing::warn!(
            upstream = shared.options.name,
            targets = list.len(),
            "only the first {TARGETS_MAX} are used"
        );
    }
    let known: BTreeMap<SocketAddr, u32> =
        list.iter().take(TARGETS_MAX).map(|target| (target.address, target.weight)).collect();
    let wanted: BTreeMap<SocketAddr, u32> = match &shared.options.subset {
        Some(subset) => {
            let known = known.into_iter().collect();
            subset::of(known, subset, |target: &(SocketAddr, u32)| target.0).into_iter().collect()
        }
        None => known,
    };
    running.retain(|address, removed| {
        let stays = wanted.contains_key(address);
        if !stays {
            removed.cancel();
            shared.endpoints().remove(address);
        }
        stays
    });
    for (address, weight) in wanted {
        if let Some(known) = shared.endpoints().get(&address) {
            known.load.set_weight(weight);
            continue;
        }
        let endpoint = Arc::new(Endpoint::new(address, weight, &shared.options));
        shared.endpoints().insert(address, endpoint.clone());
        let removed = CancellationToken::new();
        running.insert(address, removed.clone());
        tasks.spawn(keeper::run(endpoint, shared.clone(), removed));
    }
    shared.publish();
}

/// Leaves nothing pickable behind.
struct Stop(Arc<Shared>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.0.endpoints().clear();
        self.0.publish();
        self.0.stopped.cancel();
    }
}
