//! The embedded store of sessions: each change is one transaction on its writer thread, durable before the answer.

mod keys;
mod record;
mod txn;

use std::sync::Arc;

use shoal_embedded::{Database, Keyspace};
use shoal_kit::EngineError;
use tokio::sync::broadcast;

pub(crate) use self::keys::EmbeddedKeys;
use self::record::{Kept, decode_event, event_key, id_at_end, user_prefix};
use self::txn::Txn;
use super::{Ends, History, ListPlace, Listen, Store, StoreEvent};
use crate::clock::Clock;
use crate::error::Error;
use crate::event::{BUCKETS, Cursor, Kind, Place};
use crate::id::SessionId;
use crate::keys::keyring::Hash;
use crate::session::attribute::Change;
use crate::session::rotation::TokenState;
use crate::session::{Created, NewSession, Policy, Record, Session};

const ENGINE: &str = "the embedded database";
/// The number of sessions that one transaction removes from the indexes: others wait behind it.
const SWEEP_MAX: usize = 256;
/// The number of events that a listener may be behind; past it, it reads every history.
const EVENTS_BEHIND_MAX: usize = 1024;

/// The store, shared by all clones of a process.
#[derive(Debug, Clone)]
pub(crate) struct EmbeddedStore {
    db: Database,
    spaces: Spaces,
    policy: Policy,
    clock: Clock,
    /// The bucket of each event, once it is durable.
    happened: broadcast::Sender<u8>,
}

#[derive(Debug, Clone)]
struct Spaces {
    /// Id → record.
    sessions: Keyspace,
    /// User, creation, id.
    users: Keyspace,
    /// Time, session or request: each once, no later than its end.
    expiries: Keyspace,
    /// Request key → what it made.
    requests: Keyspace,
    /// Bucket, place → event.
    events: Keyspace,
    /// Bucket → how far its events go.
    heads: Keyspace,
}

impl EmbeddedStore {
    pub(crate) fn new(db: Database, policy: Policy, clock: Clock) -> Result<Self, shoal_embedded::Error> {
        let spaces = Spaces {
            sessions: db.keyspace("sessions")?,
            users: db.keyspace("users")?,
            expiries: db.keyspace("expiries")?,
            requests: db.keyspace("requests")?,
            events: db.keyspace("events")?,
            heads: db.keyspace("heads")?,
        };
        Ok(Self { db, spaces, policy, clock, happened: broadcast::channel(EVENTS_BEHIND_MAX).0 })
    }

    /// Runs `change` alone. A refusal keeps what the presented token meant (a successor that took over, a theft); nothing
    /// of a change that failed is kept.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Txn<'_, '_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (spaces, policy, clock) = (self.spaces.clone(), self.policy, self.clock.clone());
        let (result, happened) = self
            .db
            .write(move |tx| {
                let mut txn = Txn::new(tx, &spaces, policy, clock.now());
                let result = change(&mut txn);
                let happened = txn.into_happened();
                if let Err(Error::Internal(_) | Error::Engine(_)) = result {
                    tx.abort();
                    return (result, Vec::new());
                }
                (result, happened)
            })
            .await?;
        for bucket in happened {
            // Nobody listens: nothing to do.
            let _ = self.happened.send(bucket);
        }
        result
    }

    /// Counts the entries of all indexes.
    #[cfg(test)]
    pub(crate) fn index_entries(&self) -> usize {
        self.spaces.users.range(..).count() + self.spaces.expiries.range(..).count()
    }

    #[cfg(test)]
    pub(crate) fn holds(&self, id: SessionId) -> bool {
        self.spaces.sessions.get(id.to_bytes()).expect("the database reads").is_some()
    }

    /// Gets a session so late that its use is recorded.
    #[cfg(test)]
    pub(crate) async fn touch_now(&self, id: SessionId, presented: Vec<Hash>) -> Result<(), Error> {
        let record = self.look(id)?.ok_or(Error::NotFound)?;
        self.clock.advance(record.session.idle_ttl / 10);
        self.get(id, presented, true).await.map(drop)
    }

    /// Reads a session as it is now, without waiting for the writer.
    fn look(&self, id: SessionId) -> Result<Option<Record>, Error> {
        let Some(bytes) = self.spaces.sessions.get(id.to_bytes())? else { return Ok(None) };
        let record = Kept::decode(id, &bytes)?.record;
        Ok((record.session.expire > self.clock.now()).then_some(record))
    }
}

