//! The store behind the service: Redis when the settings name one, else a database under their data directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shoal_kit::Settings;
use shoal_kit::backing::{Backing, new_store_name};
use shoal_kit::role::Role;
use shoal_redis_link::{Eviction, Health, LinkConfig};

use crate::config::Config;
use crate::store::{EmbeddedStore, RedisStore, Store};

/// Longest time that a start waits until a Redis that is up is connected.
const CONNECT_WAIT: Duration = Duration::from_millis(500);

/// The store behind the service.
#[derive(Clone)]
pub struct Engine(Kind);

#[derive(Clone)]
enum Kind {
    Embedded {
        store: Box<EmbeddedStore>,
        dir: Option<PathBuf>,
        /// The name of the store, which all clones of the process share.
        name: String,
    },
    /// The clones of a process share the health, so that changes of their Redis are logged once.
    Redis { store: RedisStore, url: String, health: Health },
}

impl Engine {
    /// Opens the role's engine: Redis if the settings name one, else a database under their data directory. Until Redis is up,
    /// calls answer UNAVAILABLE.
    ///
    /// # Errors
    /// When the settings are not valid or the embedded database cannot be opened.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let config = config(settings)?;
        if let Some(url) = settings.redis_of(Role::Jobs) {
            let redis = Self::redis(url, settings, &config, Health::new(Role::Jobs.name())).await;
            return redis.with_context(|| settings.redis_given(Role::Jobs));
        }
        let dir = settings.data_dir.as_ref().map(|dir| dir.join(Role::Jobs.name()));
        // Opening replays a journal, which must not block a thread that serves calls.
        let place = dir.clone();
        let queues_max = config.queues_max;
        let store =
            tokio::task::spawn_blocking(move || EmbeddedStore::open(place.as_deref(), queues_max)).await??;
        Ok(Self(Kind::Embedded { store: Box::new(store), dir, name: new_store_name() }))
    }

    async fn redis(
        url: String,
        settings: &Settings,
        config: &Config,
        health: Health,
    ) -> anyhow::Result<Self> {
        let link = LinkConfig {
            show_addresses: settings.show_addresses,
            eviction: Eviction::Forbidden,
            health: health.clone(),
            ..LinkConfig::new(url.as_str(), Role::Jobs.name())
        };
        let store = RedisStore::open(link, config)?;
        if let Err(error) = store.connected(CONNECT_WAIT).await {
            tracing::warn!(%error, "redis is not there yet; calls answer UNAVAILABLE until it is");
        }
        Ok(Self(Kind::Redis { store, url, health }))
    }

    /// Describes the kind of engine and where it is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Embedded { dir: None, .. } => "memory".to_owned(),
            Kind::Embedded { dir: Some(dir), .. } => format!("embedded {}", dir.display()),
            Kind::Redis { url, .. } => format!("redis {}", shoal_redis_link::describe(url)),
        }
    }

    /// Makes the engine of another clone: with connections of its own to Redis, or the same embedded database.
    ///
    /// # Errors
    /// When the settings are not valid.
    pub async fn for_clone(&self, settings: &Settings) -> anyhow::Result<Self> {
        match &self.0 {
            Kind::Embedded { .. } => Ok(self.clone()),
            Kind::Redis { url, health, .. } => {
                Self::redis(url.clone(), settings, &config(settings)?, health.clone()).await
            }
        }
    }

    /// Returns the description of the store that a clone gives in its health answers.
    pub(crate) fn backing(&self) -> Backing {
        match &self.0 {
            Kind::Embedded { name, .. } => Backing::own(self.describe(), name.clone()),
            Kind::Redis { store, .. } => {
                let name = store.name();
                Backing::shared(self.describe(), move || {
                    let name = name.clone();
                    Box::pin(async move { name.read().await.map_err(|error| error.to_string()) })
                })
            }
        }
    }

    pub(crate) fn store(self) -> Arc<dyn Store> {
        match self.0 {
            Kind::Embedded { store, .. } => Arc::new(*store),
            Kind::Redis { store, .. } => Arc::new(store),
        }
    }
}

/// Reads the role's section of the settings.
pub(crate) fn config(settings: &Settings) -> anyhow::Result<Config> {
    settings.valid_section(Role::Jobs.name(), Config::validate)
}
