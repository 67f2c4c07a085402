//! A client of shared upstreams: its streams at each of them, and how their endpoints answered it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::fairness::attribution::{Blame, Errors};

/// A client that shares upstreams with others, such as a connection to a gateway.
#[derive(Debug)]
pub struct Share {
    /// The number of running calls at each upstream.
    held: Box<[AtomicU32]>,
    /// Set while `errors` has entries: for most shares it never has.
    has_errors: AtomicBool,
    /// The recent errors at each upstream.
    errors: Mutex<BTreeMap<usize, Errors>>,
}

impl Share {
    /// Creates a share without calls at `upstreams` upstreams, which [`Options::share_index`](crate::Options::share_index)
    /// distinguishes.
    pub fn new(upstreams: usize) -> Arc<Share> {
        let held = (0..upstreams).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Share { held, has_errors: AtomicBool::new(false), errors: Mutex::default() })
    }

    pub(crate) fn held(&self, upstream: usize) -> u32 {
        self.held.get(upstream).map_or(0, |held| held.load(Ordering::Relaxed))
    }

    pub(crate) fn take(&self, upstream: usize) {
        if let Some(held) = self.held.get(upstream) {
            held.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn give(&self, upstream: usize) {
        if let Some(held) = self.held.get(upstream) {
            held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Records an error of an endpoint. Returns whose fault it is.
    pub(crate) fn failed(&self, upstream: usize, endpoint: SocketAddr, now: Instant) -> Blame {
        let mut all = self.errors();
        let blame = all.entry(upstream).or_insert_with(|| Errors::new(now)).failed(endpoint, now);
        self.has_errors.store(true, Ordering::Relaxed);
        blame
    }

    /// Records a success of an endpoint.
    pub(crate) fn served(&self, upstream: usize, endpoint: SocketAddr, now: Instant) {
        if !self.has_errors.load(Ordering::Relaxed) {
            return;
        }
        let mut all = self.errors();
        if let Some(errors) = all.get_mut(&upstream) {
            errors.served(endpoint);
        }
        all.retain(|_, errors| !errors.is_over(now));
        self.has_errors.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// Returns the endpoint that should not be asked next if another can be.
    pub(crate) fn avoids(&self, upstream: usize, now: Instant) -> Option<SocketAddr> {
        if !self.has_errors.load(Ordering::Relaxed) {
            return None;
        }
        self.errors().get(&upstream).and_then(|errors| errors.avoids(now))
    }

    fn errors(&self) -> MutexGuard<'_, BTreeMap<usize, Errors>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
