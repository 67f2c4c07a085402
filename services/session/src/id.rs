//! The public id of a session, and how ids and hashes are written as hexadecimal digits.

use std::fmt;
use std::str::FromStr;

pub(crate) const UNIQUE_BYTES: usize = 16;
/// The bytes of an id: its bucket and the number that is unique there.
pub(crate) const ID_BYTES: usize = 1 + UNIQUE_BYTES;

/// The public name of a session: its bucket and a random number. Gives no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId {
    /// The bucket of the session: all of a user's sessions share one.
    pub(crate) bucket: u8,
    /// Random, and unique in the bucket.
    pub(crate) unique: [u8; UNIQUE_BYTES],
}

impl SessionId {
    pub(crate) fn random(bucket: u8) -> Self {
        Self { bucket, unique: uuid::Uuid::new_v4().into_bytes() }
    }

    /// Returns the id as callers see it: what [`fmt::Display`] writes, without a formatter.
    pub(crate) fn hex(&self) -> String {
        hex(&self.to_bytes())
    }

    /// Returns the part that is unique in the bucket, as 32 hexadecimal digits.
    pub(crate) fn unique_hex(&self) -> String {
        hex(&self.unique)
    }

    /// Returns the id of a bucket's session.
    pub(crate) fn from_unique_hex(bucket: u8, text: &[u8]) -> Option<Self> {
        Some(Self { bucket, unique: unhex(text)? })
    }

    pub(crate) fn to_bytes(self) -> [u8; ID_BYTES] {
        let mut bytes = [0; ID_BYTES];
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
        let bytes: [u8; ID_BYTES] = unhex(text.as_bytes()).ok_or(())?;
        Self::from_bytes(&bytes).ok_or(())
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

/// Reads lower-case digits only: an id has one spelling.
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
