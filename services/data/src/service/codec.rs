//! Values, times and levels between the bindings and the domain.

use std::time::{Duration, Instant};

use shoal_kit::{Invalid, reason};
use shoal_proto::convert;
use shoal_proto::data::v1 as pb;
use shoal_proto::r#type::v1 as types;
use tonic::metadata::MetadataMap;

use crate::clock::WriteTimestamp;
use crate::row::Row;
use crate::store::Consistency;
use crate::table::bad_ttl;
use crate::value::{Time, Value};

/// Seconds of the years 1 to 9999, the range of `google.protobuf.Timestamp`.
const TIME_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

pub(super) fn consistency_in(number: i32) -> Result<Consistency, Invalid> {
    match pb::Consistency::try_from(number) {
        Ok(pb::Consistency::Unspecified | pb::Consistency::Quorum) => Ok(Consistency::Quorum),
        Ok(pb::Consistency::Eventual) => Ok(Consistency::Eventual),
        Ok(pb::Consistency::Strong) => Ok(Consistency::Strong),
        Err(_) => Err(unknown_enum("consistency", number)),
    }
}

/// Shortest time that is left of a caller's deadline when a page or a scan ends, unless that is more than half of it.
const REST_MIN: Duration = Duration::from_millis(100);

/// Returns when a page must end with what it has: when a fifth of the caller's time is left. None for callers that wait for ever.
pub(super) fn page_end(metadata: &MetadataMap) -> Option<Instant> {
    shoal_kit::call_timeout(metadata).and_then(|timeout| Instant::now().checked_add(time_of_page(timeout)))
}

/// Returns the part of a caller's time after which a page ends. The answer needs some time however short the deadline is.
fn time_of_page(timeout: Duration) -> Duration {
    timeout - (timeout / 5).max(REST_MIN).min(timeout / 2)
}

pub(super) fn consistency_out(consistency: Consistency) -> pb::Consistency {
    match consistency {
        Consistency::Eventual => pb::Consistency::Eventual,
        Consistency::Quorum => pb::Consistency::Quorum,
        Consistency::Strong => pb::Consistency::Strong,
    }
}

pub(super) fn unknown_enum(field: &str, number: i32) -> Invalid {
    Invalid::new(
        reason::UNKNOWN_ENUM_VALUE,
        field.to_owned(),
        format!("{number} is not a value that this service knows"),
    )
}

/// Reads a sort key or a bound of sort keys.
pub(super) fn optional(value: Option<types::Value>, field: &str) -> Result<Option<Value>, Invalid> {
    value.map(|value| key_in(value, field)).transpose()
}

/// Reads a sort key or a bound of sort keys, which may be a list.
fn key_in(value: types::Value, field: &str) -> Result<Value, Invalid> {
    let Some(types::value::Kind::ListValue(list)) = value.kind else { return value_in(value, field) };
    let values = list.values.into_iter().enumerate();
    let values = values.map(|(at, value)| value_in(value, &format!("{field}.list_value.values[{at}]")));
    Ok(Value::List(values.collect::<Result<_, _>>()?))
}

pub(super) fn value_in(value: types::Value, field: &str) -> Result<Value, Invalid> {
    use types::value::Kind;
    Ok(match value.kind {
        None => {
            return Err(Invalid::new(
                reason::VALUE_WITHOUT_KIND,
                field.to_owned(),
                "a Value needs exactly one of its kinds set",
            ));
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::IntValue(int)) => Value::Int(int),
        Some(Kind::DoubleValue(double)) => Value::Double(double),
        Some(Kind::BoolValue(bool)) => Value::Bool(bool),
        Some(Kind::BytesValue(bytes)) => Value::Bytes(bytes),
        Some(Kind::ListValue(_)) => {
            let text = "must be a single value: lists are sort keys of tables with sort_key_parts alone";
            return Err(Invalid::new(reason::LIST_VALUE, field.to_owned(), text));
        }
        Some(Kind::TimeValue(time)) => {
            if !TIME_SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
                return Err(Invalid::new(
                    reason::INVALID_TIMESTAMP,
                    field.to_owned(),
                    "a time must be in the years 1 to 9999",
                ));
            }
            Value::Time(Time { seconds: time.seconds, nanos: time.nanos })
        }
    })
}

pub(super) fn value_out(value: Value) -> types::Value {
    use types::value::Kind;
    let kind = match value {
        Value::String(text) => Kind::StringValue(text),
        Value::Int(int) => Kind::IntValue(int),
        Value::Double(double) => Kind::DoubleValue(double),
        Value::Bool(bool) => Kind::BoolValue(bool),
        Value::Bytes(bytes) => Kind::BytesValue(bytes),
        Value::Time(Time { seconds, nanos }) => Kind::TimeValue(prost_types::Timestamp { seconds, nanos }),
        Value::List(list) => {
            let values = list.into_values().into_iter().map(value_out).collect();
            Kind::ListValue(types::ListValue { values })
        }
    };
    types::Value { kind: Some(kind) }
}

pub(super) fn duration(
    duration: Option<prost_types::Duration>,
    field: &str,
) -> Result<Option<Duration>, Invalid> {
    let malformed = || {
        let text = "must be a positive duration: no negative seconds, and 0 to 999 999 999 nanos";
        Invalid::new(reason::INVALID_TTL, field.to_owned(), text)
    };
    // A conversion would add seconds and nanos of different signs up.
    let form = |duration: &prost_types::Duration| {
        duration.seconds >= 0 && (0..1_000_000_000).contains(&duration.nanos)
    };
    if !duration.as_ref().is_none_or(form) {
        return Err(malformed());
    }
    convert::duration(duration).ok_or_else(malformed)
}

/// Reads a time to live.
pub(super) fn ttl(ttl: Option<prost_types::Duration>, field: &str) -> Result<Option<Duration>, Invalid> {
    duration(ttl, field).map_err(|_| bad_ttl(field))
}

pub(super) fn row_out(partition_key: String, row: Row) -> pb::Row {
    pb::Row {
        partition_key,
        sort_key: row.sort_key.into_value().map(value_out),
        attributes: row.attributes.into_iter().map(|(name, value)| (name, value_out(value))).collect(),
        write_time: Some(timestamp(row.write_time)),
        expire_time: row.expire_time.map(timestamp),
        remaining_ttl: row.expire_time.map(|end| remaining(end, WriteTimestamp::now())),
        view_sort_key: None,
    }
}

/// Returns the time from `now` to an end; none is left of a row that ended since it was read.
fn remaining(end: WriteTimestamp, now: WriteTimestamp) -> prost_types::Duration {
    let micros = u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0);
    // At most ten years of seconds, which a protobuf Duration holds.
    prost_types::Duration::try_from(Duration::from_micros(micros)).unwrap_or_default()
}

/// Reads a time that an answer had.
pub(super) fn micros(at: &prost_types::Timestamp, field: &str) -> Result<WriteTimestamp, Invalid> {
    convert::micros_of_timestamp(at).map(WriteTimestamp).ok_or_else(|| {
        let text = "must be a time that an answer had, in whole microseconds";
        Invalid::new(reason::INVALID_TIMESTAMP, field.to_owned(), text)
    })
}

pub(super) fn timestamp(at: WriteTimestamp) -> prost_types::Timestamp {
    convert::timestamp_of_micros(at.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_time_within_deadlines() {
        let part = |millis| time_of_page(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 100, 200, 300, 1_000, 10_000].map(part), [0, 50, 100, 200, 800, 8_000]);
    }
}
