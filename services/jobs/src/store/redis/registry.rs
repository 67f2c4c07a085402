//! The registry of queues: the names of the queues in use, their limit, and which of them gives way to a new one.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::failure::error;
use super::{RedisStore, script};
use crate::error::Error;
use crate::job::id::QueueName;

/// Interval at which a clone registers a queue that it uses.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// Time after which an empty queue that no clone used is dropped from the registry.
const RETIRE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Interval at which a clone looks for queues to drop.
const RETIRE_INTERVAL: Duration = Duration::from_secs(600);
/// Most queues dropped at once.
const RETIRE_MAX: usize = 100;
/// Number of oldest queues, and of random queues, that are looked at when a new queue needs room.
const GIVE_WAY_LOOKS: usize = 32;

/// The queues that this clone used lately, and when it registered each of them.
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
    /// Registers a queue that is used, once in a while, so that every clone maintains it.
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

    /// Registers queues. Returns whether there was room for all of them.
    async fn register(&self, queues: &[QueueName]) -> Result<bool, Error> {
        let max = self.queues_max.to_string();
        let mut args = vec![max.as_bytes()];
        args.extend(queues.iter().map(|queue| queue.as_str().as_bytes()));
        let refused: Vec<Value> =
            self.link.script(&script::QUEUES, &[self.registry().as_bytes()], &args).await.map_err(error)?;
        Ok(refused.is_empty())
    }

    /// Drops the queues from the registry that no clone uses any more.
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

    /// Drops an empty queue, of some that are looked at, to make room for a new one. Returns whether one was dropped.
    async fn make_room(&self) -> Result<bool, Error> {
        let mut looked_at = redis::pipe();
        looked_at.cmd("ZRANGE").arg(self.registry()).arg(0).arg(GIVE_WAY_LOOKS - 1);
        // Old queues that are in use stay at the front for good, so random ones are looked at as well.
        looked_at.cmd("ZRANDMEMBER").arg(self.registry()).arg(GIVE_WAY_LOOKS);
        let (oldest, some): (Vec<String>, Vec<String>) =
            self.link.pipeline(&looked_at).await.map_err(error)?;
        let queues = [oldest, some].concat();
        Ok(self.drop_empty(&queues, TOUCH_INTERVAL * 2, 1).await? > 0)
    }

    /// Drops queues that are empty and were not used for this long, until `enough` were dropped. Returns their number.
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
                // The script compares the last use, because the queue may be used meanwhile.
                let args = [queue.as_str().as_bytes(), age.as_bytes()];
                let gone: usize =
                    self.link.script(&script::DROP, &[registry.as_bytes()], &args).await.map_err(error)?;
                dropped += gone;
            }
        }
        Ok(dropped)
    }

    /// Returns all queues, with those that this clone uses.
    pub(super) async fn listed(&self) -> Result<Vec<QueueName>, Error> {
        let mut queues = self.registered().await?;
        // A queue that is used and not listed means that Redis lost the registry.
        let known: Vec<_> =
            self.known().used.keys().filter(|queue| !queues.contains(queue)).cloned().collect();
        if !known.is_empty() {
            self.register(&known).await?;
            queues.extend(known);
        }
        Ok(queues)
    }

    /// Returns the names in the registry.
    async fn registered(&self) -> Result<Vec<QueueName>, Error> {
        let mut zrange = redis::cmd("ZRANGE");
        zrange.arg(self.registry()).arg(0).arg(-1);
        let names: Vec<String> = self.link.query(&zrange).await.map_err(error)?;
        Ok(names.iter().filter_map(|name| QueueName::parse(name).ok()).collect())
    }

    /// Returns the key of the registry.
    pub(super) fn registry(&self) -> String {
        format!("{}queues", self.prefix)
    }

    /// Locks the queues that this clone uses, also after a panic.
    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
