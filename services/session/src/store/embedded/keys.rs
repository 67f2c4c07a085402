//! The keys beside an embedded database, and the notes in it of those that were in use.

use std::sync::Arc;

use shoal_embedded::{Database, Keyspace};

use crate::clock::{Clock, Time};
use crate::error::Error;
use crate::keys::fingerprint::{KeyFingerprint, Noted, surplus};
use crate::keys::keyring::Keyring;

/// The keys of the clones of one process.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddedKeys {
    db: Database,
    /// The notes: fingerprint of a key → when it was last in use.
    fingerprints: Keyspace,
    keyring: Arc<Keyring>,
    clock: Clock,
}

impl EmbeddedKeys {
    pub(crate) fn new(
        db: &Database,
        keyring: Arc<Keyring>,
        clock: Clock,
    ) -> Result<Self, shoal_embedded::Error> {
        Ok(Self { fingerprints: db.keyspace("marks")?, db: db.clone(), keyring, clock })
    }

    /// Returns whether there are sessions, or notes of the keys that some were made with.
    pub(crate) fn are_needed(db: &Database) -> Result<bool, shoal_embedded::Error> {
        for name in ["sessions", "marks"] {
            if db.keyspace(name)?.prefix("").next().transpose()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring)
    }

    pub(crate) async fn note(&self, used: Vec<KeyFingerprint>) -> Result<(Vec<Noted>, Time), Error> {
        let (fingerprints, now) = (self.fingerprints.clone(), self.clock.now());
        let noted = self.db.write(move |tx| {
            for fingerprint in &used {
                tx.put(&fingerprints, fingerprint.encode().into_bytes(), now.millis().to_be_bytes());
            }
            let mut noted = Vec::new();
            for entry in tx.prefix(&fingerprints, "") {
                let (fingerprint, last) = entry?;
                let fingerprint = std::str::from_utf8(&fingerprint).ok().and_then(KeyFingerprint::decode);
                if let (Some(fingerprint), Ok(last)) = (fingerprint, <[u8; 8]>::try_from(&*last)) {
                    noted.push(Noted { fingerprint, last: Time::from_millis(i64::from_be_bytes(last)) });
                }
            }
            for fingerprint in surplus(&noted) {
                tx.delete(&fingerprints, fingerprint.encode().into_bytes());
            }
            Ok::<_, Error>(noted)
        });
        Ok((noted.await??, now))
    }

    #[cfg(test)]
    pub(crate) fn with_keyring(&self, keyring: Arc<Keyring>) -> Self {
        Self { keyring, ..self.clone() }
    }
}
