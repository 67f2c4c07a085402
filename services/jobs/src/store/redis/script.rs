//! The scripts, and the readers of their replies.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value};
use rmp::decode::{read_map_len, read_str_len};
use shoal_redis_link::Script;

use crate::error::Error;
use crate::job::id::JobId;
use crate::job::moment::Moment;
use crate::job::{ERRORS_MAX, Job, JobError, JobProgress, State};
use crate::store::record;

macro_rules! script {
    ($constant:ident, $name:literal $(, $part:literal)*) => {
        script!(new $constant, $name $(, $part)*);
    };
    ($made:ident $constant:ident, $name:literal $(, $part:literal)*) => {
        pub(super) static $constant: LazyLock<Script> = LazyLock::new(|| {
            Script::$made(
                concat!("jobs.", $name),
                concat!(
                    include_str!("prelude.lua"),
                    $(include_str!(concat!($part, ".lua")),)*
                    include_str!(concat!($name, ".lua"))
                ),
            )
        });
    };
}

script!(ENQUEUE, "enqueue", "tell", "ready", "due", "wait", "job");
script!(LEASE, "lease", "growth", "tell", "ready", "due", "fields");
script!(RELEASE, "release", "growth", "tell", "ready", "claim", "held");
script!(COMPLETE, "complete", "tell", "finish", "claim", "fields");
script!(FAIL, "fail", "tell", "finish", "claim", "wait", "fields");
script!(TEND, "tend", "growth", "tell", "ready", "due", "finish", "claim", "held", "clean");
script!(EXTEND, "extend", "growth", "claim");
script!(CANCEL, "cancel", "growth", "tell", "ready", "finish", "claim", "fields", "clean");
script!(COUNT, "count", "ready");
script!(reading LIST, "list", "ready", "claim");
script!(RETIRE, "retire");

pub(super) static QUEUES: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("jobs.queues", include_str!("queues.lua")));
pub(super) static SCHEDULE: LazyLock<Script> =
    LazyLock::new(|| Script::new("jobs.schedule", include_str!("schedule.lua")));
pub(super) static DROP: LazyLock<Script> =
    LazyLock::new(|| Script::of_declared_keys("jobs.drop", include_str!("drop.lua")));

/// Returns all scripts, to be loaded on every connection.
pub(super) fn all() -> Vec<Script> {
    [
        &ENQUEUE, &LEASE, &RELEASE, &COMPLETE, &FAIL, &TEND, &EXTEND, &CANCEL, &COUNT, &LIST, &RETIRE,
        &QUEUES, &SCHEDULE, &DROP,
    ]
    .map(|script| (**script).clone())
    .to_vec()
}

/// Reads one part of a reply.
pub(super) fn read<T: FromRedisValue>(value: Value) -> Result<T, Error> {
    T::from_redis_value(value).map_err(|error| Error::Internal(format!("a script's reply: {error}")))
}

/// The fields of `:s:ID`, a job's progress.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fields(HashMap<String, Bytes>);

impl Fields {
    /// Reads a MessagePack map of strings, as scripts answer fields that they changed; `None` if it is no such map.
    fn unpack(packed: &Bytes) -> Option<Fields> {
        let mut rest = &packed[..];
        let string = |rest: &mut &[u8]| -> Option<Bytes> {
            let length = usize::try_from(read_str_len(rest).ok()?).ok()?;
            let (string, after) = rest.split_at_checked(length)?;
            let string = packed.slice_ref(string);
            *rest = after;
            Some(string)
        };
        let mut fields = HashMap::new();
        for _ in 0..read_map_len(&mut rest).ok()? {
            let name = String::from_utf8(string(&mut rest)?.into()).ok()?;
            fields.insert(name, string(&mut rest)?);
        }
        Some(Fields(fields))
    }
}

/// Reads fields that are packed, or as `HGETALL` answers them.
impl FromRedisValue for Fields {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        match value {
            Value::BulkString(packed) => Fields::unpack(&packed.into())
                .ok_or_else(|| ParsingError::from("fields that are no map of strings")),
            value => HashMap::from_redis_value(value).map(Fields),
        }
    }
}

