//! The sweep for expired sessions. One clone leads it by a lease, and looks at the buckets whose turn it is.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use shoal_redis_link::LinkError;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::turns::{Announcements, Turns};
use super::{RedisStore, from_read, from_write, script};
use crate::clock::{Time, millis};
use crate::error::Error;

/// The number of entries that one sweep script looks at: Redis does nothing else meanwhile.
const SWEEP_MAX: usize = 100;
/// Buckets swept concurrently. User commands may queue behind this many scripts.
const SWEEP_CONCURRENCY: usize = 4;
/// A sweeper that died is replaced after this many sweep intervals.
const LEASE_INTERVALS: u32 = 3;
/// A sweeper renews its lease after this many sweep intervals: with every other sweep.
const RENEW_INTERVALS: f64 = 1.5;

/// A clone's part in the sweep.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    lease: Duration,
    renew_after: Duration,
    post: Arc<tokio::sync::Mutex<Post>>,
    announcements: Arc<Announcements>,
}

#[derive(Debug)]
enum Post {
    /// Another clone holds the lease, for at least this time if it is not renewed; `None` before the first answer.
    Waiting(Option<Instant>),
    /// The lease is held by this clone, which renews it from this time on.
    Sweeper(Box<Turns>, Instant),
}

/// The answer of `lease.lua`.
type Lease = (bool, i64, i64, Vec<(u8, i64)>);

impl Sweep {
    pub(super) fn new(interval: Duration, call_deadline: Duration) -> Self {
        Self {
            lease: interval * LEASE_INTERVALS,
            renew_after: interval.mul_f64(RENEW_INTERVALS),
            post: Arc::new(tokio::sync::Mutex::new(Post::Waiting(None))),
            // A call may have its deadline to reach Redis.
            announcements: Arc::new(Announcements::new(call_deadline + Duration::from_millis(100))),
        }
    }
}

impl RedisStore {
    /// Tells the sweeper of a session that ends before its bucket's turn comes. Best effort: the turn comes later.
    pub(super) async fn announce_end(&self, bucket: u8, lives: Duration) {
        let asked = Instant::now();
        let Some(within) = self.sweep.announcements.needed(bucket, lives, asked) else { return };
        let key = self.names.soon();
        let (name, within) = (bucket.to_string(), within.to_string());
        let args = [name.as_bytes(), within.as_bytes()];
        match self.link.script::<()>(&script::SOON, &[key.as_bytes()], &args).await {
            Ok(()) => self.sweep.announcements.announced(bucket, lives, asked),
            Err(error) => tracing::debug!(%error, "the sweeper is not told of a short session"),
        }
    }

    /// Removes expired sessions from the buckets whose turn it is, if this clone holds the lease.
    pub(super) async fn sweep_due(&self) -> Result<u64, Error> {
        let mut post = self.sweep.post.lock().await;
        if let Post::Waiting(until) = &mut *post
            && let Some(until) = until
        {
            if Instant::now() < *until {
                return Ok(0);
            }
            // It was renewed: nothing else is to be asked.
            if let Ok(Some(left)) = self.lease_left().await {
                *until = Instant::now() + left;
                return Ok(0);
            }
        }
        let holds = matches!(&*post, Post::Sweeper(_, renew_at) if Instant::now() < *renew_at);
        if !(holds && self.nothing_is_soon().await) {
            self.take_lease(&mut post).await?;
        }
        let (mut turns, renew_at) = match std::mem::replace(&mut *post, Post::Waiting(None)) {
            Post::Sweeper(turns, renew_at) => (turns, renew_at),
            waiting @ Post::Waiting(_) => {
                *post = waiting;
                return Ok(0);
            }
        };
        let now = self.clock.now();
        // One bucket's trouble, in a Cluster with a primary down, must not keep the others from being swept.
        let swept: Vec<_> = stream::iter(turns.due(now))
            .map(|bucket| async move { (bucket, self.sweep_bucket(bucket).await) })
            .buffer_unordered(SWEEP_CONCURRENCY)
            .collect()
            .await;
        let mut all = Ok(0);
        for (bucket, outcome) in swept {
            match outcome {
                Ok((ended, first)) => {
                    turns.looked(bucket, now, first);
                    all = all.map(|all| all + ended);
                }
                Err(error) => all = Err(error),
            }
        }
        *post = Post::Sweeper(turns, renew_at);
        all
    }

