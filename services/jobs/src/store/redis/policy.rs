//! A Redis that evicts would lose jobs without a word: it is refused.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::InfoDict;
use shoal_redis_link::{Link, LinkError};
use tokio::time::Instant;

use super::read_error;
use crate::error::Error;

/// How often the policy is read again: it can be changed while Redis runs.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of `maxmemory-policy`.
#[derive(Debug, Default)]
pub(super) struct Policy(Mutex<Option<Seen>>);

#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    /// The policy, if it evicts.
    evicts: Option<String>,
}

impl Policy {
    /// Refuses a Redis that evicts; asks it, if it never was.
    pub(super) async fn check(&self, link: &Link) -> Result<(), Error> {
        let seen = self.seen();
        let evicts = match seen {
            Some(seen) => seen.evicts,
            None => self.ask(link).await?,
        };
        match evicts {
            Some(policy) => Err(Error::Evicts { policy }),
            None => Ok(()),
        }
    }

    /// Asks Redis again, if the last time is a while ago.
    pub(super) async fn refresh(&self, link: &Link) -> Result<(), Error> {
        if self.seen().is_none_or(|seen| seen.at.elapsed() >= REFRESH_INTERVAL || seen.evicts.is_some()) {
            self.ask(link).await?;
        }
        Ok(())
    }

    /// Another Redis may be there now.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What `/readyz` is told.
    pub(super) fn known_good(&self) -> Result<(), String> {
        match self.seen().and_then(|seen| seen.evicts) {
            Some(policy) => Err(Error::Evicts { policy }.to_string()),
            None => Ok(()),
        }
    }

    async fn ask(&self, link: &Link) -> Result<Option<String>, Error> {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let nodes: Vec<InfoDict> = link.query_each_primary(&info).await.map_err(read_error)?;
        let mut evicts = None;
        for node in nodes {
            let policy: Option<String> = node.get("maxmemory_policy");
            let policy = policy.ok_or_else(|| {
                read_error(LinkError::Unavailable("INFO memory does not name maxmemory_policy".to_owned()))
            })?;
            if policy != "noeviction" {
                evicts = Some(policy);
            }
        }
        let before = self.seen().and_then(|seen| seen.evicts);
        if let Some(policy) = evicts.as_ref().filter(|policy| before.as_ref() != Some(policy)) {
            tracing::error!(policy, "{}", Error::Evicts { policy: policy.clone() });
        }
        let seen = Seen { at: Instant::now(), evicts: evicts.clone() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(evicts)
    }

    fn seen(&self) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