/// Reads a job from its header and its fields; `None` if the header is gone. Without fields the job is as it was enqueued.
pub(super) fn job(id: &JobId, header: Option<Bytes>, fields: &Fields) -> Result<Option<Job>, Error> {
    let Some(header) = header else { return Ok(None) };
    let progress =
        progress(fields).ok_or_else(|| Error::Internal(format!("the state of job {id} is damaged")))?;
    record::job(id, &header, progress).map(Some)
}

/// Reads a job given as `{header, fields}`.
pub(super) fn job_of(id: &JobId, value: Value) -> Result<Option<Job>, Error> {
    let (header, fields): (Option<Bytes>, Fields) = read(value)?;
    job(id, header, &fields)
}

fn progress(fields: &Fields) -> Option<JobProgress> {
    let mut progress = JobProgress::enqueued(None);
    let Fields(fields) = fields;
    if fields.is_empty() {
        return Some(progress);
    }
    let number = |name: &str| -> Option<u64> { std::str::from_utf8(fields.get(name)?).ok()?.parse().ok() };
    progress.state = State::of(u8::try_from(number("st")?).ok()?)?;
    progress.version = number("v")?;
    progress.attempt = number("a").unwrap_or(0) as u32;
    progress.lost_count = number("l").unwrap_or(0) as u32;
    progress.run_at = number("rt").filter(|_| progress.state.is_timed()).map(Moment);
    progress.start = number("sm").map(Moment);
    progress.finish = number("fm").map(Moment);
    progress.result = fields.get("r").cloned().unwrap_or_default();
    progress.closed = number("ff").zip(number("fo").and_then(|number| record::report(number as u8)));
    let count = number("en").unwrap_or(0);
    for place in count.saturating_sub(ERRORS_MAX as u64)..count {
        progress.errors.push(error(fields.get(&format!("e{}", place % ERRORS_MAX as u64))?)?);
    }
    Some(progress)
}

/// Reads an error: `attempt moment message`.
fn error(field: &[u8]) -> Option<JobError> {
    let mut parts = std::str::from_utf8(field).ok()?.splitn(3, ' ');
    Some(JobError {
        attempt: parts.next()?.parse().ok()?,
        time: Moment(parts.next()?.parse().ok()?),
        message: parts.next()?.to_owned(),
    })
}

/// Returns the changes in an entry of `:ev`: `TAIL` and version, separated by spaces.
pub(super) fn changes(entry: &[u8]) -> impl Iterator<Item = (&str, u64)> {
    let text = std::str::from_utf8(entry).unwrap_or_default();
    text.split(' ').filter_map(|change| {
        let (tail, version) = change.split_at_checked(crate::job::id::TAIL_LEN)?;
        Some((tail, version.parse().ok()?))
    })
}

/// Reads a big-endian number.
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Writes a duration as a script takes it: milliseconds in decimal digits.
pub(super) fn millis(duration: Duration) -> Vec<u8> {
    duration.as_millis().to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_and_plain_fields_are_read() {
        let pairs = [("st", "4"), ("r", "\u{0}result"), ("e0", "")];
        let plain = pairs.iter().flat_map(|(name, value)| [name, value]);
        let plain = plain.map(|part| Value::BulkString(part.as_bytes().to_vec())).collect();
        let mut packed = vec![0x80 | pairs.len() as u8];
        for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
            packed.push(0xa0 | part.len() as u8);
            packed.extend_from_slice(part.as_bytes());
        }
        let read = |value| Fields::from_redis_value(value).expect("fields");
        assert_eq!(read(Value::BulkString(packed.clone())), read(Value::Array(plain)));
        for cut in 0..packed.len() {
            assert!(
                Fields::from_redis_value(Value::BulkString(packed[..cut].to_vec())).is_err(),
                "{cut} bytes"
            );
        }
    }
}
