//! An upstream: its discovery, shared by all cores, and the state of each core with connections of its own.

pub(crate) mod endpoint_latency;
pub(crate) mod meter;
pub(crate) mod method_meter;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_balance::{
    Balancer, EndpointState, Options, ReResolution, Source, Stores, Subset, discover_with_re_resolution,
};
use shoal_kit::role::Role;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::adaptive_limit::AdaptiveLimit;
use crate::config::{Config, Health};
use crate::resilience::hedging::Hedges;
use crate::resilience::latency_histogram::Summary;
use crate::resilience::retry_budget::RetryBudget;
use crate::upstream::endpoint_latency::EndpointLatencies;
use crate::upstream::meter::Meter;

/// The role of the caller in the spans of attempts.
const ROLE: &str = "gateway";

/// The receive window of a connection to an endpoint: so large that it never binds. The connection is shared by all
/// callers of a core, and what a slow one leaves unread counts against this window too: at 8 MiB, eight stalled readers
/// with a window of 1 MiB each would stop everybody. What bounds memory is the window of each call.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The window of an answer until its caller has taken half of it. An answer that is never taken costs no more than this.
pub(crate) const FIRST_WINDOW: u32 = 64 << 10;

/// Returns how many upstreams there can be.
pub(crate) fn count(config: &Config) -> usize {
    Role::ALL.len() + config.upstream.len()
}

/// A number of its own for each, below that.
fn index_of(name: &str, role: Option<Role>, config: &Config) -> usize {
    match role {
        Some(role) => Role::ALL.iter().position(|known| *known == role).unwrap_or(0),
        None => Role::ALL.len() + config.upstream.keys().position(|known| known == name).unwrap_or(0),
    }
}

/// A group of endpoints that serve the same gRPC services.
pub(crate) struct Upstream {
    pub(crate) name: String,
    /// The Shoal role it is the clones of; none for a foreign service.
    pub(crate) role: Option<Role>,
    workers: Box<[WorkerState]>,
    _cancel: DropGuard,
}

/// The state that one core has of an upstream. No two cores touch the same one.
pub(crate) struct WorkerState {
    pub(crate) balancer: Balancer,
    pub(crate) meter: Meter,
    pub(crate) hedges: Hedges,
    endpoint_latencies: EndpointLatencies,
    /// If it is protected from too many calls.
    pub(crate) limiter: Option<Arc<AdaptiveLimit>>,
    budget: Mutex<RetryBudget>,
}

impl Upstream {
    /// Starts discovery on the current runtime and the connections of each core on that core's. Everything ends when the
    /// upstream is dropped.
    pub(crate) fn start(
        name: &str,
        role: Option<Role>,
        source: Source,
        config: &Config,
        cores: &[Handle],
    ) -> Arc<Upstream> {
        let cancel = CancellationToken::new();
        let re_resolution = ReResolution::default();
        // Shoal's own clones have no thread for each stream.
        let health = match role {
            Some(_) => Health::Watch,
            None => config.upstream.get(name).map_or(Health::default(), |upstream| upstream.health),
        };
        let targets = discover_with_re_resolution(source, re_resolution.clone(), cancel.clone());
        let retry = &config.retry;
        // Other processes choose other endpoints where there are more than a core connects to.
        let identity = config.seed.unwrap_or_else(|| fastrand::u64(..));
        let share = retry.budget_per_second / cores.len() as f64;
        // The cores must not choose different ones.
        let stores = Arc::<Stores>::default();
        let workers = cores
            .iter()
            .enumerate()
            .map(|(index, core)| {
                let _on_core = core.enter();
                let options = Options {
                    stream_window: config.limits.answer_window.min(FIRST_WINDOW),
                    connection_window: CONNECTION_WINDOW,
                    header_list_max: config.limits.answer_header_bytes,
                    header_fields_max: config.limits.header_fields,
                    secrets: config.callers.secrets(),
                    seed: config.seed,
                    health_service: (health != Health::None).then(String::new),
                    health_watched: health == Health::Watch,
                    penalty: config.balance.penalty,
                    slow_start: config.balance.slow_start,
                    ejection: config.ejection.options(),
                    subset: subset(config, identity, index, cores.len()),
                    connections_max: config.balance.connections,
                    connection_idle: config.balance.connection_idle,
                    share_index: index_of(name, role, config),
                    stores: stores.clone(),
                    ..Options::new(name, ROLE)
                };
                let balancer = Balancer::start_with_re_resolution(
                    options,
                    targets.clone(),
                    re_resolution.clone(),
                    cancel.clone(),
                );
                let now = Instant::now();
                let budget = Mutex::new(RetryBudget::new(retry.budget, share, now));
                WorkerState {
                    balancer,
                    meter: Meter::new(name),
                    hedges: Hedges::new(config.hedge.budget, now),
                    endpoint_latencies: EndpointLatencies::new(now),
                    limiter: config.overload.protects(name).then(|| {
                        let gauge = metrics::gauge!("shoal_gateway_concurrency_limit",
                            "upstream" => name.to_owned(), "worker" => index.to_string());
                        AdaptiveLimit::new(&config.overload, cores.len(), gauge, now)
                    }),
                    budget,
                }
            })
            .collect();
        Arc::new(Upstream { name: name.to_owned(), role, workers, _cancel: cancel.drop_guard() })
    }

