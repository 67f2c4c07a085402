//! Page tokens of the service itself, so that they hold at any clone and after a restart of everything.
//!
//! A token is the base64 of: version, XXH3-64 of the request it belongs to, the last key, XXH3-64 of everything before. It is
//! no secret and grants nothing: it only says where to go on in a request that is checked all the same.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shoal_kit::{Invalid, reason};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

const VERSION: u8 = 1;
const SUM_BYTES: usize = 8;

/// Longest token that is looked at. Ours are shorter, because keys have at most 1 KiB.
const TOKEN_BYTES_MAX: usize = 4096;

/// Binding of a token to a request: every field that decides which rows come in which order.
#[derive(Default)]
pub(crate) struct Binding(Xxh3Default);

impl Binding {
    /// Adds a field with its length, so that fields cannot run into each other.
    #[must_use]
    pub(crate) fn field(mut self, field: &[u8]) -> Self {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    /// Makes the token of the page behind `last`.
    pub(crate) fn token(&self, last: &[u8]) -> String {
        let mut token = vec![VERSION];
        token.extend(self.0.digest().to_le_bytes());
        token.extend(last);
        token.extend(xxh3_64(&token).to_le_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Returns the last key in a token.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token is none of ours or belongs to another request.
    pub(crate) fn open(&self, token: &str) -> Result<Vec<u8>, Invalid> {
        let malformed = || {
            Invalid::new(
                reason::INVALID_PAGE_TOKEN,
                "page_token",
                "is not a next_page_token of this service; leave it empty to begin anew",
            )
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| malformed())?;
        let (body, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or_else(malformed)?;
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(malformed());
        }
        let (version, body) = body.split_first().ok_or_else(malformed)?;
        let (binding, last) = body.split_first_chunk::<8>().ok_or_else(malformed)?;
        if *version != VERSION {
            return Err(malformed());
        }
        if u64::from_le_bytes(*binding) != self.0.digest() {
            return Err(Invalid::new(
                reason::INVALID_PAGE_TOKEN,
                "page_token",
                "belongs to another request; the other fields, except page_size and consistency, must be the same",
            ));
        }
        Ok(last.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_opens_only_its_request() {
        let ours = || Binding::default().field(b"t").field(b"pk");
        let token = ours().token(b"last");
        assert_eq!(ours().open(&token).unwrap(), b"last");
        let foreign = Binding::default().field(b"tp").field(b"k").open(&token).unwrap_err();
        assert!(foreign.reason == reason::INVALID_PAGE_TOKEN, "{foreign}");
    }

    #[test]
    fn damage_is_seen() {
        let binding = Binding::default().field(b"t");
        let token = binding.token(b"last");
        let mut bad: Vec<String> =
            vec![String::new(), "!".into(), "AAAA".into(), "x".repeat(TOKEN_BYTES_MAX + 1)];
        bad.extend((0..token.len()).map(|at| {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        }));
        for bad in bad {
            let error = binding.open(&bad).unwrap_err();
            assert!(error.reason == reason::INVALID_PAGE_TOKEN, "{bad}: {error}");
        }
    }

    /// Pins the format: tokens are handed out across releases, so this one must open for ever.
    #[test]
    fn the_format_is_pinned() {
        let binding = Binding::default().field(b"t");
        assert_eq!(binding.token(b"k"), "AcepBE3IhdENa5P2h4nYikJY");
    }
}
