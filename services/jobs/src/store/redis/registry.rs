//! Which queues there are: the names of those in use, how many there may be, and which of them gives way to a new one.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::failure::error;
use super::{RedisStore, script};
use crate::error::Error;
use crate::job::id::QueueName;

/// How often a clone says that it uses a queue.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// A queue that nobody used for so long and that is empty is dropped from the registry.
const RETIRE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How often a clone looks for such queues.
const RETIRE_INTERVAL: Duration = Duration::from_secs(600);
/// How many of them it drops at once.
const RETIRE_MAX: usize = 100;
/// Queues of either kind that are looked at when there must be room for another.
const GIVE_WAY_LOOKS: usize = 32;
/// Queues that this clone has used lately, and since when it has not said so.
#[derive(Debug, Default)]
pub(super) struct Known {
    used: HashMap<QueueName, Instant>,
    retired: Option<Instant>,
}

impl Known {
    pub(super) fn note(&mut self, queue: &QueueName) {
        self.used.retain(|_, at| at.elapsed() < TOUCH_INTERVAL);
        self.used.insert(queue.clone(), Instant::now());
    }
}

impl RedisStore {
    /// Says now and then that this queue is used, so that every clone tends it.
    pub(super) async fn touch(&self, queue: &QueueName) -> Result<(), Error> {
        if self.known().used.get(queue).is_some_and(|at| at.elapsed() < TOUCH_INTERVAL) {
            return Ok(());
        }
        let alone = std::slice::from_ref(queue);
        let mut there = self.register(alone).await?;
        if !there && self.make_room().await? {
            there = self.register(alone).await?;
        }
        if !there {
            return Err(Error::TooManyQueues { max: self.queues_max });
        }
        self.known().note(queue);
        Ok(())
    }

    /// Whether there was room for all.
    async fn register(&self, queues: &[QueueName]) -> Result<bool, Error> {
        let max = self.queues_max.to_string();
        let mut args = vec![max.as_bytes()];
        args.extend(queues.iter().map(|queue| queue.as_str().as_bytes()));
        let refused: Vec<Value> =
            self.link.script(&script::QUEUES, &[self.registry().as_bytes()], &args).await.map_err(error)?;
        Ok(refused.is_empty())
    }

    /// Drops queues from the registry that nobody uses any more.
    pub(super) async fn retire(&self) -> Result<(), Error> {
        let last = self.known().retired.replace(Instant::now());
        if last.is_some_and(|at| at.elapsed() < RETIRE_INTERVAL) {
            self.known().retired = last;
            return Ok(());
        }
        let (now, _): (u64, u64) = self.link.query(&redis::cmd("TIME")).await.map_err(error)?;
        let before = now.saturating_sub(RETIRE_AFTER.as_secs());
        let mut unused = redis::cmd("ZRANGEBYSCORE");
        unused.arg(self.registry()).arg("-inf").arg(before).arg("LIMIT").arg(0).arg(RETIRE_MAX);
        let unused: Vec<String> = self.link.query(&unused).await.map_err(error)?;
        self.drop_empty(&unused, RETIRE_AFTER, usize::MAX).await.map(drop)
    }

    /// Lets an empty queue give way that was not used for longest, of some that are looked at; whether one did.
    async fn make_room(&self) -> Result<bool, Error> {
        let mut looked_at = redis::pipe();
        looked_at.cmd("ZRANGE").arg(self.registry()).arg(0).arg(GIVE_WAY_LOOKS - 1);
        // Those that are in use and old stand at the front for good: the others have their chance.
        looked_at.cmd("ZRANDMEMBER").arg(self.registry()).arg(GIVE_WAY_LOOKS);
        let (oldest, some): (Vec<String>, Vec<String>) =
            self.link.pipeline(&looked_at).await.map_err(error)?;
        let queues = [oldest, some].concat();
        Ok(self.drop_empty(&queues, TOUCH_INTERVAL * 2, 1).await? > 0)
    }

    /// Drops queues that are empty and were not used for so long, until there are enough; how many.
    pub(super) async fn drop_empty(
        &self,
        queues: &[String],
        unused: Duration,
        enough: usize,
    ) -> Result<usize, Error> {
        let (registry, age) = (self.registry(), unused.as_secs().to_string());
        let mut dropped = 0;
        for queue in queues.iter().filter_map(|name| QueueName::parse(name).ok()) {
            if dropped >= enough {
                break;
            }
            let root = self.root(&queue);
            let args = [self.wake.as_bytes(), queue.as_str().as_bytes()];
            let empty: i64 =
                self.link.script(&script::RETIRE, &[root.as_bytes()], &args).await.map_err(error)?;
            if empty == 1 {
                // Its last use is compared in the script: it may be used while we look.
                let args = [queue.as_str().as_bytes(), age.as_bytes()];
                let gone: usize =
                    self.link.script(&script::DROP, &[registry.as_bytes()], &args).await.map_err(error)?;
                dropped += gone;
            }
        }
        Ok(dropped)
    }

    /// The queues, those that this clone uses included.
    pub(super) async fn listed(&self) -> Result<Vec<QueueName>, Error> {
        let mut queues = self.registered().await?;
        // What we use and is not listed: Redis lost the registry.
        let known: Vec<_> =
            self.known().used.keys().filter(|queue| !queues.contains(queue)).cloned().collect();
        if !known.is_empty() {
            self.register(&known).await?;
            queues.extend(known);
        }
        Ok(queues)
    }

    async fn registered(&self) -> Result<Vec<QueueName>, Error> {
        let mut zrange = redis::cmd("ZRANGE");
        zrange.arg(self.registry()).arg(0).arg(-1);
        let names: Vec<String> = self.link.query(&zrange).await.map_err(error)?;
        Ok(names.iter().filter_map(|name| QueueName::parse(name).ok()).collect())
    }

    pub(super) fn registry(&self) -> String {
        format!("{}queues", self.prefix)
    }

    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