    /// Returns what a core has of it.
    pub(crate) fn on_worker(&self, core: usize) -> &WorkerState {
        &self.workers[core]
    }

    /// All cores' workers.
    pub(crate) fn workers(&self) -> &[WorkerState] {
        &self.workers
    }

    /// Returns how many endpoints are READY, on the core where it is fewest: a call may land on any.
    pub(crate) fn ready(&self) -> usize {
        self.workers.iter().map(WorkerState::ready).min().unwrap_or(0)
    }

    /// Tells Prometheus how many endpoints are in which state, each at the best of the cores.
    pub(crate) fn gauge_states(&self) {
        let mut best: BTreeMap<SocketAddr, EndpointState> = BTreeMap::new();
        for endpoint in self.workers.iter().flat_map(|state| state.balancer.snapshot()) {
            let known = best.entry(endpoint.address).or_insert(endpoint.state);
            if rank(endpoint.state) > rank(*known) {
                *known = endpoint.state;
            }
        }
        for (state, label) in STATES {
            let count = best.values().filter(|known| **known == state).count();
            metrics::gauge!("shoal_gateway_endpoints", "upstream" => self.name.clone(), "state" => label)
                .set(count as f64);
        }
    }

    /// Why it is not ready, in a few words.
    pub(crate) fn unready_because(&self) -> String {
        let state = self.workers.iter().find_map(|state| {
            let endpoints = state.balancer.snapshot();
            let unready = endpoints.iter().all(|e| e.state != EndpointState::Ready);
            unready.then_some(endpoints)
        });
        match state.as_deref() {
            None => String::new(),
            Some([]) => "discovery has found no endpoint".to_owned(),
            Some([first, ..]) => format!("{} {}: {}", first.address, first.state, first.reason),
        }
    }
}

fn subset(config: &Config, identity: u64, core: usize, cores: usize) -> Option<Subset> {
    let size = config.balance.subset;
    (size > 0).then(|| Subset { size, ..Subset::of_process(identity, core, cores) })
}

/// The states from worst to best, as they are labelled.
const STATES: [(EndpointState, &str); 5] = [
    (EndpointState::Connecting, "connecting"),
    (EndpointState::NotServing, "not_serving"),
    (EndpointState::OtherStore, "other_store"),
    (EndpointState::Ejected, "ejected"),
    (EndpointState::Ready, "ready"),
];

/// The better, the higher.
pub(crate) fn rank(state: EndpointState) -> usize {
    STATES.iter().position(|(known, _)| *known == state).unwrap_or(0)
}

impl WorkerState {
    /// Returns how many endpoints this core can pick; when too few others are left, the ejected are among them.
    pub(crate) fn ready(&self) -> usize {
        self.balancer.pickable()
    }

    /// An endpoint began to answer.
    pub(crate) fn answered(&self, endpoint: SocketAddr, latency: Duration, now: Instant) {
        let living = || self.balancer.snapshot().iter().map(|endpoint| endpoint.address).collect();
        self.endpoint_latencies.answered(endpoint, latency, now, living);
    }

    /// Adds the latencies of an endpoint to `sum`.
    pub(crate) fn latencies(&self, endpoint: SocketAddr, sum: &mut Summary, now: Instant) {
        self.endpoint_latencies.add_to(endpoint, sum, now);
    }

    /// The retry budget of this core.
    pub(crate) fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
