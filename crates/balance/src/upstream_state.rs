//! The state of one upstream that its handles and the tasks of its endpoints share: what is known of every endpoint, and the
//! selection that is made from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::discovery::ReResolution;
use crate::endpoint::Endpoint;
use crate::endpoint::feedback::Feedback;
use crate::fairness::fair_queue::FairQueue;
use crate::fairness::share::Share;
use crate::load::Load;
use crate::log_dedup;
use crate::options::Options;
use crate::selection::{Member, Selection};

/// The state that the handles, the endpoints and their connections share.
#[derive(Debug)]
pub(crate) struct UpstreamState {
    pub(crate) options: Arc<Options>,
    re_resolution: ReResolution,
    seed: AtomicU64,
    endpoints: Mutex<BTreeMap<SocketAddr, Arc<Endpoint>>>,
    selection: ArcSwap<Selection>,
    version: watch::Sender<u64>,
    /// The streams in use, and the calls that wait for one.
    pub(crate) fair_queue: Arc<FairQueue>,
    /// The number of this balancer in [`Options::stores`].
    store_view: u64,
    stopping: AtomicBool,
    stopped: CancellationToken,
}

impl UpstreamState {
    /// Creates the state of an upstream without endpoints. `re_resolution` is requested whenever a connection fails or ends.
    pub(crate) fn new(options: Options, re_resolution: ReResolution) -> UpstreamState {
        UpstreamState {
            re_resolution,
            seed: AtomicU64::new(options.seed.unwrap_or_else(|| fastrand::u64(..))),
            endpoints: Mutex::new(BTreeMap::new()),
            selection: ArcSwap::from_pointee(Selection::new(Vec::new(), Vec::new(), 0)),
            version: watch::Sender::new(0),
            fair_queue: Arc::new(FairQueue::new(options.share_index)),
            store_view: options.stores.join(),
            stopping: AtomicBool::new(false),
            stopped: CancellationToken::new(),
            options: Arc::new(options),
        }
    }

    /// Returns the current selection.
    pub(crate) fn selection(&self) -> Guard<Arc<Selection>> {
        self.selection.load()
    }

    /// Returns a number that grows whenever an endpoint comes, goes, or changes its state.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Returns whether it was cancelled: no endpoint will take a call any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Marks it as cancelled.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Removes all endpoints, so that nothing can be picked, and resolves [`UpstreamState::stopped`].
    pub(crate) fn clear(&self) {
        self.stop();
        self.endpoints().clear();
        self.publish();
        self.stopped.cancel();
    }

    /// Resolves when every task has ended.
    pub(crate) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    /// Rebuilds the selection from the current state of the endpoints. Called after every change.
    pub(crate) fn publish(&self) {
        let endpoints = self.endpoints();
        let refused = self.refuse_other_stores(&endpoints);
        let serving: Vec<Member> = endpoints.values().filter_map(|endpoint| Member::of(endpoint)).collect();
        let panic_threshold = self.options.ejection.map_or(0.0, |ejection| ejection.panic_threshold);
        let usable = endpoints.len() - refused;
        let selection = Selection::of_serving(serving, usable, panic_threshold, self.options.connections_max);
        // The lock is still held: of two changes at once, the later list must stay.
        self.selection.store(Arc::new(selection));
        drop(endpoints);
        self.version.send_modify(|version| *version += 1);
        if self.fair_queue.has_waiters() {
            // Wakes as many calls as there is room for. Without members it wakes all, to wait for an endpoint instead.
            let selection = self.selection.load();
            let free = selection.allowed().saturating_sub(selection.in_use());
            let most = if selection.members().is_empty() { u64::MAX } else { free };
            self.has_room(usize::try_from(most).unwrap_or(usize::MAX));
        }
    }

    /// Refuses the endpoints that are on another store than the one that is kept. Returns how many.
    fn refuse_other_stores(&self, endpoints: &BTreeMap<SocketAddr, Arc<Endpoint>>) -> usize {
        let sights = endpoints.iter().map(|(address, endpoint)| (*address, endpoint.sight())).collect();
        let stores = &self.options.stores;
        let refused = stores.update(&self.options.name, self.store_view, &sights, Instant::now());
        for (address, endpoint) in endpoints {
            endpoint.set_refused(refused.get(address));
        }
        refused.len()
    }

    /// Publishes again whenever another balancer, or time, has changed which store is kept. Never returns.
    pub(crate) async fn follow_stores(&self) {
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

    /// Wakes waiting calls for at most `streams` free streams.
    pub(crate) fn has_room(&self, streams: usize) {
        let selection = self.selection.load();
        let may_have =
            |share: Option<&Arc<Share>>| selection.members().is_empty() || self.may_have(share, &selection);
        self.fair_queue.wake(streams, may_have);
    }

    /// Returns whether this share may have one more stream of those in `selection`.
    pub(crate) fn may_have(&self, share: Option<&Arc<Share>>, selection: &Selection) -> bool {
        self.fair_queue.may_have(share, selection.allowed(), || selection.in_use())
    }

    /// Asks discovery to look again.
    pub(crate) fn request_re_resolution(&self) {
        self.re_resolution.request();
    }

    /// Returns the mean latency of the ready endpoints, in seconds.
    pub(crate) fn mean_ewma_s(&self, now: Instant) -> Option<f64> {
        let selection = self.selection.load();
        let members = selection.members();
        let sum: f64 = members.iter().map(|member| member.load.ewma_s(now)).sum();
        (!members.is_empty()).then(|| sum / members.len() as f64)
    }

    /// Returns a new random generator for each draw: no lock, no thread-local, and repeatable from one seed.
    pub(crate) fn rng(&self) -> Rng {
        // The odd constant of SplitMix64; `Rng` hashes what it is given.
        Rng::with_seed(self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed))
    }

    /// Returns every endpoint that is known, by address.
    pub(crate) fn endpoints(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feedback for UpstreamState {
    fn eject(&self, address: SocketAddr, load: &Arc<Load>, reason: &str, now: Instant) {
        let Some(rules) = &self.options.ejection else { return };
        {
            let endpoints = self.endpoints();
            let is_known = endpoints.get(&address).is_some_and(|known| Arc::ptr_eq(&known.load, load));
            let serving = || endpoints.values().filter(|endpoint| endpoint.is_ready());
            let ejected = serving().filter(|endpoint| endpoint.load.outlier.is_ejected()).count();
            if !is_known || !rules.allows(ejected, serving().count()) {
                return;
            }
            // The lock is still held: two at once must not both be the last one allowed.
            load.outlier.eject(reason, now);
        }
        self.publish();
        if log_dedup::is_new(&self.options.name, address, "ejected") {
            tracing::warn!(upstream = self.options.name, endpoint = %address, reason, "endpoint ejected");
        }
    }

    fn readmitted(&self, address: SocketAddr) {
        self.publish();
        if log_dedup::is_new(&self.options.name, address, "readmitted") {
            tracing::info!(upstream = self.options.name, endpoint = %address, "endpoint readmitted");
        }
    }

    fn room_freed(&self) {
        self.has_room(1);
    }

    fn changed(&self) {
        self.publish();
    }
}
