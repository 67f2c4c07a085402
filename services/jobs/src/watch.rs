//! A watch of a job: sends the present state, then each new one as it is announced, until a final state.

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

/// Time for which a watch outlives an engine that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval between two tries to read.
const INTERVAL: Duration = Duration::from_millis(100);

/// The state that a watcher has seen last: enough to go on at any clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    version: u64,
    state: State,
}

impl Seen {
    /// Returns what a watcher has seen that was sent this job.
    #[must_use]
    pub(crate) fn of(job: &Job) -> Self {
        Self { version: job.progress.version, state: job.progress.state }
    }

    /// Returns the resume token, which is opaque to callers.
    #[must_use]
    pub(crate) fn token(self) -> String {
        format!("{}.{}", self.state as u8, self.version)
    }

    /// Reads a resume token.
    ///
    /// # Errors
    /// When the text is no resume token of ours.
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

/// An open watch of one job.
pub(crate) struct Watch {
    store: Arc<dyn Store>,
    watching: Watching,
    _following: Following,
    draining: CancellationToken,
    id: JobId,
    /// The first state, read but not sent yet.
    first: Option<Job>,
    seen: Option<Seen>,
    gaps: u64,
    ended: bool,
}

impl Watch {
    /// Opens a watch. A watcher that has `seen` a state is not sent that one again.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the job does not exist, [`Error::TooManyWaiting`] when a limit is reached, and errors of the store.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        hub: &Arc<Hub>,
        id: JobId,
        seen: Option<Seen>,
        draining: CancellationToken,
    ) -> Result<Self, Error> {
        // In this order: a change after the read is announced to us, and a change before it is in what is read.
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

    /// Returns the next state; `None` after a final one.
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

    /// Waits until something new is announced, and returns the job as it is then.
    async fn changed(&mut self) -> Result<Job, Error> {
        loop {
            tokio::select! {
                () = self.draining.cancelled() => return Err(Error::Draining),
                // The hub keeps the sender as long as this watch is open.
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

    /// Reads the job, with patience while the engine is away.
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
    fn only_our_resume_tokens_parse() {
        let seen = Seen { version: 7, state: State::Running };
        assert_eq!(Seen::parse(&seen.token()), Ok(seen));
        for bad in ["", ".", "3", "9.1", "3.x", "x.3"] {
            assert!(Seen::parse(bad).is_err(), "{bad}");
        }
    }
}
