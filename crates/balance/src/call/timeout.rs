//! Reads and writes the `grpc-timeout` header: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

use http::HeaderValue;

/// The name of the header.
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The largest number eight digits hold.
const DIGITS_MAX: u64 = 99_999_999;

/// Reads a `grpc-timeout`; returns `None` if the value is invalid.
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

/// Writes a `grpc-timeout` in the finest unit that holds it, rounded down, so that the forwarded time is never longer than the
/// remaining time.
///
/// The value is marked as never indexed for HPACK: nearly every one is different, so that indexing would compare it with many
/// table entries and evict headers that do repeat.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    let (secs, nanos) = (timeout.as_secs(), u64::from(timeout.subsec_nanos()));
    let (mut number, unit) = match secs {
        0 if nanos <= DIGITS_MAX => (nanos, b'n'),
        0..100 => (secs * 1_000_000 + nanos / 1_000, b'u'),
        100..100_000 => (secs * 1_000 + nanos / 1_000_000, b'm'),
        100_000..=DIGITS_MAX => (secs, b'S'),
        _ if secs / 60 <= DIGITS_MAX => (secs / 60, b'M'),
        _ => ((secs / 3600).min(DIGITS_MAX), b'H'),
    };
    let mut text = [b'0'; 9];
    let (digits, last) = text.split_at_mut(8);
    last[0] = unit;
    let mut first = digits.len() - 1;
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        if number > 0 {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            first = at;
        }
    }
    // Digits and a letter always form a valid header value.
    let mut value = HeaderValue::from_bytes(&text[first..]).unwrap_or(HeaderValue::from_static("0n"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &'static str, expected: Option<Duration>) {
        assert_eq!(parse_timeout(&HeaderValue::from_static(text)), expected, "{text}");
    }

    #[test]
    fn parses_every_unit() {
        reads("2H", Some(Duration::from_secs(7200)));
        reads("3M", Some(Duration::from_secs(180)));
        reads("4S", Some(Duration::from_secs(4)));
        reads("5m", Some(Duration::from_millis(5)));
        reads("6u", Some(Duration::from_micros(6)));
        reads("99999999n", Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn rejects_invalid_timeouts() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", " 1S"] {
            reads(text, None);
        }
    }

    #[test]
    fn formatted_timeout_is_never_longer() {
        for nanos in [0, 1, 99_999_999, 100_000_000, 12_345_678_901, 987_654_321_987_654_321] {
            let timeout = Duration::from_nanos(nanos);
            let read = parse_timeout(&format_timeout(timeout)).unwrap();
            assert!(read <= timeout, "{timeout:?} became {read:?}");
            assert!(timeout.as_secs_f64() - read.as_secs_f64() <= timeout.as_secs_f64() * 1e-4);
        }
        assert!(parse_timeout(&format_timeout(Duration::MAX)).is_some());
    }

    #[test]
    fn uses_finest_unit_and_never_indexes() {
        for (timeout, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_micros(99_999_999), "99999999u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(5_999_999_940), "99999999M"),
            (Duration::from_secs(600_000_000), "10000000M"),
            (Duration::from_secs(360_000_000_000), "99999999H"),
        ] {
            let value = format_timeout(timeout);
            assert_eq!(value, expected, "{timeout:?}");
            assert!(value.is_sensitive(), "{timeout:?}");
        }
    }
}
