//! The store in RAM of this process, shared by all its clones, bounded by weight. It loses everything with the process,
//! which for a cache is only misses.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use shoal_tag_clock::{MemoryClock, STAMPS_MAX, TagClock, Verdict};
use tokio::time::Instant;

use super::wake::Wakes;
use super::{Acquired, Draft, Filled, Found, Incremented, MissReason, Record, Store, StoreError, Token};
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
    clock: Arc<MemoryClock>,
    tag_clock: TagClock,
}

struct Stripe {
    entries: Sieve<Key, Stored>,
    leases: HashMap<Key, Lease>,
}

struct Stored {
    body: Body,
    tags: Tags,
    version: Bytes,
    /// The clock of the tags when the write or the load began.
    built_at: u64,
    built: Instant,
    expires: Instant,
    expires_at: SystemTime,
    /// The time before the expiry from which on a refresh is due.
    refresh: Duration,
    /// The time for which the entry is kept after its expiry.
    stale: Duration,
}

struct Lease {
    token: Token,
    built_at: u64,
    since: Instant,
    until: Instant,
}

/// An entry as a step finds it.
enum Seen {
    Fresh(Record),
    Expired(Record),
    Absent(MissReason),
}

impl MemoryStore {
    /// Makes a store of at most `bytes_max` of entries, the largest value being of `value_bytes_max`.
    pub(crate) fn new(bytes_max: usize, value_bytes_max: usize) -> Self {
        let stripes = (bytes_max / (LARGEST_PER_STRIPE_MIN * value_bytes_max.max(1))).clamp(1, STRIPES_MAX);
        let stripe =
            || Mutex::new(Stripe { entries: Sieve::new(bytes_max / stripes), leases: HashMap::new() });
        let clock = MemoryClock::new(STAMPS_MAX);
        Self {
            stripes: (0..stripes).map(|_| stripe()).collect(),
            hasher: RandomState::new(),
            wakes: Wakes::new(),
            tag_clock: TagClock::Memory(clock.clone()),
            clock,
        }
    }

    fn stripe(&self, key: &Key) -> MutexGuard<'_, Stripe> {
        // The remainder keeps it in range, whatever the width of a usize.
        let index = (self.hasher.hash_one(key) % self.stripes.len() as u64) as usize;
        self.stripes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at an entry of a stripe that is locked.
    fn seen(&self, stripe: &mut Stripe, key: &Key, now: Instant) -> Seen {
        let Some(stored) = stripe.entries.get(key) else { return Seen::Absent(MissReason::Absent) };
        if stored.expires + stored.stale <= now {
            let why = if stored.stale.is_zero() { MissReason::Absent } else { MissReason::Expired };
            stripe.entries.remove(key);
            return Seen::Absent(why);
        }
        let tags = stored.tags.as_slice();
        let names = tags.iter().map(String::as_str);
        let softened = match self.clock.judge(key.namespace().as_str(), stored.built_at, names) {
            Verdict::Current => None,
            Verdict::Expired { at } => Some(Duration::from_micros(self.clock.now().saturating_sub(at))),
            Verdict::Invalidated { tag } => {
                let tag = tag.and_then(|index| tags.get(index)).cloned();
                stripe.entries.remove(key);
                return Seen::Absent(MissReason::Invalidated { tag });
            }
        };
        let expired = (stored.expires <= now).then(|| now - stored.expires);
        let record = Record {
            body: stored.body.clone(),
            tags: stored.tags.clone(),
            age: now - stored.built,
            expires_at: stored.expires_at,
            version: stored.version.clone(),
            soft: stored.expires < now + stored.refresh,
            stale: expired.max(softened),
        };
        if record.stale.is_some() { Seen::Expired(record) } else { Seen::Fresh(record) }
    }

    /// Returns whether a value is there; a negative result is none.
    fn has_value(&self, stripe: &mut Stripe, key: &Key, now: Instant) -> bool {
        matches!(self.seen(stripe, key, now), Seen::Fresh(record) if record.body != Body::Absent)
    }
}

impl Stripe {
    fn lease(&self, key: &Key, now: Instant) -> Option<&Lease> {
        self.leases.get(key).filter(|lease| lease.until > now)
    }

    fn store(&mut self, key: &Key, draft: Draft, built_at: u64, built: Instant, now: Instant) {
        let tags: usize = draft.tags.as_slice().iter().map(|tag| tag.len() + size_of::<String>()).sum();
        let names = key.name().len() + key.namespace().as_str().len();
        let weight = OVERHEAD_BYTES + names + tags + draft.version.len() + draft.body.stored_bytes();
        let Draft { body, tags, ttl, soft, stale, version } = draft;
        let stored = Stored {
            body,
            tags,
            version,
            built_at,
            built,
            expires: now + ttl,
            expires_at: SystemTime::now() + ttl,
            refresh: soft.map_or(Duration::ZERO, |soft| ttl.saturating_sub(soft)),
            stale,
        };
        self.entries.insert(key.clone(), stored, weight);
    }
}

fn done<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StoreError>> {
    ready(Ok(value)).boxed()
}

