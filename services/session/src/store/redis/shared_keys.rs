//! The mesh's keys, for clones that were given none: made once, and kept in Redis so that every clone has the same.
//!
//! Whoever reads Redis then has them: he can derive the successors of a token that he holds, and the token of a session
//! whose `request_id` he knows. Of other tokens Redis has hashes only. Where that matters, give keys by file or
//! environment.

use std::sync::{Arc, PoisonError, RwLock};

use shoal_redis_link::Link;

use super::from_read;
use crate::error::Error;
use crate::keyring::{Keyring, KeysText};

/// The keys as this clone knows them.
pub(super) struct SharedKeys {
    /// Where they are kept.
    key: Vec<u8>,
    known: RwLock<Option<Known>>,
}

#[derive(Clone)]
struct Known {
    text: String,
    keyring: Arc<Keyring>,
}

impl Known {
    fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring)
    }
}

impl std::fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedKeys(..)")
    }
}

impl SharedKeys {
    pub(super) fn new(key: Vec<u8>) -> Self {
        Self { key, known: RwLock::new(None) }
    }

    pub(super) async fn keyring(&self, link: &Link) -> Result<Arc<Keyring>, Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Known::keyring);
        match known {
            Some(keyring) => Ok(keyring),
            None => self.refresh(link).await,
        }
    }

    /// Takes the keys that are there. If there are none it puts those it knows, or new ones; when two clones do so at
    /// once, both take what the first put. A Redis that lost its data gets its keys back from any clone.
    pub(super) async fn refresh(&self, link: &Link) -> Result<Arc<Keyring>, Error> {
        let known = self.known();
        let mut get = redis::cmd("GET");
        get.arg(&self.key);
        let text = match link.query::<Option<String>>(&get).await.map_err(from_read)? {
            Some(text) => text,
            None => {
                let offered = match &known {
                    Some(known) => known.text.clone(),
                    None => toml::to_string(&KeysText::generate())
                        .map_err(|error| Error::Internal(error.to_string()))?,
                };
                let mut put = redis::pipe();
                put.cmd("SET").arg(&self.key).arg(offered).arg("NX").ignore();
                put.cmd("GET").arg(&self.key);
                let (text,) = link.pipeline::<(String,)>(&put).await.map_err(from_read)?;
                text
            }
        };
        if let Some(known) = known.filter(|known| known.text == text) {
            return Ok(known.keyring);
        }
        let keys: KeysText = toml::from_str(&text).map_err(|_| {
            Error::Internal(
                "the session keys in redis cannot be read; restore them or give [session] keys".to_owned(),
            )
        })?;
        let keyring = Keyring::parse(&keys).map_err(|error| Error::Internal(error.to_string()))?;
        tracing::info!(
            "session keys are kept in redis; give [session] keys_file to keep them apart from the sessions"
        );
        let known = Known { text, keyring: Arc::new(keyring) };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known.keyring)
    }

    fn known(&self) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
