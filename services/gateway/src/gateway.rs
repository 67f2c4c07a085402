//! The gateway as a whole: its sockets, its cores, its upstreams, and how it ends.

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use anyhow::Context as _;
use serde_json::json;
use shoal_balance::Source;
use shoal_http2::Unread;
use shoal_kit::admin::{Look, Part};
use shoal_kit::role::Role;
use shoal_kit::sampling::Sampling;
use shoal_kit::{Memory, Settings, families, open_files};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::calls::Calls;
use crate::admission::connection_slots::ConnectionSlots;
use crate::admission::quota::CallerQuotas;
use crate::config::Config;
use crate::forwarding::context::CallContext;
use crate::routing::catalog::Catalog;
use crate::routing::entry::{Described, Entry};
use crate::server::listener;
use crate::server::worker::{Running, Thread};
use crate::service;
use crate::service::status;
use crate::upstream::Upstream;
use crate::upstream::method_meter::{MethodMeter, UNKNOWN};

/// A gateway that has its address.
pub struct Gateway {
    listeners: Vec<std::net::TcpListener>,
    address: SocketAddr,
    catalog: Arc<Catalog>,
}

/// Tells what of a gateway is ready. Outlives it.
#[derive(Clone)]
pub struct Readiness(Arc<Catalog>);

impl Gateway {
    /// Takes `settings.listen`, with a socket for each core. Nothing is accepted before [`Gateway::run`].
    ///
    /// # Errors
    /// When the section `[gateway]` is not valid, or the address is in use or not ours.
    pub fn bind(settings: &Settings) -> anyhow::Result<Gateway> {
        settings.refuse_renamed("gateway", &Config::RENAMED)?;
        let config = settings.valid_section("gateway", Config::validate)?;
        let cores = config.cores.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
        families::begin(Role::Gateway);
        let listeners = listener::bind(settings.listen, cores)?;
        let address = match listeners.first() {
            Some(first) => first.local_addr()?,
            None => anyhow::bail!("gateway.cores must be at least 1"),
        };
        Ok(Gateway { listeners, address, catalog: Arc::new(Catalog::new(config)?) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what of it is ready.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness(self.catalog.clone())
    }

    /// Serves until `shutdown`, then drains: health says NOT_SERVING, a moment later no connection is accepted and every
    /// client is sent GOAWAY, and calls in flight have `settings.drain.grace` to finish.
    ///
    /// # Errors
    /// When a peer's source cannot be read, or a thread dies.
    pub async fn run(self, settings: &Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Gateway { listeners, address, catalog } = self;
        let config = catalog.config().clone();
        let mut threads = Vec::with_capacity(listeners.len());
        for (index, listener) in listeners.into_iter().enumerate() {
            threads.push(Thread::spawn(index, listener).await?);
        }
        let handles: Vec<Handle> = threads.iter().map(|thread| thread.handle.clone()).collect();
        let entries = entries(&config, settings, &catalog, &handles)?;
        if entries.is_empty() {
            tracing::warn!(
                "this gateway has no upstreams: give addresses of clones with --peer 'session=HOST:PORT,…' or in \
                 [gateway.upstream.NAME]; until then every call is answered UNIMPLEMENTED"
            );
        }
        catalog.set(entries);

        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let routes = service::routes(&catalog, &draining);
        let memory = Memory::default();
        let callers = CallerQuotas::new(&config.callers, Instant::now()).map(Arc::new);
        let most = connections_max(&config, catalog.table().entries.len());
        let slots = ConnectionSlots::new(most, config.limits.connections_per_address);
        let unread = Arc::<Unread>::default();
        let kept = Arc::<AtomicUsize>::default();
        let calls = Arc::new(Calls::new(config.limits.calls, config.limits.streams));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut running: Vec<Running> = threads
            .into_iter()
            .enumerate()
            .map(|(index, thread)| {
                thread.start(CallContext {
                    index,
                    catalog: catalog.clone(),
                    config: config.clone(),
                    routes: routes.clone(),
                    memory: memory.clone(),
                    callers: callers.clone(),
                    unrouted: MethodMeter::new("gateway", UNKNOWN),
                    sampling: Sampling::of(&settings.telemetry),
                    stop: stop.clone(),
                    stopping: stopping.clone(),
                    cut: CancellationToken::new(),
                    drain: settings.drain,
                    slots: slots.clone(),
                    unread: unread.clone(),
                    kept: kept.clone(),
                    calls: calls.clone(),
                })
            })
            .collect();
        // Ends the threads however this function ends.
        let _stop = stop.clone().drop_guard();
        tracing::info!(%address, cores = running.len(), "gateway");

        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = catalog.clone().follow() => match never {},
            died = first_ended(&mut running) => died,
        };
        if ended.is_ok() {
            draining.cancel();
            tokio::time::sleep(settings.drain.notice).await;
        }
        // Before the token: a connection is woken by that once, and then believes this.
        stopping.store(true, Ordering::Relaxed);
        stop.cancel();
        for mut thread in running {
            // One that died has said so; the others still drain.
            let _ = thread.ended().await;
            thread.join().await;
        }
        catalog.set(Vec::new());
        ended
    }
}

/// Connections of clients, as many as the open files of this process allow beside what else it needs them for: what is open
/// already, and connections to clones. So that one client's connections do not keep others' calls from going anywhere.
fn connections_max(config: &Config, upstreams: usize) -> usize {
    /// Clones an upstream is taken to have. Where it has more, and all files are used, connections of clients give way.
    const CLONES: usize = 4;
    /// The admin port, engines, files that are read.
    const OTHERS: usize = 64;
    let files = open_files::limit();
    let cores = config.cores.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    // In `up` the other ends are in this process too.
    let to_clones = 2 * cores * upstreams * CLONES * config.balance.connections;
    let reserved = open_files::open().unwrap_or(0) + to_clones + OTHERS;
    let most = config.limits.connections.min(files.saturating_sub(reserved).max(files / 4)).max(1);
    if most < config.limits.connections {
        tracing::info!(
            most,
            files,
            reserved,
            "connections of clients are limited by the open files of this process"
        );
    }
    most
}

/// Resolves only if a thread ends before it was told to.
async fn first_ended(running: &mut [Running]) -> anyhow::Result<()> {
    let ended = running.iter_mut().map(|thread| Box::pin(thread.ended()));
    futures::future::select_all(ended).await.0.and_then(|()| anyhow::bail!("a thread of the gateway ended"))
}

fn entries(
    config: &Config,
    settings: &Settings,
    catalog: &Catalog,
    cores: &[Handle],
) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (role, source) in &settings.peers {
        // Where the services find the gateway; it is no upstream of itself.
        if *role == Role::Gateway {
            continue;
        }
        let source = Source::from_str(source).with_context(|| settings.peer_given(*role))?;
        let upstream = Upstream::start(role.name(), Some(*role), source, config, cores);
        entries.push(catalog.of_role(*role, upstream));
    }
    for (name, foreign) in &config.upstream {
        let source = foreign.source().with_context(|| format!("gateway.upstream.{name}"))?;
        entries.push(Entry {
            upstream: Upstream::start(name, None, source, config, cores),
            named: foreign.services.clone(),
            default: foreign.default,
            by_route: foreign.by_route,
            described: Described::default(),
        });
    }
    Ok(entries)
}

