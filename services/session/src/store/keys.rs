//! The source of a clone's keys: given by the configuration or kept in the store. In either case clones note in the store
//! which ones they use.

use std::sync::Arc;

use super::embedded::EmbeddedKeys;
use super::redis::RedisKeys;
use crate::clock::Time;
use crate::error::Error;
use crate::keys::fingerprint::{KeyFingerprint, Noted};
use crate::keys::keyring::Keyring;

/// The keys of a mesh, the same on every clone.
#[derive(Debug, Clone)]
pub(crate) enum KeySource {
    Redis(RedisKeys),
    Embedded(EmbeddedKeys),
}

impl KeySource {
    /// Returns the keys in use.
    pub(crate) async fn keyring(&self) -> Result<Arc<Keyring>, Error> {
        match self {
            KeySource::Redis(keys) => keys.keyring().await,
            KeySource::Embedded(keys) => Ok(keys.keyring()),
        }
    }

    /// Notes that keys are in use. Returns all that any clone has noted (the newest of many), each with its time, and the
    /// time now. The note is a hint: it has the store's time, on Redis by this clone's copy of the clock; it is lost with
    /// the rest of the store, and not atomic: after an error some keys may have been noted.
    pub(crate) async fn note(&self, used: Vec<KeyFingerprint>) -> Result<(Vec<Noted>, Time), Error> {
        match self {
            KeySource::Redis(keys) => keys.note(used).await,
            KeySource::Embedded(keys) => keys.note(used).await,
        }
    }

    /// Returns the same source, with keys that were changed.
    #[cfg(test)]
    pub(crate) fn with_keyring(&self, keyring: Arc<Keyring>) -> Self {
        match self {
            KeySource::Redis(keys) => KeySource::Redis(keys.with_keyring(keyring)),
            KeySource::Embedded(keys) => KeySource::Embedded(keys.with_keyring(keyring)),
        }
    }
}
