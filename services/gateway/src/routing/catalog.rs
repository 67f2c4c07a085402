//! Keeps the route table current: what each upstream serves, by configuration, by our own descriptors, or by asking its
//! reflection again whenever its endpoints change.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use shoal_kit::role::Role;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::Config;
use crate::config::own_services::{LOCAL, role_of};
use crate::routing::descriptors::Files;
use crate::routing::entry::{Described, Entry};
use crate::routing::local_services;
use crate::routing::reflection_client::{FetchError, fetch};
use crate::routing::route_file::{BYTES_MAX, RouteFile, RuleError};
use crate::routing::table::{Plan, Table};
use crate::upstream::Upstream;

/// After the endpoints of an upstream changed, before it is asked: a rolling restart changes them many times.
const SETTLE: Duration = Duration::from_millis(50);
/// The time that one endpoint may take to describe its upstream.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// Between questions to an upstream that is connected and did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Between two looks at the route file. Its content is compared, not its time.
const RULES_EVERY: Duration = Duration::from_secs(1);

/// The current table, and what tells of its changes.
pub(crate) struct Catalog {
    table: ArcSwap<Table>,
    ours: Arc<Files>,
    config: Arc<Config>,
    sources: Mutex<Sources>,
    set: AtomicBool,
    changes: watch::Sender<u64>,
}

/// The sources that the table is made of.
struct Sources {
    entries: Vec<Entry>,
    rules: RouteFile,
    /// The warnings that were logged already.
    lints: Vec<String>,
}

impl Catalog {
    /// Creates a catalog without upstreams, and reads the route file.
    ///
    /// # Errors
    /// When our own descriptors or the route file cannot be read.
    pub(crate) fn new(config: Config) -> anyhow::Result<Catalog> {
        let ours = Arc::new(local_services::descriptors()?);
        let rules = match &config.routes {
            None => RouteFile::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.with_context(|| format!("gateway.routes: {}", path.display()))?;
                rules_of(&config, &text)
                    .map_err(|error| anyhow::anyhow!("gateway.routes: {}: {error}", path.display()))?
            }
        };
        Ok(Catalog {
            table: ArcSwap::default(),
            ours,
            config: Arc::new(config),
            sources: Mutex::new(Sources { entries: Vec::new(), rules, lints: Vec::new() }),
            set: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        })
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// A number that grows whenever a route or an endpoint changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns whether the upstreams were put in place, even if there are none.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Puts all upstreams in place.
    pub(crate) fn set(&self, entries: Vec<Entry>) {
        self.sources().entries = entries;
        self.set.store(true, Ordering::Relaxed);
        self.rebuild();
    }

    /// An entry for the clones of a Shoal role: our own descriptors say what they serve.
    pub(crate) fn of_role(&self, role: Role, upstream: Arc<Upstream>) -> Entry {
        let services = self.ours.services().map(|service| service.name.clone());
        let services = services.filter(|name| role_of(name) == Some(role));
        Entry {
            upstream,
            named: Vec::new(),
            default: false,
            by_route: false,
            described: Described::Known { services: services.collect(), files: self.ours.clone() },
        }
    }

    /// Follows every upstream until dropped. Never resolves, with nothing to follow neither.
    pub(crate) async fn follow(self: Arc<Self>) -> Infallible {
        let entries = self.sources().entries.clone();
        let mut tasks = JoinSet::new();
        if let Some(path) = self.config.routes.clone() {
            tasks.spawn(self.clone().follow_rules(path));
        }
        for entry in entries {
            for state in entry.upstream.workers() {
                let (catalog, mut changed) = (self.clone(), state.balancer.changed());
                let upstream = entry.upstream.clone();
                // The cores' threads have been connecting for a while: what changed before this is told too.
                changed.mark_changed();
                tasks.spawn(async move {
                    while changed.changed().await.is_ok() {
                        upstream.gauge_states();
                        catalog.changes.send_modify(|version| *version += 1);
                    }
                });
            }
            if entry.upstream.role.is_none() {
                tasks.spawn(self.clone().follow_reflection(entry.upstream));
            }
        }
        while tasks.join_next().await.is_some() {}
        std::future::pending().await
    }

