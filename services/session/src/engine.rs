//! Which store a clone stands on, from the settings.

use std::sync::Arc;

use anyhow::Context as _;
use shoal_embedded::Database;
use shoal_kit::Settings;
use shoal_kit::role::Role;

use crate::clock::Clock;
use crate::config::Config;
use crate::keyfile;
use crate::keyring::{Keyring, KeysText};
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::RedisStore;

/// The store behind the service.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) store: Backend,
    description: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Redis(RedisStore),
    Embedded(EmbeddedStore),
}

impl Engine {
    /// Redis if the settings name one, which need not be reachable yet; else the embedded database.
    ///
    /// # Errors
    /// When the configuration, the keys or the database's folder cannot be used.
    pub async fn open(settings: &Settings) -> anyhow::Result<Engine> {
        let config = settings.valid_section(Role::Session.name(), Config::validate)?;
        let keyring = keyfile::configured(&config)?;
        if let Some(url) = settings.redis_of(Role::Session) {
            let redis = Self::redis(&url, &config, keyring);
            return redis.with_context(|| settings.redis_given(Role::Session));
        }
        let dir = settings.data_dir.as_ref().map(|dir| dir.join(Role::Session.name()));
        // Opening replays a journal.
        tokio::task::spawn_blocking(move || {
            let (db, keyring, description) = match dir {
                Some(dir) => {
                    let db = Database::open(&dir)?;
                    let keyring = match keyring {
                        Some(keyring) => keyring,
                        None => keyfile::load_or_generate(&dir.join(keyfile::FILE))?,
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
            let store = EmbeddedStore::new(db, keyring, config.policy(), Clock::System)?;
            Ok(Engine { store: Backend::Embedded(store), description })
        })
        .await
        .context("opening the session store")?
    }

    fn redis(url: &str, config: &Config, keyring: Option<Arc<Keyring>>) -> anyhow::Result<Engine> {
        let store = RedisStore::open(url, config, keyring)?;
        Ok(Engine { store: Backend::Redis(store), description: format!("redis {}", addresses(url)) })
    }

    /// What it is, for people: `redis 127.0.0.1:6379`, `embedded ./.shoal/session`, `memory`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.description.clone()
    }

    /// A clone's own way to the same store: connections of its own to Redis, the very same embedded database.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub async fn for_clone(&self, settings: &Settings) -> anyhow::Result<Engine> {
        match &self.store {
            Backend::Redis(_) => Self::open(settings).await,
            Backend::Embedded(_) => Ok(self.clone()),
        }
    }
}

/// A URL's hosts and ports, without what may be a password.
fn addresses(url: &str) -> String {
    let address = |part: &str| {
        let part = part.trim().rsplit_once("://").map_or(part, |(_, rest)| rest);
        let part = part.rsplit_once('@').map_or(part, |(_, rest)| rest);
        part.split('/').next().unwrap_or_default().to_owned()
    };
    url.split(',').map(address).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_shows_no_password() {
        assert_eq!(addresses("redis://user:p@ss@a:1/0, redis://b:2"), "a:1,b:2");
        assert_eq!(addresses("nonsense"), "nonsense");
    }
}
