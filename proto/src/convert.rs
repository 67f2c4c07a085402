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

/// Returns the microseconds since 1970 of a timestamp. `None` stands for one between two microseconds, and one out of range.
#[must_use]
pub fn micros_of_timestamp(at: &Timestamp) -> Option<i64> {
    let nanos = i64::from(at.nanos);
    if !(0..1_000_000_000).contains(&nanos) || nanos % 1_000 != 0 {
        return None;
    }
    at.seconds.checked_mul(MICROS)?.checked_add(nanos / 1_000)
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
    fn microseconds_come_back_as_given() {
        for micros in [0, 1, -1, -1_000_001, 1_800_000_000_000_007] {
            assert_eq!(micros_of_timestamp(&timestamp_of_micros(micros)), Some(micros));
        }
        for (seconds, nanos) in [(1, 1), (i64::MAX, 0), (1, -1_000), (1, 1_000_000_000)] {
            assert_eq!(micros_of_timestamp(&Timestamp { seconds, nanos }), None);
        }
    }

    #[test]
    fn negative_durations_are_refused() {
        let of = |seconds| prost_types::Duration { seconds, nanos: 0 };
        assert_eq!(duration(None), Some(None));
        assert_eq!(duration(Some(of(2))), Some(Some(Duration::from_secs(2))));
        assert_eq!(duration(Some(of(-1))), None);
    }
}
