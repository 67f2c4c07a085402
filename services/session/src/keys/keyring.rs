//! The keys of a mesh's sessions: which purpose each serves, how they are written down, and what is computed with them.
//!
//! Each purpose but `bucket` has a list of named keys: the first is used for what is new, all of them for what is old.
//! To rotate a key put a new one in front on every clone; drop the old one when nothing made with it lives any more.
//! The bucket key says where a user's sessions are and cannot be changed without losing them.

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::id::SessionId;
use crate::keys::fingerprint::{FINGERPRINT_BYTES, KeyFingerprint, Purpose};
use crate::keys::secret::Secret;

/// The number of keys a purpose may have at once: the new, the old, and two to spare. Each is tried.
const KEYS_MAX: usize = 4;
/// The length of a key: 32 bytes is what an HMAC-SHA-256 key is worth.
const KEY_BYTES: usize = 32;

/// The bytes of the check at a token's end.
pub(crate) const CHECK_BYTES: usize = 8;

/// The hash that the store keeps of a secret.
pub(crate) type Hash = [u8; 32];

/// Keys as text, each `ID:BASE64`, several separated by commas: the shape of a keys file, of `[session.keys]`, and of
/// `SHOAL_SESSION__KEYS__CHECK`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeysText {
    /// Choose a user's bucket, which is the keyed hash of the user; one key.
    pub bucket: String,
    /// Make and verify the check at a token's end.
    pub check: String,
    /// Derive the secrets that must come out the same when a call is repeated.
    pub derive: String,
    /// Optional: secrets are hashed with the first of them instead of by plain SHA-256.
    pub pepper: String,
}

impl fmt::Debug for KeysText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeysText(..)")
    }
}

/// Why keys cannot be used. Never repeats them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("session keys, `{purpose}`: {problem}")]
pub(crate) struct KeysError {
    purpose: &'static str,
    problem: String,
}

/// The keys in use.
pub(crate) struct Keyring {
    bucket: Key,
    check: Vec<Key>,
    derive: Vec<Key>,
    pepper: Vec<Key>,
}

struct Key {
    id: String,
    /// The HMAC after its key: each use starts from a copy, which halves its cost.
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |keys: &[Key]| keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>();
        f.debug_struct("Keyring")
            .field("check", &ids(&self.check))
            .field("derive", &ids(&self.derive))
            .field("pepper", &ids(&self.pepper))
            .finish_non_exhaustive()
    }
}

