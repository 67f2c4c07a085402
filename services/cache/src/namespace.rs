//! The namespaces of a clone: the policy and the counters of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::{Config, KindPolicy, Policy};
use crate::key::NamespaceName;
use crate::limit::{COUNTED_NAMESPACES_MAX, OBJECT_PREFIX, TABLE_PREFIX};

/// An event that is counted of a namespace, at one clone. In `/metrics` as `shoal_cache_EVENTS_total{namespace, clone}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// An entry was read and found; a negative result too.
    Hit,
    /// An entry was read and not found.
    Miss,
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
    /// An expired entry was served, because it could not be loaded in time.
    Stale,
}

const EVENTS: [(Event, &str); 9] = [
    (Event::Hit, "shoal_cache_hits_total"),
    (Event::Miss, "shoal_cache_misses_total"),
    (Event::Load, "shoal_cache_loads_total"),
    (Event::LoadFailure, "shoal_cache_load_failures_total"),
    (Event::Coalesced, "shoal_cache_coalesced_waiters_total"),
    (Event::RefusedFill, "shoal_cache_refused_fills_total"),
    (Event::Oversized, "shoal_cache_oversized_objects_total"),
    (Event::Bypass, "shoal_cache_bypass_loads_total"),
    (Event::Stale, "shoal_cache_stale_answers_total"),
];

/// Counters of one namespace.
pub(crate) struct Counters {
    exported: [metrics::Counter; EVENTS.len()],
    counts: [AtomicU64; EVENTS.len()],
}

impl Counters {
    fn new(namespace: &str, clone: &str) -> Self {
        let exported = EVENTS.map(|(_, name)| {
            metrics::counter!(name, "namespace" => namespace.to_owned(), "clone" => clone.to_owned())
        });
        Self { exported, counts: Default::default() }
    }

    /// Counts one event.
    pub(crate) fn count(&self, event: Event) {
        let index = event as usize;
        self.exported[index].increment(1);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often it happened since the clone began.
    #[cfg(test)]
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.counts[event as usize].load(Ordering::Relaxed)
    }
}

/// The policy and the counters of one namespace.
pub(crate) struct Namespace {
    pub(crate) policy: Policy,
    pub(crate) counters: Arc<Counters>,
}

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
            Arc::new(Namespace { policy, counters: Arc::new(Counters::new(name, clone)) })
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
        let undeclared = make("other", config.undeclared());
        let undeclared_table =
            Namespace { policy: config.built_in("").policy, counters: undeclared.counters.clone() };
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
            Arc::new(Namespace { policy: undeclared.policy.clone(), counters })
        };
        known.entry(namespace.clone()).or_insert_with(make).clone()
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
