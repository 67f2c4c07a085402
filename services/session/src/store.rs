//! The store trait: what the service asks of a store, in the words of sessions, and what holds after each answer.
//!
//! * After `Ok` of a change every clone sees it in its next call.
//! * After an [`EngineError`](shoal_kit::EngineError) that is certain nothing was done.
//! * After [`EngineError::Unknown`](shoal_kit::EngineError::Unknown), or when the caller gave up, the change was made whole or
//!   not at all.
//! * After a crash of a clone the same; after a crash of the engine, what the engine promises: embedded keeps every
//!   answered change, Redis those that its persistence and replication kept.
//!
//! A session that has ended, by whatever cause, is never there again. Each end makes exactly one event.

pub(crate) mod embedded;
pub(crate) mod keys;
pub(crate) mod redis;

#[cfg(test)]
mod conformance;

use std::sync::Arc;

use crate::error::Error;
use crate::event::{BUCKETS, Cursor, Event, Place};
use crate::id::SessionId;
use crate::keys::keyring::Hash;
use crate::session::attribute::Change;
use crate::session::{Created, NewSession, Record, Session};

/// A place for sessions that all clones share.
pub(crate) trait Store: Clone + Send + Sync + 'static {
    /// Tells what happens in buckets.
    type Listener: Listen;

    /// Makes a session, its index entries and its event, under the policy's limit for the user. With a request key a
    /// repeat answers what the first call made, and makes nothing.
    fn create(&self, new: NewSession) -> impl Future<Output = Result<Created, Error>> + Send;

    /// Returns the session that `presented` is a good token of. Records the use if `touch` is set and a record is due; a
    /// session that ends meanwhile stays ended. A successor that is presented for the first time takes over; a token that
    /// comes back after its grace ends the session.
    fn get(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        touch: bool,
    ) -> impl Future<Output = Result<Session, Error>> + Send;

    /// Changes attributes, all of `change` or nothing, if the version is the expected one.
    fn update(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        change: Change,
        expected_version: Option<i64>,
    ) -> impl Future<Output = Result<Session, Error>> + Send;

    /// Names a successor for the presented token, and changes attributes with it. `successors` are the hashes it may
    /// have, the one for a new rotation first. A successor that is already named or has taken over stays: the record says
    /// which.
    fn rotate(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        successors: Vec<Hash>,
        change: Change,
    ) -> impl Future<Output = Result<Record, Error>> + Send;

    /// Ends a session. With `presented` it must be a good token of the session. Succeeds also if there is no session.
    fn revoke(
        &self,
        id: SessionId,
        presented: Option<Vec<Hash>>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns a user's sessions, newest first: up to `limit` of those that come after `after`.
    fn list(
        &self,
        bucket: u8,
        user: String,
        after: Option<ListPlace>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Session>, Error>> + Send;

    /// Ends all of a user's sessions but one, at one instant. Returns how many.
    fn revoke_user(
        &self,
        bucket: u8,
        user: String,
        except: Option<SessionId>,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Removes expired sessions from the indexes, each with its event, unless another clone does so. Returns how many.
    fn sweep(&self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Returns a bucket's events after a place, oldest first. For a place after the latest event it returns a gap and no
    /// events.
    fn history(
        &self,
        bucket: u8,
        after: Place,
        limit: usize,
    ) -> impl Future<Output = Result<History, Error>> + Send;

    /// Returns the place of the latest event of every bucket, as of now or later: concurrent callers share one pass over
    /// them.
    fn ends(&self) -> impl Future<Output = Result<Arc<Ends>, Error>> + Send;

    /// Makes a listener that follows no bucket yet.
    fn listen(&self) -> Self::Listener;

    /// Returns an error with the reason if the engine cannot be asked now.
    fn ready(&self) -> Result<(), String>;
}

/// Logs and counts a detected theft, apart from the event.
fn report_reuse(session: SessionId) {
    tracing::warn!(%session, "a replaced token was used after its grace: its session is ended");
    metrics::counter!("shoal_session_reuse_detected_total").increment(1);
}

/// The place at which a page of a user's sessions ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListPlace {
    pub(crate) created_millis: i64,
    pub(crate) id: SessionId,
}

/// A part of a bucket's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// Events between the place asked for and the first one here may be missing.
    pub(crate) gap: bool,
    /// The place of the latest event there ever was.
    pub(crate) last: Place,
    pub(crate) events: Vec<Event>,
}

/// News for a listener.
#[derive(Debug, Clone)]
pub(crate) enum StoreEvent {
    /// Events that happened, in this order, all of one bucket.
    Events(u8, Arc<[Event]>),
    /// A sign that something happened in the bucket: read its history.
    Look(u8),
    /// A sign that something may have been missed: read every history.
    LookEverywhere,
}

/// The place of the latest event of each bucket.
pub(crate) type Ends = [Place; BUCKETS];

/// A source of news of events; dropping it ends that.
pub(crate) trait Listen: Send + 'static {
    /// Follows the cursor's buckets from now on. Returns the buckets whose history must be read, because events after
    /// their place may not be reported. A place of [`Store::ends`] that was asked for after the listener was made is
    /// complete, unless another listener began to follow its bucket in between.
    fn follow(&mut self, cursor: &Cursor) -> Vec<u8>;

    /// Waits for the next news. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = StoreEvent> + Send;
}
