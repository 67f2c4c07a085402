//! A transaction on sessions, in which indexes and events never part from the records.

use std::ops::Bound;

use prost::Message as _;
use shoal_embedded::{Slice, Tx};

use super::Spaces;
use super::record::{
    Due, Head, Kept, Request, broken, due_key, due_of, encode_event, event_key, event_place, id_at_end,
    user_key, user_prefix,
};
use crate::clock::Time;
use crate::error::Error;
use crate::event::{Event, Kind};
use crate::id::SessionId;
use crate::keys::keyring::Hash;
use crate::session::attribute::{Change, Passed};
use crate::session::rotation::{Secrets, TokenState};
use crate::session::{AtLimit, NewSession, Policy, Record, RequestKey, Session};
use crate::store::report_reuse;

pub(super) struct Txn<'t, 'e> {
    tx: &'t mut Tx<'e>,
    spaces: &'t Spaces,
    policy: Policy,
    now: Time,
    /// The buckets of the events that this transaction makes.
    happened: Vec<u8>,
}

impl<'t, 'e> Txn<'t, 'e> {
    pub(super) fn new(tx: &'t mut Tx<'e>, spaces: &'t Spaces, policy: Policy, now: Time) -> Self {
        Self { tx, spaces, policy, now, happened: Vec::new() }
    }

    pub(super) fn into_happened(mut self) -> Vec<u8> {
        self.happened.sort_unstable();
        self.happened.dedup();
        self.happened
    }

    /// Returns a session that has not expired. An expired one is left to the sweeper, and its event with it.
    pub(super) fn load(&self, id: SessionId) -> Result<Option<Kept>, Error> {
        Ok(self.kept(id)?.filter(|kept| kept.record.session.expire > self.now))
    }

    /// Presents a token. Returns the session of a good one; ends the session of a stolen one.
    pub(super) fn present(&mut self, id: SessionId, presented: &[Hash]) -> Result<Option<Kept>, Error> {
        let Some(mut kept) = self.load(id)? else { return Ok(None) };
        match kept.record.secrets.present(presented, self.now, self.policy.rotation_grace) {
            TokenState::Current { outdated: false } | TokenState::Grace => Ok(Some(kept)),
            TokenState::Current { outdated: true } | TokenState::Next => {
                self.save(&kept);
                Ok(Some(kept))
            }
            TokenState::Reused => {
                self.end(&kept, Kind::ReuseDetected)?;
                report_reuse(id);
                Ok(None)
            }
            TokenState::Unknown => Ok(None),
        }
    }

    pub(super) fn save(&mut self, kept: &Kept) {
        self.tx.put(&self.spaces.sessions, kept.record.session.id.to_bytes().to_vec(), kept.encode());
    }

    /// Records a use, if a record is due. The expiry index follows when the sweeper comes by.
    pub(super) fn touch(&self, kept: &mut Kept) {
        let session = &mut kept.record.session;
        if session.touch_due(self.now) {
            session.expire = session.expire_if_used(self.now);
        }
    }

    pub(super) fn apply(&self, kept: &mut Kept, change: &Change) -> Result<(), Error> {
        if change.is_empty() {
            return Ok(());
        }
        let limits = self.policy.attributes;
        let session = &mut kept.record.session;
        session.attributes = change.apply(&session.attributes, limits).map_err(|passed| {
            let max = match passed {
                Passed::Count => limits.count_max,
                Passed::Bytes => limits.bytes_max,
            };
            Error::AttributesFull { passed, max }
        })?;
        session.version += 1;
        Ok(())
    }

    pub(super) fn create(&mut self, new: NewSession) -> Result<Session, Error> {
        let (request, hash) = (new.request, new.hash);
        let session = new.begin(self.now);
        if let Some(request) = request {
            let expire = self.now.plus(self.policy.request_kept);
            let made = Request {
                session: bytes::Bytes::copy_from_slice(&session.id.to_bytes()),
                fingerprint: bytes::Bytes::copy_from_slice(&request.fingerprint),
                expire: expire.millis(),
            };
            self.tx.put(&self.spaces.requests, request.key.to_vec(), made.encode_to_vec());
            self.tx.put(&self.spaces.expiries, due_key(expire, &Due::Request(request.key)), Vec::new());
        }
        let kept = Kept {
            indexed: session.expire,
            record: Record { session: session.clone(), secrets: Secrets::new(hash) },
        };
        self.save(&kept);
        self.tx.put(&self.spaces.users, user_key(&session), Vec::new());
        self.tx.put(&self.spaces.expiries, due_key(session.expire, &Due::Session(session.id)), Vec::new());
        self.emit(Kind::Created, session.id, &session.user)?;
        Ok(session)
    }

    /// Returns what a call made before under the same name, while that is remembered.
    pub(super) fn made_by(&self, request: &RequestKey) -> Result<Option<Record>, Error> {
        let Some(bytes) = self.tx.get(&self.spaces.requests, request.key)? else { return Ok(None) };
        let made = Request::decode(&*bytes).map_err(|error| broken(&error))?;
        if made.expire <= self.now.millis() {
            return Ok(None);
        }
        if made.fingerprint != request.fingerprint[..] {
            return Err(Error::RequestDiffers);
        }
        let id = SessionId::from_bytes(&made.session).ok_or_else(|| broken(&"a request"))?;
        let kept = self.load(id)?.ok_or(Error::RequestSpent)?;
        Ok(Some(kept.record))
    }