    /// Asks for the lease, or for more of it.
    async fn take_lease(&self, post: &mut Post) -> Result<(), Error> {
        self.keys.refresh().await?;
        let asked = Instant::now();
        let lease = self.ask_lease().await;
        if let Ok((_, now, ..)) = &lease {
            self.clock.told(Time::from_millis(*now));
        }
        let turns = match std::mem::replace(post, Post::Waiting(None)) {
            Post::Sweeper(turns, _) => turns,
            Post::Waiting(_) => Box::default(),
        };
        *post = match lease {
            Ok((false, _, left, _)) => {
                Post::Waiting(Some(Instant::now() + Duration::from_millis(left.max(0).unsigned_abs())))
            }
            Ok((true, _, _, soon)) => {
                let mut turns = turns;
                soon.into_iter().for_each(|(bucket, at)| turns.soon(bucket, Time::from_millis(at)));
                Post::Sweeper(turns, asked + self.sweep.renew_after)
            }
            // Sweeping twice does no harm, and nobody else may be able to. What was said may be lost with an answer.
            Err(LinkError::Unknown(_)) => Post::Sweeper(Box::default(), asked),
            Err(_) => Post::Sweeper(turns, asked),
        };
        Ok(())
    }

    /// Returns whether no bucket is to be looked at before its turn. The holder of the lease asks so while it lasts.
    async fn nothing_is_soon(&self) -> bool {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.names.soon());
        self.link.query::<u64>(&exists).await.is_ok_and(|soon| soon == 0)
    }

    /// Sweeps one bucket until nothing is due. Returns how many sessions ended, and when the next one may.
    pub(super) async fn sweep_bucket(&self, bucket: u8) -> Result<(u64, Option<Time>), Error> {
        let first = self.first_end(bucket).await?;
        if first.is_none_or(|first| first > self.clock.now()) {
            return Ok((0, first));
        }
        // A trace begins where something is done, not with each look.
        let span = tracing::info_span!("sweep", shoal.role = "session", bucket);
        let ended = self.end_due(bucket).instrument(span).await?;
        Ok((ended, self.first_end(bucket).await?))
    }

    async fn end_due(&self, bucket: u8) -> Result<u64, Error> {
        let most = SWEEP_MAX.to_string();
        let mut ended = 0;
        loop {
            let (now, looked_at): (u64, usize) =
                self.run(&script::SWEEP, bucket, &[most.as_bytes()]).await.map_err(from_write)?;
            ended += now;
            if looked_at < SWEEP_MAX {
                return Ok(ended);
            }
        }
    }

    /// Returns when the first session of a bucket may end.
    async fn first_end(&self, bucket: u8) -> Result<Option<Time>, Error> {
        let mut first = redis::cmd("ZRANGE");
        first.arg(self.names.expiries(bucket)).arg(0).arg(0).arg("WITHSCORES");
        let first: Vec<(Vec<u8>, i64)> = self.link.query(&first).await.map_err(from_read)?;
        Ok(first.first().map(|(_, at)| Time::from_millis(*at)))
    }

    /// Returns for how long another clone still holds the lease, if one does. Sets the clock as well.
    async fn lease_left(&self) -> Result<Option<Duration>, LinkError> {
        let mut ask = redis::pipe();
        ask.cmd("PTTL").arg(self.names.lease()).cmd("TIME");
        let (left, (seconds, micros)): (i64, (i64, i64)) = self.link.pipeline(&ask).await?;
        self.clock.told(Time::from_millis(seconds * 1000 + micros / 1000));
        Ok(u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis))
    }

    async fn ask_lease(&self) -> Result<Lease, LinkError> {
        let (key, soon, lease) =
            (self.names.lease(), self.names.soon(), millis(self.sweep.lease).to_string());
        let args = [self.names.sweeper.as_bytes(), lease.as_bytes()];
        self.link.script(&script::LEASE, &[key.as_bytes(), soon.as_bytes()], &args).await
    }
}
