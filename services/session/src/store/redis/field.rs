//! The records of sessions in Redis: a MessagePack map of strings, its fields, and the parts that are packed within them.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{FromRedisValue as _, Value as Reply};
use rmp::decode::{read_map_len, read_str_len};
use rmp::encode::{write_map_len, write_str_len};

use crate::clock::Time;
use crate::error::Error;
use crate::event::{Event, Kind, Place};
use crate::id::SessionId;
use crate::keys::keyring::Hash;
use crate::session::attribute::{Attributes, Value};
use crate::session::rotation::{Retired, Secrets};
use crate::session::{NewSession, Record, Session};

/// The bytes of a hash and of the end of its grace, in digits.
const RETIRED_BYTES: usize = 32 + 13;

/// The answer of a `GET`.
pub(super) type Read = Option<Vec<u8>>;

/// Reads a record; `None` if there is none.
pub(super) fn record(id: SessionId, read: Read) -> Result<Option<Record>, Error> {
    let Some(packed) = read else { return Ok(None) };
    let mut raw = Raw::default();
    let mut rest = packed.as_slice();
    let fields = read_map_len(&mut rest).map_err(|_| broken("no map"))?;
    for _ in 0..fields {
        let name = string(&mut rest).ok_or_else(|| broken("a field's name"))?;
        let value = string(&mut rest).ok_or_else(|| broken("a field"))?;
        match name {
            b"u" => raw.user = Some(text(value)?),
            b"c" => raw.created = Some(number(value)?),
            b"i" => raw.idle = Some(number(value)?),
            b"x" => raw.absolute = Some(number(value)?),
            b"e" => raw.expire = Some(number(value)?),
            b"v" => raw.version = Some(number(value)?),
            b"h" => raw.current = Some(hash(value)?),
            b"n" => raw.next = Some(hash(value)?),
            b"o" => raw.retired = retired(value)?,
            b"m" => raw.metadata = unpack(value).ok_or_else(|| broken("metadata"))?,
            [b'a', b':', name @ ..] => {
                let value = Value::decode(value).ok_or_else(|| broken("an attribute"))?;
                raw.attributes.insert(text(name)?, value);
            }
            // A newer version's: rolling upgrades read each other's sessions.
            _ => {}
        }
    }
    raw.record(id).ok_or_else(|| broken("a session without its fields")).map(Some)
}

/// Writes a new record as [`record`] reads it: the bytes before and after its three times, which `create.lua` puts
/// between.
pub(super) fn new_record(new: &NewSession, idle: &str) -> (Vec<u8>, Vec<u8>) {
    let metadata = pack(&new.metadata);
    let mut tail = Vec::with_capacity(128);
    let mut fields = 7;
    put(&mut tail, b"u", new.user.as_bytes());
    put(&mut tail, b"i", idle.as_bytes());
    put(&mut tail, b"v", b"1");
    put(&mut tail, b"h", &new.hash);
    if !metadata.is_empty() {
        put(&mut tail, b"m", &metadata);
        fields += 1;
    }
    for (name, value) in &new.attributes {
        put(&mut tail, &[b"a:", name.as_bytes()].concat(), &value.encode());
        fields += 1;
    }
    let mut head = Vec::with_capacity(8);
    // Writing to memory does not fail.
    let _ = write_map_len(&mut head, fields);
    (head, tail)
}

fn put(record: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for string in [name, value] {
        let _ = write_str_len(record, string.len() as u32);
        record.extend_from_slice(string);
    }
}

#[derive(Default)]
struct Raw {
    user: Option<String>,
    created: Option<i64>,
    idle: Option<i64>,
    absolute: Option<i64>,
    expire: Option<i64>,
    version: Option<i64>,
    current: Option<Hash>,
    next: Option<Hash>,
    retired: Vec<Retired>,
    metadata: BTreeMap<String, String>,
    attributes: Attributes,
}

impl Raw {
    fn record(self, id: SessionId) -> Option<Record> {
        let session = Session {
            id,
            user: self.user?,
            version: self.version?,
            attributes: self.attributes,
            metadata: self.metadata,
            created: Time::from_millis(self.created?),
            idle_ttl: Duration::from_millis(u64::try_from(self.idle?).ok()?),
            expire: Time::from_millis(self.expire?),
            absolute_expire: Time::from_millis(self.absolute?),
        };
        let secrets = Secrets { current: self.current?, next: self.next, retired: self.retired };
        Some(Record { session, secrets })
    }
}

