//! Watching a job: its present state, then each new one as it is announced, until a final one.

use std::sync::Arc;
use std::time::Duration;

use shoal_kit::{EngineError, Invalid, reason};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::hub::{Hub, Watching};
use crate::job::id::JobId;
use crate::job::{Job, State};
use crate::store::{Following, Store};

/// How long a watch outlives an engine that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to read.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a watcher has seen: enough to go on at any clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    version: u64,
    state: State,
}

impl Seen {
    /// What someone has seen who was sent this job.
    #[must_use]
    pub(crate) fn of(job: &Job) -> Self {
        Self { version: job.progress.version, state: job.progress.state }
    }

    /// As callers keep it; opaque to them.
    #[must_use]
    pub(crate) fn token(self) -> String {
        format!("{}.{}", self.state as u8, self.version)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When it is none of ours.
    pub(crate) fn parse(token: &str) -> Result<Self, Invalid> {
        let (state, version) = token.split_once('.').unwrap_or_default();
        let state = state.parse().ok().and_then(State::of);
        state.zip(version.parse().ok()).map(|(state, version)| Self { version, state }).ok_or_else(|| {
            Invalid::new(
                reason::INVALID_RESUME_TOKEN,
                "resume_token",
                "must be one that WatchJob gave, or empty",
            )
        })
    }
}

/// One open watch.
pub(crate) struct Watch {
    store: Arc<dyn Store>,
    watching: Watching,
    _following: Following,
    draining: CancellationToken,
    id: JobId,
    /// Read but not sent.
    first: Option<Job>,
    seen: Option<Seen>,
    gaps: u64,
    ended: bool,
}

impl Watch {
    /// Opens a watch. Someone who has `seen` a state is not sent that one again.
    ///
    /// # Errors
    /// [`Error::NotFound`], of the store, or [`Error::TooManyWaiting`].
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        hub: &Arc<Hub>,
        id: JobId,
        seen: Option<Seen>,
        draining: CancellationToken,
    ) -> Result<Self, Error> {
        // In this order: what happens after the read has been announced to us, what happened before is in it.
        let mut watching = hub.watch(&id)?;
        let following = store.follow(id.queue()).await?;
        let gaps = watching.news.borrow_and_update().gaps;
        let job = store.get(&id).await?.ok_or_else(|| Error::not_found(&id))?;
        Ok(Self {
            store,
            watching,
            _following: following,
            draining,
            id,
            first: Some(job),
            seen,
            gaps,
            ended: false,
        })
    }

    /// The next state. `None` after a final one.
    pub(crate) async fn next(&mut self) -> Option<Result<Job, Error>> {
        while !self.ended {
            let job = match self.first.take() {
                Some(job) => Ok(job),
                None => self.changed().await,
            };
            match job {
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Ok(job) => {
                    self.ended = job.progress.state.is_final();
                    let seen = Some(Seen::of(&job));
                    if self.seen != seen {
                        self.seen = seen;
                        return Some(Ok(job));
                    }
                }
            }
        }
        None
    }

    /// The job after something new was announced of it.
    async fn changed(&mut self) -> Result<Job, Error> {
        loop {
            tokio::select! {
                () = self.draining.cancelled() => return Err(Error::Draining),
                // The sender is in the hub as long as we are.
                _ = self.watching.news.changed() => {}
            }
            let news = *self.watching.news.borrow_and_update();
            let known = self.seen.is_some_and(|seen| news.version <= seen.version);
            if known && news.gaps == self.gaps {
                continue;
            }
            self.gaps = news.gaps;
            return self.read().await;
        }
    }

    async fn read(&self) -> Result<Job, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.store.get(&self.id).await {
                Ok(Some(job)) => return Ok(job),
                Ok(None) => return Err(Error::not_found(&self.id)),
                Err(Error::Engine(EngineError::Unavailable { .. } | EngineError::Moving { .. }))
                    if Instant::now() + INTERVAL < deadline => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = self.draining.cancelled() => return Err(Error::Draining),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_again_and_others_refused() {
        let seen = Seen { version: 7, state: State::Running };
        assert_eq!(Seen::parse(&seen.token()), Ok(seen));
        for bad in ["", ".", "3", "9.1", "3.x", "x.3"] {
            assert!(Seen::parse(bad).is_err(), "{bad}");
        }
    }
}
