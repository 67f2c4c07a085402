//! Who shares an upstream with others: what it has of the streams, and how endpoints answered it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::fairness::attribution::{Blame, Errors};

/// One of those who share upstreams: a client's connection, say.
#[derive(Debug)]
pub struct Share {
    /// Its calls, by upstream.
    held: Box<[AtomicU32]>,
    /// Whether `errors` has any: of most shares it never has.
    has_errors: AtomicBool,
    /// By upstream.
    errors: Mutex<BTreeMap<usize, Errors>>,
}

impl Share {
    /// Without calls at any of so many upstreams, which [`Options::share_index`](crate::Options::share_index) tells apart.
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

    /// An endpoint has answered it with an error. Says whose that is.
    pub(crate) fn failed(&self, upstream: usize, endpoint: SocketAddr, now: Instant) -> Blame {
        let mut all = self.errors();
        let blame = all.entry(upstream).or_insert_with(|| Errors::new(now)).failed(endpoint, now);
        self.has_errors.store(true, Ordering::Relaxed);
        blame
    }

    /// An endpoint has served it well.
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

    /// The endpoint that is not to be asked next, if another one can be.
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