impl Store for EmbeddedStore {
    type Listener = Listener;

    async fn create(&self, new: NewSession) -> Result<Created, Error> {
        self.change(move |txn| {
            if let Some(request) = &new.request
                && let Some(record) = txn.made_by(request)?
            {
                return Ok(Created::Repeat(record));
            }
            txn.make_room(&new.user)?;
            txn.create(new).map(Created::New)
        })
        .await
    }

    async fn get(&self, id: SessionId, presented: Vec<Hash>, touch: bool) -> Result<Session, Error> {
        let record = self.look(id)?.ok_or(Error::NotFound)?;
        let now = self.clock.now();
        let write = match record.secrets.state(&presented, now) {
            TokenState::Current { outdated: false } | TokenState::Grace => {
                touch && record.session.touch_due(now)
            }
            TokenState::Current { outdated: true } | TokenState::Next | TokenState::Reused => true,
            TokenState::Unknown => return Err(Error::NotFound),
        };
        if !write {
            return Ok(record.session);
        }
        self.change(move |txn| {
            let Some(mut kept) = txn.present(id, &presented)? else { return Ok(None) };
            if touch {
                txn.touch(&mut kept);
            }
            txn.save(&kept);
            Ok(Some(kept.record.session))
        })
        .await?
        .ok_or(Error::NotFound)
    }

    async fn update(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        change: Change,
        expected_version: Option<i64>,
    ) -> Result<Session, Error> {
        self.change(move |txn| {
            let Some(mut kept) = txn.present(id, &presented)? else { return Ok(None) };
            let current = kept.record.session.version;
            if let Some(expected) = expected_version.filter(|expected| *expected != current) {
                return Err(Error::VersionMismatch { expected, current });
            }
            txn.apply(&mut kept, &change)?;
            txn.touch(&mut kept);
            txn.save(&kept);
            Ok(Some(kept.record.session))
        })
        .await?
        .ok_or(Error::NotFound)
    }

    async fn rotate(
        &self,
        id: SessionId,
        presented: Vec<Hash>,
        successors: Vec<Hash>,
        change: Change,
    ) -> Result<Record, Error> {
        self.change(move |txn| {
            let Some(mut kept) = txn.present(id, &presented)? else { return Ok(None) };
            txn.apply(&mut kept, &change)?;
            txn.touch(&mut kept);
            // A token in its grace has a successor already.
            if presented.contains(&kept.record.secrets.current) && kept.record.secrets.rotate(&successors) {
                txn.emit(Kind::Rotated, id, &kept.record.session.user)?;
            }
            txn.save(&kept);
            Ok(Some(kept.record))
        })
        .await?
        .ok_or(Error::NotFound)
    }

    async fn revoke(&self, id: SessionId, presented: Option<Vec<Hash>>) -> Result<(), Error> {
        self.change(move |txn| {
            let kept = match &presented {
                Some(presented) => txn.present(id, presented)?,
                None => txn.load(id)?,
            };
            match kept {
                Some(kept) => txn.end(&kept, Kind::Revoked),
                None => Ok(()),
            }
        })
        .await
    }

