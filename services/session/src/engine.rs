//! The store and the keys of a clone, chosen from the settings.

use std::sync::Arc;

use anyhow::Context as _;
use shoal_embedded::Database;
use shoal_kit::Settings;
use shoal_kit::backing::{Backing, new_store_name};
use shoal_kit::role::Role;
use shoal_redis_link::{Eviction, Health, LinkConfig, StoreName};

use crate::clock::Clock;
use crate::config::Config;
use crate::keys::file;
use crate::keys::keyring::{Keyring, KeysText};
use crate::store::embedded::{EmbeddedKeys, EmbeddedStore};
use crate::store::keys::KeySource;
use crate::store::redis::RedisStore;

/// The store behind the service.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) store: Backend,
    pub(crate) keys: KeySource,
    description: String,
    /// The name of an embedded store, which all clones of the process share.
    name: String,
    /// The state of the Redis, shared by the clones of a process: each change of it is logged once.
    health: Health,
}

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Redis(RedisStore),
    Embedded(EmbeddedStore),
}

impl Engine {
    /// Opens Redis if the settings name one, which need not be reachable yet; else the embedded database.
    ///
    /// # Errors
    /// Returns an error if the configuration, the keys or the database's folder cannot be used.
    pub async fn open(settings: &Settings) -> anyhow::Result<Engine> {
        Self::open_with(settings, Health::new(Role::Session.name())).await
    }

    async fn open_with(settings: &Settings, health: Health) -> anyhow::Result<Engine> {
        let config = settings.valid_section(Role::Session.name(), Config::validate)?;
        let keyring = file::configured(&config.keys, config.keys_file.as_deref())?;
        if let Some(url) = settings.redis_of(Role::Session) {
            let link = LinkConfig {
                connections: config.redis_connections,
                call_deadline: config.redis_deadline,
                finish_moves: config.redis_finish_moves,
                show_addresses: settings.show_addresses,
                eviction: Eviction::Forbidden,
                health: health.clone(),
                ..LinkConfig::new(url, Role::Session.name())
            };
            let description = format!("redis {}", shoal_redis_link::describe(&link.url));
            let store = RedisStore::open(link, &config, keyring);
            let store = store.with_context(|| settings.redis_given(Role::Session))?;
            let keys = KeySource::Redis(store.keys());
            return Ok(Engine {
                store: Backend::Redis(store),
                keys,
                description,
                name: String::new(),
                health,
            });
        }
        let dir = settings.data_dir.as_ref().map(|dir| dir.join(Role::Session.name()));
        // Opening replays a journal.
        tokio::task::spawn_blocking(move || {
            let (db, keyring, description) = match dir {
                Some(dir) => {
                    let db = Database::open(&dir)?;
                    let keyring = match keyring {
                        Some(keyring) => keyring,
                        None => file::load_or_generate(&dir.join(file::FILE), || {
                            Ok(EmbeddedKeys::are_needed(&db)?)
                        })?,
                    };
                    (db, keyring, format!("embedded {}", dir.display()))
                }
                None => {
                    let keyring = match keyring {
                        Some(keyring) => keyring,
                        None => Arc::new(Keyring::parse(&KeysText::generate())?),
                    };
                    (Database::ephemeral()?, keyring, "memory".to_owned())
                }
            };
            db.report_as(Role::Session.name());
            let keys = KeySource::Embedded(EmbeddedKeys::new(&db, keyring, Clock::System)?);
            let store = EmbeddedStore::new(db, config.policy(), Clock::System)?;
            Ok(Engine { store: Backend::Embedded(store), keys, description, name: new_store_name(), health })
        })
        .await
        .context("opening the session store")?
    }

    /// Describes the store for people: `redis 127.0.0.1:6379`, `embedded ./.shoal/session`, `memory`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.description.clone()
    }

    /// Returns what health and `/readyz` of a clone say of its store.
    pub(crate) fn backing(&self) -> Backing {
        match &self.store {
            Backend::Embedded(_) => Backing::own(self.describe(), self.name.clone()),
            Backend::Redis(store) => {
                let name = Arc::new(StoreName::new(store.link(), store.name_key()));
                Backing::shared(self.describe(), move || {
                    let name = name.clone();
                    Box::pin(async move { name.read().await.map_err(|error| error.to_string()) })
                })
            }
        }
    }

    /// Opens a clone's own way to the same store: connections of its own to Redis, or the same embedded database.
    ///
    /// # Errors
    /// Returns an error if the configuration cannot be used.
    pub async fn for_clone(&self, settings: &Settings) -> anyhow::Result<Engine> {
        match &self.store {
            Backend::Redis(_) => Self::open_with(settings, self.health.clone()).await,
            Backend::Embedded(_) => Ok(self.clone()),
        }
    }
}
