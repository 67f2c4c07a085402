//! The store in RAM of this process, shared by all its clones, bounded by weight. It loses everything with the process,
//! which for a cache is only misses.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use tokio::time::Instant;

use super::wake::Wakes;
use super::{Acquired, Draft, Found, Record, Store, StoreError, Token};
use crate::body::Body;
use crate::key::{Key, Tags};

mod sieve;

use sieve::Sieve;

/// The number of stripes, each with a lock, so that cores do not wait for each other.
const STRIPES_MAX: usize = 16;
/// The number of the largest values that a stripe holds at least.
const LARGEST_PER_STRIPE_MIN: usize = 4;
/// The bytes of an entry beside its content: map slot, links, reference counts.
const OVERHEAD_BYTES: usize = 160;
/// The number of leases of a stripe from which on expired ones are swept: a lease is released by its load, so they are
/// few.
const LEASES_SWEPT_ABOVE: usize = 1024;

/// Entries in RAM.
pub(crate) struct MemoryStore {
    stripes: Box<[Mutex<Stripe>]>,
    hasher: RandomState,
    wakes: Arc<Wakes<Key>>,
}

struct Stripe {
    entries: Sieve<Key, Stored>,
    leases: HashMap<Key, Lease>,
}

struct Stored {
    body: Body,
    tags: Tags,
    built: Instant,
    expires: Instant,
    expires_at: SystemTime,
}

struct Lease {
    token: Token,
    since: Instant,
    until: Instant,
}

impl MemoryStore {
    /// Makes a store of at most `bytes_max` of entries, the largest value being of `value_bytes_max`.
    pub(crate) fn new(bytes_max: usize, value_bytes_max: usize) -> Self {
        let stripes = (bytes_max / (LARGEST_PER_STRIPE_MIN * value_bytes_max.max(1))).clamp(1, STRIPES_MAX);
        let stripe =
            || Mutex::new(Stripe { entries: Sieve::new(bytes_max / stripes), leases: HashMap::new() });
        Self {
            stripes: (0..stripes).map(|_| stripe()).collect(),
            hasher: RandomState::new(),
            wakes: Wakes::new(),
        }
    }

    fn stripe(&self, key: &Key) -> MutexGuard<'_, Stripe> {
        // The remainder keeps it in range, whatever the width of a usize.
        let index = (self.hasher.hash_one(key) % self.stripes.len() as u64) as usize;
        self.stripes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stripe {
    fn record(&mut self, key: &Key, now: Instant) -> Option<Record> {
        let stored = self.entries.get(key)?;
        if stored.expires <= now {
            self.entries.remove(key);
            return None;
        }
        Some(Record {
            body: stored.body.clone(),
            tags: stored.tags.clone(),
            age: now - stored.built,
            expires_at: stored.expires_at,
        })
    }

    fn lease(&self, key: &Key, now: Instant) -> Option<&Lease> {
        self.leases.get(key).filter(|lease| lease.until > now)
    }

    fn store(&mut self, key: &Key, draft: Draft, built: Instant, now: Instant) {
        let tags: usize = draft.tags.as_slice().iter().map(|tag| tag.len() + size_of::<String>()).sum();
        let names = key.name().len() + key.namespace().as_str().len();
        let weight = OVERHEAD_BYTES + names + tags + draft.body.stored_bytes();
        let Draft { body, tags, ttl } = draft;
        let stored = Stored { body, tags, built, expires: now + ttl, expires_at: SystemTime::now() + ttl };
        self.entries.insert(key.clone(), stored, weight);
    }
}

fn done<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StoreError>> {
    ready(Ok(value)).boxed()
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        done(self.stripe(key).record(key, Instant::now()))
    }

    fn find<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Found, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        done(match stripe.record(key, now) {
            Some(record) => Found::Record(record),
            None => Found::Absent { lease: stripe.lease(key, now).map(|lease| lease.token) },
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        draft: Draft,
        only_if_absent: bool,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        if only_if_absent && stripe.record(key, now).is_some_and(|record| record.body != Body::Absent) {
            return done(false);
        }
        stripe.leases.remove(key);
        stripe.store(key, draft, now, now);
        self.wakes.wake(key);
        done(true)
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut stripe = self.stripe(key);
        stripe.entries.remove(key);
        stripe.leases.remove(key);
        self.wakes.wake(key);
        done(())
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        if let Some(record) = stripe.record(key, now) {
            return done(Acquired::Record(record));
        }
        if let Some(lease) = stripe.lease(key, now) {
            return done(if lease.token == token {
                Acquired::Granted
            } else {
                Acquired::Held { by: lease.token, left: lease.until - now }
            });
        }
        if stripe.leases.len() >= LEASES_SWEPT_ABOVE {
            stripe.leases.retain(|_, lease| lease.until > now);
        }
        stripe.leases.insert(key.clone(), Lease { token, since: now, until: now + limit });
        done(Acquired::Granted)
    }

    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        let Some(since) =
            stripe.lease(key, now).filter(|lease| lease.token == token).map(|lease| lease.since)
        else {
            return done(false);
        };
        stripe.leases.remove(key);
        stripe.store(key, draft, since, now);
        self.wakes.wake(key);
        done(true)
    }

    fn ended(&self, key: &Key) -> BoxFuture<'static, ()> {
        self.wakes.wait(key.clone())
    }

    fn release<'a>(&'a self, key: &'a Key, token: Token) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut stripe = self.stripe(key);
        if stripe.leases.get(key).is_some_and(|lease| lease.token == token) {
            stripe.leases.remove(key);
            self.wakes.wake(key);
        }
        done(())
    }
}