    async fn list(
        &self,
        _bucket: u8,
        user: String,
        after: Option<ListPlace>,
        limit: usize,
    ) -> Result<Vec<Session>, Error> {
        let mut sessions = Vec::new();
        for entry in self.spaces.users.prefix(user_prefix(&user)).rev() {
            if sessions.len() == limit {
                break;
            }
            let id = id_at_end(&entry?.0)?;
            let Some(Record { session, .. }) = self.look(id)? else { continue };
            let passed =
                after.is_none_or(|after| (session.created.millis(), id) < (after.created_millis, after.id));
            if passed {
                sessions.push(session);
            }
        }
        Ok(sessions)
    }

    async fn revoke_user(&self, _bucket: u8, user: String, except: Option<SessionId>) -> Result<u64, Error> {
        self.change(move |txn| {
            let mut revoked = 0;
            for kept in txn.sessions_of(&user)? {
                if Some(kept.record.session.id) != except {
                    txn.end(&kept, Kind::Revoked)?;
                    revoked += 1;
                }
            }
            Ok(revoked)
        })
        .await
    }

    async fn sweep(&self) -> Result<u64, Error> {
        let (mut expired, mut from) = (0, None);
        loop {
            let (ended, last) = self.change(move |txn| txn.sweep(from, SWEEP_MAX)).await?;
            expired += ended;
            if last.is_none() {
                return Ok(expired);
            }
            from = last;
        }
    }

    async fn history(&self, bucket: u8, after: Place, limit: usize) -> Result<History, Error> {
        let snapshot = self.db.snapshot();
        let head = txn::head(snapshot.get(&self.spaces.heads, [bucket])?)?;
        let last = head.last();
        if after > last {
            return Ok(History { gap: true, last, events: Vec::new() });
        }
        let (from, to) = (event_key(bucket, after), event_key(bucket, last));
        let range = (std::ops::Bound::Excluded(from), std::ops::Bound::Included(to));
        let mut events = Vec::new();
        for entry in snapshot.range(&self.spaces.events, range).take(limit) {
            let (key, value) = entry?;
            events.push(decode_event(&key, &value)?);
        }
        Ok(History { gap: after < head.trimmed(), last, events })
    }

    async fn ends(&self) -> Result<Arc<Ends>, Error> {
        let snapshot = self.db.snapshot();
        let mut ends = [Place::default(); BUCKETS];
        for (bucket, end) in (0..=u8::MAX).zip(&mut ends) {
            *end = txn::head(snapshot.get(&self.spaces.heads, [bucket])?)?.last();
        }
        Ok(Arc::new(ends))
    }

    fn listen(&self) -> Listener {
        Listener(self.happened.subscribe())
    }

    fn ready(&self) -> Result<(), String> {
        self.db.ready()
    }
}

/// A receiver of the buckets that have news.
pub(crate) struct Listener(broadcast::Receiver<u8>);

impl Listen for Listener {
    /// Returns no bucket: this listener hears of every one from the beginning.
    fn follow(&mut self, _cursor: &Cursor) -> Vec<u8> {
        Vec::new()
    }

    async fn next(&mut self) -> StoreEvent {
        match self.0.recv().await {
            Ok(bucket) => StoreEvent::Look(bucket),
            Err(broadcast::error::RecvError::Lagged(_)) => StoreEvent::LookEverywhere,
            // The watcher owns a handle of the store, which owns the sender.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl From<shoal_embedded::Error> for Error {
    fn from(error: shoal_embedded::Error) -> Self {
        use shoal_embedded::Error as Embedded;
        let (engine, text) = (ENGINE, error.to_string());
        Error::Engine(match error {
            Embedded::Closed | Embedded::Reopening => EngineError::Unavailable { engine, detail: text },
            Embedded::Full(detail) => EngineError::Full { engine, detail, remedy: "free space on its disk" },
            Embedded::Failed(detail) => EngineError::ReadOnly { engine, detail },
            Embedded::Engine(_) => EngineError::Unknown { engine, detail: text },
            Embedded::Panicked(_) | Embedded::Limit(_) => return Error::Internal(text),
        })
    }
}
