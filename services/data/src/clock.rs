//! Write timestamps: from a caller's idempotency token, or from the clone's clock.
//!
//! The timestamp of a write decides which write of a row stays, and makes a repeat harmless: the same write at the same
//! timestamp changes nothing more.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_kit::{Invalid, reason};

/// A timestamp of a write, or another time in the same unit: microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriteTimestamp(pub(crate) i64);

/// Longest time that a token may be ahead. A token from further ahead would hide every later write for that long.
const TOKEN_AHEAD_MAX: i64 = 5 * 60 * 1_000_000;

/// Longest time that a token may be behind. An older token is a mistake: milliseconds or seconds read as microseconds lie in
/// January 1970, where a write hides behind every other one and is lost. Writes of older data that are migrated are younger.
const TOKEN_BEHIND_MAX: i64 = TOKEN_BEHIND_YEARS * 366 * 24 * 3600 * 1_000_000;
const TOKEN_BEHIND_YEARS: i64 = 10;

/// Longest nonce of a token.
const NONCE_BYTES_MAX: usize = 64;

/// Number of timestamps that one Mutate uses: deleted ranges are applied one microsecond before everything else.
const STEP: i64 = 2;

impl WriteTimestamp {
    /// Returns the time of the wall clock.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Returns the time that is `seconds` later.
    #[must_use]
    pub(crate) fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(i64::from(seconds) * 1_000_000))
    }
}

/// A source of timestamps: the wall clock, but never the same or an earlier time twice. A clone has its own, except that clones
/// of one embedded store share one.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: AtomicI64,
}

impl Clock {
    /// Returns a timestamp that is later than all that this clock gave out.
    pub(crate) fn next(&self) -> WriteTimestamp {
        self.after(WriteTimestamp::now())
    }

    fn after(&self, now: WriteTimestamp) -> WriteTimestamp {
        let next = |last: i64| now.0.max(last + STEP);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        WriteTimestamp(last.map_or(now.0, next))
    }
}

/// Returns the timestamp in `<microseconds since 1970>-<nonce>`.
///
/// # Errors
/// INVALID_ARGUMENT when the token has another form, or lies more than five minutes ahead of `now` or ten years behind.
pub(crate) fn stamp_of_token(token: &str, now: WriteTimestamp) -> Result<WriteTimestamp, Invalid> {
    let malformed = || {
        Invalid::new(
            reason::INVALID_IDEMPOTENCY_TOKEN,
            "idempotency_token",
            "must be <microseconds since 1970>-<nonce>, the nonce 1 to 64 characters of [A-Za-z0-9_-]",
        )
    };
    let (micros, nonce) = token.split_once('-').ok_or_else(malformed)?;
    let nonce_ok = (1..=NONCE_BYTES_MAX).contains(&nonce.len())
        && nonce.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !nonce_ok || micros.is_empty() || !micros.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let micros: i64 = micros.parse().map_err(|_| malformed())?;
    if micros == 0 {
        return Err(malformed());
    }
    if micros > now.0.saturating_add(TOKEN_AHEAD_MAX) {
        return Err(Invalid::new(
            reason::TOKEN_IN_THE_FUTURE,
            "idempotency_token",
            "its time is more than five minutes ahead; use microseconds since 1970 and check the caller's clock",
        ));
    }
    if micros < now.0.saturating_sub(TOKEN_BEHIND_MAX) {
        return Err(Invalid::new(
            reason::TOKEN_IN_THE_PAST,
            "idempotency_token",
            format!(
                "its time is more than {TOKEN_BEHIND_YEARS} years ago; use microseconds since 1970, not milliseconds or \
                 seconds"
            ),
        ));
    }
    Ok(WriteTimestamp(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_only_moves_forward() {
        let clock = Clock::default();
        assert_eq!(clock.after(WriteTimestamp(1000)), WriteTimestamp(1000));
        assert_eq!(clock.after(WriteTimestamp(1000)), WriteTimestamp(1002));
        assert_eq!(clock.after(WriteTimestamp(10)), WriteTimestamp(1004));
        assert_eq!(clock.after(WriteTimestamp(2000)), WriteTimestamp(2000));
    }

    #[test]
    fn token_is_time_and_nonce() {
        let now = WriteTimestamp(1_000_000_000);
        assert_eq!(stamp_of_token("1000-a-B_9", now).unwrap(), WriteTimestamp(1000));
        assert_eq!(stamp_of_token("1300000000-x", now).unwrap(), WriteTimestamp(1_300_000_000));
        let long = format!("5-{}", "x".repeat(64));
        assert_eq!(stamp_of_token(&long, now).unwrap(), WriteTimestamp(5));
        let too_long = format!("5-{}", "x".repeat(65));
        for bad in
            ["", "-", "5", "5-", "-5", "+5-a", "0-a", "5-ä", "5-a b", "99999999999999999999-a", &too_long]
        {
            let error = stamp_of_token(bad, now).unwrap_err();
            assert!(error.reason == reason::INVALID_IDEMPOTENCY_TOKEN, "{bad}: {error}");
        }
        let error = stamp_of_token("1300000001-x", now).unwrap_err();
        assert!(error.reason == reason::TOKEN_IN_THE_FUTURE, "{error}");
    }

    #[test]
    fn token_in_milliseconds_is_refused() {
        let now = WriteTimestamp(1_800_000_000_000_000);
        for other_unit in [now.0 / 1000, now.0 / 1_000_000, now.0 - TOKEN_BEHIND_MAX - 1] {
            let error = stamp_of_token(&format!("{other_unit}-x"), now).unwrap_err();
            assert!(error.reason == reason::TOKEN_IN_THE_PAST, "{other_unit}: {error}");
            assert!(error.to_string().contains("microseconds"), "{error}");
        }
        let nanos = stamp_of_token(&format!("{}-x", now.0 * 1000), now).unwrap_err();
        assert!(nanos.reason == reason::TOKEN_IN_THE_FUTURE, "{nanos}");
        let oldest = now.0 - TOKEN_BEHIND_MAX;
        assert_eq!(stamp_of_token(&format!("{oldest}-x"), now).unwrap(), WriteTimestamp(oldest));
    }
}