    /// Makes room for one more session of the user, or refuses.
    pub(super) fn make_room(&mut self, user: &str) -> Result<(), Error> {
        let max = self.policy.sessions_per_user_max;
        let sessions = self.sessions_of(user)?;
        let Some(surplus) = (sessions.len() + 1).checked_sub(max).filter(|surplus| *surplus > 0) else {
            return Ok(());
        };
        match self.policy.at_limit {
            AtLimit::Reject => Err(Error::UserFull { max }),
            AtLimit::RevokeOldest => {
                sessions.iter().take(surplus).try_for_each(|kept| self.end(kept, Kind::Revoked))
            }
        }
    }

    /// Returns a user's sessions that have not expired, oldest first.
    pub(super) fn sessions_of(&self, user: &str) -> Result<Vec<Kept>, Error> {
        let mut sessions = Vec::new();
        for entry in self.tx.prefix(&self.spaces.users, user_prefix(user)) {
            sessions.extend(self.load(id_at_end(&entry?.0)?)?);
        }
        Ok(sessions)
    }

    /// Removes a session with its index entries, and emits its event.
    pub(super) fn end(&mut self, kept: &Kept, kind: Kind) -> Result<(), Error> {
        let session = &kept.record.session;
        self.tx.delete(&self.spaces.sessions, session.id.to_bytes().to_vec());
        self.tx.delete(&self.spaces.users, user_key(session));
        self.tx.delete(&self.spaces.expiries, due_key(kept.indexed, &Due::Session(session.id)));
        self.emit(kind, session.id, &session.user)
    }

    /// Ends expired sessions, and moves the index entries of those that were used meanwhile. Begins after `from`, where
    /// the batch before ended: entries that it deleted would be stepped over again. Returns how many ended, and where to
    /// go on, `None` after the last.
    pub(super) fn sweep(&mut self, from: Option<Slice>, limit: usize) -> Result<(u64, Option<Slice>), Error> {
        let until = self.now.plus(std::time::Duration::from_millis(1)).millis().to_be_bytes().to_vec();
        let from = from.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        let due: Vec<Slice> = self
            .tx
            .range(&self.spaces.expiries, (from, Bound::Excluded(until)))
            .take(limit)
            .map(|entry| entry.map(|(key, _)| key))
            .collect::<Result<_, _>>()?;
        let mut ended = 0;
        for key in &due {
            self.tx.delete(&self.spaces.expiries, key.clone());
            match due_of(key)? {
                Due::Request(request) => self.forget(request)?,
                Due::Session(id) => {
                    let Some(mut kept) = self.kept(id)? else { continue };
                    if kept.record.session.expire > self.now {
                        kept.indexed = kept.record.session.expire;
                        self.tx.put(
                            &self.spaces.expiries,
                            due_key(kept.indexed, &Due::Session(id)),
                            Vec::new(),
                        );
                        self.save(&kept);
                    } else {
                        self.end(&kept, Kind::Expired)?;
                        ended += 1;
                    }
                }
            }
        }
        let last = if due.len() == limit { due.last().cloned() } else { None };
        Ok((ended, last))
    }

    /// Forgets what a call made, unless a later call took its name.
    fn forget(&mut self, request: [u8; 16]) -> Result<(), Error> {
        if let Some(bytes) = self.tx.get(&self.spaces.requests, request)?
            && Request::decode(&*bytes).map_err(|error| broken(&error))?.expire <= self.now.millis()
        {
            self.tx.delete(&self.spaces.requests, request.to_vec());
        }
        Ok(())
    }

    /// Appends an event to its bucket, which keeps only the latest.
    pub(super) fn emit(&mut self, kind: Kind, session: SessionId, user: &str) -> Result<(), Error> {
        let bucket = session.bucket;
        let mut head = head(self.tx.get(&self.spaces.heads, [bucket])?)?;
        let place = head.next(self.now);
        let event = Event { place, kind, session, user: user.to_owned() };
        self.tx.put(&self.spaces.events, event_key(bucket, place), encode_event(&event));
        if head.kept > self.policy.events_kept as u64
            && let Some(oldest) = self.tx.prefix(&self.spaces.events, [bucket]).next()
        {
            let key = oldest?.0;
            head.trim(event_place(&key).ok_or_else(|| broken(&"an event"))?);
            self.tx.delete(&self.spaces.events, key);
        }
        self.tx.put(&self.spaces.heads, vec![bucket], head.encode_to_vec());
        self.happened.push(bucket);
        Ok(())
    }

    fn kept(&self, id: SessionId) -> Result<Option<Kept>, Error> {
        match self.tx.get(&self.spaces.sessions, id.to_bytes())? {
            Some(bytes) => Kept::decode(id, &bytes).map(Some),
            None => Ok(None),
        }
    }
}

pub(super) fn head(bytes: Option<Slice>) -> Result<Head, Error> {
    match bytes {
        Some(bytes) => Head::decode(&*bytes).map_err(|error| broken(&error)),
        None => Ok(Head::default()),
    }
}
