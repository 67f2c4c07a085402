//! The clock that services hold, over either engine.

use std::sync::Arc;
use std::time::Duration;

use shoal_redis_link::LinkError;

use crate::intent::Intent;
use crate::memory::MemoryClock;
use crate::redis::RedisClock;
use crate::stamp::Strength;

/// A clock over either engine.
#[derive(Debug, Clone)]
pub enum TagClock {
    /// The clock in a Redis or a Redis Cluster, shared by all clones.
    Redis(RedisClock),
    /// The clock in this process.
    Memory(Arc<MemoryClock>),
}

impl TagClock {
    /// Announces a write: until the intent ends or `length` has passed, nothing that is loaded with one of these tags is kept. All
    /// tags lie in the shard of `route`. Takes one round trip.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or refuses. The stamps may have been set then; they run out.
    pub async fn begin(
        &self,
        namespace: &str,
        route: &str,
        tags: &[String],
        length: Duration,
    ) -> Result<Intent, LinkError> {
        match self {
            Self::Redis(clock) => clock.begin(namespace, route, tags, length).await,
            Self::Memory(clock) => Ok(clock.begin(namespace, route, tags, length)),
        }
    }

    /// Announces a write anew that has taken long ([`Intent::is_late`]). Call it before the write is acknowledged: it also makes a
    /// miss of what was loaded since the intent ran out, if it did.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or refuses: the write must be treated as one that was not announced.
    pub async fn extend(&self, intent: &mut Intent) -> Result<(), LinkError> {
        match self {
            Self::Redis(clock) => clock.extend(intent).await,
            Self::Memory(clock) => {
                clock.extend(intent);
                Ok(())
            }
        }
    }

    /// Ends an intent: what is loaded from now on can be kept, unless another write with one of the tags is still under way. Do
    /// not call it for a write whose outcome is unknown; its intent runs out.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or refuses: the intent runs out by itself then.
    pub async fn end(&self, intent: Intent) -> Result<(), LinkError> {
        match self {
            Self::Redis(clock) => clock.end(intent).await,
            Self::Memory(clock) => {
                clock.end(&intent);
                Ok(())
            }
        }
    }

    /// Stamps tags HARD: no entry that has one of them and was built before is served again. The work does not depend on the
    /// number of entries.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or refuses; some shards may have the stamps then.
    pub async fn invalidate(&self, namespace: &str, tags: &[String]) -> Result<(), LinkError> {
        match self {
            Self::Redis(clock) => clock.stamp_all(namespace, tags, Strength::Hard).await,
            Self::Memory(clock) => {
                clock.stamp(namespace, tags, Strength::Hard);
                Ok(())
            }
        }
    }

    /// Stamps tags SOFT: entries that have one of them and were built before count as expired.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or refuses; some shards may have the stamps then.
    pub async fn expire(&self, namespace: &str, tags: &[String]) -> Result<(), LinkError> {
        match self {
            Self::Redis(clock) => clock.stamp_all(namespace, tags, Strength::Soft).await,
            Self::Memory(clock) => {
                clock.stamp(namespace, tags, Strength::Soft);
                Ok(())
            }
        }
    }

    /// Raises the floor of a namespace: no entry that was built before is served again. The work does not depend on the number of
    /// entries.
    ///
    /// # Errors
    /// Fails when Redis does not answer, or refuses; some shards may be cleared then.
    pub async fn clear(&self, namespace: &str) -> Result<(), LinkError> {
        match self {
            Self::Redis(clock) => clock.clear(namespace).await,
            Self::Memory(clock) => {
                clock.clear(namespace);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
