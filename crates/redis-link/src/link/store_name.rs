//! The name of a store: a random text under one key in Redis, written by the first clone that finds none. All clones that read
//! the same name see the same store.

use std::sync::{Mutex, PoisonError};

use crate::error::LinkError;
use crate::link::Link;

/// Reads the name of a store. Each clone has one reader.
#[derive(Debug)]
pub struct StoreName {
    link: Link,
    key: String,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    name: String,
    /// The `run_id` of the server that had the name.
    run: Option<String>,
}

impl StoreName {
    /// Keeps the name under `key`, which belongs to the caller's role, because roles may have different rights.
    pub fn new(link: Link, key: impl Into<String>) -> StoreName {
        StoreName { link, key: key.into(), known: Mutex::default() }
    }

    /// Returns the name of the store, and gives it one if it has none. This costs one command while nothing has changed. Returns
    /// `None` when Redis answers but takes no name, because it is full or a replica.
    ///
    /// A server that lost the name while it ran, because it was emptied or evicted the name, gets the same name back, so that
    /// clones do not take it for another store. If another server answers at the address, it gets a new name.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or denies access.
    pub async fn read(&self) -> Result<Option<String>, LinkError> {
        match self.read_or_give().await {
            Ok(name) => Ok(Some(name)),
            Err(error @ (LinkError::Full(_) | LinkError::ReadOnly(_) | LinkError::Server { .. })) => {
                tracing::debug!(%error, key = self.key, "redis has no name of itself");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn read_or_give(&self) -> Result<String, LinkError> {
        let known = self.known();
        if let Some(name) = self.get().await? {
            if known.is_none_or(|known| known.name != name) {
                self.remember(&name, self.link.run_id().await.ok());
            }
            return Ok(name);
        }
        let run = self.link.run_id().await.ok();
        let lost = known.filter(|known| run.is_some() && known.run == run);
        let name = lost.map_or_else(|| format!("{:032x}", fastrand::u128(..)), |known| known.name);
        let mut set = redis::cmd("SET");
        set.arg(&self.key).arg(&name).arg("NX");
        let given: Option<String> = self.link.query(&set).await?;
        let name = match given {
            Some(_) => name,
            // Another clone was first. One that is gone again already will be found the next time.
            None => self.get().await?.unwrap_or(name),
        };
        self.remember(&name, run);
        Ok(name)
    }

    async fn get(&self) -> Result<Option<String>, LinkError> {
        self.link.query(redis::cmd("GET").arg(&self.key)).await
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, name: &str, run: Option<String>) {
        let known = Known { name: name.to_owned(), run };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}
