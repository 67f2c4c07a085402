//! The bearer token and the public id of a session: how they are written, and what a forged one costs (one HMAC).
//!
//! Token = `shoal_` + base64url(bucket (1) ‖ unique (16) ‖ secret (32) ‖ keyed check (8)). The prefix is for secret
//! scanners; the check lets a clone refuse what it never issued without asking the store.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keyring::Keyring;

/// What every token begins with.
pub(crate) const PREFIX: &str = "shoal_";
const UNIQUE_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
pub(crate) const CHECK_BYTES: usize = 8;
/// What the check covers.
const BODY_BYTES: usize = 1 + UNIQUE_BYTES + SECRET_BYTES;
const TOKEN_BYTES: usize = BODY_BYTES + CHECK_BYTES;

/// The public name of a session: its bucket and a random number. Gives no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId {
    /// Where the session lives: all of a user's sessions share a bucket.
    pub(crate) bucket: u8,
    /// Unique in the bucket.
    pub(crate) unique: [u8; UNIQUE_BYTES],
}

impl SessionId {
    pub(crate) fn random(bucket: u8) -> Self {
        Self { bucket, unique: uuid::Uuid::new_v4().into_bytes() }
    }

    /// The id as callers see it: what [`fmt::Display`] writes, without a formatter.
    pub(crate) fn hex(&self) -> String {
        hex(&self.to_bytes())
    }

    /// The part that is unique in the bucket, as 32 hexadecimal digits.
    pub(crate) fn unique_hex(&self) -> String {
        hex(&self.unique)
    }

    /// The id of a bucket's session.
    pub(crate) fn from_unique_hex(bucket: u8, text: &[u8]) -> Option<Self> {
        Some(Self { bucket, unique: unhex(text)? })
    }

    pub(crate) fn to_bytes(self) -> [u8; 1 + UNIQUE_BYTES] {
        let mut bytes = [0; 1 + UNIQUE_BYTES];
        bytes[0] = self.bucket;
        bytes[1..].copy_from_slice(&self.unique);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bucket, unique) = bytes.split_first()?;
        Some(Self { bucket: *bucket, unique: unique.try_into().ok()? })
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl FromStr for SessionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes: [u8; 1 + UNIQUE_BYTES] = unhex(text.as_bytes()).ok_or(())?;
        Self::from_bytes(&bytes).ok_or(())
    }
}

/// What makes a token more than an id. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) [u8; SECRET_BYTES]);

impl Secret {
    pub(crate) fn random() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        // Two random UUIDs have 244 random bits between them; hashed, those fill the secret evenly.
        let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        bytes[..16].copy_from_slice(a.as_bytes());
        bytes[16..].copy_from_slice(b.as_bytes());
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A session's id and a secret that was issued for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: SessionId,
    pub(crate) secret: Secret,
}

impl Token {
    /// Reads a token that this mesh issued; nothing for any other text.
    pub(crate) fn parse(text: &str, keyring: &Keyring) -> Option<Token> {
        let encoded = text.strip_prefix(PREFIX)?;
        let mut bytes = [0; TOKEN_BYTES];
        // Too long a text does not fit, so its length costs nothing.
        if URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) != Ok(TOKEN_BYTES) {
            return None;
        }
        let (body, check) = bytes.split_at(BODY_BYTES);
        if !keyring.is_ours(body, check) {
            return None;
        }
        let (id, secret) = body.split_at(1 + UNIQUE_BYTES);
        Some(Token { id: SessionId::from_bytes(id)?, secret: Secret(secret.try_into().ok()?) })
    }

    /// The text given to the caller, the only place where a secret leaves the process.
    pub(crate) fn issue(&self, keyring: &Keyring) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend_from_slice(&self.id.to_bytes());
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&keyring.check(&bytes));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    push_hex(&mut text, bytes);
    text
}

pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const AT_ONCE: usize = 32;
    // By pieces, which are checked and copied whole: this is done three times for every get.
    for piece in bytes.chunks(AT_ONCE) {
        let mut digits = [b'0'; AT_ONCE * 2];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(piece) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        // Digits are ASCII, so there is never nothing to push.
        text.push_str(std::str::from_utf8(&digits[..piece.len() * 2]).unwrap_or_default());
    }
}

/// Lower-case digits only: an id has one spelling.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { id: SessionId::random(7), secret: Secret::random() }
    }

    #[test]
    fn a_token_survives_its_text_and_shows_nothing_in_debug() {
        let keyring = Keyring::generate();
        let token = token();
        let text = token.issue(&keyring);
        assert_eq!(text.len(), PREFIX.len() + 76);
        assert_eq!(Token::parse(&text, &keyring), Some(token.clone()));
        let debug = format!("{token:?} {keyring:?}");
        assert!(debug.contains("Secret(..)") && !debug.contains(&hex(&token.secret.0)), "{debug}");
    }

    #[test]
    fn any_changed_character_makes_a_token_none_of_ours() {
        let keyring = Keyring::generate();
        let text = token().issue(&keyring);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(Token::parse(&forged, &keyring), None, "{at}");
        }
        let long = format!("{text}A");
        for wrong in ["", "shoal_", "SHOAL_", &text[1..], &text[..text.len() - 1], &long, "shoal_ü"] {
            assert_eq!(Token::parse(wrong, &keyring), None, "{wrong}");
        }
        assert_eq!(Token::parse(&text, &Keyring::generate()), None, "another mesh's key");
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = SessionId::random(200);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 34);
        assert!(id.to_string().starts_with("c8"));
        assert_eq!(id.to_string().to_uppercase().parse::<SessionId>(), Err(()));
        for wrong in ["", "c8", "zz"] {
            assert_eq!(wrong.parse::<SessionId>(), Err(()), "{wrong}");
        }
    }
}
