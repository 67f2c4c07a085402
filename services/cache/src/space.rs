//! Namespaces: the policy of each, and what is counted of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::{Config, KindPolicy, Policy, TABLE_PREFIX};
use crate::key::Namespace;
use crate::limit::{COUNTED_NAMESPACES_MAX, OBJECT_PREFIX};

/// What is counted of a namespace, at one clone. In `/metrics` as `shoal_cache_EVENTS_total{namespace, clone}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Read and found; a negative result too.
    Hit,
    /// Read and not found.
    Miss,
    /// Asked a loader.
    Load,
    /// A loader failed.
    LoadFailure,
    /// Waited for a load that somebody else at this clone had begun.
    Coalesced,
    /// A load whose result was not stored, because the object was changed or deleted meanwhile.
    RefusedFill,
    /// A load whose result was too large to be stored.
    Oversized,
    /// Asked a loader while the store was not reachable, without storing the result.
    Bypass,
}

const EVENTS: [(Event, &str); 8] = [
    (Event::Hit, "shoal_cache_hits_total"),
    (Event::Miss, "shoal_cache_misses_total"),
    (Event::Load, "shoal_cache_loads_total"),
    (Event::LoadFailure, "shoal_cache_load_failures_total"),
    (Event::Coalesced, "shoal_cache_coalesced_waiters_total"),
    (Event::RefusedFill, "shoal_cache_refused_fills_total"),
    (Event::Oversized, "shoal_cache_oversized_objects_total"),
    (Event::Bypass, "shoal_cache_bypass_loads_total"),
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

    /// Counts one.
    pub(crate) fn count(&self, event: Event) {
        let index = event as usize;
        self.exported[index].increment(1);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// How often it happened since the clone began.
    #[cfg(test)]
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.counts[event as usize].load(Ordering::Relaxed)
    }
}

/// One namespace.
pub(crate) struct Space {
    pub(crate) policy: Policy,
    pub(crate) counters: Arc<Counters>,
}

/// All namespaces of one clone.
pub(crate) struct Spaces {
    clone: String,
    known: RwLock<HashMap<Namespace, Arc<Space>>>,
    known_max: usize,
    undeclared: Arc<Space>,
    undeclared_table: Arc<Space>,
}

impl Spaces {
    /// With the policies of those that are declared.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub(crate) fn new(clone: &str, config: &Config) -> anyhow::Result<Self> {
        let space =
            |name: &str, policy| Arc::new(Space { policy, counters: Arc::new(Counters::new(name, clone)) });
        let mut known = HashMap::new();
        for (name, policy) in config.namespaces() {
            known.insert(Namespace::parse(name)?, space(name, policy));
        }
        for (kind, KindPolicy { policy, .. }) in config.kinds()? {
            let namespace = Namespace::of_kind(&kind)?;
            let space = space(namespace.as_str(), policy);
            known.insert(namespace, space);
        }
        let undeclared = space("other", config.undeclared());
        let undeclared_table =
            Space { policy: config.built_in("").policy, counters: undeclared.counters.clone() };
        Ok(Self {
            clone: clone.to_owned(),
            known_max: known.len() + COUNTED_NAMESPACES_MAX,
            known: RwLock::new(known),
            undeclared,
            undeclared_table: Arc::new(undeclared_table),
        })
    }

    /// The namespace of this name.
    pub(crate) fn of(&self, namespace: &Namespace) -> Arc<Space> {
        if let Some(space) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(namespace) {
            return space.clone();
        }
        let table =
            namespace.as_str().strip_prefix(OBJECT_PREFIX).is_some_and(|kind| kind.starts_with(TABLE_PREFIX));
        let undeclared = if table { &self.undeclared_table } else { &self.undeclared };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.known_max && !known.contains_key(namespace) {
            return undeclared.clone();
        }
        let space = || {
            let counters = Arc::new(Counters::new(namespace.as_str(), &self.clone));
            Arc::new(Space { policy: undeclared.policy.clone(), counters })
        };
        known.entry(namespace.clone()).or_insert_with(space).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn undeclared_namespaces_past_the_limit_are_counted_together() {
        let config: Config = toml::from_str("[namespace.declared]\nmax_value = 5").expect("valid");
        let spaces = Spaces::new("1", &config).expect("valid");
        let space = |name: &str| spaces.of(&Namespace::parse(name).expect("valid"));
        for index in 0..COUNTED_NAMESPACES_MAX + 10 {
            space(&format!("n{index}")).counters.count(Event::Hit);
        }
        assert_eq!(spaces.undeclared.counters.get(Event::Hit), 10);
        assert_eq!(space("declared").policy.value_bytes_max, 5);
        let minute = Duration::from_secs(60);
        assert_eq!(
            space("object.data.users").policy.ttl,
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
