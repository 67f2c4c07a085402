//! Page tokens: where a list goes on, signed, so that they hold at any clone and after a restart of everything.
//!
//! A token is the base64 of: version, id of the key, eight bytes of the SHA-256 of the request that it belongs to, a place, and
//! the first sixteen bytes of an HMAC-SHA-256 of all this and the whole hash. It never expires, because the store keeps every
//! key. It is no secret: it says where to go on in a request that is checked all the same.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use shoal_kit::{Invalid, reason};

use crate::page_key::PageKey;

const VERSION: u8 = 2;
const MAC_BYTES: usize = 16;
const REQUEST_BYTES: usize = 8;

/// Binding of a token to a request: every field that decides which rows come in which order.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    request: Sha256,
    field: &'static str,
    token_bytes_max: usize,
}

/// A token that has the form of ours, and is not verified yet.
#[derive(Debug)]
pub(crate) struct Unverified {
    /// The id of the key that signed it.
    pub(crate) key: u32,
    signed: Vec<u8>,
    mac: [u8; MAC_BYTES],
}

impl Binding {
    /// Binds tokens to a call. `field` is the field of its request that has them, and `token_bytes_max` the length of the longest
    /// that is looked at.
    pub(crate) fn new(call: &'static str, field: &'static str, token_bytes_max: usize) -> Self {
        Self { request: Sha256::new(), field, token_bytes_max }.field(call.as_bytes())
    }

    /// Adds a field with its length, so that fields cannot run into each other.
    #[must_use]
    pub(crate) fn field(mut self, field: &[u8]) -> Self {
        self.request.update((field.len() as u64).to_le_bytes());
        self.request.update(field);
        self
    }

    /// Makes the token of a place.
    pub(crate) fn seal(&self, key: &PageKey, place: &[u8]) -> String {
        let request = self.request.clone().finalize();
        let mut token = vec![VERSION];
        token.extend(key.id.to_be_bytes());
        token.extend(&request[..REQUEST_BYTES]);
        token.extend(place);
        let mac = mac(key, &token, &request).finalize().into_bytes();
        token.extend(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Takes a token apart.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token is none of ours.
    pub(crate) fn parse(&self, token: &str) -> Result<Unverified, Invalid> {
        if token.len() > self.token_bytes_max {
            return Err(self.malformed());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| self.malformed())?;
        let (signed, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or_else(|| self.malformed())?;
        let (version, body) = signed.split_first().ok_or_else(|| self.malformed())?;
        let (key, body) = body.split_first_chunk().ok_or_else(|| self.malformed())?;
        if *version != VERSION || body.len() < REQUEST_BYTES {
            return Err(self.malformed());
        }
        Ok(Unverified { key: u32::from_be_bytes(*key), signed: signed.to_vec(), mac: *mac })
    }

    /// Returns the place in a token; `key` is the one of its id, if the store has it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the token is none of ours or belongs to another request.
    pub(crate) fn open(&self, token: &Unverified, key: Option<&PageKey>) -> Result<Vec<u8>, Invalid> {
        let key = key.ok_or_else(|| self.malformed())?;
        let request = self.request.clone().finalize();
        let (_, body) = token.signed.split_at(1 + size_of::<u32>());
        let (bound, place) = body.split_at(REQUEST_BYTES);
        if bound != &request[..REQUEST_BYTES] {
            return Err(Invalid::new(
                reason::INVALID_PAGE_TOKEN,
                self.field,
                "belongs to another request, or was changed; all fields that choose and order the rows must be the same",
            ));
        }
        mac(key, &token.signed, &request).verify_truncated_left(&token.mac).map_err(|_| self.malformed())?;
        Ok(place.to_vec())
    }

    fn malformed(&self) -> Invalid {
        Invalid::new(
            reason::INVALID_PAGE_TOKEN,
            self.field,
            "is not a token that this service gave; leave it empty to begin anew",
        )
    }
}

fn mac(key: &PageKey, signed: &[u8], request: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret.as_bytes()).unwrap_or_else(|_| unreachable!());
    mac.update(signed);
    mac.update(request);
    mac
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::WriteTimestamp;

    fn key(id: u32) -> PageKey {
        PageKey { id, secret: Uuid::from_u128(7), create_time: WriteTimestamp(1) }
    }

    fn opened(binding: &Binding, token: &str, key: &PageKey) -> Result<Vec<u8>, Invalid> {
        binding.open(&binding.parse(token)?, (binding.parse(token)?.key == key.id).then_some(key))
    }

    #[test]
    fn token_opens_only_its_request() {
        let ours = || Binding::new("query", "page_token", 4096).field(b"t").field(b"pk");
        let token = ours().seal(&key(1), b"last");
        assert_eq!(opened(&ours(), &token, &key(1)).unwrap(), b"last");
        let others = [
            Binding::new("query", "page_token", 4096).field(b"tp").field(b"k"),
            Binding::new("count", "page_token", 4096).field(b"t").field(b"pk"),
        ];
        for other in others {
            assert_eq!(opened(&other, &token, &key(1)).unwrap_err().reason, reason::INVALID_PAGE_TOKEN);
        }
    }

    #[test]
    fn tokens_need_their_key() {
        let binding = Binding::new("query", "page_token", 4096);
        let token = binding.seal(&key(1), b"last");
        assert!(opened(&binding, &token, &key(2)).is_err());
        let foreign = PageKey { secret: Uuid::from_u128(8), ..key(1) };
        assert!(opened(&binding, &token, &foreign).is_err());
    }

    #[test]
    fn damage_is_seen() {
        let binding = Binding::new("query", "page_token", 4096);
        let token = binding.seal(&key(1), b"last");
        let mut bad: Vec<String> = vec![String::new(), "!".into(), "AAAA".into(), "x".repeat(4097)];
        bad.extend((0..token.len()).map(|at| {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        }));
        for bad in bad {
            let error = opened(&binding, &bad, &key(1)).unwrap_err();
            assert!(error.reason == reason::INVALID_PAGE_TOKEN, "{bad}: {error}");
        }
    }

    /// Pins the format: tokens are handed out across releases, so this one must open for ever.
    #[test]
    fn the_format_is_pinned() {
        let binding = Binding::new("query", "page_token", 4096).field(b"t");
        assert_eq!(binding.seal(&key(1), b"k"), "AgAAAAGIH67CuPLn0GsZugUxUe5H6CKmMICrdPXI");
    }
}