impl Store for MemoryStore {
    fn look<'a>(&'a self, keys: &'a [Key], leases: bool) -> BoxFuture<'a, Result<Vec<Found>, StoreError>> {
        let now = Instant::now();
        let look = |key: &Key| {
            let mut stripe = self.stripe(key);
            let seen = self.seen(&mut stripe, key, now);
            let lease = stripe.lease(key, now).filter(|_| leases).map(|lease| lease.token);
            match seen {
                Seen::Fresh(record) => Found::Record(record),
                Seen::Expired(record) => {
                    Found::Absent { lease, why: MissReason::Expired, stale: Some(record) }
                }
                Seen::Absent(why) => Found::Absent { lease, why, stale: None },
            }
        };
        done(keys.iter().map(look).collect())
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        draft: Draft,
        only_if_absent: bool,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        if only_if_absent && self.has_value(&mut stripe, key, now) {
            return done(false);
        }
        stripe.leases.remove(key);
        stripe.store(key, draft, self.clock.tick(), now, now);
        self.wakes.wake(key);
        done(true)
    }

    fn delete<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        for key in keys {
            let mut stripe = self.stripe(key);
            stripe.entries.remove(key);
            stripe.leases.remove(key);
            self.wakes.wake(key);
        }
        done(())
    }

    fn expire<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<(), StoreError>> {
        let now = Instant::now();
        for key in keys {
            let mut stripe = self.stripe(key);
            stripe.leases.remove(key);
            self.wakes.wake(key);
            match stripe.entries.get_mut(key) {
                Some(stored) if stored.stale.is_zero() => drop(stripe.entries.remove(key)),
                Some(stored) if stored.expires > now => {
                    (stored.expires, stored.expires_at) = (now, SystemTime::now());
                }
                _ => {}
            }
        }
        done(())
    }

    fn clock(&self) -> &TagClock {
        &self.tag_clock
    }

    fn touch<'a>(&'a self, key: &'a Key, ttl: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        if !self.has_value(&mut stripe, key, now) {
            return done(false);
        }
        let Some(stored) = stripe.entries.get_mut(key) else { return done(false) };
        (stored.expires, stored.expires_at) = (now + ttl, SystemTime::now() + ttl);
        done(true)
    }

    fn increment<'a>(
        &'a self,
        key: &'a Key,
        delta: i64,
        initial: i64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Incremented, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        let old = match self.seen(&mut stripe, key, now) {
            Seen::Fresh(record) if record.body != Body::Absent => match integer(&record.body) {
                Some(old) => Some(old),
                None => return done(Incremented::NoInteger),
            },
            _ => None,
        };
        let Some(sum) = old.unwrap_or(initial).checked_add(delta) else {
            return done(Incremented::Overflow);
        };
        let body = Body::Plain(sum.to_string().into());
        let built_at = self.clock.tick();
        stripe.leases.remove(key);
        match stripe.entries.get_mut(key).filter(|_| old.is_some()) {
            Some(stored) => (stored.body, stored.built_at, stored.built) = (body, built_at, now),
            None => {
                let draft = Draft::new(body, Tags::default(), ttl);
                stripe.store(key, draft, built_at, now, now);
            }
        }
        self.wakes.wake(key);
        done(Incremented::Done(sum))
    }

    fn acquire<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
        refresh: bool,
    ) -> BoxFuture<'a, Result<Acquired, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        let previous = match self.seen(&mut stripe, key, now) {
            Seen::Fresh(record) if !refresh => return done(Acquired::Record(record)),
            Seen::Fresh(record) | Seen::Expired(record) => Some(record),
            Seen::Absent(_) => None,
        };
        if let Some(lease) = stripe.lease(key, now) {
            return done(if lease.token == token {
                Acquired::Granted { previous }
            } else {
                Acquired::Held { by: lease.token, left: lease.until - now }
            });
        }
        if stripe.leases.len() >= LEASES_SWEPT_ABOVE {
            stripe.leases.retain(|_, lease| lease.until > now);
        }
        let lease = Lease { token, built_at: self.clock.tick(), since: now, until: now + limit };
        stripe.leases.insert(key.clone(), lease);
        done(Acquired::Granted { previous })
    }

    fn renew<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        limit: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        match stripe.leases.get_mut(key).filter(|lease| lease.token == token && lease.until > now) {
            Some(lease) => lease.until = now + limit,
            None => return done(false),
        }
        done(true)
    }

    fn fill<'a>(
        &'a self,
        key: &'a Key,
        token: Token,
        draft: Draft,
    ) -> BoxFuture<'a, Result<Filled, StoreError>> {
        let now = Instant::now();
        let mut stripe = self.stripe(key);
        let held = stripe.lease(key, now).filter(|lease| lease.token == token);
        let Some((built_at, since)) = held.map(|lease| (lease.built_at, lease.since)) else {
            return done(Filled::LeaseEnded);
        };
        stripe.leases.remove(key);
        let tags = draft.tags.as_slice().iter().map(String::as_str);
        let filled = match self.clock.judge(key.namespace().as_str(), built_at, tags) {
            Verdict::Invalidated { .. } => Filled::Invalidated,
            Verdict::Current | Verdict::Expired { .. } => {
                stripe.store(key, draft, built_at, since, now);
                Filled::Stored
            }
        };
        self.wakes.wake(key);
        done(filled)
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

/// Reads a value that is an integer as decimal text, as Redis reads it.
fn integer(body: &Body) -> Option<i64> {
    let Body::Plain(text) = body else { return None };
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == &text[..]).then_some(number)
}
