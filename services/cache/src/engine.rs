//! The store behind the service: Redis when the settings name one, else RAM that all clones of the process share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shoal_kit::Settings;
use shoal_kit::backing::{Backing, new_store_name};
use shoal_kit::role::Role;
use shoal_redis_link::{Eviction, Health, LinkConfig, StoreName};

use crate::config::Config;
use crate::store::{Bulk, MemoryStore, RedisStore, Store};

/// The longest wait of a start for Redis before it goes on without, so that the first calls find it connected.
const START_PATIENCE: Duration = Duration::from_millis(500);

/// The store behind the service.
#[derive(Clone)]
pub struct Engine {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Memory {
        store: Arc<MemoryStore>,
        name: String,
    },
    /// The health is shared by the clones of a process: each change of their Redis is logged once.
    Redis {
        store: Arc<RedisStore>,
        named: String,
        health: Health,
    },
}

impl Engine {
    /// Opens the engine that the settings name. A Redis that cannot be reached yet does not fail it: calls answer
    /// UNAVAILABLE until it can.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid.
    pub async fn open(settings: &Settings) -> anyhow::Result<Engine> {
        Self::open_with(settings, Health::new(Role::Cache.name())).await
    }

    async fn open_with(settings: &Settings, health: Health) -> anyhow::Result<Engine> {
        let config = settings.valid_section(Role::Cache.name(), Config::validate)?;
        let kind = match settings.redis_of(Role::Cache) {
            None => {
                let store = MemoryStore::new(config.memory_bytes_max, config.value_bytes_max());
                Kind::Memory { store: Arc::new(store), name: new_store_name() }
            }
            Some(url) => {
                let link = LinkConfig {
                    show_addresses: settings.show_addresses,
                    eviction: Eviction::Wanted,
                    finish_moves: config.redis_finish_moves,
                    health,
                    ..LinkConfig::new(url, Role::Cache.name())
                };
                redis(link, config).await.with_context(|| settings.redis_given(Role::Cache))?
            }
        };
        Ok(Engine { kind })
    }

    /// Describes the store for the table of `shoal up`.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Memory { .. } => "memory".to_owned(),
            Kind::Redis { named, .. } => format!("redis {named}"),
        }
    }

    /// Opens a clone's own connections to Redis; in RAM it is the same store.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid.
    pub async fn for_clone(&self, settings: &Settings) -> anyhow::Result<Engine> {
        match &self.kind {
            Kind::Memory { .. } => Ok(self.clone()),
            Kind::Redis { health, .. } => Self::open_with(settings, health.clone()).await,
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match &self.kind {
            Kind::Memory { store, .. } => store.clone(),
            Kind::Redis { store, .. } => store.clone(),
        }
    }

    /// Returns what health and `/readyz` of a clone say of its store.
    pub(crate) fn backing(&self) -> Backing {
        match &self.kind {
            Kind::Memory { name, .. } => Backing::own(self.describe(), name.clone()),
            Kind::Redis { store, .. } => {
                let name = Arc::new(StoreName::new(store.link(), store.name_key()));
                Backing::shared(self.describe(), move || {
                    let name = name.clone();
                    Box::pin(async move { name.read().await.map_err(|error| error.to_string()) })
                })
            }
        }
    }

    /// Returns an error with the reason if the store cannot be reached.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Redis { store, .. } => store.ready_now(),
            Kind::Memory { .. } => Ok(()),
        }
    }
}

async fn redis(link: LinkConfig, config: Config) -> anyhow::Result<Kind> {
    let (named, health) = (shoal_redis_link::describe(&link.url), link.health.clone());
    let bulk = Bulk::of(&config)?;
    let store = RedisStore::open(link, config.key_prefix, bulk)
        .with_context(|| format!("redis {named}, for the cache"))?;
    if let Err(error) = store.ready(START_PATIENCE).await {
        tracing::warn!(%error, redis = %named, "redis is not there yet; until it is entries answer UNAVAILABLE");
    }
    Ok(Kind::Redis { store: Arc::new(store), named, health })
}
