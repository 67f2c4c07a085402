//! The encoding of the embedded store: protobuf, so that fields can be added; keys big-endian, so that they sort.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;

use crate::clock::{Time, millis};
use crate::error::Error;
use crate::event::{Event, Kind, Place};
use crate::id::SessionId;
use crate::keys::keyring::Hash;
use crate::session::attribute::Value;
use crate::session::rotation::{Retired, Secrets};
use crate::session::{Record, Session};

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(int64, tag = "2")]
    version: i64,
    #[prost(int64, tag = "3")]
    created: i64,
    #[prost(int64, tag = "4")]
    idle_ttl: i64,
    #[prost(int64, tag = "5")]
    expire: i64,
    #[prost(int64, tag = "6")]
    absolute_expire: i64,
    #[prost(bytes = "bytes", tag = "7")]
    current: bytes::Bytes,
    #[prost(bytes = "bytes", optional, tag = "8")]
    next: Option<bytes::Bytes>,
    #[prost(message, repeated, tag = "9")]
    retired: Vec<StoredRetired>,
    #[prost(btree_map = "string, bytes", tag = "10")]
    attributes: BTreeMap<String, Vec<u8>>,
    #[prost(btree_map = "string, string", tag = "11")]
    metadata: BTreeMap<String, String>,
    /// The time at which the expiry index has it: it may end later, and the sweeper then moves it.
    #[prost(int64, tag = "12")]
    indexed: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRetired {
    #[prost(bytes = "bytes", tag = "1")]
    hash: bytes::Bytes,
    #[prost(int64, tag = "2")]
    grace_end: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredEvent {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "bytes", tag = "2")]
    session: bytes::Bytes,
    #[prost(string, tag = "3")]
    user: String,
}

/// The extent of a bucket's events.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Head {
    #[prost(uint64, tag = "1")]
    last_millis: u64,
    #[prost(uint64, tag = "2")]
    last_seq: u64,
    /// The place of the latest event that was trimmed.
    #[prost(uint64, tag = "3")]
    trimmed_millis: u64,
    #[prost(uint64, tag = "4")]
    trimmed_seq: u64,
    #[prost(uint64, tag = "5")]
    pub(super) kept: u64,
}

/// The session that a `request_id` made.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) session: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) fingerprint: bytes::Bytes,
    #[prost(int64, tag = "3")]
    pub(super) expire: i64,
}

/// A record as it is kept, with its place in the expiry index.
pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) indexed: Time,
}

impl Kept {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Record { session, secrets } = &self.record;
        let bytes = |hash: &Hash| bytes::Bytes::copy_from_slice(hash);
        let retired = |retired: &Retired| StoredRetired {
            hash: bytes(&retired.hash),
            grace_end: retired.grace_end.millis(),
        };
        let stored = Stored {
            user: session.user.clone(),
            version: session.version,
            created: session.created.millis(),
            idle_ttl: millis(session.idle_ttl),
            expire: session.expire.millis(),
            absolute_expire: session.absolute_expire.millis(),
            current: bytes(&secrets.current),
            next: secrets.next.as_ref().map(bytes),
            retired: secrets.retired.iter().map(retired).collect(),
            attributes: session
                .attributes
                .iter()
                .map(|(name, value)| (name.clone(), value.encode()))
                .collect(),
            metadata: session.metadata.clone(),
            indexed: self.indexed.millis(),
        };
        stored.encode_to_vec()
    }

    pub(super) fn decode(id: SessionId, bytes: &[u8]) -> Result<Kept, Error> {
        let stored = Stored::decode(bytes).map_err(|error| broken(&error))?;
        let retired = |stored: StoredRetired| {
            Ok(Retired { hash: hash(&stored.hash)?, grace_end: Time::from_millis(stored.grace_end) })
        };
        let attribute = |(name, value): (String, Vec<u8>)| {
            Ok((name, Value::decode(&value).ok_or_else(|| broken(&"an attribute"))?))
        };
        let secrets = Secrets {
            current: hash(&stored.current)?,
            next: stored.next.as_deref().map(hash).transpose()?,
            retired: stored.retired.into_iter().map(retired).collect::<Result<_, Error>>()?,
        };
        let session = Session {
            id,
            user: stored.user,
            version: stored.version,
            attributes: stored.attributes.into_iter().map(attribute).collect::<Result<_, Error>>()?,
            metadata: stored.metadata,
            created: Time::from_millis(stored.created),
            idle_ttl: Duration::from_millis(u64::try_from(stored.idle_ttl).unwrap_or_default()),
            expire: Time::from_millis(stored.expire),
            absolute_expire: Time::from_millis(stored.absolute_expire),
        };
        Ok(Kept { record: Record { session, secrets }, indexed: Time::from_millis(stored.indexed) })
    }
}

