//! The keys of a mesh on Redis. For clones that were given none they are made once and kept in Redis, so that every clone
//! has the same.
//!
//! Whoever can read Redis has such keys: he can derive the successors of a token that he holds, and the token of a
//! session whose `request_id` he knows. Of other tokens Redis has hashes only. Where that matters, give keys by file or
//! environment.

use std::sync::{Arc, PoisonError, RwLock};

use shoal_redis_link::{Link, LinkError};

use super::clock::RedisClock;
use super::{from_read, from_write};
use crate::clock::Time;
use crate::error::Error;
use crate::keys::fingerprint::{KeyFingerprint, Noted, surplus};
use crate::keys::keyring::{Keyring, KeysText};

/// The keys of clones on one Redis.
#[derive(Debug, Clone)]
pub(crate) struct RedisKeys {
    link: Link,
    clock: Arc<RedisClock>,
    /// The Redis key of the hash in which clones note their keys.
    notes: String,
    keys: Arc<Keys>,
}

#[derive(Debug)]
enum Keys {
    Given(Arc<Keyring>),
    Shared(SharedKeys),
}

impl RedisKeys {
    /// Makes the source. Without a keyring the keys are kept in Redis.
    pub(super) fn new(
        link: Link,
        prefix: &str,
        clock: Arc<RedisClock>,
        keyring: Option<Arc<Keyring>>,
    ) -> Self {
        let keys = Arc::new(match keyring {
            Some(keyring) => Keys::Given(keyring),
            None => Keys::Shared(SharedKeys::new(format!("{prefix}keys").into_bytes())),
        });
        Self { link, clock, notes: format!("{prefix}marks"), keys }
    }

    pub(crate) async fn keyring(&self) -> Result<Arc<Keyring>, Error> {
        match &*self.keys {
            Keys::Given(keyring) => Ok(Arc::clone(keyring)),
            Keys::Shared(shared) => shared.keyring(&self.link).await,
        }
    }

    /// Puts the keys that are kept in Redis back if they are gone.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        match &*self.keys {
            Keys::Given(_) => Ok(()),
            Keys::Shared(shared) => shared.refresh(&self.link).await.map(drop),
        }
    }

    pub(crate) async fn note(&self, used: Vec<KeyFingerprint>) -> Result<(Vec<Noted>, Time), Error> {
        let (fingerprints, now) = (&self.notes, self.clock.now());
        let mut note = redis::pipe();
        for fingerprint in &used {
            note.cmd("HSET").arg(fingerprints).arg(fingerprint.encode()).arg(now.millis()).ignore();
        }
        note.cmd("HGETALL").arg(fingerprints);
        let (noted,) = self.link.pipeline::<(Vec<(Vec<u8>, Vec<u8>)>,)>(&note).await.map_err(from_note)?;
        let noted: Vec<Noted> = noted
            .into_iter()
            // What something else put there is no reason to miss what clones did.
            .filter_map(|(fingerprint, last)| {
                let fingerprint = KeyFingerprint::decode(std::str::from_utf8(&fingerprint).ok()?)?;
                let last = std::str::from_utf8(&last).ok()?.parse().ok()?;
                Some(Noted { fingerprint, last: Time::from_millis(last) })
            })
            .collect();
        let surplus: Vec<String> = surplus(&noted).iter().map(KeyFingerprint::encode).collect();
        if !surplus.is_empty() {
            let mut forget = redis::cmd("HDEL");
            forget.arg(fingerprints).arg(&surplus);
            self.link.query::<()>(&forget).await.map_err(from_note)?;
        }
        Ok((noted, now))
    }

    #[cfg(test)]
    pub(crate) fn with_keyring(&self, keyring: Arc<Keyring>) -> Self {
        Self { keys: Arc::new(Keys::Given(keyring)), ..self.clone() }
    }
}

/// The keys as this clone knows them.
struct SharedKeys {
    /// The Redis key under which they are kept.
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
    fn new(key: Vec<u8>) -> Self {
        Self { key, known: RwLock::new(None) }
    }

    async fn keyring(&self, link: &Link) -> Result<Arc<Keyring>, Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Known::keyring);
        match known {
            Some(keyring) => Ok(keyring),
            None => self.refresh(link).await,
        }
    }

    /// Takes the keys that are in Redis. If there are none it puts those it knows, or new ones; when two clones do so at
    /// once, both take what the first put. A Redis that lost its data gets its keys back from any clone.
    async fn refresh(&self, link: &Link) -> Result<Arc<Keyring>, Error> {
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

/// Translates a failed note. No caller waits for a note: a refusal is no engine that is away, as Redis may refuse this
/// user or this key while calls go well.
fn from_note(error: LinkError) -> Error {
    match error {
        LinkError::Server { .. } | LinkError::Denied(_) => Error::Internal(error.to_string()),
        other => from_write(other),
    }
}
