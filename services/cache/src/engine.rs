//! The store behind the service: Redis when the settings name one, else RAM that all clones of the process share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shoal_kit::Settings;
use shoal_kit::role::Role;

use crate::config::Config;
use crate::store::{MemoryStore, RedisStore, Store};

/// How long a start waits for Redis before it goes on without, so that the first calls find it connected.
const START_PATIENCE: Duration = Duration::from_millis(500);

/// The store behind the service.
#[derive(Clone)]
pub struct Engine {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Memory(Arc<MemoryStore>),
    Redis { store: Arc<RedisStore>, named: String },
}

impl Engine {
    /// Opens the engine that the settings name. A Redis that cannot be reached yet does not fail it: calls answer
    /// UNAVAILABLE until it can.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub async fn open(settings: &Settings) -> anyhow::Result<Engine> {
        let config = settings.valid_section(Role::Cache.name(), Config::validate)?;
        let kind = match settings.redis_of(Role::Cache) {
            None => {
                let store = MemoryStore::new(config.memory_bytes_max, config.value_bytes_max());
                Kind::Memory(Arc::new(store))
            }
            Some(url) => redis(&url, config).await.with_context(|| settings.redis_given(Role::Cache))?,
        };
        Ok(Engine { kind })
    }

    /// What stands in the table of `shoal up`.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Memory(_) => "memory".to_owned(),
            Kind::Redis { named, .. } => format!("redis {named}"),
        }
    }

    /// A clone's own connections to Redis; the very same RAM otherwise.
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub async fn for_clone(&self, settings: &Settings) -> anyhow::Result<Engine> {
        match &self.kind {
            Kind::Memory(_) => Ok(self.clone()),
            Kind::Redis { .. } => Self::open(settings).await,
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match &self.kind {
            Kind::Memory(store) => store.clone(),
            Kind::Redis { store, .. } => store.clone(),
        }
    }

    /// Whether the store can be reached.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Redis { store, named } if !store.healthy() => {
                Err(format!("redis {named} is not reachable"))
            }
            Kind::Memory(_) | Kind::Redis { .. } => Ok(()),
        }
    }
}

async fn redis(url: &str, config: Config) -> anyhow::Result<Kind> {
    let named = without_secrets(url);
    let store = RedisStore::open(url, Role::Cache.name(), config.key_prefix)
        .with_context(|| format!("redis {named}, for the cache"))?;
    if let Err(error) = store.ready(START_PATIENCE).await {
        tracing::warn!(%error, redis = %named, "redis is not reachable yet; entries answer UNAVAILABLE until it is");
    }
    Ok(Kind::Redis { store: Arc::new(store), named })
}

/// Hosts and ports only.
fn without_secrets(url: &str) -> String {
    let host = |url: &str| {
        let rest = url.trim().split_once("://").map_or(url, |(_, rest)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned()
    };
    url.split(',').map(host).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_holds_no_password() {
        assert_eq!(without_secrets("redis://u:p@a:1/0,redis://b:2"), "a:1/0,b:2");
    }
}