impl Head {
    pub(super) fn last(&self) -> Place {
        Place { millis: self.last_millis, seq: self.last_seq }
    }

    pub(super) fn trimmed(&self) -> Place {
        Place { millis: self.trimmed_millis, seq: self.trimmed_seq }
    }

    /// Returns the place of an event that happens now; places never go back, whatever the clock does.
    pub(super) fn next(&mut self, now: Time) -> Place {
        let now = u64::try_from(now.millis()).unwrap_or_default();
        if now > self.last_millis {
            (self.last_millis, self.last_seq) = (now, 0);
        } else {
            self.last_seq += 1;
        }
        self.kept += 1;
        self.last()
    }

    pub(super) fn trim(&mut self, place: Place) {
        (self.trimmed_millis, self.trimmed_seq) = (place.millis, place.seq);
        self.kept -= 1;
    }
}

pub(super) fn encode_event(event: &Event) -> Vec<u8> {
    StoredEvent {
        kind: event.kind.name().to_owned(),
        session: bytes::Bytes::copy_from_slice(&event.session.to_bytes()),
        user: event.user.clone(),
    }
    .encode_to_vec()
}

pub(super) fn decode_event(key: &[u8], value: &[u8]) -> Result<Event, Error> {
    let stored = StoredEvent::decode(value).map_err(|error| broken(&error))?;
    let parts =
        (event_place(key), Kind::parse(stored.kind.as_bytes()), SessionId::from_bytes(&stored.session));
    let (Some(place), Some(kind), Some(session)) = parts else { return Err(broken(&"an event")) };
    Ok(Event { place, kind, session, user: stored.user })
}

pub(super) fn event_key(bucket: u8, place: Place) -> Vec<u8> {
    [&[bucket][..], &place.millis.to_be_bytes(), &place.seq.to_be_bytes()].concat()
}

pub(super) fn event_place(key: &[u8]) -> Option<Place> {
    let (millis, seq) = key.get(1..)?.split_at_checked(8)?;
    Some(Place {
        millis: u64::from_be_bytes(millis.try_into().ok()?),
        seq: u64::from_be_bytes(seq.try_into().ok()?),
    })
}

/// Returns the prefix of a user's index entries; the length in it keeps one user from being a prefix of another.
pub(super) fn user_prefix(user: &str) -> Vec<u8> {
    let length = u16::try_from(user.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], user.as_bytes()].concat()
}

/// Returns the key of a session in its user's index, sorted by creation, then by id.
pub(super) fn user_key(session: &Session) -> Vec<u8> {
    [&user_prefix(&session.user)[..], &session.created.millis().to_be_bytes(), &session.id.to_bytes()]
        .concat()
}

pub(super) fn id_at_end(key: &[u8]) -> Result<SessionId, Error> {
    key.len()
        .checked_sub(17)
        .and_then(|at| SessionId::from_bytes(&key[at..]))
        .ok_or_else(|| broken(&"an index entry"))
}

/// The target of an entry in the expiry index.
pub(super) enum Due {
    Session(SessionId),
    Request([u8; 16]),
}

pub(super) fn due_key(at: Time, due: &Due) -> Vec<u8> {
    let (tag, name): (u8, &[u8]) = match due {
        Due::Session(id) => (b's', &id.to_bytes()),
        Due::Request(key) => (b'r', key),
    };
    [&at.millis().to_be_bytes()[..], &[tag], name].concat()
}

pub(super) fn due_of(key: &[u8]) -> Result<Due, Error> {
    let due = match key.get(8..).and_then(<[u8]>::split_first) {
        Some((b's', name)) => SessionId::from_bytes(name).map(Due::Session),
        Some((b'r', name)) => name.try_into().ok().map(Due::Request),
        _ => None,
    };
    due.ok_or_else(|| broken(&"an expiry entry"))
}

fn hash(bytes: &[u8]) -> Result<Hash, Error> {
    bytes.try_into().map_err(|_| broken(&"a hash"))
}

pub(super) fn broken(what: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!("the embedded session store holds what it cannot read: {what}"))
}