impl Readiness {
    /// Returns how many endpoints of an upstream (a role by its name, or a foreign one) take calls on every core: a call may
    /// land on any.
    #[must_use]
    pub fn endpoints(&self, upstream: &str) -> usize {
        let table = self.0.table();
        table.entries.iter().find(|e| e.upstream.name == upstream).map_or(0, |e| e.upstream.ready())
    }

    /// Returns whether the gateway itself takes calls. What stands behind it does not matter: a role without clones fails the calls of
    /// that role alone.
    ///
    /// # Errors
    /// While it does not run yet.
    pub fn check(&self) -> Result<(), String> {
        if self.0.is_set() { Ok(()) } else { Err("the gateway is not running".to_owned()) }
    }

    /// Returns whether every configured Shoal role has a clone that takes calls, on every core.
    ///
    /// # Errors
    /// With the roles that have none, and why.
    pub fn roles(&self) -> Result<(), String> {
        self.check()?;
        let table = self.0.table();
        let unready: Vec<String> = table
            .entries
            .iter()
            .filter(|entry| entry.upstream.role.is_some() && entry.upstream.ready() == 0)
            .map(|entry| format!("{}: {}", entry.upstream.name, entry.upstream.unready_because()))
            .collect();
        if unready.is_empty() { Ok(()) } else { Err(unready.join("; ")) }
    }

    /// Resolves when [`Readiness::roles`] is satisfied.
    pub async fn ready(&self) {
        self.when(|readiness| readiness.roles().is_ok()).await;
    }

    /// The gateway as its admin port shows it.
    #[must_use]
    pub fn part(&self) -> Part {
        let readiness = self.clone();
        let look = move || {
            let ready = readiness.check();
            let note = if ready.is_ok() { readiness.roles().err() } else { None };
            let upstreams = status::upstreams(&readiness.0.table());
            Look { ready, note, status: json!({ "role": Role::Gateway.name(), "upstreams": upstreams }) }
        };
        Part { name: Role::Gateway.to_string(), look: Arc::new(look) }
    }

    /// Resolves when `satisfied`, asked again at every change of a route or an endpoint.
    pub async fn when(&self, satisfied: impl Fn(&Readiness) -> bool) {
        let mut changes = self.0.changes();
        while !satisfied(self) {
            if changes.changed().await.is_err() {
                // Never: the catalog lives as long as this handle.
                return;
            }
        }
    }
}
