//! Conversions between the well-known types and times of the standard library's kind, the same for every service.

use std::time::Duration;

use prost_types::Timestamp;

const MILLIS: i64 = 1_000;
const MICROS: i64 = 1_000_000;

/// Returns the timestamp of a number of milliseconds since 1970, which may be negative.
#[must_use]
pub fn timestamp_of_millis(millis: i64) -> Timestamp {
    timestamp(millis, MILLIS)
}

/// Returns the timestamp of a number of microseconds since 1970, which may be negative.
#[must_use]
pub fn timestamp_of_micros(micros: i64) -> Timestamp {
    timestamp(micros, MICROS)
}

fn timestamp(units: i64, in_a_second: i64) -> Timestamp {
    let nanos = units.rem_euclid(in_a_second) * (1_000_000_000 / in_a_second);
    // Under a thousand million.
    Timestamp { seconds: units.div_euclid(in_a_second), nanos: nanos as i32 }
}

/// Reads a duration that may be absent. `None` stands for one that is negative, which no field of ours may be.
#[must_use]
pub fn duration(value: Option<prost_types::Duration>) -> Option<Option<Duration>> {
    value.map(Duration::try_from).transpose().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_exact() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        assert_eq!(timestamp_of_millis(1_234), at(1, 234_000_000));
        assert_eq!(timestamp_of_millis(-1), at(-1, 999_000_000));
        assert_eq!(timestamp_of_micros(-1_000_001), at(-2, 999_999_000));
    }

    #[test]
    fn negative_durations_are_refused() {
        let of = |seconds| prost_types::Duration { seconds, nanos: 0 };
        assert_eq!(duration(None), Some(None));
        assert_eq!(duration(Some(of(2))), Some(Some(Duration::from_secs(2))));
        assert_eq!(duration(Some(of(-1))), None);
    }
}
