//! Idempotency tokens: what tells one write from every other one, and gives it its timestamp.

use std::fmt;
use std::sync::Arc;

use shoal_kit::{Invalid, reason};

use crate::clock::WriteTimestamp;

/// Longest time that a token may be ahead. A token from further ahead would hide every later write for that long.
const TOKEN_AHEAD_MAX: i64 = 5 * 60 * 1_000_000;

/// Longest time that a token may be behind. An older token is a mistake: milliseconds or seconds read as microseconds lie in
/// January 1970, where a write hides behind every other one and is lost. Writes of older data that are migrated are younger.
const TOKEN_BEHIND_MAX: i64 = TOKEN_BEHIND_YEARS * 366 * 24 * 3600 * 1_000_000;
const TOKEN_BEHIND_YEARS: i64 = 10;

/// Longest nonce of a token.
const NONCE_BYTES_MAX: usize = 64;

/// The idempotency token of a write, `<microseconds since 1970>-<nonce>`: the caller's, or one that the clone made for a write
/// without one. The same write under the same token changes nothing more.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WriteToken {
    stamp: WriteTimestamp,
    text: Arc<str>,
}

impl WriteToken {
    /// Reads a token.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token has another form, or lies more than five minutes ahead of `now` or ten years behind.
    pub(crate) fn parse(token: &str, now: WriteTimestamp) -> Result<Self, Invalid> {
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
        Ok(Self { stamp: WriteTimestamp(micros), text: token.into() })
    }

    /// Makes the token of a write that came without one.
    pub(crate) fn generate(stamp: WriteTimestamp) -> Self {
        Self { stamp, text: format!("{}-{:016x}", stamp.0, fastrand::u64(..)).into() }
    }

    /// Returns the timestamp of the write.
    pub(crate) fn stamp(&self) -> WriteTimestamp {
        self.stamp
    }

    /// Returns the token as callers see it.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Shows the time alone: tokens are in no log.
impl fmt::Debug for WriteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteToken({})", self.stamp.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_time_and_nonce() {
        let now = WriteTimestamp(1_000_000_000);
        assert_eq!(WriteToken::parse("1000-a-B_9", now).unwrap().stamp(), WriteTimestamp(1000));
        assert_eq!(WriteToken::parse("1300000000-x", now).unwrap().stamp(), WriteTimestamp(1_300_000_000));
        let long = format!("5-{}", "x".repeat(64));
        assert_eq!(WriteToken::parse(&long, now).unwrap().stamp(), WriteTimestamp(5));
        let too_long = format!("5-{}", "x".repeat(65));
        for bad in
            ["", "-", "5", "5-", "-5", "+5-a", "0-a", "5-ä", "5-a b", "99999999999999999999-a", &too_long]
        {
            let error = WriteToken::parse(bad, now).unwrap_err();
            assert!(error.reason == reason::INVALID_IDEMPOTENCY_TOKEN, "{bad}: {error}");
        }
        let error = WriteToken::parse("1300000001-x", now).unwrap_err();
        assert!(error.reason == reason::TOKEN_IN_THE_FUTURE, "{error}");
    }

    #[test]
    fn token_in_milliseconds_is_refused() {
        let now = WriteTimestamp(1_800_000_000_000_000);
        for other_unit in [now.0 / 1000, now.0 / 1_000_000, now.0 - TOKEN_BEHIND_MAX - 1] {
            let error = WriteToken::parse(&format!("{other_unit}-x"), now).unwrap_err();
            assert!(error.reason == reason::TOKEN_IN_THE_PAST, "{other_unit}: {error}");
            assert!(error.to_string().contains("microseconds"), "{error}");
        }
        let nanos = WriteToken::parse(&format!("{}-x", now.0 * 1000), now).unwrap_err();
        assert!(nanos.reason == reason::TOKEN_IN_THE_FUTURE, "{nanos}");
        let oldest = now.0 - TOKEN_BEHIND_MAX;
        assert_eq!(WriteToken::parse(&format!("{oldest}-x"), now).unwrap().stamp(), WriteTimestamp(oldest));
    }
}
