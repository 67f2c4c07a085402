//! The namespaces of a clone: the policy and the counters of each.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::{Config, KindPolicy, Policy};
use crate::hot_keys::HotKeys;
use crate::key::NamespaceName;
use crate::limit::{COUNTED_NAMESPACES_MAX, OBJECT_PREFIX, TABLE_PREFIX};
use crate::store::MissReason;

/// An event that is counted of a namespace, at one clone. In `/metrics` as `shoal_cache_EVENTS_total{namespace, clone}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// An entry was read and found; a negative result too.
    Hit,
    /// A loader was asked.
    Load,
    /// A loader failed.
    LoadFailure,
    /// A caller waited for a load that another at this clone had begun.
    Coalesced,
    /// A load's result was not stored, because the object was changed or deleted meanwhile.
    RefusedFill,
    /// A load's result was too large to be stored.
    Oversized,
    /// A loader was asked without storing the result, because the store was not reachable.
    Bypass,
    /// An expired entry was served, because it could not be loaded in time, or to a caller who accepts it.
    Stale,
}

const EVENTS: [(Event, &str); 8] = [
    (Event::Hit, "shoal_cache_hits_total"),
    (Event::Load, "shoal_cache_loads_total"),
    (Event::LoadFailure, "shoal_cache_load_failures_total"),
    (Event::Coalesced, "shoal_cache_coalesced_waiters_total"),
    (Event::RefusedFill, "shoal_cache_refused_fills_total"),
    (Event::Oversized, "shoal_cache_oversized_objects_total"),
    (Event::Bypass, "shoal_cache_bypass_loads_total"),
    (Event::Stale, "shoal_cache_stale_answers_total"),
];

/// The reasons of misses, as the label `reason` of `shoal_cache_misses_total` has them.
const REASONS: [&str; 6] = ["absent", "expired", "invalidated", "epoch", "too_old_for_caller", "store_away"];

fn index_of(why: &MissReason) -> usize {
    match why {
        MissReason::Absent => 0,
        MissReason::Expired => 1,
        MissReason::Invalidated { .. } => 2,
        MissReason::Epoch => 3,
        MissReason::TooOldForCaller => 4,
        MissReason::StoreAway => 5,
    }
}

/// Counters of one namespace.
pub(crate) struct Counters {
    exported: [metrics::Counter; EVENTS.len()],
    counts: [AtomicU64; EVENTS.len()],
    exported_misses: [metrics::Counter; REASONS.len()],
    misses: [AtomicU64; REASONS.len()],
    stored_bytes: AtomicU64,
}

impl Counters {
    fn new(namespace: &str, clone: &str) -> Self {
        let exported = EVENTS.map(|(_, name)| {
            metrics::counter!(name, "namespace" => namespace.to_owned(), "clone" => clone.to_owned())
        });
        let exported_misses = REASONS.map(|reason| {
            let labels = [("namespace", namespace), ("clone", clone), ("reason", reason)];
            let labels = labels.map(|(label, value)| (label, value.to_owned()));
            metrics::counter!("shoal_cache_misses_total", &labels)
        });
        Self {
            exported,
            counts: Default::default(),
            exported_misses,
            misses: Default::default(),
            stored_bytes: AtomicU64::new(0),
        }
    }

