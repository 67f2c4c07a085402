//! Keeps the route table current: what each upstream serves, by configuration, by our own descriptors, or by asking its
//! reflection again whenever its endpoints change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use shoal_kit::role::Role;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::descriptors::Files;
use crate::service;
use crate::service::reflection::{FetchError, fetch};
use crate::table::{Described, Entry, Table};
use crate::upstream::Upstream;

/// Services in the package of a role that its clones do not serve: a loader is written by whoever owns the objects.
const SERVED_BY_OTHERS: [&str; 1] = ["shoal.cache.v1.ObjectLoaderService"];

/// After the endpoints of an upstream changed, before it is asked: a rolling restart changes them many times.
const SETTLE: Duration = Duration::from_millis(50);
/// How long one upstream may take to describe itself.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// Between questions to an upstream that is connected and did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The current table, and what tells of its changes.
pub(crate) struct Catalog {
    table: ArcSwap<Table>,
    ours: Arc<Files>,
    entries: Mutex<Vec<Entry>>,
    set: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Catalog {
    /// With no upstream yet.
    ///
    /// # Errors
    /// When our own descriptors cannot be read.
    pub(crate) fn new() -> anyhow::Result<Catalog> {
        let ours = Arc::new(service::descriptors()?);
        let table = Table::build(&service::LOCAL, ours.clone(), Vec::new());
        Ok(Catalog {
            table: ArcSwap::from_pointee(table),
            ours,
            entries: Mutex::default(),
            set: AtomicBool::new(false),
            changes: watch::Sender::new(0),
        })
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// A number that grows whenever a route or an endpoint changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether upstreams were put in place, be it none.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    /// Puts all upstreams in place.
    pub(crate) fn set(&self, entries: Vec<Entry>) {
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = entries;
        self.set.store(true, Ordering::Relaxed);
        self.rebuild();
    }

    /// An entry for the clones of a Shoal role: our own descriptors say what they serve.
    pub(crate) fn of_role(&self, role: Role, upstream: Arc<Upstream>) -> Entry {
        let package = format!("shoal.{role}.");
        let services = self.ours.services().map(|service| service.name.clone());
        let services =
            services.filter(|name| name.starts_with(&package) && !SERVED_BY_OTHERS.contains(&name.as_str()));
        Entry {
            upstream,
            named: Vec::new(),
            default: false,
            described: Described::Known { services: services.collect(), files: self.ours.clone() },
        }
    }

    /// Follows every upstream until dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut tasks = JoinSet::new();
        for entry in entries {
            for lane in entry.upstream.lanes() {
                let (catalog, mut changed) = (self.clone(), lane.balancer.changed());
                tasks.spawn(async move {
                    while changed.changed().await.is_ok() {
                        catalog.changes.send_modify(|version| *version += 1);
                    }
                });
            }
            if entry.upstream.role.is_none() {
                tasks.spawn(self.clone().follow_reflection(entry.upstream));
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn follow_reflection(self: Arc<Self>, upstream: Arc<Upstream>) {
        let mut changed = upstream.lane(0).balancer.changed();
        loop {
            changed.mark_unchanged();
            let mut again = None;
            if upstream.lane(0).ready() > 0 {
                let fetched = timeout(FETCH_WITHIN, fetch(&upstream.lane(0).balancer)).await;
                match fetched.unwrap_or(Err(FetchError::Timeout(FETCH_WITHIN))) {
                    Ok((services, files)) => {
                        tracing::info!(upstream = upstream.name, ?services, files = files.len(), "described");
                        self.describe(&upstream, Described::Known { services, files: Arc::new(files) });
                    }
                    Err(FetchError::Unimplemented) => {
                        tracing::info!(upstream = upstream.name, "has no reflection");
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
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.upstream, upstream)) {
            change(entry);
        }
        drop(entries);
        self.rebuild();
    }

    fn rebuild(&self) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: of two changes at once the later table must be the one that stays.
        self.table.store(Arc::new(Table::build(&service::LOCAL, self.ours.clone(), entries.clone())));
        drop(entries);
        self.changes.send_modify(|version| *version += 1);
    }
}