    async fn follow_reflection(self: Arc<Self>, upstream: Arc<Upstream>) {
        let mut changed = upstream.on_worker(0).balancer.changed();
        loop {
            changed.mark_unchanged();
            let mut again = None;
            if upstream.on_worker(0).ready() > 0 {
                match fetch(&upstream.on_worker(0).balancer, FETCH_WITHIN).await {
                    Ok((services, files)) => {
                        tracing::info!(upstream = upstream.name, ?services, files = files.len(), "described");
                        self.describe(&upstream, Described::Known { services, files: Arc::new(files) });
                    }
                    Err(FetchError::Unimplemented) => {
                        tracing::warn!(
                            upstream = upstream.name,
                            "has no reflection: only calls of its `services` come here (or, with `default = true`, of all nobody else has), and none is repeated"
                        );
                        self.update(&upstream, Entry::has_no_reflection);
                    }
                    Err(error) => {
                        tracing::warn!(upstream = upstream.name, %error, "did not describe itself");
                        self.undescribed(&upstream, &error);
                        again = Some(RETRY_AFTER);
                    }
                }
            }
            let retry = async {
                match again {
                    Some(delay) => sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changed.changed() => match changed {
                    Ok(()) => sleep(SETTLE).await,
                    Err(_) => return,
                },
                () = retry => {}
            }
        }
    }

    fn describe(&self, upstream: &Arc<Upstream>, described: Described) {
        self.update(upstream, |entry| entry.described = described);
    }

    /// Keeps what is known already: an upstream in trouble still serves what it served.
    fn undescribed(&self, upstream: &Arc<Upstream>, error: &FetchError) {
        self.update(upstream, |entry| {
            if let Described::Pending(why) = &mut entry.described {
                *why = error.to_string();
            }
        });
    }

    fn update(&self, upstream: &Arc<Upstream>, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.sources().entries.iter_mut().find(|e| Arc::ptr_eq(&e.upstream, upstream)) {
            change(entry);
        }
        self.rebuild();
    }

    /// Reads the route file again and again. A bad one is told once, and the old routes stay.
    async fn follow_rules(self: Arc<Self>, path: PathBuf) {
        // Read when the gateway was made; if it has changed since, once more than needed.
        let mut seen = None;
        loop {
            let now = read_rules(&path).await;
            if seen.as_ref() != Some(&now) {
                match now
                    .as_ref()
                    .map_err(Clone::clone)
                    .and_then(|text| rules_of(&self.config, text).map_err(|error| error.to_string()))
                {
                    Ok(mut rules) => {
                        tracing::info!(path = %path.display(), routes = rules.0.len(), "routes read");
                        {
                            let mut sources = self.sources();
                            rules.adopt(&sources.rules);
                            sources.rules = rules;
                        }
                        self.rebuild();
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), error, "route file refused; the old routes stay");
                    }
                }
                seen = Some(now);
            }
            sleep(RULES_EVERY).await;
        }
    }

    fn rebuild(&self) {
        let mut sources = self.sources();
        let table = Table::build(Plan {
            local: &LOCAL,
            ours: self.ours.clone(),
            entries: sources.entries.clone(),
            rules: &sources.rules,
            config: &self.config,
        });
        for lint in table.lints.iter().filter(|lint| !sources.lints.contains(lint)) {
            tracing::warn!("{lint}");
        }
        sources.lints.clone_from(&table.lints);
        // Under the lock: of two changes at once the later table must be the one that stays.
        self.table.store(Arc::new(table));
        drop(sources);
        self.changes.send_modify(|version| *version += 1);
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a route file. Which Shoal roles have clones is not known yet: [`crate::routing::lint`] warns about that later.
fn rules_of(config: &Config, text: &str) -> Result<RouteFile, RuleError> {
    let names: Vec<&str> = config.upstream.keys().map(String::as_str).collect();
    RouteFile::read(text, &names)
}

async fn read_rules(path: &Path) -> Result<String, String> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(BYTES_MAX + 1).read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = read.await.map_err(|error| error.to_string())?;
    if text.len() as u64 > BYTES_MAX { Err(format!("longer than {BYTES_MAX} bytes")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Handle;
    use tokio::time::timeout;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A server without health and reflection: ready as soon as it is connected.
    async fn server() -> (std::net::SocketAddr, AbortOnDropHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let serve = async move {
            let (stream, _) = listener.accept().await.expect("accepted");
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let answer = http::Response::builder().header("grpc-status", "12").body(()).expect("valid");
                respond.send_response(answer, true).expect("there");
            }
        };
        (address, AbortOnDropHandle::new(tokio::spawn(serve)))
    }

    #[tokio::test]
    async fn already_ready_endpoint_is_noticed() {
        let (address, _server) = server().await;
        let catalog = Arc::new(Catalog::new(Config::default()).expect("a catalog"));
        let source = address.to_string().parse().expect("a source");
        let upstream =
            Upstream::start("session", Some(Role::Session), source, catalog.config(), &[Handle::current()]);
        let mut endpoint = upstream.on_worker(0).balancer.changed();
        catalog.set(vec![catalog.of_role(Role::Session, upstream.clone())]);
        let mut told = catalog.changes();
        let connected = endpoint.wait_for(|_| upstream.ready() == 1);
        timeout(SOON, connected).await.expect("in time").expect("connected");

        let _following = AbortOnDropHandle::new(tokio::spawn(catalog.clone().follow()));
        timeout(SOON, told.changed()).await.expect("told").expect("the catalog is there");
    }
}