/// Splits a script's answer into its word and what belongs to it.
pub(super) fn answer(reply: Vec<Reply>) -> Result<(String, impl Iterator<Item = Reply>), Error> {
    let mut parts = reply.into_iter();
    let word = parts.next().ok_or_else(|| broken("an empty answer"))?;
    let word = String::from_redis_value(word).map_err(|_| broken("an answer without a word"))?;
    Ok((word, parts))
}

/// Reads the time in a script's answer.
pub(super) fn answered_time(parts: &mut impl Iterator<Item = Reply>) -> Result<Time, Error> {
    match parts.next() {
        Some(Reply::Int(now)) => Ok(Time::from_millis(now)),
        _ => Err(broken("an answer without a time")),
    }
}

/// Reads the packed record in a script's answer and its time. The record is `None` if the session is gone.
pub(super) fn answered_record(parts: &mut impl Iterator<Item = Reply>) -> Result<(Read, Time), Error> {
    let read = parts.next().ok_or_else(|| broken("an answer without a record"))?;
    let read = Read::from_redis_value(read).map_err(|_| broken("a record"))?;
    Ok((read, answered_time(parts)?))
}

/// Reads the id in a script's answer.
pub(super) fn answered_id(bucket: u8, parts: &mut impl Iterator<Item = Reply>) -> Result<SessionId, Error> {
    let Some(Reply::BulkString(id)) = parts.next() else { return Err(broken("an answer without an id")) };
    SessionId::from_unique_hex(bucket, &id).ok_or_else(|| broken("an id"))
}

/// Packs names and values, each after its length.
pub(super) fn pack(map: &BTreeMap<String, String>) -> Vec<u8> {
    let mut packed = Vec::new();
    for part in map.iter().flat_map(|(name, value)| [name, value]) {
        packed.extend((part.len() as u32).to_be_bytes());
        packed.extend(part.as_bytes());
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut part = || {
        let (length, rest) = packed.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        packed = rest;
        Some((String::from_utf8(part.to_vec()).ok()?, rest.is_empty()))
    };
    let mut map = BTreeMap::new();
    loop {
        let (name, _) = part()?;
        let (value, end) = part()?;
        map.insert(name, value);
        if end {
            return Some(map);
        }
    }
}

pub(super) fn event(bucket: u8, id: &str, fields: &[(Vec<u8>, Vec<u8>)]) -> Option<Event> {
    let field =
        |wanted: &[u8]| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_slice());
    Some(Event {
        place: place(id)?,
        kind: Kind::parse(field(b"k")?)?,
        session: SessionId::from_unique_hex(bucket, field(b"s")?)?,
        user: String::from_utf8(field(b"u")?.to_vec()).ok()?,
    })
}

pub(super) fn place(id: &str) -> Option<Place> {
    let (millis, seq) = id.split_once('-')?;
    Some(Place { millis: millis.parse().ok()?, seq: seq.parse().ok()? })
}

pub(super) fn place_id(place: Place) -> String {
    format!("{}-{}", place.millis, place.seq)
}

fn retired(bytes: &[u8]) -> Result<Vec<Retired>, Error> {
    let entry = |entry: &[u8]| {
        let (hash_bytes, grace_end) = entry.split_at_checked(32).ok_or_else(|| broken("a retired token"))?;
        Ok(Retired { hash: hash(hash_bytes)?, grace_end: Time::from_millis(number(grace_end)?) })
    };
    bytes.chunks(RETIRED_BYTES).map(entry).collect()
}

fn hash(bytes: &[u8]) -> Result<Hash, Error> {
    bytes.try_into().map_err(|_| broken("a hash"))
}

fn number(bytes: &[u8]) -> Result<i64, Error> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(|| broken("a number"))
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| broken("a text"))
}

/// Reads the next string; `rest` is left at what follows it.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_str_len(rest).ok()?).ok()?;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

pub(super) fn broken(what: &str) -> Error {
    Error::Internal(format!("redis holds a session that cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_survives_its_packing() {
        let map =
            BTreeMap::from([("ip".to_owned(), "::1".to_owned()), ("user_agent".to_owned(), String::new())]);
        assert_eq!(unpack(&pack(&map)), Some(map));
        for wrong in [&b""[..], b"\0\0\0\x05ab", b"\0\0\0\0"] {
            assert_eq!(unpack(wrong), None);
        }
    }
}
