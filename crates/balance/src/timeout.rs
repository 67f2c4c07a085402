//! The `grpc-timeout` header: at most eight digits and a unit (gRPC over HTTP/2, "Timeout"). Pure.

use std::time::Duration;

use http::HeaderValue;

/// The name of the header.
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The largest number eight digits hold.
const DIGITS_MAX: u128 = 99_999_999;

/// Reads a `grpc-timeout`; `None` if it is not one.
pub fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes a `grpc-timeout` in the finest unit that holds it, rounded down: what is forwarded is never longer than what
/// remains.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
        (u128::from(timeout.as_secs() / 60), 'M'),
    ];
    let (number, unit) = units
        .into_iter()
        .find(|(number, _)| *number <= DIGITS_MAX)
        .unwrap_or((u128::from(timeout.as_secs() / 3600).min(DIGITS_MAX), 'H'));
    // Digits and a letter are always a valid header value.
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &'static str, expected: Option<Duration>) {
        assert_eq!(parse_timeout(&HeaderValue::from_static(text)), expected, "{text}");
    }

    #[test]
    fn every_unit_is_read() {
        reads("2H", Some(Duration::from_secs(7200)));
        reads("3M", Some(Duration::from_secs(180)));
        reads("4S", Some(Duration::from_secs(4)));
        reads("5m", Some(Duration::from_millis(5)));
        reads("6u", Some(Duration::from_micros(6)));
        reads("99999999n", Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn nonsense_is_not_a_timeout() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", " 1S"] {
            reads(text, None);
        }
    }

    #[test]
    fn what_is_written_reads_back_and_is_never_longer() {
        for nanos in [0, 1, 99_999_999, 100_000_000, 12_345_678_901, 987_654_321_987_654_321] {
            let timeout = Duration::from_nanos(nanos);
            let read = parse_timeout(&format_timeout(timeout)).unwrap();
            assert!(read <= timeout, "{timeout:?} became {read:?}");
            assert!(timeout.as_secs_f64() - read.as_secs_f64() <= timeout.as_secs_f64() * 1e-4);
        }
        assert!(parse_timeout(&format_timeout(Duration::MAX)).is_some());
    }
}