    /// Counts a read that found nothing.
    pub(crate) fn count_miss(&self, why: &MissReason) {
        let index = index_of(why);
        self.exported_misses[index].increment(1);
        self.misses[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the size of a value that was stored.
    pub(crate) fn add_stored(&self, bytes: usize) {
        self.stored_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the bytes of the values that were stored.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Returns the number of misses of a reason.
    pub(crate) fn misses(&self, why: &MissReason) -> u64 {
        self.misses[index_of(why)].load(Ordering::Relaxed)
    }

    /// Counts one event.
    pub(crate) fn count(&self, event: Event) {
        let index = event as usize;
        self.exported[index].increment(1);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often it happened since the clone began.
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.counts[event as usize].load(Ordering::Relaxed)
    }
}

/// The policy and the counters of one namespace.
pub(crate) struct Namespace {
    pub(crate) policy: Policy,
    pub(crate) counters: Arc<Counters>,
    pub(crate) hot_keys: Arc<HotKeys>,
}

/// The name under which namespaces are counted that have no counters of their own.
const OTHERS: &str = "other";

/// All namespaces of one clone.
pub(crate) struct Namespaces {
    clone: String,
    known: RwLock<HashMap<NamespaceName, Arc<Namespace>>>,
    known_max: usize,
    undeclared: Arc<Namespace>,
    undeclared_table: Arc<Namespace>,
}

impl Namespaces {
    /// Makes the namespaces, with the policies of those that are declared.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid.
    pub(crate) fn new(clone: &str, config: &Config) -> anyhow::Result<Self> {
        let make = |name: &str, policy| {
            let counters = Arc::new(Counters::new(name, clone));
            Arc::new(Namespace { policy, counters, hot_keys: Arc::default() })
        };
        let mut known = HashMap::new();
        for (name, policy) in config.namespaces() {
            known.insert(NamespaceName::parse(name)?, make(name, policy));
        }
        for (kind, KindPolicy { policy, .. }) in config.kinds()? {
            let namespace = NamespaceName::of_kind(&kind)?;
            let made = make(namespace.as_str(), policy);
            known.insert(namespace, made);
        }
        let undeclared = make(OTHERS, config.undeclared());
        let undeclared_table = Namespace {
            policy: config.built_in("").policy,
            counters: undeclared.counters.clone(),
            hot_keys: undeclared.hot_keys.clone(),
        };
        Ok(Self {
            clone: clone.to_owned(),
            known_max: known.len() + COUNTED_NAMESPACES_MAX,
            known: RwLock::new(known),
            undeclared,
            undeclared_table: Arc::new(undeclared_table),
        })
    }

    /// Returns the namespace of this name.
    pub(crate) fn of(&self, namespace: &NamespaceName) -> Arc<Namespace> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(namespace) {
            return known.clone();
        }
        let table =
            namespace.as_str().strip_prefix(OBJECT_PREFIX).is_some_and(|kind| kind.starts_with(TABLE_PREFIX));
        let undeclared = if table { &self.undeclared_table } else { &self.undeclared };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.known_max && !known.contains_key(namespace) {
            return undeclared.clone();
        }
        let make = || {
            let counters = Arc::new(Counters::new(namespace.as_str(), &self.clone));
            Arc::new(Namespace { policy: undeclared.policy.clone(), counters, hot_keys: Arc::default() })
        };
        known.entry(namespace.clone()).or_insert_with(make).clone()
    }

    /// Returns the namespaces that are counted by their own name, and those that are counted together.
    pub(crate) fn all(&self) -> BTreeMap<String, Arc<Namespace>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let named = known.iter().map(|(name, namespace)| (name.as_str().to_owned(), namespace.clone()));
        named.chain([(OTHERS.to_owned(), self.undeclared.clone())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn surplus_namespaces_share_a_counter() {
        let config: Config = toml::from_str("[namespace.declared]\nmax_value = 5").expect("valid");
        let namespaces = Namespaces::new("1", &config).expect("valid");
        let namespace = |name: &str| namespaces.of(&NamespaceName::parse(name).expect("valid"));
        for index in 0..COUNTED_NAMESPACES_MAX + 10 {
            namespace(&format!("n{index}")).counters.count(Event::Hit);
        }
        assert_eq!(namespaces.undeclared.counters.get(Event::Hit), 10);
        assert_eq!(namespace("declared").policy.value_bytes_max, 5);
        let minute = Duration::from_secs(60);
        assert_eq!(
            namespace("object.data.users").policy.ttl,
            minute,
            "rows keep their own default, counted or not"
        );
    }

    #[test]
    fn every_event_has_its_own_counter() {
        for (index, (event, _)) in EVENTS.iter().enumerate() {
            assert_eq!(*event as usize, index);
        }
    }
}