impl KeysText {
    /// New random keys, without a pepper.
    pub(crate) fn generate() -> Self {
        let key = || format!("1:{}", STANDARD.encode(Secret::random().0));
        Self { bucket: key(), check: key(), derive: key(), pepper: String::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Keyring {
    #[cfg(test)]
    pub(crate) fn generate() -> Self {
        Self::parse(&KeysText::generate()).expect("generated keys are valid")
    }

    pub(crate) fn parse(text: &KeysText) -> Result<Self, KeysError> {
        let mut bucket = parse_keys("bucket", &text.bucket, 1)?;
        let (check, derive) =
            (parse_keys("check", &text.check, KEYS_MAX)?, parse_keys("derive", &text.derive, KEYS_MAX)?);
        let pepper = match text.pepper.trim() {
            "" => Vec::new(),
            pepper => parse_keys("pepper", pepper, KEYS_MAX)?,
        };
        Ok(Self { bucket: bucket.remove(0), check, derive, pepper })
    }

    /// Returns the fingerprints of all keys, each with whether it makes what is new.
    pub(crate) fn fingerprints(&self) -> impl Iterator<Item = (KeyFingerprint, bool)> {
        let purposes = [
            (Purpose::Bucket, std::slice::from_ref(&self.bucket)),
            (Purpose::Check, &self.check),
            (Purpose::Derive, &self.derive),
            (Purpose::Pepper, &self.pepper),
        ];
        purposes.into_iter().flat_map(|(purpose, keys)| {
            keys.iter().enumerate().map(move |(at, key)| (key.fingerprint(purpose), at == 0))
        })
    }

    /// Returns the bucket of a user's sessions.
    pub(crate) fn bucket_of(&self, user: &str) -> u8 {
        self.bucket.mac("bucket", &[user.as_bytes()])[0]
    }

    /// Returns the check of a token that is being issued.
    pub(crate) fn check(&self, body: &[u8]) -> [u8; CHECK_BYTES] {
        self.check[0].check(body)
    }

    /// Returns whether a token with this body was issued with one of these keys.
    pub(crate) fn is_ours(&self, body: &[u8], check: &[u8]) -> bool {
        self.check.iter().any(|key| key.check(body).ct_eq(check).into())
    }

    /// Returns the hashes that the store may hold of a secret: by the pepper in use, by older ones, and without. The
    /// first is what new records get.
    pub(crate) fn hashes(&self, secret: &Secret) -> Vec<Hash> {
        let peppered = self.pepper.iter().map(|key| key.mac("pepper", &[&secret.0]));
        peppered.chain([Sha256::digest(secret.0).into()]).collect()
    }

    /// Returns the secrets that a session made by `request_id` may have, the one for new sessions first: a repeat finds
    /// the same.
    pub(crate) fn first_secrets(&self, user: &str, request_id: &str, id: &SessionId) -> Vec<Secret> {
        let parts = [user.as_bytes(), request_id.as_bytes(), &id.to_bytes()];
        self.derive.iter().map(|key| Secret(key.mac("first secret", &parts))).collect()
    }

    /// Returns the secrets that may follow `secret` when the session is rotated, the one for new rotations first. Every
    /// generation's secret is another, so the generation's number adds nothing, and one round trip is enough.
    pub(crate) fn successors(&self, id: &SessionId, secret: &Secret) -> Vec<Secret> {
        self.derive.iter().map(|key| Secret(key.mac("successor", &[&id.to_bytes(), &secret.0]))).collect()
    }
}

impl Key {
    /// Computes a keyed hash. `purpose` keeps the uses of one key apart; lengths keep the parts apart.
    fn mac(&self, purpose: &'static str, parts: &[&[u8]]) -> Hash {
        let mut mac = self.mac.clone();
        for part in [purpose.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn fingerprint(&self, purpose: Purpose) -> KeyFingerprint {
        let mut digest = [0; FINGERPRINT_BYTES];
        digest.copy_from_slice(&self.mac("mark", &[purpose.name().as_bytes()])[..FINGERPRINT_BYTES]);
        KeyFingerprint { purpose, digest, id: self.id.clone() }
    }

    fn check(&self, body: &[u8]) -> [u8; CHECK_BYTES] {
        let mut check = [0; CHECK_BYTES];
        check.copy_from_slice(&self.mac("check", &[body])[..CHECK_BYTES]);
        check
    }
}

fn parse_keys(purpose: &'static str, text: &str, max: usize) -> Result<Vec<Key>, KeysError> {
    let wrong = |problem: String| KeysError { purpose, problem };
    if text.trim().is_empty() {
        return Err(wrong(format!(
            "it is missing: `bucket`, `check` and `derive` are all needed once one of them is given. Write it as \
             ID:BASE64 of {KEY_BYTES} random bytes (head -c {KEY_BYTES} /dev/urandom | base64), in keys_file or as \
             SHOAL_SESSION__KEYS__{}",
            purpose.to_ascii_uppercase()
        )));
    }
    let mut ids = HashSet::new();
    let mut keys = Vec::new();
    for part in text.split(',').map(str::trim) {
        let Some((id, encoded)) = part.split_once(':') else {
            return Err(wrong("write each key as ID:BASE64, several separated by commas".to_owned()));
        };
        if id.is_empty() || !ids.insert(id) {
            return Err(wrong("each key needs an id of its own before the colon".to_owned()));
        }
        let bytes = STANDARD.decode(encoded.trim()).unwrap_or_default();
        if bytes.len() != KEY_BYTES {
            return Err(wrong(format!("key `{id}` must be the base64 of {KEY_BYTES} random bytes")));
        }
        let mac = Hmac::new_from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        keys.push(Key { id: id.to_owned(), mac });
    }
    if keys.len() > max {
        return Err(wrong(format!("has {} keys; at most {max}", keys.len())));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text`'s purpose with a new key in front.
    fn rotated(list: &str) -> String {
        format!("2:{},{list}", STANDARD.encode(Secret::random().0))
    }

    #[test]
    fn key_rotation_keeps_old_tokens_valid() {
        let old_text = KeysText::generate();
        let new_text = KeysText {
            check: rotated(&old_text.check),
            derive: rotated(&old_text.derive),
            pepper: format!("p:{}", STANDARD.encode([7; 32])),
            ..old_text.clone()
        };
        let (old, new) = (Keyring::parse(&old_text).unwrap(), Keyring::parse(&new_text).unwrap());
        let (id, secret) = (SessionId::random(1), Secret::random());
        assert!(new.is_ours(b"body", &old.check(b"body")));
        assert!(!old.is_ours(b"body", &new.check(b"body")), "new tokens use the new key");
        assert!(new.hashes(&secret).contains(&old.hashes(&secret)[0]));
        assert_ne!(new.hashes(&secret)[0], old.hashes(&secret)[0]);
        assert_eq!(new.successors(&id, &secret)[1], old.successors(&id, &secret)[0]);
        assert_eq!(new.first_secrets("u", "r", &id)[1], old.first_secrets("u", "r", &id)[0]);
        assert_eq!(new.bucket_of("u"), old.bucket_of("u"));
    }

    #[test]
    fn uses_of_one_key_are_kept_apart() {
        let keyring = Keyring::generate();
        let id = SessionId::random(1);
        assert_ne!(keyring.first_secrets("ab", "c", &id), keyring.first_secrets("a", "bc", &id));
    }

    #[test]
    fn key_errors_hide_the_keys() {
        let good = KeysText::generate();
        for (text, problem) in [
            (KeysText { bucket: String::new(), ..good.clone() }, "`bucket`: it is missing"),
            (KeysText { check: "c2hvcnQ=".into(), ..good.clone() }, "`check`: write each key"),
            (KeysText { check: "1:c2hvcnQ=".into(), ..good.clone() }, "32 random bytes"),
            (KeysText { derive: format!("{0},{0}", good.derive), ..good.clone() }, "id of its own"),
            (KeysText { bucket: rotated(&good.bucket), ..good.clone() }, "at most 1"),
        ] {
            let error = Keyring::parse(&text).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("c2hvcnQ"), "{error}");
        }
    }
}
